/**
 * Whether deliveries are taken as quickly while commands start as fast as they can. The accepts that are measured start none:
 * they wait behind a run that goes on for longer. The commands are those of eight callers who wait for theirs, one after another.
 *
 * A stall is looked for from two sides: by requests that ask for next to nothing, one after another, whose slowest answer also
 * holds what the system's scheduler did with both programs; and by the listener's own clock of its event loop, which `/metrics` tells.
 */
import { request } from 'node:http';
import { text } from 'node:stream/consumers';
import { type Measure, WARM } from '../measure.ts';
import type { BenchRoute } from '../sides.ts';

const COMMANDS = 8;
/** Milliseconds from one look of the listener at its clock to the next: what the longest delay is told to be when there is none. */
const LOOKS_EVERY = 10;

async function get(port: number, path: string): Promise<string> {
	const { promise, resolve, reject } = Promise.withResolvers<string>();
	request({ host: '127.0.0.1', port, path, agent: false }, (response) => {
		text(response).then(resolve, reject);
	})
		.once('error', reject)
		.end();
	return promise;
}

/** Milliseconds that the event loop stood still at most since this was asked last. */
export async function longestStall(port: number): Promise<number> {
	const metrics = await get(port, '/metrics');
	const seconds = /^nodejs_eventloop_lag_max_seconds ([\d.e+-]+)$/m.exec(metrics)?.[1];
	if (seconds === undefined) throw new Error('/metrics does not tell nodejs_eventloop_lag_max_seconds');
	return Math.max(0, Number(seconds) * 1000 - LOOKS_EVERY);
}

export const busy: Measure = {
	name: 'busy',
	about: `one delivery at a time, answered 202, idle and while ${COMMANDS} callers have true run; a stall as seen inside and by requests`,
	rounds: { full: 3, quick: 1 },
	figures: [
		{ name: 'idle, p50', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'idle, p99', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'busy, p50', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'busy, p99', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'p99, busy : idle', unit: '×', better: 'less', decimals: 2, goal: { value: 3 } },
		{ name: 'commands meanwhile', unit: '/s', better: 'more' },
		{ name: 'longest stall, inside', unit: 'ms', better: 'less', decimals: 1, goal: { value: 5 } },
		{ name: 'slowest probe', unit: 'ms', better: 'less', decimals: 1 },
	],
	listener: async (bench, side) => {
		const asleep = side.name === 'ours' ? 'sleep 120' : ['/nonexistent/program'];
		const accept: BenchRoute = { name: 'accept', command: asleep, wait: 'no', limit: 1 };
		const waited: BenchRoute = { name: 'waited', command: 'true', wait: 'route', limit: COMMANDS };
		const listener = await side.start(bench, [accept, waited]);
		const commands = { ...listener.call(waited), connections: COMMANDS };
		const warm = bench.quick ? WARM.quick : WARM.full;
		await Promise.all([
			bench.load({ ...commands, seconds: warm }),
			bench.load({ ...listener.call(accept), seconds: warm }),
		]);
		const seconds = bench.quick ? 0.4 : 1.2;
		return async () => {
			const idle = await bench.load({ ...listener.call(accept), seconds });
			if (side.name === 'ours') {
				// Twice: the first time of all it begins to look, and making that answer is a stall by itself.
				await longestStall(listener.port);
				await longestStall(listener.port);
			}
			// Begins before what is measured and ends after it.
			const running = bench.load({ ...commands, warm: 0.3, seconds: seconds + 0.3 });
			const [load, probe] = await Promise.all([
				bench.load({ ...listener.call(accept), warm: 0.3, seconds }),
				bench.load({
					port: listener.port,
					path: side.healthy,
					method: 'GET',
					expect: 200,
					warm: 0.3,
					seconds,
				}),
			]);
			const { perSecond } = await running;
			return {
				'idle, p50': idle.p50,
				'idle, p99': idle.p99,
				'busy, p50': load.p50,
				'busy, p99': load.p99,
				'p99, busy : idle': load.p99 / idle.p99,
				'commands meanwhile': perSecond,
				...(side.name === 'ours' ? { 'longest stall, inside': await longestStall(listener.port) } : {}),
				'slowest probe': probe.max,
			};
		};
	},
};
