/**
 * Whether much history and many routes make anything slower: the same deliveries to a listener with 10 routes and an empty
 * state directory, and to one with 10,000 routes and 1,000,000 ended runs, in turns.
 */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { idMaker, type NewRun } from '../../listener/runs/run.ts';
import { SqliteStore } from '../../listener/stores/sqlite.ts';
import { type Measure, WARM } from '../measure.ts';
import type { BenchRoute } from '../sides.ts';

const CONNECTIONS = 8;
const LARGE = { routes: 10_000, runs: 1_000_000 };
const QUICK = { routes: 1_000, runs: 50_000 };

/** The routes r0, r1 and so on. Called is the last one, whose runs wait behind the first. */
function routesNamed(count: number): BenchRoute[] {
	return Array.from({ length: count }, (_, i) => ({
		...{ name: `r${i}`, wait: 'no', limit: 1 },
		command: i === count - 1 ? 'sleep 300' : 'true',
	}));
}

/**
 * Fills a state directory with ended runs, spread evenly over routes, one in ten failed. The first is made by the store itself; the
 * others are its row again with other ids, places, routes and states, since a million through the store would take minutes.
 */
async function fill(directory: string, { routes, runs }: typeof LARGE): Promise<void> {
	const store = SqliteStore.open(directory);
	const id = idMaker()();
	const step = { kind: 'command', argv: ['/bin/sh', '-c', 'true'], cwd: null, env: {} };
	const run: NewRun = {
		...{ id, route: 'r0', group: 'r0', limit: 1, whenBusy: 'queue' },
		...{ delivery: id, event: '', client: '127.0.0.1', certname: '', acceptedAt: Date.now() },
		parameters: { environment: 'qa', role: 'haproxy_app', version: '2.1.4' },
		plan: {
			...{ timeout: 600_000, killAfter: 10_000, maxOutput: 10 * 2 ** 20 },
			steps: [step],
		},
		stdin: null,
	};
	await store.accept([run]);
	const [claimed] = await store.claim(1);
	const outcome = { state: 'succeeded', reason: 'exit', exitCode: 0, signal: null, message: '' } as const;
	await store.settle(claimed!, outcome, { size: 0, short: Buffer.alloc(0) });
	await store.close();

	const db = new DatabaseSync(join(directory, 'runs.db'));
	db.exec('PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; PRAGMA cache_size = -200000');
	const values: Record<string, string> = {
		seq: 'n',
		// As many ids as runs, of the same form: its last seven characters are the number.
		id: "substr(id, 1, 19) || printf('%07d', n)",
		state: `CASE WHEN n % 10 = 0 THEN (SELECT max(state) FROM runs) + 1 ELSE state END`,
		route: `'r' || (n % ${routes})`,
		grp: `'r' || (n % ${routes})`,
	};
	const columns = db.prepare("SELECT name FROM pragma_table_info('runs')").all() as { name: string }[];
	db.exec(`
		BEGIN;
		CREATE TEMP TABLE first AS SELECT * FROM runs;
		INSERT INTO runs WITH RECURSIVE numbers (n) AS (VALUES (2) UNION ALL SELECT n + 1 FROM numbers WHERE n < ${runs})
			SELECT ${columns.map(({ name }) => values[name] ?? name).join(', ')} FROM numbers, first;
		DELETE FROM history;
		INSERT INTO history (route, runs) SELECT route, count(*) FROM runs GROUP BY route;
		COMMIT;
	`);
	db.close();
}

export const scale: Measure = {
	name: 'scale',
	about: `10 routes and no history, against ${LARGE.routes} routes and ${LARGE.runs} ended runs (--quick: ${QUICK.routes} and ${QUICK.runs}); ${CONNECTIONS} connections`,
	rounds: { full: 3, quick: 1 },
	figures: [
		{ name: 'accepted, small', unit: '/s', better: 'more' },
		{ name: 'accepted, large', unit: '/s', better: 'more' },
		{ name: 'time for each, large : small', unit: '×', better: 'less', decimals: 2, goal: { value: 1.1 } },
		{ name: 'newest 50 runs, p99', unit: 'ms', better: 'less', decimals: 2, goal: { value: 5 } },
		{ name: 'newest 50 of a state, p99', unit: 'ms', better: 'less', decimals: 2, goal: { value: 5 } },
		{ name: 'newest 50 of a route, p99', unit: 'ms', better: 'less', decimals: 2, goal: { value: 5 } },
		{ name: 'newest 50 of both, p99', unit: 'ms', better: 'less', decimals: 2, goal: { value: 5 } },
		{ name: 'first 202 after, large', unit: 'ms', better: 'less' },
	],
	listener: async (bench, side) => {
		if (side.name !== 'ours') return undefined;
		const size = bench.quick ? QUICK : LARGE;
		const few = routesNamed(10);
		const many = routesNamed(size.routes);
		const small = await side.start(bench, few);
		const directory = mkdtempSync(join(bench.dir, 'large-'));
		await fill(join(directory, 'state'), size);
		const large = await side.resume(bench, directory, many);
		await large.answer(many.at(-1)!);
		let started: number | undefined = performance.now() - large.startedAt;
		const calls = {
			small: { ...small.call(few.at(-1)!), connections: CONNECTIONS },
			large: { ...large.call(many.at(-1)!), connections: CONNECTIONS },
		};
		const warm = bench.quick ? WARM.quick : WARM.full;
		for (const call of Object.values(calls)) await bench.load({ ...call, seconds: warm });
		const pages = {
			'newest 50 runs, p99': '',
			'newest 50 of a state, p99': '&state=failed',
			'newest 50 of a route, p99': '&route=r7',
			'newest 50 of both, p99': '&route=r7&state=succeeded',
		};
		const page = (filter: string) => ({
			...{ port: large.port, path: `/-/runs?limit=50${filter}`, method: 'GET', expect: 200 },
			...{ warm: bench.quick ? 0.1 : 0.3, seconds: bench.quick ? 0.2 : 0.5 },
		});
		return async () => {
			const seconds = bench.quick ? 0.4 : 1.2;
			const accepted = {
				small: await bench.load({ ...calls.small, warm: 0.1, seconds }),
				large: await bench.load({ ...calls.large, warm: 0.1, seconds }),
			};
			const values: Record<string, number> = {
				'accepted, small': accepted.small.perSecond,
				'accepted, large': accepted.large.perSecond,
				'time for each, large : small': accepted.small.perSecond / accepted.large.perSecond,
			};
			for (const [name, filter] of Object.entries(pages)) values[name] = (await bench.load(page(filter))).p99;
			if (started !== undefined) values['first 202 after, large'] = started;
			started = undefined;
			return values;
		};
	},
};
