/** How many callers a second get the outcome of their command, eight at a time; and what that adds to the command. */
import type { Bench, Measure } from '../measure.ts';
import { underShell, WARM } from '../measure.ts';
import type { BenchRoute, Listener, ListenerSide } from '../sides.ts';

const CONNECTIONS = 8;
const PROOF: BenchRoute = { name: 'proof', command: 'echo "this has run"', wait: 'route', limit: 1 };

/** Starts a listener and makes sure that its waited commands do run: their output comes back. */
async function startProven(bench: Bench, side: ListenerSide, route: BenchRoute): Promise<Listener> {
	const listener = await side.start(bench, [route, PROOF]);
	const answer = await listener.answer(PROOF);
	if (!answer.includes('this has run'))
		throw new Error(`${side.name} answered a waited command without its output: ${answer.slice(0, 200)}`);
	return listener;
}

function waited(name: string, command: string | string[], goal: number): Measure {
	const argv = Array.isArray(command) ? command : underShell(command);
	return {
		name,
		about: `over ${CONNECTIONS} connections, answered 200 when ${argv.join(' ')} has ended`,
		rounds: { full: 3, quick: 1 },
		figures: [
			{ name: 'run', unit: '/s', better: 'more', goal: { times: goal } },
			{ name: 'p50', unit: 'ms', better: 'less', decimals: 2 },
			{ name: 'p99', unit: 'ms', better: 'less', decimals: 2 },
		],
		limit: async (bench) => async () => {
			const { perSecond, p50, p99 } = await bench.limit(bench.quick ? 0.3 : 0.8, CONNECTIONS, argv);
			return { run: perSecond, p50, p99 };
		},
		listener: async (bench, side) => {
			const route: BenchRoute = { name: 'waited', command, wait: 'route', limit: CONNECTIONS };
			const listener = await startProven(bench, side, route);
			const call = { ...listener.call(route), connections: CONNECTIONS };
			await bench.load({ ...call, seconds: bench.quick ? WARM.quick : WARM.full });
			return async () => {
				const { perSecond, p50, p99 } = await bench.load({
					...call,
					warm: bench.quick ? 0.1 : 0.3,
					seconds: bench.quick ? 0.4 : 1.5,
				});
				return { run: perSecond, p50, p99 };
			};
		},
	};
}

export const waitedString: Measure = waited('waited-string', 'true', 1.25);
export const waitedList: Measure = waited('waited-list', ['/bin/true'], 1);

export const overhead: Measure = {
	name: 'overhead',
	about: 'one caller at a time, ?async=false, the command true; the limit is the same without a listener',
	rounds: { full: 3, quick: 1 },
	figures: [
		{ name: 'p50', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'p99', unit: 'ms', better: 'less', decimals: 2 },
		{ name: 'p50 above the limit', unit: 'ms', better: 'less', decimals: 2, goal: { value: 2 } },
	],
	limit: async (bench) => async () => {
		const { p50, p99 } = await bench.limit(bench.quick ? 0.2 : 0.6, 1, underShell('true'));
		return { p50, p99 };
	},
	listener: async (bench, side) => {
		const route: BenchRoute = { name: 'asked', command: 'true', wait: 'caller', limit: CONNECTIONS };
		const listener = await startProven(bench, side, route);
		const call = listener.call(route);
		await bench.load({ ...call, seconds: bench.quick ? WARM.quick : WARM.full });
		return async (round) => {
			const { p50, p99 } = await bench.load({
				...call,
				warm: bench.quick ? 0.1 : 0.3,
				seconds: bench.quick ? 0.3 : 1.5,
			});
			const bare = round.limit?.p50;
			return { p50, p99, ...(bare === undefined ? {} : { 'p50 above the limit': p50 - bare }) };
		};
	},
};
