/** From the values of the rounds to what is printed. */
import type { Figure, Measure, SideName, Values } from './measure.ts';

/** One figure of one measure, by side and in the order of the rounds. */
export type Row = {
	measure: string;
	figure: string;
	unit: string;
	better: Figure['better'];
	decimals: number;
	rounds: Partial<Record<SideName, number[]>>;
	/** Middle of the rounds. */
	median: Partial<Record<SideName, number>>;
	/** Ours divided by the other of the same round; the middle of these. */
	ratio: { webhook: number | undefined; limit: number | undefined };
	/** The widest of the sides: (highest − lowest) / median of its rounds. Undefined with one round. */
	spread: number | undefined;
	goal: string | undefined;
	/** Whether ours is what it should be; undefined without a goal or without ours. */
	met: boolean | undefined;
};

/** Rounds of one side that differ by more than this say more about the machine than about the side. */
export const NOISY = 0.4;

const SIDES: SideName[] = ['limit', 'webhook', 'ours'];

/** Makes the rows of a measure from its rounds; figures that no side yielded are left out. */
export function rowsOf(measure: Measure, rounds: Partial<Record<SideName, Values>>[]): Row[] {
	return measure.figures
		.map((figure) => rowOf(measure.name, figure, rounds))
		.filter((row) => row !== undefined);
}

function rowOf(
	measure: string,
	figure: Figure,
	rounds: Partial<Record<SideName, Values>>[],
): Row | undefined {
	const values: Row['rounds'] = {};
	const medians: Row['median'] = {};
	let spread: number | undefined;
	for (const side of SIDES) {
		const own = rounds.map((round) => round[side]?.[figure.name]).filter((value) => value !== undefined);
		const middle = median(own);
		if (middle === undefined) continue;
		values[side] = own;
		medians[side] = middle;
		if (own.length > 1)
			spread = Math.max(spread ?? 0, (Math.max(...own) - Math.min(...own)) / Math.abs(middle));
	}
	if (Object.keys(values).length === 0) return undefined;
	const against = (other: SideName) =>
		median(
			rounds
				.map(
					(round) => (round.ours?.[figure.name] ?? Number.NaN) / (round[other]?.[figure.name] ?? Number.NaN),
				)
				.filter(Number.isFinite),
		);
	const ratio = { webhook: against('webhook'), limit: against('limit') };
	return {
		measure,
		figure: figure.name,
		unit: figure.unit,
		better: figure.better,
		decimals: figure.decimals ?? 0,
		rounds: values,
		median: medians,
		ratio,
		spread,
		...judge(figure, medians.ours, ratio.webhook),
	};
}

function judge(
	figure: Figure,
	ours: number | undefined,
	ratio: number | undefined,
): Pick<Row, 'goal' | 'met'> {
	if (!figure.goal) return { goal: undefined, met: undefined };
	const [wanted, got, unit] =
		'times' in figure.goal ? [figure.goal.times, ratio, '×'] : [figure.goal.value, ours, ` ${figure.unit}`];
	const atLeast = figure.better === 'more';
	return {
		goal: `${atLeast ? '≥' : '≤'} ${wanted}${unit}`,
		met: got === undefined ? undefined : atLeast ? got >= wanted : got <= wanted,
	};
}

function median(values: number[]): number | undefined {
	const sorted = values.toSorted((a, b) => a - b);
	const middle = sorted.length / 2;
	return sorted.length % 2
		? sorted[Math.floor(middle)]
		: sorted.length
			? (sorted[middle - 1]! + sorted[middle]!) / 2
			: undefined;
}

/** An aligned table: a line a figure, a heading a measure. */
export function table(measures: Measure[], rows: Row[]): string {
	const head = ['', '', 'limit', 'webhook', 'ours', 'ours:webhook', 'ours:limit', 'goal', '', 'spread'];
	const cells = rows.map((row) => [
		`  ${row.figure}`,
		row.unit,
		...SIDES.map((side) => show(row.median[side], row.decimals)),
		times(row.ratio.webhook),
		times(row.ratio.limit),
		row.goal ?? '',
		row.met === undefined ? '' : row.met ? 'met' : 'missed',
		row.spread === undefined ? '' : `${Math.round(row.spread * 100)} %${row.spread > NOISY ? ' !' : '  '}`,
	]);
	const widths = head.map((title, column) =>
		Math.max(title.length, ...cells.map((line) => line[column]!.length)),
	);
	const words = new Set([0, 1, 7, 8]);
	const format = (line: string[]) =>
		line
			.map((cell, column) =>
				words.has(column) ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!),
			)
			.join('  ')
			.trimEnd();
	const lines = [format(head)];
	for (const measure of measures) {
		const own = cells.filter((_, index) => rows[index]!.measure === measure.name);
		if (own.length > 0) lines.push('', `${measure.name}: ${measure.about}`, ...own.map(format));
	}
	return lines.join('\n');
}

function show(value: number | undefined, decimals: number): string {
	return value === undefined
		? '-'
		: value.toLocaleString('en', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

function times(ratio: number | undefined): string {
	return ratio === undefined ? '-' : `${ratio.toFixed(2)}×`;
}
