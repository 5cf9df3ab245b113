/**
 * A command that prints without end: how fast its output is kept, what that does to the listener's memory, and to those who
 * bring deliveries meanwhile. webhook is left out: it keeps all that a command prints in memory until the command has ended.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bench, type Measure, WARM } from '../measure.ts';
import { ownMemory } from '../processes.ts';
import type { BenchRoute, Listener } from '../sides.ts';
import { countedCommand, untilRan } from './accepts.ts';

const BYTES = 1e9;
const QUICK_BYTES = 1e8;
/** Milliseconds after which a command that prints is taken for one that hangs. */
const LONGEST_MS = 60_000;

interface Flood {
	readonly listener: Listener;
	readonly route: BenchRoute;
	readonly bytes: number;
	/** How often the command has run to its end. */
	ran(): number;
}

/** Has the command run; gives MB a second, and by how many MB the memory of all processes grew at most. */
async function printed(bench: Bench, { listener, route, bytes, ran }: Flood) {
	const runs = ran();
	const before = ownMemory(listener.pid);
	let most = before;
	let done = false;
	const watched = (async () => {
		for (; !done; await sleep(50)) most = Math.max(most, ownMemory(listener.pid));
	})();
	const began = performance.now();
	await bench.load({ ...listener.call(route), count: 1 });
	await untilRan(() => ran() - runs, 1, LONGEST_MS);
	const seconds = (performance.now() - began) / 1000;
	done = true;
	await watched;
	return { perSecond: bytes / 1e6 / seconds, growth: most - before };
}

export const flood: Measure = {
	name: 'flood',
	about:
		'a command that prints 1 GB (--quick: 0.1 GB), of which 10 MiB are kept; and deliveries, one at a time, answered 202',
	rounds: { full: 2, quick: 1 },
	figures: [
		{ name: 'printed', unit: 'MB/s', better: 'more', goal: { value: 300 } },
		{ name: 'memory, growth', unit: 'MB', better: 'less', decimals: 1, goal: { value: 32 } },
		{ name: 'accepts before, p99', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'accepts meanwhile, p99', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'printed, no accepts', unit: 'MB/s', better: 'more' },
	],
	limit: async (bench) => {
		const bytes = bench.quick ? QUICK_BYTES : BYTES;
		return async () => {
			const began = performance.now();
			await bench.processes.run('/bin/sh', ['-c', `head -c ${bytes} /dev/zero | cat >/dev/null`]);
			return { 'printed, no accepts': bytes / 1e3 / (performance.now() - began) };
		};
	},
	listener: async (bench, side) => {
		if (side.name !== 'ours') return undefined;
		const bytes = bench.quick ? QUICK_BYTES : BYTES;
		const counted = await countedCommand(bench.dir);
		const accept: BenchRoute = { name: 'accept', command: 'sleep 120', wait: 'no', limit: 1 };
		const flooding: BenchRoute = {
			...{ name: 'flood', command: `head -c ${bytes} /dev/zero; ${counted.command}` },
			...{ wait: 'no', limit: 1 },
		};
		const listener = await side.start(bench, [accept, flooding]);
		await bench.load({ ...listener.call(accept), seconds: bench.quick ? WARM.quick : WARM.full });
		// What is allocated once, by the first large output, is no growth.
		const flood: Flood = { listener, route: flooding, bytes, ran: counted.ran };
		await printed(bench, flood);
		return async () => {
			const alone = await printed(bench, flood);
			const before = await bench.load({ ...listener.call(accept), seconds: bench.quick ? 0.3 : 1 });
			const accepts = bench.load({ ...listener.call(accept), seconds: bench.quick ? 0.5 : 2 });
			const { perSecond, growth } = await printed(bench, flood);
			return {
				printed: perSecond,
				'memory, growth': Math.max(growth, alone.growth),
				'accepts before, p99': before.p99,
				'accepts meanwhile, p99': (await accepts).p99,
				'printed, no accepts': alone.perSecond,
			};
		};
	},
};
