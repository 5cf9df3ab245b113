/**
 * Performs the steps of a run: in order, until one is not ok; then those that follow. Enforces their time
 * limits, gives each its heading in the output, and says how the run ended.
 */

import { command } from '../steps/command.ts';
import {
	failure,
	type PlannedStep,
	type Program,
	type StepContext,
	type StepKind,
	type StepResult,
	type StopReason,
} from '../steps/step.ts';
import { isLastAttempt, type Outcome, type Plan } from './run.ts';
import type { ProgramRun } from './runner-program.ts';

// biome-ignore lint/suspicious/noExplicitAny: a plan's step is performed by the kind that planned it, which knows its own shape
type AnyKind = StepKind<any>;

/** How to get each kind. What only some runs need is loaded with the first of them. */
const kinds: Readonly<Record<string, () => Promise<AnyKind>>> = {
	command: async () => command,
	hieradata: async () => (await import('../steps/hieradata.ts')).hieradataKind(),
	http: async () => (await import('../steps/http.ts')).httpKind(),
	trigger: async () => (await import('../steps/trigger.ts')).trigger,
};

/** What setTimeout can wait at most, about 25 days; anything longer would be over at once. */
const longestTimer = 2 ** 31 - 1;
/** Characters of a heading at most; what it names may be a parameter. */
const longestHeading = 200;

/** A run as its steps need it. */
export interface StepsRun {
	readonly id: string;
	readonly attempt: number;
	readonly plan: Plan;
	/** The parameters and the WEBHOOK_ variables. */
	readonly values: Readonly<Record<string, string>>;
	/** What stands at places that the plan refers to. */
	readonly secrets: Readonly<Record<string, string>>;
	readonly stdin: Buffer | null;
	/** Aborted when the run is to end, whatever it does. */
	readonly stop: AbortSignal;
	write(bytes: Buffer): void;
	/** Runs a program. */
	run(program: Program, run: ProgramRun): Promise<StepResult>;
	/** Counts a trigger up. */
	count(trigger: string): Promise<number>;
}

export interface Performed {
	readonly outcome: Outcome;
	/** It is not to be started again, though it failed: its own steps have succeeded. */
	readonly final: boolean;
	/** `stop` ended some of it. */
	readonly cut: boolean;
}

/** Several steps that share a time limit. */
interface Steps {
	readonly steps: readonly PlannedStep[];
	/** What its steps are called in messages and headings; empty for the run's own. */
	readonly name: '' | 'on_success' | 'on_failure';
	readonly values: StepsRun['values'];
}

/** What is around a step while it is performed. */
interface Around {
	readonly values: StepsRun['values'];
	readonly limit: Limit;
	readonly run: StepsRun;
	readonly output: Lines;
}

/** Performs runs; holds what their kinds of steps have loaded. */
export class Performer {
	readonly #kinds = new Map<string, Promise<AnyKind>>();

	/** Performs a run to its end. Never rejects. */
	async perform(run: StepsRun): Promise<Performed> {
		const { plan, values, attempt } = run;
		const output = new Lines(run.write);
		const follow = async (name: 'on_success' | 'on_failure', after: Outcome) => {
			const steps = (name === 'on_success' ? plan.onSuccess : plan.onFailure) ?? [];
			return this.#all({ steps, name, values: { ...values, ...endValues(after) } }, run, output);
		};

		const own = await this.#all({ steps: plan.steps, name: '', values }, run, output);
		let outcome = outcomeOf(own);
		let cut = own.reason === 'caller';
		let final = false;
		if (outcome.state === 'succeeded' && plan.onSuccess) {
			const result = await follow('on_success', outcome);
			cut = result.reason === 'caller';
			final = !result.ok;
			if (final) outcome = outcomeOf(result);
		}
		if (outcome.state === 'failed' && plan.onFailure && (final || isLastAttempt(plan, attempt))) {
			const result = await follow('on_failure', outcome);
			cut = result.reason === 'caller';
			// Why the run failed stays the first thing said.
			if (!result.ok) outcome = { ...outcome, message: `${outcome.message}; then ${result.message}` };
		}
		return { outcome, final, cut };
	}

