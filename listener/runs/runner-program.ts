/**
 * Starts programs, inside a runner. Each gets a process group of its own and one pipe for both output streams, so that what it
 * prints stays in order.
 *
 * The pipes are named ones, because Node gives its children sockets: two of them lose the order of what is printed, and
 * `echo >/dev/stderr` fails on a socket. They are made once and used again as soon as nobody holds them open any more.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Program, StepResult, StopReason } from '../steps/step.ts';
import { GroupRecord } from './runner-groups.ts';

/** What a program needs of the run that starts it. */
export interface ProgramRun {
	readonly id: string;
	/** The parameters and the WEBHOOK_ variables. */
	readonly values: Readonly<Record<string, string>>;
	/** Milliseconds from TERM to KILL. */
	readonly killAfter: number;
	/** Aborted with a StopReason when the run is to stop. */
	readonly stop: AbortSignal;
	/** Keeps output. The bytes are overwritten afterwards. */
	write(bytes: Buffer): void;
}

/**
 * Milliseconds that are waited after a program's end for its pipe to be closed. What it printed itself is in the pipe by then
 * and read at once; only a process it left behind can hold the pipe open, and that may be a daemon which never ends.
 */
const pipeWait = 200;
/** Milliseconds between two looks at whether a group that was told to end is gone. */
const groupLook = 20;
/** Pipes made at once: making them costs a process. */
const pipesAtOnce = 16;
/**
 * Milliseconds between two reads of a pipe whose run is over. Closing it would end a daemon by SIGPIPE when it next prints;
 * reading as fast as it prints would cost a processor for nothing.
 */
const drainEvery = 100;

interface Pipe {
	readonly name: string;
	readonly read: number;
	readonly write: number;
}

export class Programs {
	/** The allow-list of variables that every program gets. */
	readonly #environment: Readonly<Record<string, string>>;
	/** A directory of this runner alone. */
	readonly #directory: string;
	readonly #groups: GroupRecord;
	readonly #idlePipes: string[] = [];
	#pipes = 0;
	#inputs = 0;
	/** What every pipe is read into: output is kept before the next is read. */
	readonly #buffer = Buffer.allocUnsafeSlow(64 * 1024);

	constructor(environment: Readonly<Record<string, string>>, directory: string) {
		this.#environment = environment;
		this.#directory = directory;
		this.#groups = new GroupRecord(directory);
	}

	/** Does ahead of time what the first program would have to wait for. */
	prepare(): void {
		this.#makePipes();
	}

	/** Runs a program to its end, or to that of its group when the run is to stop. Never rejects. */
	async run(program: Program, run: ProgramRun): Promise<StepResult> {
		if (run.stop.aborted) return stopped(run, null);
		const env = { ...this.#environment, ...program.env, ...run.values };
		let pipe: Pipe;
		let child: ChildProcess;
		try {
			pipe = this.#takePipe();
			try {
				child = this.#spawn(program, env, pipe.write);
			} catch (error) {
				fs.closeSync(pipe.read);
				throw error;
			} finally {
				fs.closeSync(pipe.write);
			}
		} catch (error) {
			return notStarted(error as NodeJS.ErrnoException, program, env);
		}
		const output = this.#readOutput(pipe, run);
		const slot = child.pid === undefined ? undefined : this.#groups.add(child.pid, run.id);
		const result = await this.#ended(child, program, env, run);
		await output.end();
		if (slot !== undefined) this.#groups.remove(slot);
		return result;
	}

	#spawn(program: Program, env: NodeJS.ProcessEnv, output: number): ChildProcess {
		const [file = '', ...args] = program.argv;
		const input = program.stdin === null ? 'ignore' : this.#inputFile(program.stdin);
		try {
			return spawn(file, args, {
				cwd: program.cwd ?? undefined,
				env,
				detached: true,
				stdio: [input, output, output],
			});
		} finally {
			if (input !== 'ignore') fs.closeSync(input);
		}
	}

	/** A file without a name that holds these bytes: read to its end or not at all, it blocks nobody and breaks no pipe. */
	#inputFile(bytes: Buffer): number {
		const name = path.join(this.#directory, `input-${this.#inputs++}`);
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

	/** Resolves with the end of the program; when the run is to stop, with the end of its group. */
	#ended(
		child: ChildProcess,
		program: Program,
		env: NodeJS.ProcessEnv,
		run: ProgramRun,
	): Promise<StepResult> {
		return new Promise((resolve) => {
			const { pid } = child;
			let stopping = false;
			let killed = false;
			let kill: NodeJS.Timeout | undefined;
			const stop = () => {
				stopping = true;
				signalGroup(pid!, 'SIGTERM');
				kill = setTimeout(() => {
					killed = true;
					signalGroup(pid!, 'SIGKILL');
				}, run.killAfter);
			};
			child.on('error', (error) => {
				// Without a pid it was never there; with one it is about a signal that came too late.
				if (pid === undefined) resolve(notStarted(error, program, env));
			});
			child.on('exit', async (code, signal) => {
				run.stop.removeEventListener('abort', stop);
				if (!stopping) return resolve(exited(code, signal));
				// The group, not the program: a shell that is told to end leaves its children running.
				while (!killed && groupExists(pid!)) await sleep(groupLook);
				clearTimeout(kill);
				resolve(stopped(run, signal));
			});
			if (pid !== undefined) run.stop.addEventListener('abort', stop, { once: true });
		});
	}

