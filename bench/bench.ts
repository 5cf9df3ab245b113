/**
 * The benchmark: this listener beside Debian's `webhook` beside the bare machine, in one run.
 *
 *     npm run bench -- [--quick] [--only NAME,…] [--json] [--dir DIR] [--list]
 *
 * What is measured and why so is told in docs/performance.md. Exit status: 0; 1 when a measure failed (the others are
 * still printed); 2 when nothing could be measured, as with wrong arguments; 130 and 143 after SIGINT and SIGTERM.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { LoadResult } from './load.ts';
import { describeMachine, type Machine, processorTimes } from './machine.ts';
import type { Bench, LimitResult, Measure, SideName, Turn, Values } from './measure.ts';
import { accepts, acceptsAlone } from './measures/accepts.ts';
import { busy } from './measures/busy.ts';
import { flood } from './measures/flood.ts';
import { memory, start } from './measures/footprint.ts';
import { limit } from './measures/limit.ts';
import { scale } from './measures/scale.ts';
import { overhead, waitedList, waitedString } from './measures/waited.ts';
import { ways } from './measures/ways.ts';
import { Processes } from './processes.ts';
import { NOISY, type Row, rowsOf, table } from './report.ts';
import { type ListenerSide, ours, webhook } from './sides.ts';

const MEASURES: Measure[] = [
	...[limit, accepts, acceptsAlone, waitedString, waitedList, overhead, busy, flood, scale, memory, start],
	ways,
];
/** What answers a question of design and not how fast the listener is: only when asked for by name. */
const ASKED_FOR: Measure[] = [ways];
const LISTENERS: ListenerSide[] = [webhook, ours];
const HERE = import.meta.dirname;

const USAGE = `usage: npm run bench -- [OPTION...]

  --quick       fewer and shorter rounds: for a look, not for a record
  --only NAMES  some measures, by their names with commas between
  --json        everything for machines, with the values of every round
  --dir DIR     where state is kept meanwhile, on the disk to be measured (default /var/tmp)
  --list        names and descriptions of the measures
  --help        this text
`;

type Failure = { measure: string; side: SideName; reason: string };

/** Takes the rounds of one measure: in each round every side has its turn, so that what disturbs hits all alike. */
async function measureAll(
	bench: Bench,
	measure: Measure,
	sides: SideName[],
	failures: Failure[],
): Promise<Row[]> {
	const turns = new Map<SideName, Turn>();
	const rounds: Partial<Record<SideName, Values>>[] = [];

	async function attempt(side: SideName, act: () => Promise<void>): Promise<void> {
		try {
			await act();
		} catch (error) {
			turns.delete(side);
			const reason = [(error as Error).message, ...bench.processes.deaths()].join('; ');
			failures.push({ measure: measure.name, side, reason });
		}
	}

	for (const side of sides) {
		await attempt(side, async () => {
			const listener = LISTENERS.find(({ name }) => name === side);
			const turn = listener ? measure.listener?.(bench, listener) : measure.limit?.(bench);
			const made = await turn;
			if (made) turns.set(side, made);
		});
	}
	const count = bench.quick ? measure.rounds.quick : measure.rounds.full;
	for (let number = 1; number <= count && turns.size > 0; number++) {
		const round: Partial<Record<SideName, Values>> = {};
		rounds.push(round);
		for (const [side, turn] of turns) {
			progress(`${measure.name}: round ${number} of ${count}, ${side}`);
			await attempt(side, async () => {
				round[side] = await turn(round);
			});
		}
	}
	bench.processes.killAll();
	return rowsOf(measure, rounds);
}

