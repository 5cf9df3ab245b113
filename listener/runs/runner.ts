/**
 * The runner performs runs: has their steps done, keeps their output, tells how they ended, and ends what a listener that died
 * left behind. It decides nothing about queueing and knows no store.
 */

import fs from 'node:fs';
import path from 'node:path';
import type { Log } from '../log.ts';
import type { Mask } from '../mask.ts';
import { failure, type SecretPlace, type StopReason } from '../steps/step.ts';
import type { KeptOutput } from '../stores/store.ts';
import { OutputWriter } from './output.ts';
import { idMaker, type Outcome, type Run, variablesOf } from './run.ts';
import { endLeftovers, endShells, type RunnerRecord, readRecords } from './runner-groups.ts';
import { Programs } from './runner-program.ts';
import { Performer } from './runner-steps.ts';

/** What the queue is told. */
export interface RunnerReports {
	/** So many bytes of output are in the run's file. */
	output(id: string, attempt: number, size: number): void;
	/** A run has ended. */
	ended(id: string, attempt: number, ended: PerformedRun): void;
	/** What had started its program died. Whatever the run left behind has been ended. */
	lost(run: Run): void;
}

/** What is told of a run that has ended. */
export interface PerformedRun {
	readonly outcome: Outcome;
	/** It is not to be started again, though it failed. */
	readonly final: boolean;
	readonly output: KeptOutput;
}

export interface RunnerOptions {
	/** The allow-list of variables that every command gets. */
	readonly environment: Readonly<Record<string, string>>;
	/** The state directory. */
	readonly state: string;
	/** Where files of output go. */
	readonly outputs: string;
	readonly log: Log;
	/** Hides in output what nobody is to read, before it is kept. */
	readonly mask: Mask;
	/** Counts a trigger up by one; resolves with its count when that is on disk. */
	count(trigger: string): Promise<number>;
	/** What stands in routes.yaml at a place that a plan refers to; undefined when it is not there any more. */
	secret(route: string, place: SecretPlace): string | undefined;
}

/** Milliseconds that runs may take to end once their programs have been killed. */
const stopWithin = 5_000;

/** A run under way. */
interface UnderWay {
	readonly run: Run;
	readonly stop: AbortController;
	readonly ended: Promise<void>;
}

export class Runner {
	readonly #options: RunnerOptions;
	/** What this listener needs on disk to start programs, and the record of what it has started. */
	readonly #own: string;
	readonly #programs: Programs;
	readonly #performer = new Performer();
	readonly #underWay = new Map<string, UnderWay>();
	/** What listeners before this one left on record. */
	readonly #earlier: readonly RunnerRecord[];
	#reports: RunnerReports | undefined;
	#stopping = false;

	/** Makes ready what the first program needs, while the caller goes on. */
	static start(options: RunnerOptions): Runner {
		const runner = new Runner(options);
		runner.#programs.prepare();
		return runner;
	}