	/** Reads a pipe until nobody holds it open. `end` resolves when what belongs to the run has been kept. */
	#readOutput(pipe: Pipe, run: ProgramRun): { end(): Promise<void> } {
		const buffer = this.#buffer;
		let kept = true;
		const socket = new net.Socket({
			fd: pipe.read,
			readable: true,
			writable: false,
			onread: {
				buffer,
				callback: (length) => {
					if (kept) run.write(buffer.subarray(0, length));
					else setTimeout(() => socket.resume(), drainEvery).unref();
					return kept;
				},
			},
		});
		socket.on('error', () => {});
		const closed = new Promise<void>((resolve) => {
			socket.on('close', () => {
				this.#idlePipes.push(pipe.name);
				resolve();
			});
		});
		return {
			end: async () => {
				let late: NodeJS.Timeout | undefined;
				const waited = new Promise<void>((resolve) => {
					// The turn after the time: one more look into the pipe, should we have been too busy for any.
					late = setTimeout(() => setImmediate(resolve), pipeWait);
				});
				await Promise.race([closed, waited]);
				clearTimeout(late);
				kept = false;
				// A daemon that goes on holding the pipe must not keep this process alive.
				socket.unref();
			},
		};
	}

	#takePipe(): Pipe {
		if (this.#idlePipes.length === 0) this.#makePipes();
		const name = this.#idlePipes.pop()!;
		const file = path.join(this.#directory, name);
		const read = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
		try {
			return { name, read, write: fs.openSync(file, 'w') };
		} catch (error) {
			fs.closeSync(read);
			throw error;
		}
	}

	#makePipes(): void {
		const names = Array.from({ length: pipesAtOnce }, () => `pipe-${this.#pipes++}`);
		const { error, status, stderr } = spawnSync('mkfifo', ['-m', '600', ...names], {
			cwd: this.#directory,
			env: { ...this.#environment },
		});
		if (error) throw error;
		if (status !== 0) throw new Error(String(stderr).trim());
		this.#idlePipes.push(...names);
	}
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
	try {
		process.kill(-pid, signal);
	} catch {
		// It is gone already, or has become another user's.
	}
}

function groupExists(pid: number): boolean {
	try {
		process.kill(-pid, 0);
		return true;
	} catch (error) {
		return (error as NodeJS.ErrnoException).code === 'EPERM';
	}
}

function exited(exitCode: number | null, signal: string | null): StepResult {
	if (exitCode === 0) return { ok: true, reason: 'exit', exitCode, signal: null, message: '' };
	if (signal === null)
		return { ok: false, reason: 'exit', exitCode, signal, message: `exited with ${exitCode}` };
	return { ok: false, reason: 'signal', exitCode: null, signal, message: `was ended by ${signal}` };
}

function stopped(run: ProgramRun, signal: string | null): StepResult {
	const reason: StopReason = run.stop.reason;
	const message = reason === 'timeout' ? 'was stopped at the time limit' : 'was cancelled';
	return { ok: false, reason, exitCode: null, signal, message };
}

/** Says why a program could not be started, and what to do. The system's own words for it are mostly just "not found". */
function notStarted(
	error: NodeJS.ErrnoException,
	{ argv, cwd }: Program,
	env: NodeJS.ProcessEnv,
): StepResult {
	const message = reasonNotStarted(error, argv[0] ?? '', cwd, env.PATH ?? '');
	return { ok: false, reason: 'spawn', exitCode: null, signal: null, message: `was not started: ${message}` };
}

function reasonNotStarted(
	error: NodeJS.ErrnoException,
	file: string,
	cwd: string | null,
	PATH: string,
): string {
	if (error.code === 'E2BIG')
		return 'its arguments and environment are longer than the system allows; pass long values as standard input';
	if (error.code !== 'ENOENT' && error.code !== 'EACCES' && error.code !== 'ENOTDIR') return error.message;
	if (cwd !== null) {
		const directory = fs.statSync(cwd, { throwIfNoEntry: false });
		if (directory === undefined) return `its working directory ${cwd} does not exist; make it, or mend "cwd"`;
		if (!directory.isDirectory()) return `its working directory ${cwd} is not a directory; mend "cwd"`;
	}
	const split = /\s/.test(file.trim())
		? '; it contains a blank: make each argument an item of the list, or write the command as a string'
		: '';
	if (!file.includes('/')) return `"${file}" was not found in PATH (${PATH})${split}`;
	if (!fs.existsSync(path.resolve(cwd ?? '.', file))) return `${file} does not exist${split}`;
	if (error.code === 'EACCES')
		return `${file} may not be executed by user ${process.getuid?.()}; make it executable (chmod +x)`;
	return `${file} exists, but not the interpreter that its first line (#!) names`;
}
