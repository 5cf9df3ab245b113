/**
 * What systemd and the listener tell each other: which sockets it has opened for us (sd_listen_fds(3)), and how we are
 * (sd_notify(3)). Without systemd there is nothing of either, and all this does nothing.
 */

import { spawn } from 'node:child_process';
import type { Log } from './log.ts';

/** The variables of a service's environment that are meant here. */
export type ServiceEnvironment = Readonly<Record<string, string | undefined>>;

/** systemd's first file descriptor for services; further ones follow it. */
const firstSocket = 3;

/**
 * The file descriptors of sockets that were handed over, already bound, in the order of the socket unit.
 * @param pid this process's own: variables that were meant for a parent are none of ours
 */
export function handedOverSockets(environment: ServiceEnvironment, pid: number): number[] {
	if (Number(environment.LISTEN_PID) !== pid) return [];
	return Array.from({ length: Number(environment.LISTEN_FDS) || 0 }, (_, index) => firstSocket + index);
}

/** How the service is, for `systemctl status`, start and stop, and the watchdog. */
export interface Supervisor {
	/** Serving. @param status one line for people */
	ready(status: string): void;
	/** Reading routes.yaml again, until `ready`. */
	reloading(): void;
	/** @param status one line for people */
	status(status: string): void;
	stopping(status: string): void;
	/** Resolves once what was said is with systemd. */
	close(): Promise<void>;
}

/**
 * A line is a message; its assignments are parted by tabs. The shell reads on until its input ends, as signals to the whole
 * control group come before our last words.
 */
const script = `trap "" TERM INT HUP; set -f; IFS='\t'; while read -r said; do systemd-notify $said; done`;

/** Milliseconds for the last words to be handed over: systemd-notify waits up to 5 s for systemd to have read one. */
const farewell = 6_000;

/**
 * systemd listens on a datagram socket in the file system, which Node cannot open; the packages that can have to be compiled
 * on the host. systemd-notify(1) is there wherever systemd is and costs 5 ms for each message, which is one in half of
 * WatchdogSec. A small shell, started once while this process is small itself, starts it: doing so from here would halt
 * deliveries for as long as the system needs to copy our page tables. The unit has to say NotifyAccess=all for that.
 */
export function openSupervisor(environment: ServiceEnvironment, pid: number, log: Log): Supervisor {
	const socket = environment.NOTIFY_SOCKET;
	if (!socket) return { ready() {}, reloading() {}, status() {}, stopping() {}, async close() {} };

	const child = spawn('/bin/sh', ['-c', script], {
		cwd: '/',
		env: { PATH: '/usr/local/bin:/usr/bin:/bin', NOTIFY_SOCKET: socket },
		stdio: ['pipe', 'ignore', 'pipe'],
		detached: true,
	});
	const closed = new Promise<void>((resolve) => child.on('close', () => resolve()));
	let told = false;
	child.stderr.setEncoding('utf8').on('data', (text: string) => {
		// It would say the same each time.
		if (!told) log.warn('systemd was not told how the listener is', { error: text.trim() });
		told = true;
	});
	child.on('error', (error) =>
		log.warn('systemd was not told how the listener is', { error: error.message }),
	);
	child.stdin.on('error', () => {});
	child.unref();

	const say = (...assignments: readonly string[]) => {
		if (child.stdin.writable) {
			child.stdin.write(`${assignments.map((one) => one.replace(/\s+/g, ' ')).join('\t')}\n`);
		}
	};
	// Half of the time, as sd_watchdog_enabled(3) recommends: one message may come late without harm.
	const watched = Number(environment.WATCHDOG_PID ?? pid) === pid ? Number(environment.WATCHDOG_USEC) : 0;
	const alive = watched > 0 ? setInterval(say, watched / 1000 / 2, 'WATCHDOG=1').unref() : undefined;

	return {
		ready: (status) => say('READY=1', `STATUS=${status}`),
		reloading: () =>
			say('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`, 'STATUS=reading routes.yaml'),
		status: (status) => say(`STATUS=${status}`),
		stopping: (status) => say('STOPPING=1', `STATUS=${status}`),
		async close() {
			clearInterval(alive);
			child.stdin.end();
			const late = setTimeout(() => child.kill('SIGKILL'), farewell);
			await closed;
			clearTimeout(late);
		},
	};
}
