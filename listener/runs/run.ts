/**
 * A run is one piece of work that was promised to a caller. It holds its steps as they were decided when the delivery came
 * in; later changes of routes.yaml do not touch it. (While it waits, a run with `coalesce` may take over what a later
 * delivery wants.) Only the queue changes its state, and only along `allowedChanges`.
 */

import { randomFillSync } from 'node:crypto';
import type { PlannedStep } from '../steps/step.ts';

export const runStates = ['queued', 'running', 'succeeded', 'failed', 'cancelled'] as const;
/** queued: written down, waiting. running: a runner has it. The other three are ends. */
export type RunState = (typeof runStates)[number];

export const runReasons = ['exit', 'signal', 'timeout', 'spawn', 'lost', 'caller', 'superseded'] as const;
/**
 * Why a run ended, beside its state: `exit` the command's exit status decided · `signal` a signal ended it · `timeout` its
 * time limit did · `spawn` the command could not be started · `lost` the listener died meanwhile and the run is not to be
 * run again · `caller` somebody cancelled it · `superseded` a later run took its place.
 */
export type RunReason = (typeof runReasons)[number];

/** From which state a run may go to which. `running → queued` is a retry, or the start after a crash. */
export const allowedChanges: Readonly<Record<RunState, readonly RunState[]>> = {
	queued: ['running', 'cancelled'],
	running: ['succeeded', 'failed', 'cancelled', 'queued'],
	succeeded: [],
	failed: [],
	cancelled: [],
};

/** True for the states that a run never leaves. */
export function hasEnded(state: RunState): boolean {
	return allowedChanges[state].length === 0;
}

/** How runs of one group share it: see surface words `queue`, `coalesce`, `reject`, `parallel` in docs/runs.md. */
export type WhenBusy = 'queue' | 'coalesce' | 'reject' | 'parallel';

/** How long runs that have ended are kept: those that are neither among the newest nor young go, and their output with them. */
export interface Keep {
	/** The newest so many runs of a route stay, unless they are too old; at least 1. */
	readonly runs: number;
	/** Milliseconds from a run's end. */
	readonly age: number;
}

/** When a run that failed is started again. */
export interface Retry {
	/** How many times it is started at most, the first time included; at least 2. */
	readonly attempts: number;
	/** Milliseconds from the first failure to the second start; at most `longestDelay`. */
	readonly delay: number;
	/** What the delay is multiplied by with each further failure; at least 1. */
	readonly backoff: number;
}

/** Milliseconds. What is still broken after an hour is looked at by people, who do not want to wait longer than that either. */
export const longestDelay = 3_600_000;

/** What the steps of a run see of it, by the names of environment variables. */
export function variablesOf(
	run: Pick<NewRun, 'id' | 'route' | 'delivery' | 'event' | 'client' | 'certname' | 'parameters'>,
): Record<string, string> {
	return {
		...run.parameters,
		WEBHOOK_RUN: run.id,
		WEBHOOK_ROUTE: run.route,
		WEBHOOK_DELIVERY: run.delivery,
		WEBHOOK_EVENT: run.event,
		WEBHOOK_CLIENT: run.client,
		WEBHOOK_CERTNAME: run.certname,
	};
}

/** Whether a run that fails in this attempt has failed for good. */
export function isLastAttempt({ retry }: Plan, attempt: number): boolean {
	return retry === undefined || attempt >= retry.attempts;
}

/** Milliseconds from a failed attempt to the next one; undefined when there is none. */
export function retryDelay({ plan, attempt }: Run): number | undefined {
	const { retry } = plan;
	if (retry === undefined || isLastAttempt(plan, attempt)) return undefined;
	return Math.min(retry.delay * retry.backoff ** (attempt - 1), longestDelay);
}

/** What a run will do, decided at acceptance and kept with it. Plain data: it is stored as JSON. */
export interface Plan {
	readonly steps: readonly PlannedStep[];
	/** What follows when these have done what they were to do; a failure there fails the run, which is then not started again. */
	readonly onSuccess?: readonly PlannedStep[];
	/** What follows when the run has failed and is not started again. */
	readonly onFailure?: readonly PlannedStep[];
	/** Milliseconds for all steps together, and again for those that follow; then TERM. */
	readonly timeout: number;
	/** Milliseconds from TERM to KILL. */
	readonly killAfter: number;
	/** Bytes of output kept: half from the beginning, half from the end. */
	readonly maxOutput: number;
	/** Absent: a run that failed has failed. */
	readonly retry?: Retry;
	/**
	 * Names of parameters whose values nobody is to see: they are hidden in what the run prints, and forgotten when it has ended, as
	 * its input is. There without a name when only the input is secret.
	 */
	readonly secretParameters?: readonly string[];
	/** It is not started while a live process holds this file; an absolute path. Runs that name the same one run one at a time. */
	readonly lockfile?: string;
	/** `fail`: when the listener or its runner dies over the run it has failed, instead of being started again. */
	readonly onCrash?: 'fail';
}

