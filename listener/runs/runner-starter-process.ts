/**
 * The starter's own process: starts the programs that no shell can be told of (runner-shells.ts), as the listener asks it to,
 * and says how they ended. Starting a program this way copies the page tables of the process that does it and stands it still
 * meanwhile; so that is done here, in a process that is kept small, and never where callers are answered. When the listener
 * dies, it ends what it has started and leaves.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { flushCompileCache } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import { Channel, type FromStarter, type ToStarter } from './channel.ts';

type Start = Extract<ToStarter, { kind: 'start' }>;

/** The socket that the listener made; 0 to 2 are the usual ones. */
const socketFd = 3;
/** Milliseconds from TERM to KILL when the listener has died, which alone knew each run's own: the usual `kill_after`. */
const killAfter = 10_000;

class StarterProcess {
	readonly #channel: Channel<ToStarter, FromStarter>;
	readonly #running = new Map<number, ChildProcess>();
	/** One program a turn: starting one takes about a millisecond, and those that end meanwhile want to be heard. */
	readonly #starting: { readonly message: Start; readonly input: Buffer }[] = [];
	#inputs = 0;
	#kill: NodeJS.Timeout | undefined;
	#leaving = false;

	constructor(socket: net.Socket) {
		this.#channel = new Channel(socket, (message, bytes) => this.#receive(message, bytes));
		socket.on('close', () => this.#leave());
		// Otherwise it is written at the end only, and not when that end comes by KILL.
		flushCompileCache();
	}

	#receive(message: ToStarter, input: Buffer): void {
		if (message.kind === 'leave') this.#leave();
		else if (message.kind === 'pipes') this.#makePipes(message);
		else if (this.#starting.push({ message, input }) === 1) setImmediate(() => this.#startNext());
	}

	#makePipes({ number, paths }: Extract<ToStarter, { kind: 'pipes' }>): void {
		const { error, status, stderr } = spawnSync('mkfifo', ['-m', '600', ...paths]);
		if (status === 0) this.#channel.send({ kind: 'made', number });
		else this.#refused(number, error ?? new Error(String(stderr).trim()));
	}

	#startNext(): void {
		const next = this.#starting.shift();
		if (this.#starting.length > 0) setImmediate(() => this.#startNext());
		if (next !== undefined && !this.#leaving) this.#start(next.message, next.input);
	}

	#start(message: Start, input: Buffer): void {
		const { number } = message;
		let child: ChildProcess;
		try {
			child = this.#spawn(message, input);
		} catch (error) {
			this.#refused(number, error as Error);
			return;
		}
		const { pid } = child;
		// Later errors are about signals that came too late.
		child.on('error', (error) => pid === undefined && this.#refused(number, error));
		if (pid === undefined) return;
		this.#running.set(number, child);
		this.#channel.send({ kind: 'started', number, pid });
		child.on('exit', (exitCode, signal) => {
			this.#running.delete(number);
			this.#channel.send({ kind: 'ended', number, exitCode, signal });
			this.#leaveWhenDone();
		});
	}

	#refused(number: number, { code, message }: NodeJS.ErrnoException): void {
		this.#channel.send({ kind: 'refused', number, code, message });
	}

	#spawn({ argv, cwd, env, pipe, stdin }: Start, input: Buffer): ChildProcess {
		const [file = '', ...args] = argv;
		const output = openForWriting(pipe);
		let from: number | 'ignore' = 'ignore';
		try {
			if (stdin) from = this.#inputFile(path.dirname(pipe), input);
			return spawn(file, args, {
				cwd: cwd ?? undefined,
				env,
				detached: true,
				stdio: [from, output, output],
			});
		} finally {
			fs.closeSync(output);
			if (from !== 'ignore') fs.closeSync(from);
		}
	}

	/** A file without a name that holds these bytes: read to its end or not at all, it blocks nobody and breaks no pipe. */
	#inputFile(directory: string, bytes: Buffer): number {
		const name = path.join(directory, `input-${this.#inputs++}`);
		const fd = fs.openSync(name, 'wx+', 0o600);
		try {
			fs.unlinkSync(name);
			// With a position given, the offset that the program starts reading at stays 0.
			for (let done = 0; done < bytes.length; )
				done += fs.writeSync(fd, bytes, done, bytes.length - done, done);
		} catch (error) {
			fs.closeSync(fd);
			throw error;
		}
		return fd;
	}

	#leave(): void {
		if (this.#leaving) return;
		this.#leaving = true;
		this.#signal('SIGTERM');
		this.#kill = setTimeout(() => this.#signal('SIGKILL'), killAfter);
		this.#leaveWhenDone();
	}

	#signal(name: NodeJS.Signals): void {
		for (const { pid } of this.#running.values()) {
			try {
				process.kill(-pid!, name);
			} catch {
				// It is gone already, or has become another user's.
			}
		}
	}

	#leaveWhenDone(): void {
		if (!this.#leaving || this.#running.size > 0) return;
		// Without the timer and the socket nothing keeps this process.
		clearTimeout(this.#kill);
		this.#channel.end();
	}
}

/**
 * A pipe's writing end. Opened by itself it would wait for a reader, for ever when the listener has died meanwhile, and we with
 * it; so we are the reader for as long as it takes.
 */
function openForWriting(pipe: string): number {
	const both = fs.openSync(pipe, fs.constants.O_RDWR);
	try {
		return fs.openSync(pipe, fs.constants.O_WRONLY);
	} finally {
		fs.closeSync(both);
	}
}

// The listener decides when we leave. A terminal sends its Ctrl-C, and systemd its TERM, to us as well as to it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});

new StarterProcess(new net.Socket({ fd: socketFd }));