	/** Performs steps until one is not ok, and gives the last result, whose message names the step. */
	async #all({ steps, name, values }: Steps, run: StepsRun, output: Lines): Promise<StepResult> {
		const limit = new Limit(run.stop, run.plan.timeout);
		let result = failure('exit', '');
		for (const [index, step] of steps.entries()) {
			const several = steps.length > 1;
			const called = [name, several ? `step ${index + 1}` : ''].filter(Boolean).join(' ');
			const heading = several || name !== '' ? `${called} (${step.kind})` : '';
			result = await this.#one(step, heading, { values, limit, run, output });
			if (!result.ok) {
				const what = heading || (step.kind === 'command' ? 'the command' : `the step (${step.kind})`);
				result = { ...result, message: `${what} ${result.message}` };
				break;
			}
			if (result.enough) break;
		}
		limit.end();
		return result;
	}

	/** Performs one step, below its heading unless that is empty. Never rejects. */
	async #one(
		step: PlannedStep,
		heading: string,
		{ values, limit, run, output }: Around,
	): Promise<StepResult> {
		const load = kinds[step.kind];
		if (load === undefined) return failure('spawn', 'is of a kind that this version does not know');
		const own = step.timeout === undefined ? limit : new Limit(limit.signal, step.timeout);
		const write = (bytes: Buffer) => output.write(bytes);
		const programRun: ProgramRun = {
			id: run.id,
			values,
			killAfter: run.plan.killAfter,
			stop: own.signal,
			write,
		};
		const context: StepContext = {
			stdin: run.stdin,
			values,
			stop: own.signal,
			write,
			say: (line) => output.say(line),
			attempt: run.attempt,
			run: (program) => run.run(program, { ...programRun, write: program.printed ?? write }),
			count: run.count,
			secret: (place) => run.secrets[place],
		};
		try {
			let kind = this.#kinds.get(step.kind);
			if (kind === undefined) {
				kind = load();
				this.#kinds.set(step.kind, kind);
			}
			const known = await kind;
			if (heading !== '') output.say(headingText(heading, known.title(step, context)));
			const result = await known.perform(step, context);
			// A request has a limit of its own, which names itself.
			return result.reason === 'timeout' ? (own.isOver ? own : limit).named(result) : result;
		} catch (error) {
			return failure('spawn', `failed: ${error}`);
		} finally {
			if (own !== limit) own.end();
		}
	}
}

/** A time limit that steps share, within what else may end them. */
class Limit {
	readonly #outer: AbortSignal;
	readonly #own = new AbortController();
	readonly #ms: number;
	readonly #late: NodeJS.Timeout;
	readonly #stop = () => this.#own.abort(this.#outer.reason);
	/** True when it was this limit that was reached. */
	isOver = false;

	constructor(outer: AbortSignal, ms: number) {
		this.#outer = outer;
		this.#ms = ms;
		this.#late = setTimeout(
			() => {
				this.isOver = true;
				this.#own.abort('timeout' satisfies StopReason);
			},
			Math.min(ms, longestTimer),
		);
		if (outer.aborted) this.#stop();
		else outer.addEventListener('abort', this.#stop, { once: true });
	}

	/** Aborted with a StopReason. */
	get signal(): AbortSignal {
		return this.#own.signal;
	}

	/** The result, with how long the limit was that was reached. */
	named(result: StepResult): StepResult {
		return this.isOver ? { ...result, message: `${result.message} of ${this.#ms / 1000} s` } : result;
	}

	end(): void {
		clearTimeout(this.#late);
		this.#outer.removeEventListener('abort', this.#stop);
	}
}

/** Output that knows whether a line has begun. */
class Lines {
	readonly #write: (bytes: Buffer) => void;
	#begun = false;

	constructor(write: (bytes: Buffer) => void) {
		this.#write = write;
	}

	write(bytes: Buffer): void {
		if (bytes.length === 0) return;
		this.#begun = bytes.at(-1) !== 10;
		this.#write(bytes);
	}

	/** Writes a line of its own. */
	say(line: string): void {
		this.write(Buffer.from(`${this.#begun ? '\n' : ''}${line}\n`));
	}
}

function headingText(heading: string, title: string): string {
	const text = title === '' ? heading : `${heading}: ${title}`;
	const plain = text.replace(/\p{Cc}/gu, '?');
	return `==> ${plain.length > longestHeading ? `${plain.slice(0, longestHeading)}…` : plain}`;
}

function outcomeOf({ ok, reason, exitCode, signal, message }: StepResult): Outcome {
	const state = ok ? 'succeeded' : reason === 'caller' ? 'cancelled' : 'failed';
	return { state, reason, exitCode, signal, message };
}

/** What steps see that follow a run's own. */
function endValues({ state, reason, exitCode, message }: Outcome): Record<string, string> {
	return {
		WEBHOOK_STATE: state,
		WEBHOOK_REASON: reason,
		WEBHOOK_EXIT_CODE: exitCode === null ? '' : String(exitCode),
		WEBHOOK_MESSAGE: message,
	};
}
