/** What a measure is, and what it may use. A measure is one file under measures/ and one line in bench.ts. */
import type { LoadPlan, LoadResult } from './load.ts';
import type { Processes } from './processes.ts';
import type { ListenerSide } from './sides.ts';

/** Who is measured: the bare machine, the peer, this project. */
export type SideName = 'limit' | 'webhook' | 'ours';

/** What one round of one side yielded: figure name → value. */
export type Values = Record<string, number>;

/** One round of one side. `round` holds what the sides before it yielded in the same round. */
export type Turn = (round: Partial<Record<SideName, Values>>) => Promise<Values>;

export type Figure = {
	name: string;
	unit: string;
	better: 'more' | 'less';
	/** Decimals shown. Default 0. */
	decimals?: number;
	/** What we hold ourselves to: `times` the peer's figure, or a plain `value`; at least or at most, by `better`. */
	goal?: { times: number } | { value: number };
};

export type Measure = {
	/** Selects it on the command line. */
	name: string;
	/** One line for the table: what is done, with how much of it. */
	about: string;
	figures: Figure[];
	/** How often each side has its turn. */
	rounds: { full: number; quick: number };
	/** Gets ready to measure the bare machine. Absent: there is no such limit. */
	limit?: (bench: Bench) => Promise<Turn>;
	/** Gets ready to measure one listener, unless it has no such thing. What it starts is ended after the last round. */
	listener?: (bench: Bench, side: ListenerSide) => Promise<Turn | undefined>;
};

/**
 * Seconds of load before the first round: Node compiles what is used much in steps, the last of them after some thousand
 * requests. Both sides get it, though a Go program is as fast from the first request on.
 */
export const WARM = { full: 1.5, quick: 0.3 };

/** What a run of limit.c reports. Times in milliseconds. */
export type LimitResult = { runs: number; seconds: number; perSecond: number; p50: number; p99: number };

export type Bench = {
	quick: boolean;
	/** An empty directory for this run, on the file system that is measured. */
	dir: string;
	processes: Processes;
	/** Runs the load client. Rejects when any request was not answered as the plan expects. */
	load(plan: LoadPlan): Promise<LoadResult>;
	/** Runs limit.c with so many commands in flight. */
	limit(seconds: number, inFlight: number, command: string[]): Promise<LimitResult>;
};

/** The body that every load sends: what Jenkins posts after a build. */
export const body = JSON.stringify({ environment: 'qa', role: 'haproxy_app', version: '2.1.4' });

/** The argv of a string command. */
export function underShell(command: string): string[] {
	return ['/bin/sh', '-c', command];
}