/** A run that is to be written down. */
export interface NewRun {
	/** 26 letters and digits, sortable by time. */
	readonly id: string;
	readonly route: string;
	/** Runs of one group never exceed `limit` at a time. */
	readonly group: string;
	/** How many runs of the group may run at once; at least 1. Ignored for `parallel`. */
	readonly limit: number;
	readonly whenBusy: WhenBusy;
	/** The delivery it came from. */
	readonly delivery: string;
	/** That delivery's kind of event, such as `call`. */
	readonly event: string;
	/** The address of who sent it. */
	readonly client: string;
	/** The name in that sender's certificate; empty when it showed none. */
	readonly certname: string;
	/** The checked values, by parameter name. */
	readonly parameters: Readonly<Record<string, string>>;
	readonly plan: Plan;
	/** Bytes for the command's standard input; null for none. */
	readonly stdin: Buffer | null;
	/** Milliseconds since 1970. */
	readonly acceptedAt: number;
}

/** How a run ended. */
export interface Outcome {
	readonly state: 'succeeded' | 'failed' | 'cancelled';
	readonly reason: RunReason;
	/** The exit status of the step that decided; null when there is none (signal, timeout, spawn). */
	readonly exitCode: number | null;
	/** `SIGTERM` and so on, when a signal ended it; else null. */
	readonly signal: string | null;
	/** One sentence for people, such as `step 1 (command) exited with 3`. Empty for plain success. */
	readonly message: string;
}

/**
 * What a queued run waits for: `retry` the time of its next attempt · `group` a place in its group · `lockfile` whoever holds
 * its lock file, having a place in its group · `turn` one of the places for all runs, or only for the moment to come.
 */
export type WaitsFor = 'retry' | 'group' | 'lockfile' | 'turn';

/** A run as it stands. Its standard input is not among it: that may be megabytes, and only who performs the run needs it. */
export interface Run extends Omit<NewRun, 'stdin'> {
	/** Rises by one with each run accepted; the order of the queue and of lists. */
	readonly seq: number;
	readonly state: RunState;
	/** null unless it is queued. */
	readonly waitsFor: WaitsFor | null;
	/** How many times it was started. Fences: only the holder of the present attempt may settle it. */
	readonly attempt: number;
	/** When a run that failed is to be started again, milliseconds since 1970; null when it is not waiting for that. */
	readonly nextAttemptAt: number | null;
	readonly startedAt: number | null;
	readonly endedAt: number | null;
	readonly outcome: Outcome | null;
	/** Bytes the steps wrote in all, also those that were cut; 0 until it has ended. */
	readonly outputSize: number;
}

/** Stands for a value that nobody is to see. */
const hidden = '***';

/** A run's parameters as they may be seen. */
export function shownParameters({
	parameters,
	plan: { secretParameters = [] },
}: Pick<NewRun, 'parameters' | 'plan'>): Readonly<Record<string, string>> {
	if (secretParameters.length === 0) return parameters;
	const shown = Object.entries(parameters).map(([name, value]) => [
		name,
		secretParameters.includes(name) ? hidden : value,
	]);
	return Object.fromEntries(shown);
}

/** A run that was just taken to be performed. */
export interface ClaimedRun extends Run {
	readonly stdin: Buffer | null;
}

// Crockford's alphabet without i, l, o and u: no two that look alike, and in the order of their codes, so that ids sort.
const digits = '0123456789abcdefghjkmnpqrstvwxyz';

/** What an id looks like. */
export const runId = new RegExp(`^[${digits}]{26}$`);

/**
 * Gives a maker of ids for runs and deliveries: 26 letters and digits, 48 bits of time and 80 random ones. Ids of one maker
 * sort in the order they were made, also within a millisecond and when the clock steps back.
 * @param now milliseconds since 1970
 */
export function idMaker(now: () => number = Date.now): () => string {
	const random = new Uint8Array(16);
	// Asked for in one go, since each time takes as long as making several ids.
	const pool = new Uint8Array(256 * random.length);
	let taken = pool.length;
	let lastTime = -1;
	let timePart = '';
	return () => {
		const time = now();
		if (time > lastTime) {
			lastTime = time;
			timePart = '';
			for (let rest = time, i = 0; i < 10; i++, rest = Math.floor(rest / 32))
				timePart = digits[rest % 32] + timePart;
			if (taken === pool.length) {
				randomFillSync(pool);
				taken = 0;
			}
			random.set(pool.subarray(taken, taken + random.length));
			taken += random.length;
		} else {
			// Adding one keeps the order. A carry past the first digit is as unlikely as guessing an id.
			let i = 15;
			do random[i] = (random[i]! + 1) & 31;
			while (random[i] === 0 && --i >= 0);
		}
		let id = timePart;
		for (let i = 0; i < 16; i++) id += digits[random[i]! & 31];
		return id;
	};
}
