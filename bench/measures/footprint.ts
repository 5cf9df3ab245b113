/** What a listener costs while it does nothing, after it has worked, and before it can. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Measure } from '../measure.ts';
import { treeMemory } from '../processes.ts';
import type { BenchRoute } from '../sides.ts';
import { countedCommand, untilRan } from './accepts.ts';

const BURST = 500;
const SETTLED_WITHIN_MS = 1500;

/** Memory of a listener's processes once it stops changing (three samples within 1 %), or after 1.5 s. */
async function settledMemory(pid: number): Promise<number> {
	const samples = [treeMemory(pid)];
	for (const deadline = performance.now() + SETTLED_WITHIN_MS; performance.now() < deadline; ) {
		await sleep(100);
		samples.push(treeMemory(pid));
		const recent = samples.slice(-3);
		if (recent.length === 3 && Math.max(...recent) <= Math.min(...recent) * 1.01) break;
	}
	return samples.at(-1)!;
}

export const memory: Measure = {
	name: 'memory',
	about:
		'all processes of a listener, shared pages once; after = 500 accepted and 500 waited runs, at most 1 s of each',
	rounds: { full: 2, quick: 1 },
	figures: [
		{ name: 'idle', unit: 'MB', better: 'less', decimals: 1, goal: { value: 100 } },
		{ name: 'after', unit: 'MB', better: 'less', decimals: 1 },
	],
	listener: async (bench, side) => async () => {
		const { command, ran } = await countedCommand(bench.dir);
		const accept: BenchRoute = { name: 'accept', command, wait: 'no', limit: 8 };
		const waited: BenchRoute = { name: 'waited', command: 'true', wait: 'route', limit: 8 };
		const listener = await side.start(bench, [accept, waited]);
		const idle = await settledMemory(listener.pid);
		const { succeeded } = await bench.load({
			...listener.call(accept),
			connections: 32,
			count: BURST,
			seconds: 1,
		});
		await bench.load({ ...listener.call(waited), connections: 8, count: BURST, seconds: 1 });
		await untilRan(ran, succeeded, 2000);
		const after = await settledMemory(listener.pid);
		await listener.kill();
		return { idle, after };
	},
};

export const start: Measure = {
	name: 'start',
	about: 'from the start of the process to the first 202, with no state from before',
	rounds: { full: 3, quick: 1 },
	figures: [{ name: 'first 202 after', unit: 'ms', better: 'less', goal: { value: 400 } }],
	listener: async (bench, side) => async () => {
		const route: BenchRoute = { name: 'accept', command: 'true', wait: 'no', limit: 8 };
		const listener = await side.launch(bench, [route]);
		await listener.answer(route);
		const took = performance.now() - listener.startedAt;
		await listener.kill();
		return { 'first 202 after': took };
	},
};
