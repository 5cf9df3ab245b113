/**
 * How fast deliveries are taken that nobody waits for, twice:
 *
 * `accepts`: every accepted command really runs, on both sides, as it would in use, and how many have run is counted
 * until all have. So a side that takes deliveries fast because it runs them later shows that in the same table.
 * `accepts-alone`: neither side starts a command, so only the taking is left: parse, match, keep, answer.
 */
import { statSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Measure, underShell, WARM } from '../measure.ts';
import type { BenchRoute, Listener } from '../sides.ts';

const CONNECTIONS = 32;

/** A command that leaves one byte behind each time it runs: proof that needs nobody's word. */
export async function countedCommand(dir: string): Promise<{ command: string; ran(): number }> {
	const file = join(await mkdtemp(join(dir, 'ran-')), 'ran');
	writeFileSync(file, '');
	return { command: `echo >>'${file}'`, ran: () => statSync(file).size };
}

/** Waits until so many commands have run, or the time is over; returns how many have. Rejects when it is more. */
export async function untilRan(ran: () => number, wanted: number, withinMs: number): Promise<number> {
	for (const deadline = performance.now() + withinMs; ran() < wanted && performance.now() < deadline; )
		await sleep(2);
	const count = ran();
	if (count > wanted) throw new Error(`${wanted} commands were accepted but ${count} ran`);
	if (count === 0)
		throw new Error(`${wanted} commands were accepted and none has run in ${withinMs / 1000} s`);
	return count;
}

export const accepts: Measure = {
	name: 'accepts',
	about: `a burst over ${CONNECTIONS} connections, answered 202; every command (sh -c 'echo >>file') is run`,
	rounds: { full: 3, quick: 1 },
	figures: [
		{ name: 'accepted', unit: '/s', better: 'more', goal: { times: 2 } },
		{ name: 'p50', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'p99', unit: 'ms', better: 'less', decimals: 2, goal: { times: 1 } },
		{ name: 'had run at the last 202', unit: '%', better: 'more' },
		{ name: 'run meanwhile and after', unit: '/s', better: 'more' },
	],
	limit: async (bench) => {
		const { command } = await countedCommand(bench.dir);
		return async () => ({
			'run meanwhile and after': (await bench.limit(bench.quick ? 0.2 : 0.4, 8, underShell(command)))
				.perSecond,
		});
	},
	listener: async (bench, side) => {
		const { command, ran } = await countedCommand(bench.dir);
		const route: BenchRoute = { name: 'accept', command, wait: 'no', limit: 8 };
		let listener: Listener | undefined;
		const limit = bench.quick ? 1500 : 3000;
		async function burst(count: number) {
			listener ??= await side.start(bench, [route]);
			const before = ran();
			const result = await bench.load({
				...listener.call(route),
				connections: CONNECTIONS,
				count,
				seconds: 1,
			});
			const during = ran() - before;
			const wanted = result.succeeded;
			const all = await untilRan(() => ran() - before, wanted, limit);
			const took = performance.timeOrigin + performance.now() - result.began;
			if (all < wanted) {
				// What is left would run into the next burst.
				await listener.kill();
				listener = undefined;
			}
			return { result, during, wanted, all, took };
		}
		return async () => {
			// Bursts that are not measured: as long as the listener that is measured is a new one, it is not warm.
			for (let warm = 0; warm < (bench.quick ? 1 : 2) && listener === undefined; warm++)
				for (let bursts = 0; bursts < 2; bursts++) await burst(bench.quick ? 200 : 2000);
			const { result, during, wanted, all, took } = await burst(bench.quick ? 800 : 2000);
			return {
				accepted: result.perSecond,
				p50: result.p50,
				p99: result.p99,
				'had run at the last 202': (during / wanted) * 100,
				'run meanwhile and after': (all / took) * 1000,
			};
		};
	},
};

export const acceptsAlone: Measure = {
	name: 'accepts-alone',
	about: `over ${CONNECTIONS} connections, answered 202; no command is started on either side meanwhile`,
	rounds: { full: 3, quick: 1 },
	figures: [
		{ name: 'accepted', unit: '/s', better: 'more' },
		{ name: 'p50', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'p99', unit: 'ms', better: 'less', decimals: 2 },
	],
	listener: async (bench, side) => {
		// Ours keeps what it accepts, to be run one at a time, and the first takes longer than the measure. webhook starts
		// whatever it accepts: only a program that does not exist keeps it from that.
		const command = side.name === 'ours' ? 'sleep 60' : ['/nonexistent/program'];
		const route: BenchRoute = { name: 'accept', command, wait: 'no', limit: 1 };
		return async () => {
			const listener = await side.start(bench, [route]);
			const result = await bench.load({
				...listener.call(route),
				connections: CONNECTIONS,
				warm: bench.quick ? WARM.quick : WARM.full,
				seconds: bench.quick ? 0.4 : 1.2,
			});
			await listener.kill();
			return { accepted: result.perSecond, p50: result.p50, p99: result.p99 };
		};
	},
};
