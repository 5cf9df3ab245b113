/** What the SQLite file holds: its tables, the statements that read and change them, and how a run becomes a row and back. */

import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite';
import type { NewRun, Outcome, Run, RunReason, RunState, WaitsFor, WhenBusy } from '../runs/run.ts';
import type { Trigger } from './store.ts';

/** The file's layout; a listener refuses a newer one instead of guessing. */
export const schemaVersion = 5;

/** States as stored. Ends come last: the partial indexes below tell open runs from ended ones by this order. */
export const code = {
	later: 0,
	waiting: 1,
	locked: 2,
	ready: 3,
	running: 4,
	succeeded: 5,
	failed: 6,
	cancelled: 7,
} as const;
export const stateNames: readonly RunState[] = [
	'queued',
	'queued',
	'queued',
	'queued',
	'running',
	'succeeded',
	'failed',
	'cancelled',
];
/** By the stored state. */
const waitsFor: readonly WaitsFor[] = ['retry', 'group', 'lockfile', 'turn'];
export const allCodes = Object.values(code);
export const endedCodes = allCodes.filter((each) => each >= code.succeeded);

/**
 * Standard input and short output have tables of their own, so that a change of state does not rewrite megabytes and a page of
 * the history reads small rows. Indexes over ended runs are touched once in a run's life. `history` says how many runs of a
 * route have ended, since counting a million takes too long. Input that is gone is NULL. `deliveries` are those that are known
 * again: `runs` is a JSON list of ids, with null for what was refused, and `until` when they are forgotten.
 */
export const schema = `
	CREATE TABLE runs (
		seq INTEGER PRIMARY KEY,
		id TEXT NOT NULL UNIQUE,
		state INTEGER NOT NULL,
		attempt INTEGER NOT NULL DEFAULT 0,
		next_at INTEGER,
		route TEXT NOT NULL,
		grp TEXT NOT NULL,
		places INTEGER NOT NULL,
		when_busy TEXT NOT NULL,
		lockfile TEXT,
		accepted_at INTEGER NOT NULL,
		started_at INTEGER,
		ended_at INTEGER,
		reason TEXT,
		exit_code INTEGER,
		signal TEXT,
		message TEXT,
		output_size INTEGER NOT NULL DEFAULT 0,
		delivery TEXT NOT NULL,
		event TEXT NOT NULL,
		client TEXT NOT NULL,
		certname TEXT NOT NULL,
		parameters TEXT NOT NULL,
		plan TEXT NOT NULL
	) STRICT;
	CREATE INDEX runs_open ON runs (state, seq) WHERE state <= ${code.running};
	CREATE INDEX runs_later ON runs (next_at) WHERE state = ${code.later};
	CREATE INDEX runs_waiting ON runs (grp, seq) WHERE state = ${code.waiting};
	CREATE INDEX runs_locked ON runs (lockfile, seq) WHERE state = ${code.locked};
	CREATE INDEX runs_joinable ON runs (grp, route) WHERE state <= ${code.ready} AND attempt = 0 AND when_busy = 'coalesce';
	CREATE INDEX runs_ended ON runs (state, seq) WHERE state >= ${code.succeeded};
	CREATE INDEX runs_ended_by_route ON runs (route, state, seq) WHERE state >= ${code.succeeded};
	CREATE TABLE inputs (seq INTEGER PRIMARY KEY, bytes BLOB) STRICT;
	CREATE TABLE outputs (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
	CREATE TABLE deliveries (
		route TEXT NOT NULL,
		key TEXT NOT NULL,
		runs TEXT NOT NULL,
		remember INTEGER NOT NULL,
		until INTEGER NOT NULL,
		PRIMARY KEY (route, key)
	) STRICT, WITHOUT ROWID;
	CREATE INDEX deliveries_until ON deliveries (until);
	CREATE TABLE history (route TEXT PRIMARY KEY, runs INTEGER NOT NULL) STRICT, WITHOUT ROWID;
	CREATE TABLE triggers (name TEXT PRIMARY KEY, count INTEGER NOT NULL, counted_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
	PRAGMA user_version = ${schemaVersion};
`;

const columns =
	'seq, id, state, attempt, next_at, route, grp, places, when_busy, accepted_at, started_at, ended_at, reason, exit_code, signal, ' +
	'message, output_size, delivery, event, client, certname, parameters, plan';

/** A row of `runs`. */
export interface Row {
	seq: number;
	id: string;
	state: number;
	attempt: number;
	next_at: number | null;
	route: string;
	grp: string;
	places: number;
	when_busy: WhenBusy;
	accepted_at: number;
	started_at: number | null;
	ended_at: number | null;
	reason: RunReason | null;
	exit_code: number | null;
	signal: string | null;
	message: string | null;
	output_size: number;
	delivery: string;
	event: string;
	client: string;
	certname: string;
	parameters: string;
	plan: string;
}

