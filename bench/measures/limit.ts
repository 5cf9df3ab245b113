/** What the machine gives: commands started by posix_spawn, 1, 2 and 8 at a time. */
import type { Figure, Measure, Values } from '../measure.ts';
import { underShell } from '../measure.ts';

const COMMANDS = { 'sh -c true': underShell('true'), '/bin/true': ['/bin/true'] };
const IN_FLIGHT = [1, 2, 8];

function combinations<T>(each: (label: string, command: string[], inFlight: number) => T): T[] {
	return Object.entries(COMMANDS).flatMap(([name, command]) =>
		IN_FLIGHT.map((inFlight) => each(`${name}, ${inFlight} in flight`, command, inFlight)),
	);
}

export const limit: Measure = {
	name: 'limit',
	about: 'bench/limit.c: posix_spawn, own process group, output through a pipe, nothing else',
	rounds: { full: 3, quick: 1 },
	figures: combinations((label): Figure[] => [
		{ name: label, unit: 'runs/s', better: 'more' },
		{ name: `${label}, p50`, unit: 'ms', better: 'less', decimals: 2 },
		{ name: `${label}, p99`, unit: 'ms', better: 'less', decimals: 2 },
	]).flat(),
	limit: async (bench) => async () => {
		const values: Values = {};
		for (const [label, command, inFlight] of combinations((...combination) => combination)) {
			const result = await bench.limit(bench.quick ? 0.2 : 0.3, inFlight, command);
			values[label] = result.perSecond;
			values[`${label}, p50`] = result.p50;
			values[`${label}, p99`] = result.p99;
		}
		return values;
	},
};
