/**
 * The listener's side of the runners: starts the processes, hands them runs, starts another when one dies, and ends what a dead
 * one left behind.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { getCompileCacheDir } from 'node:module';
import type net from 'node:net';
import path from 'node:path';
import type { Log } from '../log.ts';
import type { SecretPlace } from '../steps/step.ts';
import type { KeptOutput } from '../stores/store.ts';
import { Channel, type FromRunner, type ToRunner } from './channel.ts';
import { idMaker, type Outcome, type Run, variablesOf } from './run.ts';
import { endLeftovers, type RunnerRecord, readRecords } from './runner-groups.ts';

/** What the queue is told. */
export interface RunnerReports {
	/** So many bytes of output are in the run's file. */
	output(id: string, attempt: number, size: number): void;
	/** A run has ended. */
	ended(id: string, attempt: number, ended: PerformedRun): void;
	/** The runner that had these died. Whatever it started has been ended. */
	lost(runs: readonly Run[]): void;
}

/** What a runner tells of a run that has ended. */
export interface PerformedRun {
	readonly outcome: Outcome;
	/** It is not to be started again, though it failed. */
	readonly final: boolean;
	readonly output: KeptOutput;
}

export interface RunnerOptions {
	/** The allow-list of variables that every command gets; the runner itself gets no others. */
	readonly environment: Readonly<Record<string, string>>;
	/** The state directory. */
	readonly state: string;
	/** Where files of output go. */
	readonly outputs: string;
	readonly log: Log;
	/** Counts a trigger up by one; resolves with its count when that is on disk. */
	count(trigger: string): Promise<number>;
	/** What stands in routes.yaml at a place that a plan refers to; undefined when it is not there any more. */
	secret(route: string, place: SecretPlace): string | undefined;
	/** Processes that share the runs. One can start about a thousand commands a second. */
	readonly processes?: number;
}

/** Milliseconds to the next start of a runner that died within as many of its own. */
const restartAfter = 1_000;

/** Milliseconds that a process may take to leave once its commands have been ended. */
const stopWithin = 5_000;

/**
 * Keeps the part of the heap where new things are made at 2 MB. Under load V8 would let it grow to a hundred, which would make
 * every start of a program slower.
 */
const smallHeap = ['--max-semi-space-size=2'];

interface Process {
	readonly child: ChildProcess;
	readonly channel: Channel<FromRunner, ToRunner>;
	/** What it has in hand, by id and attempt. */
	readonly runs: Map<string, Run>;
	/** Its own directory. */
	readonly directory: string;
	readonly startedAt: number;
	/** Resolves when it has ended and what it left is dealt with. */
	readonly gone: Promise<void>;
}

export class Runner {
	readonly #options: RunnerOptions;
	/** Holds a directory for each process. */
	readonly #directory: string;
	readonly #newId = idMaker();
	readonly #processes = new Set<Process>();
	/** Given while no process was there to take them. */
	#homeless: { readonly run: Run; readonly stdin: Buffer | null; cancelled: boolean }[] = [];
	/** Of processes of an earlier listener. */
	readonly #earlier: readonly RunnerRecord[];
	#reports: RunnerReports | undefined;
	#stopping = false;

	/** Starts the processes. They come up while the caller goes on. */
	static start(options: RunnerOptions): Runner {
		const runner = new Runner(options);
		for (let i = 0; i < (options.processes ?? 1); i++) runner.#startProcess();
		return runner;
	}

	private constructor(options: RunnerOptions) {
		this.#options = options;
		this.#directory = path.join(options.state, 'runners');
		fs.mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
		this.#earlier = readRecords(this.#directory);
	}

	/** Says who is told. Before the first run, once. */
	report(reports: RunnerReports): void {
		this.#reports = reports;
	}

	/** Ids of runs that runners of an earlier listener had started; some may have ended since. */
	get recorded(): readonly string[] {
		return this.#earlier.flatMap(({ groups }) => groups.map(({ run }) => run));
	}

	/** Ends the runners of an earlier listener and everything these runs left behind. Before any of them is performed again. */
	async clear(runs: readonly Run[]): Promise<void> {
		await this.#clear(this.#earlier, runs);
	}

	/** Performs a run with these bytes as standard input; `ended` or `lost` is reported once. */
	perform(run: Run, stdin: Buffer | null): void {
		let least: Process | undefined;
		for (const process of this.#processes) {
			if (least === undefined || process.runs.size < least.runs.size) least = process;
		}
		if (least === undefined) {
			this.#homeless.push({ run, stdin, cancelled: false });
			return;
		}
		least.runs.set(runKey(run.id, run.attempt), run);
		least.channel.send(
			{
				kind: 'run',
				id: run.id,
				attempt: run.attempt,
				plan: run.plan,
				values: variablesOf(run),
				stdin: stdin !== null,
				...this.#secretsOf(run),
			},
			stdin ?? undefined,
		);
	}