/** Shows what is being done while somebody looks; the next text overwrites it. */
function progress(text: string): void {
	if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

/** What a measure may use, for one run. Remarks on the figures are added to `notes`. */
function makeBench(
	quick: boolean,
	dir: string,
	processes: Processes,
	limit: string,
	notes: Set<string>,
): Bench {
	return {
		quick,
		dir,
		processes,
		async load(plan) {
			const output = await processes.run(process.execPath, [join(HERE, 'load.ts')], JSON.stringify(plan));
			const result = JSON.parse(output) as LoadResult;
			const failed = Object.entries(result.failures).map(
				([kind, { count, example }]) => `${count} × ${kind}: ${example}`,
			);
			if (failed.length > 0) throw new Error(`${plan.path}: ${failed.join('; ')}`);
			if (result.cpu > 0.9)
				notes.add(
					`the load client used ${percent(result.cpu)} of a core on ${plan.path}: it may be the limit`,
				);
			return result;
		},
		async limit(seconds, inFlight, command) {
			const output = await processes.run(limit, [String(seconds), String(inFlight), ...command]);
			return JSON.parse(output) as LimitResult;
		},
	};
}

/** Sees which sides can be measured here; what cannot is told in `notes` or, when it is broken, in `failures`. */
async function findSides(processes: Processes, limit: string, notes: Set<string>, failures: Failure[]) {
	const versions = new Map<SideName, string>();
	try {
		mkdirSync(dirname(limit), { recursive: true });
		const flags = ['-std=c11', '-O2', '-Wall', '-Wextra', '-pthread'];
		await processes.run('cc', [...flags, '-o', limit, join(HERE, 'limit.c')]);
		versions.set('limit', '');
	} catch (error) {
		notes.add(`the limit is left out, limit.c needs gcc and libc6-dev: ${(error as Error).message}`);
	}
	for (const side of LISTENERS) {
		if (side.missing !== undefined) {
			notes.add(`${side.name} is left out: ${side.missing}`);
			continue;
		}
		try {
			versions.set(side.name, await side.version(processes));
		} catch (error) {
			failures.push({ measure: 'all', side: side.name, reason: (error as Error).message });
		}
	}
	return versions;
}

async function main(options: {
	quick: boolean;
	json: boolean;
	dir: string;
	measures: Measure[];
}): Promise<number> {
	const dir = mkdtempSync(join(options.dir, 'puppet-webhook-bench-'));
	const limit = join(HERE, 'build', 'limit');
	const processes = new Processes(dir);
	const notes = new Set<string>();
	const failures: Failure[] = [];

	process.once('exit', () => {
		processes.killAll();
		progress('');
		rmSync(dir, { recursive: true, force: true, maxRetries: 3, retryDelay: 50 });
	});
	process.once('SIGINT', () => process.exit(130));
	process.once('SIGTERM', () => process.exit(143));

	const before = processorTimes();
	await sleep(500);
	const began = processorTimes();
	const busy = 1 - (began.idle - before.idle) / (began.all - before.all);
	if (busy > 0.1)
		notes.add(
			`other programs used ${percent(busy)} of the processors before the start: close them and repeat`,
		);
	const machine = describeMachine(dir);
	if (machine.fileSystem === 'tmpfs' || machine.fileSystem === 'ramfs')
		notes.add(
			`${options.dir} is memory, not a disk: "on disk" means nothing here, choose another with --dir`,
		);

	const versions = await findSides(processes, limit, notes, failures);
	const bench = makeBench(options.quick, dir, processes, limit, notes);
	const rows: Row[] = [];
	for (const measure of options.measures)
		rows.push(...(await measureAll(bench, measure, [...versions.keys()], failures)));

	const ended = processorTimes();
	const stolen = (ended.stolen - began.stolen) / (ended.all - began.all);
	if (stolen > 0.02)
		notes.add(`the host of this virtual machine took ${percent(stolen)} of the processors away meanwhile`);
	const noisy = rows.filter((row) => (row.spread ?? 0) > NOISY).length;
	if (noisy > 0)
		notes.add(
			`rounds of ${noisy} of ${rows.length} figures differ by over ${percent(NOISY)} (marked !): too noisy to be quoted`,
		);

	progress('');
	const record = {
		machine: { ...machine, webhook: versions.get('webhook'), ours: versions.get('ours') },
		quick: options.quick,
		rows,
		notes: [...notes],
		failures,
	};
	console.log(options.json ? JSON.stringify(record, null, '\t') : asText(record, options));
	return failures.length > 0 ? 1 : 0;
}

function asText(
	record: {
		machine: Machine & { webhook: string | undefined; ours: string | undefined };
		rows: Row[];
		notes: string[];
		failures: Failure[];
	},
	{ quick, dir, measures }: { quick: boolean; dir: string; measures: Measure[] },
): string {
	const { cores, cpu, kernel, node, load, webhook, ours, fileSystem, syncMs } = record.machine;
	return [
		`${cores} cores (${cpu}), Linux ${kernel}, Node ${node}, load ${load.toFixed(2)}`,
		`webhook ${webhook ?? '-'}, ours ${ours ?? '-'}; ${dir} on ${fileSystem}, fdatasync ${syncMs.toFixed(2)} ms`,
		`${quick ? 'quick' : 'full'} run: medians of interleaved rounds, ratios between sides of the same round`,
		'',
		table(measures, record.rows),
		...record.notes.map((note) => `\nnote: ${note}`),
		...record.failures.map(({ measure, side, reason }) => `\nFAILED ${measure}, ${side}: ${reason}`),
	].join('\n');
}

function percent(part: number): string {
	return `${Math.round(part * 100)} %`;
}

function selected(names: string | undefined): Measure[] {
	if (names === undefined) return MEASURES.filter((measure) => !ASKED_FOR.includes(measure));
	return names.split(',').map((name) => {
		const measure = MEASURES.find((one) => one.name === name.trim());
		if (!measure)
			throw new Error(`no measure "${name}"; there are ${MEASURES.map((one) => one.name).join(', ')}`);
		return measure;
	});
}

try {
	const { values } = parseArgs({
		options: {
			quick: { type: 'boolean', default: false },
			json: { type: 'boolean', default: false },
			list: { type: 'boolean', default: false },
			help: { type: 'boolean', default: false },
			only: { type: 'string' },
			dir: { type: 'string', default: '/var/tmp' },
		},
	});
	const measures = selected(values.only);
	if (values.help) console.log(USAGE);
	else if (values.list) for (const { name, about } of measures) console.log(`${name.padEnd(15)} ${about}`);
	else process.exitCode = await main({ ...values, dir: resolve(values.dir), measures });
} catch (error) {
	console.error(`bench: ${(error as Error).message}`);
	process.exit(2);
}