/** Every statement there is, prepared once. */
export function prepare(db: DatabaseSync) {
	const open = `state <= ${code.running}`;
	const ended = `state >= ${code.succeeded}`;
	// A run that has its place in its group.
	const placed = `CASE WHEN lockfile IS NULL THEN ${code.ready} ELSE ${code.locked} END`;
	const forEachState = (sql: (state: number, range: string) => string): Record<number, StatementSync> =>
		Object.fromEntries(
			allCodes.map((state) => [state, db.prepare(sql(state, state <= code.running ? open : ended))]),
		);
	// Where a partial index is to serve, its condition is repeated word for word: SQLite draws no conclusions here.
	return {
		insert: db.prepare(
			'INSERT INTO runs (seq, id, state, route, grp, places, when_busy, lockfile, accepted_at, delivery, event, client, certname, parameters, plan) ' +
				'VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
		),
		joinable: db.prepare(
			`SELECT seq FROM runs WHERE grp = ? AND route = ? AND state <= ${code.ready} AND attempt = 0 AND when_busy = 'coalesce'`,
		),
		join: db.prepare(
			'UPDATE runs SET delivery = ?, event = ?, client = ?, certname = ?, parameters = ?, plan = ?, lockfile = ?, ' +
				`state = CASE WHEN state IN (${code.locked}, ${code.ready}) THEN ? ELSE state END WHERE seq = ? RETURNING ${columns}`,
		),
		firstReady: db.prepare(
			`SELECT seq FROM runs WHERE ${open} AND state = ${code.ready} ORDER BY seq LIMIT 1`,
		),
		firstLocked: db.prepare(
			`SELECT seq FROM runs WHERE state = ${code.locked} AND lockfile = ? ORDER BY seq LIMIT 1`,
		),
		// What else is selected beside min() is of the same row.
		locked: db.prepare(
			`SELECT lockfile, min(seq), id, route FROM runs WHERE state = ${code.locked} GROUP BY lockfile`,
		),
		claim: db.prepare(
			`UPDATE runs SET state = ${code.running}, attempt = attempt + 1, started_at = ? WHERE seq = ?`,
		),
		running: db.prepare(
			`SELECT 1 AS yes FROM runs WHERE seq = ? AND id = ? AND attempt = ? AND state = ${code.running}`,
		),
		settle: db.prepare(
			'UPDATE runs SET state = ?, reason = ?, exit_code = ?, signal = ?, message = ?, ended_at = ?, output_size = ? ' +
				'WHERE seq = ?',
		),
		setParameters: db.prepare('UPDATE runs SET parameters = ? WHERE seq = ?'),
		recover: db.prepare(
			`UPDATE runs SET state = ${placed} WHERE ${open} AND state = ${code.running} ` +
				`AND plan ->> 'onCrash' IS NOT 'fail' RETURNING ${columns}`,
		),
		allRunning: db.prepare(`SELECT ${columns} FROM runs WHERE ${open} AND state = ${code.running}`),
		postpone: db.prepare(`UPDATE runs SET state = ${code.later}, next_at = ? WHERE seq = ?`),
		resume: db.prepare(`UPDATE runs SET state = ${code.waiting}, next_at = NULL WHERE seq = ?`),
		due: db.prepare(
			// No more than that at once; the next claim goes on.
			`SELECT seq, grp, when_busy FROM runs WHERE state = ${code.later} AND next_at BETWEEN ? AND ? ORDER BY next_at LIMIT 100`,
		),
		bringForward: db.prepare(`UPDATE runs SET next_at = next_at - ? WHERE state = ${code.later}`),
		nextDue: db.prepare(`SELECT min(next_at) AS next FROM runs WHERE state = ${code.later}`),
		firstWaiting: db.prepare(
			`SELECT seq, places FROM runs WHERE state = ${code.waiting} AND grp = ? ORDER BY seq LIMIT 1`,
		),
		admit: db.prepare(`UPDATE runs SET state = ${placed} WHERE seq = ?`),
		byId: db.prepare(`SELECT ${columns} FROM runs WHERE id = ?`),
		bySeq: db.prepare(`SELECT ${columns} FROM runs WHERE seq = ?`),
		newest: db.prepare(`SELECT ${columns} FROM runs WHERE seq < ? ORDER BY seq DESC LIMIT ?`),
		newestOf: forEachState(
			(state, range) =>
				`SELECT seq FROM runs WHERE ${range} AND state = ${state} AND seq < ? ORDER BY seq DESC LIMIT ?`,
		),
		newestOfRoute: forEachState(
			(state, range) =>
				`SELECT seq FROM runs WHERE ${range} AND route = ? AND state = ${state} AND seq < ? ORDER BY seq DESC LIMIT ?`,
		),
		oldestOfRoute: forEachState(
			(state, range) =>
				`SELECT seq, id, ended_at, output_size FROM runs WHERE ${range} AND route = ? AND state = ${state} ORDER BY seq LIMIT ?`,
		),
		endedRuns: db.prepare('SELECT runs FROM history WHERE route = ?'),
		addEnded: db.prepare(
			'INSERT INTO history (route, runs) VALUES (?, ?) ON CONFLICT DO UPDATE SET runs = runs + excluded.runs',
		),
		routesAfter: db.prepare('SELECT route FROM history WHERE route > ? AND runs > 0 ORDER BY route LIMIT ?'),
		delivery: db.prepare('SELECT runs, remember, until FROM deliveries WHERE route = ? AND key = ?'),
		putDelivery: db.prepare(
			'INSERT OR REPLACE INTO deliveries (route, key, runs, remember, until) VALUES (?, ?, ?, ?, ?)',
		),
		forgetDeliveries: db.prepare(
			'DELETE FROM deliveries WHERE (route, key) IN (SELECT route, key FROM deliveries WHERE until <= ? ORDER BY until LIMIT ?)',
		),
		dropRun: db.prepare('DELETE FROM runs WHERE seq = ?'),
		input: db.prepare('SELECT bytes FROM inputs WHERE seq = ?'),
		putInput: db.prepare('INSERT OR REPLACE INTO inputs (seq, bytes) VALUES (?, ?)'),
		clearInput: db.prepare('UPDATE inputs SET bytes = NULL WHERE seq = ? AND length(bytes) > ?'),
		dropInput: db.prepare('DELETE FROM inputs WHERE seq = ?'),
		output: db.prepare('SELECT bytes FROM outputs WHERE seq = ?'),
		putOutput: db.prepare('INSERT OR REPLACE INTO outputs (seq, bytes) VALUES (?, ?)'),
		dropOutput: db.prepare('DELETE FROM outputs WHERE seq = ?'),
		countTrigger: db.prepare(
			'INSERT INTO triggers (name, count, counted_at) VALUES (?, 1, ?) ' +
				'ON CONFLICT DO UPDATE SET count = count + 1, counted_at = excluded.counted_at RETURNING count',
		),
		trigger: db.prepare('SELECT name, count, counted_at FROM triggers WHERE name = ?'),
		triggersAfter: db.prepare(
			'SELECT name, count, counted_at FROM triggers WHERE name > ? ORDER BY name LIMIT ?',
		),
		logSize: db.prepare('PRAGMA wal_checkpoint(NOOP)'),
	};
}

