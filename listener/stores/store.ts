/**
 * Where runs are written down. One interface for every engine; test/store.test.ts is its contract. A promise that resolves
 * means: on disk, to survive power loss. Time and fencing belong to the store, so that two engines agree on both.
 */

import type { NewRun, Outcome, Run, RunState } from '../runs/run.ts'

/** What became of a run that was offered. `joined`: an earlier queued run of its group does its work (coalesce). */
export type Acceptance =
	| { readonly kind: 'accepted'; readonly run: Run }
	| { readonly kind: 'joined'; readonly run: Run }
	| { readonly kind: 'busy'; readonly group: string }

/** Which runs to list, newest first. */
export interface RunFilter {
	readonly route?: string
	readonly state?: RunState
	/** Only runs with a smaller `seq`; for the next page. */
	readonly before?: number
	/** 1 to 200. */
	readonly limit: number
}

export interface Store {
	/** Writes the runs down, all or none, in order, and decides by group who joins and who is refused. @throws StoreUnavailable */
	accept(runs: readonly NewRun[]): Promise<readonly Acceptance[]>
	/** Takes up to `limit` queued runs whose groups have room, oldest first, and marks them running with a new attempt. */
	claim(limit: number): Promise<readonly Run[]>
	/** Ends a run. False when `attempt` is no longer the present one: then nothing was changed. @throws StoreUnavailable */
	settle(id: string, attempt: number, outcome: Outcome, output: KeptOutput): Promise<boolean>
	/** Ends a queued run that was never started. False when it is not queued any more. */
	cancelQueued(id: string, outcome: Outcome): Promise<boolean>
	/** Puts every run that is marked running back into the queue (nobody can be running it: a listener starts). Returns them. */
	recover(): Promise<readonly Run[]>
	get(id: string): Promise<Run | undefined>
	list(filter: RunFilter): Promise<readonly Run[]>
	/** Output that was kept with the row because it is short; null when the output is in a file, undefined for no such run. */
	shortOutput(id: string): Promise<Buffer | null | undefined>
	/** Runs queued and running now. */
	counts(): Promise<{ readonly queued: number; readonly running: number }>
	/** Writes out what is waiting and closes. Safe to call twice. */
	close(): Promise<void>
}

/** Output as settled: `short` is the whole of it when it stayed small, else null and it is in the run's file. */
export interface KeptOutput {
	readonly size: number
	readonly short: Buffer | null
}
