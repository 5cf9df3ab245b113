/**
 * Starts programs, inside a runner. Each gets a process group of its own and one pipe for both output streams, so that what it
 * prints stays in order.
 *
 * The pipes are named ones, because Node gives its children sockets: two of them lose the order of what is printed, and
 * `echo >/dev/stderr` fails on a socket. They are made once and used again as soon as nobody holds them open any more.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Program, StepResult, StopReason } from '../steps/step.ts';
import { GroupRecord, groupIsAlive } from './runner-groups.ts';
import { type Keep, PipeReader } from './runner-pipes.ts';
import { type Ending, type ShellRun, Shells } from './runner-shells.ts';

/** What a program needs of the run that starts it. */
export interface ProgramRun {
	readonly id: string;
	/** The parameters and the WEBHOOK_ variables. */
	readonly values: Readonly<Record<string, string>>;
	/** Milliseconds from TERM to KILL. */
	readonly killAfter: number;
	/** Aborted with a StopReason when the run is to stop. */
	readonly stop: AbortSignal;
	readonly write: Keep;
}

/** Milliseconds until the first look at whether a group that was told to end is gone; each pause is twice the one before. */
const firstLook = 10;
const longestLook = 200;
/** Pipes made at once: making them costs a process. */
const pipesAtOnce = 16;
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
	readonly #shells: Shells;

	constructor(environment: Readonly<Record<string, string>>, directory: string) {
		this.#environment = environment;
		this.#directory = directory;
		this.#groups = new GroupRecord(directory);
		this.#shells = new Shells(directory, environment, this.#buffer);
	}

	/** Does ahead of time what the first program would have to wait for. */
	prepare(): void {
		this.#makePipes();
		void this.#shells.prepare();
	}

	/** Lets go of what was prepared, so that nothing keeps this process. */
	close(): void {
		this.#shells.close();
	}

	/** Runs a program to its end, or to that of its group when the run is to stop. Never rejects. */
	async run(program: Program, run: ProgramRun): Promise<StepResult> {
		if (run.stop.aborted) return stopped(run, null);
		const { argv, cwd } = program;
		const variables = { ...program.env, ...run.values };
		const begun = program.stdin === null && this.#shells.start({ argv, cwd, variables }, run.write);
		return begun ? this.#inShell(begun, run) : this.#byNode(program, run);
	}

	async #inShell({ pid: said, exited, kept }: ShellRun, run: ProgramRun): Promise<StepResult> {
		const pid = await said;
		if (pid === 0) return programEnded(await exited);
		const slot = this.#groups.add(pid, run.id);
		const result = await this.#ended(pid, exited, run);
		await kept;
		this.#groups.remove(slot);
		return result;
	}

	async #byNode(program: Program, run: ProgramRun): Promise<StepResult> {
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
		const reader = new PipeReader(pipe.read, this.#buffer, run.write);
		void reader.closed.then(() => this.#idlePipes.push(pipe.name));
		const begun = new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
			child.once('spawn', () => resolve(undefined));
			// Later errors are about signals that came too late.
			child.on('error', resolve);
		});
		const exited = new Promise<Ending>((resolve) => {
			child.on('exit', (exitCode, signal) => resolve({ exitCode, signal }));
		});
		const slot = child.pid === undefined ? undefined : this.#groups.add(child.pid, run.id);
		const error = await begun;
		const result =
			error === undefined ? await this.#ended(child.pid!, exited, run) : notStarted(error, program, env);
		await reader.end();
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
	async #ended(pid: number, exited: Promise<Ending>, run: ProgramRun): Promise<StepResult> {
		let stopping = false;
		let killed = false;
		let kill: NodeJS.Timeout | undefined;
		const stop = () => {
			stopping = true;
			signalGroup(pid, 'SIGTERM');
			kill = setTimeout(() => {
				killed = true;
				signalGroup(pid, 'SIGKILL');
			}, run.killAfter);
		};
		if (run.stop.aborted) stop();
		else run.stop.addEventListener('abort', stop, { once: true });
		const ending = await exited;
		run.stop.removeEventListener('abort', stop);
		if (!stopping) return programEnded(ending);
		// The group, not the program: a shell that is told to end leaves its children running.
		for (let pause = firstLook; !killed && groupIsAlive(pid); pause = Math.min(2 * pause, longestLook)) {
			await sleep(pause);
		}
		clearTimeout(kill);
		return stopped(run, ending.signal);
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

function programEnded({ exitCode, signal }: Ending): StepResult {
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
