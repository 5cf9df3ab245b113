/**
 * Where runs are written down. One interface for every engine; test/store.test.ts is its contract. A promise that resolves
 * means: on disk, to survive power loss; those of changes resolve in the order in which they were asked for.
 * Time and fencing belong to the store, so that two engines agree on both.
 */

import type { ClaimedRun, NewRun, Outcome, Run, RunState } from '../runs/run.ts';

/**
 * What became of a run that was offered. `joined` (coalesce): a queued run of the same group and route does its work; that
 * one keeps its id and its place and takes over the newer delivery, parameters and plan, since the last push is the one
 * that has to be deployed. `busy` (reject): the group has no room, or a lock file is held, which is then named. `repeated`: the delivery came before, and this is the run of
 * then, whichever of the others it was.
 */
export type Acceptance =
	| { readonly kind: 'accepted'; readonly run: Run }
	| { readonly kind: 'joined'; readonly run: Run }
	| { readonly kind: 'busy'; readonly group: string; readonly lockfile?: string }
	| { readonly kind: 'repeated'; readonly run: Run };

/** By what a delivery is known again when its sender repeats it. */
export interface DeliveryKey {
	readonly route: string;
	/** The sender's own id of it; unique within the route. */
	readonly key: string;
	/** Milliseconds, by the store's clock, for which it is known. */
	readonly remember: number;
}

/** Which runs to list, newest first. */
export interface RunFilter {
	readonly route?: string;
	readonly state?: RunState;
	/** Only runs with a smaller `seq`; for the next page. */
	readonly before?: number;
	/** 1 to 200. */
	readonly limit: number;
}

export interface Store {
	/**
	 * Writes the runs down, all or none, in order, and decides by group who joins and who is refused.
	 *
	 * With a `delivery` that was taken before and is remembered, nothing is written for the runs that were taken then: these are
	 * `repeated`. What was refused then is offered anew, so a delivery of which all was refused counts as one that never came.
	 * When another number of runs is offered than then (routes.yaml has changed), the `repeated` ones are all there is. Runs
	 * that were removed meanwhile are left out, and never started a second time.
	 * @param locked lock files that are held now: a run with `reject` that names one is refused
	 * @returns one for each run offered, in their order, but for the exceptions above
	 * @throws StoreUnavailable Conflict (the delivery was taken, and every run of it has been removed)
	 */
	accept(
		runs: readonly NewRun[],
		delivery?: DeliveryKey,
		locked?: readonly string[],
	): Promise<readonly Acceptance[]>;
	/**
	 * Takes up to `limit` queued runs whose groups have room, oldest first, and marks them running with a new attempt. Within
	 * a group the order is kept; a group without room delays no other. A run that names a lock file keeps its place and is not
	 * taken unless that is one of `free`; of each of these one at most. @throws StoreUnavailable
	 */
	claim(limit: number, free?: readonly string[]): Promise<readonly ClaimedRun[]>;
	/** Runs that wait for nothing but a lock file: of each file the first. */
	locked(): Promise<readonly LockedRun[]>;
	/**
	 * Ends a running run. Its secret parameters and, when it has some, its input are kept no longer. Gives it as it stands then; undefined when its attempt is no longer the present one: then nothing was
	 * changed. @throws StoreUnavailable
	 */
	settle(run: Run, outcome: Outcome, output: KeptOutput): Promise<Run | undefined>;
	/** Puts a running run back into the queue, at its old place. False when its attempt is no longer the present one. @throws StoreUnavailable */
	putBack(run: Run): Promise<boolean>;
	/**
	 * Puts a running run back into the queue and keeps it there for `delay` milliseconds (at most `longestDelay`). Until then it
	 * has no place in its group; then it waits for one, before those accepted later. Gives it as it stands; undefined when its
	 * attempt is no longer the present one. @throws StoreUnavailable
	 */
	retry(run: Run, delay: number): Promise<Run | undefined>;
	/** When the next of these is due, in milliseconds from now; 0 for one that is, undefined when there is none. */
	nextRetry(): Promise<number | undefined>;
	/** Ends a queued run, as `settle` does. False when it is not queued any more. @throws StoreUnavailable */
	cancelQueued(id: string, outcome: Outcome): Promise<boolean>;
	/**
	 * Puts every run that is marked running back into the queue (nobody can be running it: a listener starts), except those whose
	 * plan says `onCrash: 'fail'`: these stay running until they are settled. Returns all of them, as they stand then.
	 */
	recover(): Promise<readonly Run[]>;
	get(id: string): Promise<Run | undefined>;
	list(filter: RunFilter): Promise<readonly Run[]>;
	/** Output that was kept with the run because it is short; null when it is in a file or to come, undefined for no such run. */
	shortOutput(id: string): Promise<Buffer | null | undefined>;
	/** The bytes for a run's standard input, or that they are gone; undefined for no such run. */
	input(id: string): Promise<Input | undefined>;
	/** Runs queued and running now. */
	counts(): Promise<{ readonly queued: number; readonly running: number }>;
	/** Names of routes that have ended runs, in the order of their letters: up to `limit` of those after a name. */
	routesAfter(name: string, limit: number): Promise<readonly string[]>;
	/**
	 * Removes up to `limit` ended runs of a route, the oldest first: those beyond the newest `runs`, and those that ended before
	 * `endedBefore` (milliseconds since 1970). A run that ended early may stay as long as some that were accepted before it.
	 * @throws StoreUnavailable
	 */
	prune(route: string, kept: Kept, limit: number): Promise<Pruned>;
	/** Counts a trigger up by one; it begins at 0. Gives it as it stands then. @throws StoreUnavailable */
	countTrigger(name: string): Promise<Trigger>;
	/** undefined for one that was never counted up. */
	trigger(name: string): Promise<Trigger | undefined>;
	/** Triggers that were counted up, in the order of their letters' codes: up to `limit` of those after a name. */
	triggersAfter(name: string, limit: number): Promise<readonly Trigger[]>;
	/** Writes out what is waiting and closes; anything asked for later throws StoreUnavailable. Safe to call twice. */
	close(): Promise<void>;
}

/** `bytes` is null for a run without standard input. A run that has ended keeps what is not longer than `mostKeptInput`. */
export type Input = { readonly kept: true; readonly bytes: Buffer | null } | { readonly kept: false };

/** Bytes. Nearly every delivery is shorter, and a thousand runs of the largest ones that are taken would fill a disk. */
export const mostKeptInput = 256 * 1024;

/** A queued run that waits for a lock file. */
export interface LockedRun {
	readonly id: string;
	readonly route: string;
	readonly lockfile: string;
}

/** A named count. */
export interface Trigger {
	readonly name: string;
	readonly count: number;
	/** When it was last counted up, milliseconds since 1970. */
	readonly countedAt: number;
}

/** Which ended runs of a route stay. */
export interface Kept {
	readonly runs: number;
	readonly endedBefore: number;
}

/** What was removed. */
export interface Pruned {
	/** The runs; fewer than were asked for when no more are to go. */
	readonly ids: readonly string[];
	/** Those of them whose output is in a file, which is still there. */
	readonly inFiles: readonly string[];
}

/** Output as settled: `short` is the whole of it when it stayed small, else null and it is in the run's file. */
export interface KeptOutput {
	readonly size: number;
	readonly short: Buffer | null;
}
