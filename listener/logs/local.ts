/**
 * The way to this host's own syslog daemon. It listens on a datagram socket in the file system (/dev/log), which Node cannot
 * open, and the packages that can have to be compiled. logger(1) of util-linux can, and is on every Linux with such a daemon.
 * It is started once, early, and reads messages line by line for as long as the log is open.
 */

import { spawn } from 'node:child_process';
import { type Way, within } from './place.ts';

/**
 * Signals that are meant for the listener reach its whole control group or terminal. logger is to outlive them, since the
 * listener's last lines are still to come, and ends when its input does.
 */
const script = 'trap "" TERM INT HUP; exec logger "$@"';
/** Milliseconds for logger to hand over what it has, once its input has ended. */
const farewell = 2_000;
/** Milliseconds in which logger finds out that it cannot reach the daemon. It does so before it reads anything. */
const trial = 100;

/**
 * Starts logger. Takes lines that begin with their priority, `<30>` and so on.
 * @param socket a path; undefined for logger's own default
 * @param most bytes of a message
 */
export async function openLogger(socket: string | undefined, appName: string, most: number): Promise<Way> {
	const options = [
		...['--prio-prefix', '--socket-errors=on', `--id=${process.pid}`, `--tag=${appName}`, `--size=${most}`],
		...(socket === undefined ? [] : [`--socket=${socket}`]),
	];
	const child = spawn('/bin/sh', ['-c', script, 'sh', ...options], {
		cwd: '/',
		env: { PATH: '/usr/local/bin:/usr/bin:/bin' },
		stdio: ['pipe', 'ignore', 'pipe'],
		detached: true,
	});
	let failure: Error | undefined;
	let fail: (error: Error) => void = () => {};
	const broken = (reason: string) => {
		failure ??= new Error(`logger(1): ${reason}`);
		fail(failure);
	};
	const closed = new Promise<void>((resolve) => {
		child.on('close', (code, signal) => {
			broken(`ended with ${code ?? signal}`);
			resolve();
		});
		child.on('error', (error) => {
			broken(error.message);
			resolve();
		});
	});
	// It has nothing to say unless something is wrong, and says that in several pieces.
	let said = '';
	child.stderr.setEncoding('utf8').on('data', (text: string) => {
		said += text;
		if (said.endsWith('\n')) broken(said.trim().replaceAll('\n', '; '));
	});
	child.stdin.on('error', () => {});
	child.unref();
	await within(trial, closed);
	if (failure !== undefined) throw failure;
	return {
		async send(lines) {
			await new Promise<void>((resolve, reject) => {
				fail = reject;
				if (failure !== undefined) reject(failure);
				else child.stdin.write(`${lines.join('\n')}\n`, () => resolve());
			});
			if (failure !== undefined) throw failure;
			return lines.length;
		},
		async close() {
			child.stdin.end();
			await within(farewell, closed);
			if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
		},
	};
}