	/** Has a run ended; `ended` is reported when it is. */
	cancel(id: string, attempt: number): void {
		for (const { runs, channel } of this.#processes) {
			if (runs.has(runKey(id, attempt))) channel.send({ kind: 'cancel', id, attempt });
		}
		for (const homeless of this.#homeless) {
			if (homeless.run.id === id) homeless.cancelled = true;
		}
	}

	/** Ends the processes and whatever they run, by TERM, then by KILL. Runs ended by this are not reported. Safe to call twice. */
	async stop(): Promise<void> {
		this.#stopping = true;
		const gone = [...this.#processes].map(async ({ child, channel, runs, gone }) => {
			channel.send({ kind: 'leave' });
			const longest = Math.max(0, ...[...runs.values()].map(({ plan }) => plan.killAfter));
			// One that does not even answer is ended, and its commands by us.
			const late = setTimeout(() => child.kill('SIGKILL'), longest + stopWithin);
			await gone;
			clearTimeout(late);
		});
		await Promise.all(gone);
	}

	#startProcess(): void {
		const { environment, state, outputs, log } = this.#options;
		const directory = path.join(this.#directory, this.#newId());
		const file = path.join(import.meta.dirname, `runner-process${path.extname(import.meta.filename)}`);
		const child = spawn(process.execPath, [...smallHeap, file], {
			// Without the cache a runner that is still TypeScript carries the compiler, twice its own size, through every fork.
			env: { ...environment, NODE_COMPILE_CACHE: getCompileCacheDir() ?? path.join(state, 'cache') },
			// Its socket is the fourth; what it says in an emergency goes where ours goes.
			stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
		});
		const started: Process = {
			child,
			channel: new Channel(child.stdio[3] as net.Socket, (message, bytes) =>
				this.#receive(started, message, bytes),
			),
			runs: new Map(),
			directory,
			startedAt: Date.now(),
			// The error of a failed start is followed by no exit.
			gone: Promise.race([once(child, 'close'), once(child, 'error')])
				.catch((error) => [error.message])
				.then(([why, signal]) => this.#ended(started, signal ?? why)),
		};
		started.channel.send({ kind: 'hello', environment, outputs, own: directory });
		this.#processes.add(started);
		log.debug('runner started', { pid: child.pid });
		const waiting = this.#homeless;
		this.#homeless = [];
		for (const { run, stdin, cancelled } of waiting) {
			this.perform(run, stdin);
			if (cancelled) this.cancel(run.id, run.attempt);
		}
	}

	/** What the run's plan only refers to, as it is now. */
	#secretsOf({ route, plan }: Run): { secrets?: Record<string, string> } {
		const steps = [...plan.steps, ...(plan.onSuccess ?? []), ...(plan.onFailure ?? [])];
		const places = steps.flatMap((step) => step.secrets ?? []);
		if (places.length === 0) return {};
		const found = places.map((place) => [place.place, this.#options.secret(route, place)]);
		return { secrets: Object.fromEntries(found.filter(([, value]) => value !== undefined)) };
	}

	#count({ channel }: Process, { request, trigger }: Extract<FromRunner, { kind: 'count' }>): void {
		const told = (count: number | null, trouble: string) =>
			channel.send({ kind: 'counted', request, count, trouble });
		this.#options.count(trigger).then(
			(count) => told(count, ''),
			(error: Error) => told(null, error.message),
		);
	}

	#receive(process: Process, message: FromRunner, bytes: Buffer): void {
		const { id, attempt } = message;
		if (message.kind === 'output') this.#reports?.output(id, attempt, message.size);
		else if (message.kind === 'count') this.#count(process, message);
		else {
			process.runs.delete(runKey(id, attempt));
			const { outcome, final, size, short } = message;
			this.#reports?.ended(id, attempt, { outcome, final, output: { size, short: short ? bytes : null } });
		}
	}

	async #ended(process: Process, why: string | number): Promise<void> {
		const { log } = this.#options;
		this.#processes.delete(process);
		const runs = [...process.runs.values()];
		if (!this.#stopping) {
			log.error('a runner died; its runs are started again', {
				pid: process.child.pid,
				why,
				runs: runs.length,
			});
			const early = Date.now() - process.startedAt < restartAfter;
			setTimeout(() => this.#stopping || this.#startProcess(), early ? restartAfter : 0);
		}
		const own = readRecords(this.#directory).filter(({ directory }) => directory === process.directory);
		await this.#clear(own, runs);
		if (!this.#stopping) this.#reports?.lost(runs);
	}

	async #clear(records: readonly RunnerRecord[], runs: readonly Run[]): Promise<void> {
		if (records.length === 0 && runs.length === 0) return;
		const left = await endLeftovers(records, new Map(runs.map((run) => [run.id, run.plan.killAfter])));
		if (left.length > 0)
			this.#options.log.warn('processes of earlier runs do not end, not even by KILL', { pids: left });
		for (const { directory } of records) fs.rmSync(directory, { recursive: true, force: true });
	}
}

function runKey(id: string, attempt: number): string {
	return `${id} ${attempt}`;
}
