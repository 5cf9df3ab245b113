/** Values as they are written anywhere in routes.yaml: durations, sizes, texts; and sentences for what is none. */

import { z } from 'zod';

const second = 1000;
export const day = 86_400 * second;
const durationUnits: Readonly<Record<string, number>> = {
	ms: 1,
	s: second,
	m: 60 * second,
	h: 3600 * second,
	d: day,
};
const durationPattern = /^(\d+(?:\.\d+)?) ?(ms|s|m|h|d)$/;
/** Timers count milliseconds in 31 bits; a longer one would fire at once. */
const longestDuration = 24 * day;

/** Milliseconds of a text such as `500ms`, `30s`, `1.5h`, `7d`; undefined when it is none, is 0, or exceeds 24 days (or `most`). */
export function parseDuration(text: string, most = longestDuration): number | undefined {
	const [, amount, unit] = durationPattern.exec(text) ?? [];
	const ms = Math.round(Number(amount) * (durationUnits[unit ?? ''] ?? Number.NaN));
	return ms >= 1 && ms <= most ? ms : undefined;
}

const sizeUnits: Readonly<Record<string, number>> = {
	B: 1,
	kB: 1000,
	KB: 1000,
	MB: 1000 ** 2,
	GB: 1000 ** 3,
	KiB: 1024,
	MiB: 1024 ** 2,
	GiB: 1024 ** 3,
};
const sizePattern = /^(\d+(?:\.\d+)?) ?(B|kB|KB|MB|GB|KiB|MiB|GiB)$/;

/** Bytes of a text such as `10 MiB` or `1GB`, or of a whole number; undefined when it is none. */
export function parseSize(written: string | number): number | undefined {
	const [, amount, unit] = typeof written === 'number' ? [] : (sizePattern.exec(written) ?? []);
	const bytes =
		typeof written === 'number'
			? written
			: Math.round(Number(amount) * (sizeUnits[unit ?? ''] ?? Number.NaN));
	return Number.isSafeInteger(bytes) && bytes >= 0 ? bytes : undefined;
}

const durationSentence = 'must be a duration: a number and ms, s, m, h or d, such as "30s"';

export function duration(description: string, most = longestDuration) {
	return z
		.string({
			error: ({ input }) =>
				typeof input === 'number'
					? `has no unit: write "${input}s" for seconds, or ms, m, h, d`
					: durationSentence,
		})
		.regex(durationPattern, { error: durationSentence })
		.transform((text, context) => {
			const ms = parseDuration(text, most);
			if (ms !== undefined) return ms;
			context.issues.push({
				code: 'custom',
				input: text,
				message: `must be more than 0 and at most ${most < day ? `${most / (3600 * second)}h` : `${most / day}d`}`,
			});
			return z.NEVER;
		})
		.meta({ description });
}

export function size(description: string, least: number, most: number, reason: string) {
	const sentence =
		'must be a size: a number and B, KiB, MiB, GiB, kB, MB or GB, such as "10 MiB"; or whole bytes';
	return z
		.union([z.int().min(0), z.string().regex(sizePattern, { error: sentence })], { error: sentence })
		.transform((written, context) => {
			const bytes = parseSize(written);
			if (bytes !== undefined && bytes >= least && bytes <= most) return bytes;
			context.issues.push({ code: 'custom', input: written, message: reason });
			return z.NEVER;
		})
		.meta({ description });
}

/** Text as programs take it. YAML can write a NUL ("\0"), at which every program's arguments and variables end. */
export const text = z
	.string()
	.refine((value) => !value.includes('\0'), { error: 'must not contain a NUL character' });
export const someText = text.min(1);

/** The reader refuses numbers that would change by reading (2.10 → 2.1), so what is left is text as it was written. */
export const scalarText = z
	.union([text, z.number(), z.boolean()], {
		error: 'must be one value; in quotes when it is to be empty: ""',
	})
	.transform(String);

export function oneOrMore<Item extends z.ZodType>(item: Item, error: string) {
	return z.union([item, z.array(item).min(1)], { error });
}

const rateUnits = { s: second, m: 60 * second, h: 3600 * second, d: day } as const;

/** So many in a time, such as `60/m`. */
export function rate(description: string) {
	const sentence = 'must be a number and a time, such as 60/m: 60 in a minute; s, m, h or d';
	return z
		.string({ error: sentence })
		.regex(/^[1-9]\d{0,6}\/[smhd]$/, { error: sentence })
		.transform((text) => {
			const [count = '', unit = 's'] = text.split('/');
			return { count: Number(count), per: rateUnits[unit as keyof typeof rateUnits] };
		})
		.meta({ description });
}