	private constructor(options: RunnerOptions) {
		const { environment, state, log } = options;
		this.#options = options;
		const directory = path.join(state, 'runners');
		fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
		this.#earlier = readRecords(directory);
		this.#own = path.join(directory, idMaker()());
		fs.mkdirSync(this.#own, { mode: 0o700 });
		this.#programs = new Programs(this.#own, { environment, cache: path.join(state, 'cache'), log });
	}

	/** Says who is told. Before the first run, once. */
	report(reports: RunnerReports): void {
		this.#reports = reports;
	}

	/** Ids of runs that earlier listeners had started; some may have ended since. */
	get recorded(): readonly string[] {
		return this.#earlier.flatMap(({ groups }) => groups.map(({ run }) => run));
	}

	/** Ends everything that these runs left behind under earlier listeners. Before any of them is performed again. */
	async clear(runs: readonly Run[]): Promise<void> {
		await endShells(new Set(this.#earlier.map(({ directory }) => path.basename(directory))));
		await this.#endLeftovers(this.#earlier, runs);
		for (const { directory } of this.#earlier) fs.rmSync(directory, { recursive: true, force: true });
	}

	/** Performs a run with these bytes as standard input; `ended` or `lost` is reported once. */
	perform(run: Run, stdin: Buffer | null): void {
		const stop = new AbortController();
		this.#underWay.set(runKey(run), { run, stop, ended: this.#perform(run, stdin, stop.signal) });
	}

	/** Has a run ended; `ended` is reported when it is. */
	cancel(id: string, attempt: number): void {
		this.#underWay.get(runKey({ id, attempt }))?.stop.abort('caller' satisfies StopReason);
	}

	/** Ends whatever runs, by TERM, then by KILL. Runs ended by this are not reported. Safe to call twice. */
	async stop(): Promise<void> {
		this.#stopping = true;
		const underWay = [...this.#underWay.values()];
		for (const { stop } of underWay) stop.abort('caller' satisfies StopReason);
		const longest = Math.max(0, ...underWay.map(({ run }) => run.plan.killAfter));
		let late: NodeJS.Timeout | undefined;
		const over = new Promise<void>((resolve) => {
			late = setTimeout(resolve, longest + stopWithin);
		});
		await Promise.race([Promise.all(underWay.map(({ ended }) => ended)), over]);
		clearTimeout(late);
		await this.#programs.close();
		fs.rmSync(this.#own, { recursive: true, force: true });
	}

	async #perform(run: Run, stdin: Buffer | null, stop: AbortSignal): Promise<void> {
		const { id, attempt, plan } = run;
		const file = path.join(this.#options.outputs, id);
		const values = variablesOf(run);
		const output = new OutputWriter(
			file,
			plan.maxOutput,
			(size) => this.#reports?.output(id, attempt, size),
			plan.secretParameters?.flatMap((name) => values[name] ?? []),
			this.#options.mask,
		);
		let lost = false;
		const { outcome, final, cut } = await this.#performer.perform({
			...{ id, attempt, plan, values, stdin, stop },
			secrets: this.#secretsOf(run),
			write: (bytes) => output.write(bytes),
			run: async (program, its) => {
				const result = await this.#programs.run(program, its);
				if (result !== 'lost') return result;
				lost = true;
				return failure('spawn', 'was lost');
			},
			count: (trigger) => this.#options.count(trigger),
		});
		const { size, short, trouble } = await output.end();
		// The file of an attempt that was cut short.
		if (attempt > 1 && short !== null) fs.rmSync(file, { force: true });
		this.#underWay.delete(runKey(run));
		// A run that was stopped because we stop has not ended: it is to be run again.
		if (this.#stopping && (cut || lost)) return;
		if (lost) {
			// Of our own record without ourselves, who stand first in it as what is to be ended first.
			const own = readRecords(path.dirname(this.#own)).filter(({ directory }) => directory === this.#own);
			await this.#endLeftovers(
				own.map((record) => ({ ...record, pid: 0 })),
				[run],
			);
			this.#options.log.error('what had started the program of a run was killed', {
				run: id,
				route: run.route,
			});
			this.#reports?.lost(run);
			return;
		}
		const told = trouble === undefined ? outcome : withTrouble(outcome, trouble);
		this.#reports?.ended(id, attempt, { outcome: told, final, output: { size, short } });
	}

	/** What the run's plan only refers to, as it is now. */
	#secretsOf({ route, plan }: Run): Record<string, string> {
		const steps = [...plan.steps, ...(plan.onSuccess ?? []), ...(plan.onFailure ?? [])];
		const found = steps
			.flatMap((step) => step.secrets ?? [])
			.map((place) => [place.place, this.#options.secret(route, place)] as const);
		return Object.fromEntries(found.filter((one): one is [string, string] => one[1] !== undefined));
	}

	async #endLeftovers(records: readonly RunnerRecord[], runs: readonly Run[]): Promise<void> {
		if (records.length === 0 && runs.length === 0) return;
		const left = await endLeftovers(records, new Map(runs.map((run) => [run.id, run.plan.killAfter])));
		if (left.length > 0)
			this.#options.log.warn('processes of earlier runs do not end, not even by KILL', { pids: left });
	}
}

function withTrouble(outcome: Outcome, trouble: string): Outcome {
	const message = `not all of its output could be kept: ${trouble}`;
	return { ...outcome, message: outcome.message === '' ? message : `${outcome.message}; ${message}` };
}

function runKey({ id, attempt }: { readonly id: string; readonly attempt: number }): string {
	return `${id} ${attempt}`;
}