/** A row of `triggers`. */
export interface TriggerRow {
	name: string;
	count: number;
	counted_at: number;
}

export function toTrigger({ name, count, counted_at: countedAt }: TriggerRow): Trigger {
	return { name, count, countedAt };
}

/** The first values of the statement `settle`. */
export function ending(outcome: Outcome, endedAt: number): SQLInputValue[] {
	return [code[outcome.state], outcome.reason, outcome.exitCode, outcome.signal, outcome.message, endedAt];
}

/** A run as it stands when it has just been written. */
export function newRun(run: NewRun, seq: number, waits: number): Run {
	const { stdin: _, ...rest } = run;
	return {
		...rest,
		seq,
		state: 'queued',
		waitsFor: waitsFor[waits] ?? null,
		attempt: 0,
		nextAttemptAt: null,
		startedAt: null,
		endedAt: null,
		outcome: null,
		outputSize: 0,
	};
}

/** A run as it is stored. */
export function toRun(row: Row): Run {
	const state = stateNames[row.state]!;
	const ended = row.state >= code.succeeded;
	return {
		id: row.id,
		seq: row.seq,
		route: row.route,
		group: row.grp,
		limit: row.places,
		whenBusy: row.when_busy,
		delivery: row.delivery,
		event: row.event,
		client: row.client,
		certname: row.certname,
		parameters: JSON.parse(row.parameters),
		plan: JSON.parse(row.plan),
		acceptedAt: row.accepted_at,
		state,
		waitsFor: waitsFor[row.state] ?? null,
		attempt: row.attempt,
		nextAttemptAt: ended ? null : row.next_at,
		startedAt: row.started_at,
		endedAt: row.ended_at,
		outcome: ended
			? {
					state: state as Outcome['state'],
					reason: row.reason!,
					exitCode: row.exit_code,
					signal: row.signal,
					message: row.message!,
				}
			: null,
		outputSize: row.output_size,
	};
}
