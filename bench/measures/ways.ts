/** Ways to start a command, without any listener: what each costs, and that of some it depends on how large the starter is. */
import { join } from 'node:path';
import { type Measure, underShell, type Values } from '../measure.ts';
import type { WayPlan, WayResult } from '../ways.ts';

const IN_FLIGHT = 8;

const COMMANDS: Record<string, string[]> = {
	true: underShell('true'),
	'[/bin/true]': ['/bin/true'],
	// Text that a subshell must not evaluate by itself, so that each run loads a shell.
	'sh -c true': underShell('true $$'),
};

const WAYS: Record<string, Pick<WayPlan, 'way' | 'ballast'>> = {
	"Node's spawn, 60 MB": { way: 'spawn', ballast: 0 },
	"Node's spawn, 500 MB": { way: 'spawn', ballast: 440 },
	'forked Node process, 500 MB': { way: 'forked', ballast: 440 },
	'shells made before, 500 MB': { way: 'shells', ballast: 440 },
};
const LIMIT = 'posix_spawn (limit.c)';

export const ways: Measure = {
	name: 'ways',
	about: `ways to start a command, ${IN_FLIGHT} at a time, and how long the starter's event loop stands still meanwhile at most`,
	rounds: { full: 3, quick: 1 },
	figures: Object.keys(COMMANDS).flatMap((command) => [
		{ name: `${command}: ${LIMIT}`, unit: 'runs/s', better: 'more' },
		...Object.keys(WAYS).flatMap((way): Measure['figures'] => [
			{ name: `${command}: ${way}`, unit: 'runs/s', better: 'more' },
			{ name: `${command}: ${way}, stall`, unit: 'ms', better: 'less', decimals: 1 },
		]),
	]),
	limit: async (bench) => async () => {
		const values: Values = {};
		const seconds = bench.quick ? 0.3 : 1;
		for (const [name, command] of Object.entries(COMMANDS)) {
			values[`${name}: ${LIMIT}`] = (await bench.limit(seconds, IN_FLIGHT, command)).perSecond;
			for (const [label, way] of Object.entries(WAYS)) {
				const plan: WayPlan = { ...way, command, inFlight: IN_FLIGHT, seconds };
				const program = join(import.meta.dirname, '..', 'ways.ts');
				const output = await bench.processes.run(process.execPath, [program], JSON.stringify(plan));
				const { perSecond, stall } = JSON.parse(output) as WayResult;
				values[`${name}: ${label}`] = perSecond;
				values[`${name}: ${label}, stall`] = stall;
			}
		}
		return values;
	},
};
