/**
 * Output of a run as it comes: bare text for people (`curl -N`), an event stream for programs. Whoever follows gets no more
 * than he takes; a run never waits for its followers.
 */

import { isUtf8 } from 'node:buffer';
import type { ServerResponse } from 'node:http';
import { StringDecoder } from 'node:string_decoder';
import type { Context } from 'koa';
import type { OutputPart, Outputs } from '../runs/output.ts';
import type { Run } from '../runs/run.ts';
import { BareText } from '../terminal.ts';
import { type OutputText, runJson, runUrl } from './answers.ts';

/** Milliseconds between signs of life on an event stream: proxies cut connections that are silent for 60 s. */
const signOfLifeEvery = 20_000;

/** Milliseconds after which a reader that takes nothing is given up, and its connection with it. */
const patience = 60_000;

/** Bytes after which a line that does not end is told all the same. */
const longestLine = 64 * 1024;

type Parts = AsyncIterable<OutputPart>;

/** Sends pieces as they come, until they end or the reader is gone. */
export async function sendStream(
	ctx: Context,
	type: string,
	pieces: AsyncIterable<string | Buffer>,
): Promise<void> {
	const { res } = ctx;
	ctx.respond = false;
	res.writeHead(200, {
		'Content-Type': type,
		'Cache-Control': 'no-store',
		'X-Content-Type-Options': 'nosniff',
		// nginx collects answers before it passes them on, unless told not to.
		'X-Accel-Buffering': 'no',
	});
	res.flushHeaders();
	try {
		for await (const piece of pieces) {
			if (piece.length > 0 && !res.write(piece)) await drained(res);
			if (res.destroyed) return;
		}
		res.end();
	} catch (error) {
		// The header is out, so a cut connection is the only way left to say that this is not all.
		res.destroy();
		throw error;
	}
}

/** Sends output as an event stream, see `asEvents`. */
export async function sendEvents(
	ctx: Context,
	parts: Parts,
	end: () => Promise<Run>,
	form: TextForm = {},
): Promise<void> {
	const alive = setInterval(() => ctx.res.write(':\n\n'), signOfLifeEvery);
	try {
		await sendStream(ctx, 'text/event-stream', asEvents(parts, end, form));
	} finally {
		clearInterval(alive);
	}
}

export const plainTextType = 'text/plain; charset=utf-8';

/** Resolves when the reader took what was written, or is gone. */
function drained(res: ServerResponse): Promise<void> {
	if (res.destroyed) return Promise.resolve();
	return new Promise((resolve) => {
		const done = () => {
			clearTimeout(late);
			res.off('drain', done).off('close', done);
			resolve();
		};
		const late = setTimeout(() => res.destroy(), patience);
		res.on('drain', done).on('close', done);
	});
}

/** How output is told as text. */
export interface TextForm {
	/** Without escape sequences and control characters, for readers that are no terminal. */
	readonly bare?: boolean;
}

/**
 * Whether the caller wants text without escape sequences: `Prefer: ansi=strip`, for routes too, whose query is their own.
 * Sets `Preference-Applied`.
 */
export function textForm(ctx: Context): TextForm {
	const { prefer } = ctx.req.headers;
	if (prefer === undefined || !/(?:^|,)\s*ansi\s*=\s*"?strip"?\s*(?:[,;]|$)/i.test(String(prefer))) return {};
	ctx.append('Preference-Applied', 'ansi=strip');
	return { bare: true };
}

function filter({ bare }: TextForm): (text: string) => string {
	if (!bare) return (text) => text;
	const filtered = new BareText();
	return (text) => filtered.write(text);
}

/** Output as text. A character is never torn; what is no UTF-8 becomes U+FFFD; a cut is said on a line of its own. */
export async function* asText(parts: Parts, form: TextForm = {}): AsyncGenerator<string> {
	const decoder = new StringDecoder('utf8');
	const shown = filter(form);
	for await (const part of parts) {
		if (part.cut) yield `${shown(`${decoder.end()}\n`)}${cutLine(part.cut)}\n`;
		yield shown(decoder.write(part.bytes));
	}
	yield shown(decoder.end());
}

/**
 * The same as bytes, for thousands who follow: what is UTF-8 already goes out as it is, so that they all send the same bytes and
 * not a copy each.
 */
export async function* asTextBytes(parts: Parts, form: TextForm = {}): AsyncGenerator<Buffer | string> {
	if (form.bare) return yield* asText(parts, form);
	let rest: Buffer = Buffer.alloc(0);
	for await (const { bytes, cut } of parts) {
		if (cut) {
			yield `${rest}\n${cutLine(cut)}\n`;
			rest = Buffer.alloc(0);
		}
		const all = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
		const whole = wholeCharacters(all, all.length);
		rest = all.subarray(whole);
		const text = all.subarray(0, whole);
		yield isUtf8(text) ? text : text.toString();
	}
	yield rest.toString();
}

