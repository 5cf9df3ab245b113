/**
 * Starts programs. Each gets a process group of its own and one pipe for both output streams, so that what it prints stays in
 * order.
 *
 * The pipes are named ones, because Node gives its children sockets: two of them lose the order of what is printed, and
 * `echo >/dev/stderr` fails on a socket. They are made once and used again as soon as nobody holds them open any more.
 */

import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Program, StepResult, StopReason } from '../steps/step.ts';
import { GroupRecord, groupIsAlive } from './runner-groups.ts';
import { type Keep, PipeReader } from './runner-pipes.ts';
import { type Ending, type Lost, Shells } from './runner-shells.ts';
import { type Refusal, Starter, type StarterOptions } from './runner-starter.ts';

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
/** Milliseconds until a program that is to end is looked for again, when it was only just being started. */
const lookAgain = 1;
/** Pipes made at once: making them costs a process. */
const pipesAtOnce = 16;

export class Programs {
	/** The allow-list of variables that every program gets. */
	readonly #environment: Readonly<Record<string, string>>;
	readonly #directory: string;
	readonly #groups: GroupRecord;
	/** Paths. */
	readonly #idlePipes: string[] = [];
	#pipes = 0;
	/** What every pipe is read into: output is kept before the next is read. */
	readonly #buffer = Buffer.allocUnsafeSlow(64 * 1024);
	readonly #shells: Shells;
	readonly #starter: Starter;

	/** @param directory for pipes and the record of process groups; nobody else's */
	constructor(directory: string, options: StarterOptions) {
		this.#environment = options.environment;
		this.#directory = directory;
		this.#groups = new GroupRecord(directory);
		this.#shells = new Shells(directory, options.environment, this.#buffer);
		this.#starter = new Starter(options);
	}

	/** Does ahead of time what the first program would have to wait for. */
	prepare(): void {
		void this.#shells.prepare();
	}

	/** Lets go of what was prepared, so that nothing keeps this process. */
	async close(): Promise<void> {
		this.#shells.close();
		await this.#starter.close();
	}

	/** Runs a program to its end, or to that of its group when the run is to stop. Never rejects. */
	async run(program: Program, run: ProgramRun): Promise<StepResult | Lost> {
		if (run.stop.aborted) return stopped(run, null);
		return (await this.#inShell(program, run)) ?? this.#byStarter(program, run);
	}

	/** Undefined when no shell can do it. */
	async #inShell(
		{ argv, cwd, env, stdin }: Program,
		run: ProgramRun,
	): Promise<StepResult | Lost | undefined> {
		if (stdin !== null) return undefined;
		let slot: number | undefined;
		const stays = (pid: number) => {
			slot = this.#groups.add(pid, run.id);
		};
		const begun = this.#shells.start({ argv, cwd, variables: { ...env, ...run.values } }, run.write, stays);
		if (begun === undefined) return undefined;
		const result = await this.#ended(begun.pid, begun.exited, run);
		await begun.kept;
		if (slot !== undefined) this.#groups.remove(slot);
		return result;
	}

	async #byStarter({ argv, cwd, env: own, stdin }: Program, run: ProgramRun): Promise<StepResult | Lost> {
		const env = { ...this.#environment, ...own, ...run.values };
		let pipe: string;
		let reader: PipeReader;
		try {
			pipe = await this.#takePipe();
			// Before anybody writes: the system tells a pipe's end only to who had it open by then.
			const fd = fs.openSync(pipe, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
			reader = new PipeReader(fd, this.#buffer, run.write);
		} catch (error) {
			return error === 'lost' ? error : notStarted(error as Refusal, argv, cwd, env);
		}
		const started = await this.#starter.start({ argv, cwd, env, pipe, stdin });
		if (started === 'lost') {
			reader.close();
			return started;
		}
		if ('refused' in started) {
			reader.close();
			this.#idlePipes.push(pipe);
			return notStarted(started.refused, argv, cwd, env);
		}
		void reader.closed.then(() => this.#idlePipes.push(pipe));
		const slot = this.#groups.add(started.pid, run.id);
		const result = await this.#ended(() => started.pid, started.exited, run);
		await reader.end();
		this.#groups.remove(slot);
		return result;
	}

	/** Resolves with the end of the program; when the run is to stop, with the end of its group. */
	async #ended(
		pid: () => number,
		exited: Promise<Ending | Lost>,
		run: ProgramRun,
	): Promise<StepResult | Lost> {
		let group = 0;
		let stopping = false;
		let killed = false;
		let later: NodeJS.Timeout | undefined;
		const stop = () => {
			stopping = true;
			group = pid();
			if (group === 0) {
				later = setTimeout(stop, lookAgain);
				return;
			}
			signalGroup(group, 'SIGTERM');
			later = setTimeout(() => {
				killed = true;
				signalGroup(group, 'SIGKILL');
			}, run.killAfter);
		};
		if (run.stop.aborted) stop();
		else run.stop.addEventListener('abort', stop, { once: true });
		const ending = await exited;
		run.stop.removeEventListener('abort', stop);
		if (!stopping) return ending === 'lost' ? ending : programEnded(ending);
		// The group, not the program: a shell that is told to end leaves its children running.
		for (
			let pause = firstLook;
			group > 0 && !killed && groupIsAlive(group);
			pause = Math.min(2 * pause, longestLook)
		) {
			await sleep(pause);
		}
		clearTimeout(later);
		return ending === 'lost' ? ending : stopped(run, ending.signal);
	}

	/** A pipe that nobody holds open, by its path. @throws Refusal or Lost */
	async #takePipe(): Promise<string> {
		const idle = this.#idlePipes.pop();
		if (idle !== undefined) return idle;
		const paths = Array.from({ length: pipesAtOnce }, () =>
			path.join(this.#directory, `pipe-${this.#pipes++}`),
		);
		const refusal = await this.#starter.makePipes(paths);
		if (refusal !== undefined) throw refusal;
		this.#idlePipes.push(...paths.slice(1));
		return paths[0]!;
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
	error: Refusal,
	[file = '']: readonly string[],
	cwd: string | null,
	env: Readonly<Record<string, string>>,
): StepResult {
	const message = reasonNotStarted(error, file, cwd, env.PATH ?? '');
	return { ok: false, reason: 'spawn', exitCode: null, signal: null, message: `was not started: ${message}` };
}

function reasonNotStarted(error: Refusal, file: string, cwd: string | null, PATH: string): string {
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