function cutLine({ from, to }: { readonly from: number; readonly to: number }): string {
	return `[… ${to - from} bytes were not kept …]`;
}

/** Output as it was written, byte for byte; a cut leaves no trace in it. */
export async function* bytesOf(parts: Parts): AsyncGenerator<Buffer> {
	for await (const part of parts) yield part.bytes;
}

/** The same as text, and what became of the run at the end, as a line of its own unless it succeeded. */
export async function* asTextWithEnd(
	parts: Parts,
	end: () => Promise<Run>,
	form: TextForm = {},
): AsyncGenerator<string> {
	let last = '\n';
	for await (const text of asText(parts, form)) {
		if (text !== '') last = text;
		yield text;
	}
	const line = endLine(await end());
	if (line !== '') yield `${last.endsWith('\n') ? '' : '\n'}${line}\n`;
}

/** What follows the output for a reader who sees no status. */
function endLine(run: Run): string {
	switch (run.state) {
		case 'succeeded':
			return '';
		case 'failed':
			return `Run failed: ${run.outcome?.message}`;
		case 'cancelled':
			return `Run cancelled: ${run.outcome?.message}`;
		default:
			return `Run goes on: ${runUrl(run.id)}`;
	}
}

/**
 * Output as events: `output`, a line each, whose id is the offset behind it; at the end `run`, the run as JSON. A browser that
 * lost its connection sends the last id back and misses nothing.
 */
async function* asEvents(
	parts: Parts,
	end: () => Promise<Run>,
	form: TextForm,
): AsyncGenerator<Buffer | string> {
	const shown = filter(form);
	let told: Told = { events: Buffer.alloc(0), offset: 0, rest: Buffer.alloc(0) };
	for await (const part of parts) {
		// Others who follow are at the same place mostly, and what was made for them will do. A filter knows what it saw before.
		const name = `events ${told.offset} ${told.rest.length}`;
		const made = form.bare ? undefined : (part.made?.get(name) as Told | undefined);
		told = made ?? tellEvents(part, told, shown);
		if (!form.bare) part.made?.set(name, told);
		yield told.events;
	}
	const { rest } = told;
	const offset = told.offset + rest.length;
	if (rest.length > 0) yield event('output', offset, shown(rest.toString()));
	yield event('run', offset, JSON.stringify(runJson(await end())));
}

/** Events of a part, and what is left of it: `rest` is a line that has begun, and begins at `offset`. */
interface Told {
	readonly events: Buffer;
	readonly offset: number;
	readonly rest: Buffer;
}

function tellEvents(part: OutputPart, { offset, rest }: Told, shown: (text: string) => string): Told {
	let events = '';
	// A cut, or a run that was started again and prints from the beginning: what came last goes no further.
	if (part.from !== offset + rest.length && rest.length > 0) {
		events += event('output', offset + rest.length, shown(rest.toString()));
		rest = Buffer.alloc(0);
	}
	if (rest.length === 0) offset = part.from;
	if (part.cut) events += event('output', offset, cutLine(part.cut));
	let bytes = rest.length === 0 ? part.bytes : Buffer.concat([rest, part.bytes]);
	for (;;) {
		const newline = bytes.indexOf(10);
		const length =
			newline >= 0 ? newline + 1 : bytes.length > longestLine ? wholeCharacters(bytes, longestLine) : 0;
		if (length === 0) break;
		offset += length;
		events += event('output', offset, shown(bytes.toString('utf8', 0, length)).replace(/\n$/, ''));
		bytes = bytes.subarray(length);
	}
	return { events: Buffer.from(events), offset, rest: bytes };
}

/** How many of the first `most` bytes do not tear a character that goes on behind them, or may go on. */
function wholeCharacters(bytes: Buffer, most: number): number {
	for (let back = 1; back <= Math.min(3, most); back++) {
		const byte = bytes[most - back]!;
		if ((byte & 0xc0) === 0x80) continue;
		const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
		return length > back ? most - back : most;
	}
	return most;
}

/** A carriage return ends a line in an event stream too: progress bars become several lines of one event. */
function event(name: string, id: number, data: string): string {
	const lines = data.split(/\r\n|\r|\n/);
	if (lines.length > 1 && lines.at(-1) === '') lines.pop();
	return `event: ${name}\nid: ${id}\n${lines.map((line) => `data: ${line}\n`).join('')}\n`;
}

/** Bytes of output that an answer in JSON holds at most: its end, where errors stand. All of it is at the run's own address. */
const longestText = 1024 * 1024;

/** The end of an ended run's output; where that begins within a character, behind it. */
export async function lastText(outputs: Outputs, run: Run, form: TextForm = {}): Promise<OutputText> {
	if (run.outputSize === 0) return { text: '', from: 0 };
	const from = Math.max(0, run.outputSize - longestText);
	let text = '';
	for await (const piece of asText(outputs.read(run.id, from), form)) text += piece;
	return { text: from === 0 ? text : text.replace(/^\uFFFD{1,3}/, ''), from };
}
