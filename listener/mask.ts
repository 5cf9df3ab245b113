/**
 * What must not be seen, wherever it may turn up: in what commands print, in lines of the log. Each byte of a secret becomes a
 * `*`, so that all offsets stay right.
 */

import { isUtf8 } from 'node:buffer';

/** Bytes. Shorter secrets are left alone: hiding every `on` or `42` would make output unreadable and tell what is hidden. */
const shortest = 4;

const star = 0x2a;

/** Bytes: the longest parameter there may be. What is longer is a file and no password, and hidden only as it is. */
const longestWritten = 32 * 1024;

/** Characters of base64 that have to be certain; fewer may turn up by chance. */
const shortestBase64 = 8;

/** Of the first bytes of texts so many numbers are made. A false one costs a comparison; 64 KB stay in the processor's cache. */
const beginnings = 2 ** 16;

/** Texts that are hidden. Costs nothing as long as there are none. */
export class Mask {
	#texts: readonly Buffer[] = [];
	#longest = 0;
	/** By how they begin, so that each byte of what is searched is looked at once, however many texts there are. */
	#byBeginning = new Map<number, Buffer[]>();
	#begins = new Uint8Array(0);

	constructor(texts: Iterable<string | Buffer> = []) {
		this.replace(texts);
	}

	/**
	 * Hides these from now on, and no others, also as they are commonly written: in JSON, percent-encoded, in base64. Of a text with
	 * several lines each line is hidden by itself too, since it may be told alone.
	 */
	replace(texts: Iterable<string | Buffer>): void {
		const all = new Map<string, Buffer>();
		for (const text of texts) {
			const whole = Buffer.from(text as string);
			for (const bytes of [whole, ...linesOf(whole), ...pathOf(whole)].flatMap(writingsOf)) {
				if (bytes.length >= shortest) all.set(bytes.toString('latin1'), bytes);
			}
		}
		this.#texts = [...all.values()];
		this.#longest = Math.max(0, ...this.#texts.map(({ length }) => length));
		this.#byBeginning = new Map();
		this.#begins = new Uint8Array(this.empty ? 0 : beginnings);
		for (const bytes of this.#texts) {
			const beginning = beginningAt(bytes, 0);
			this.#begins[beginning] = 1;
			this.#byBeginning.set(beginning, [...(this.#byBeginning.get(beginning) ?? []), bytes]);
		}
	}

	/** True when there is nothing to hide. */
	get empty(): boolean {
		return this.#texts.length === 0;
	}

	/** How many bytes before and behind a byte decide whether it is hidden. */
	get reach(): number {
		return Math.max(0, this.#longest - 1);
	}

	/** The same with everything hidden; the very same when there is nothing to hide in it. */
	bytes(bytes: Buffer): Buffer {
		return this.#cover(bytes, this.#ranges(bytes), 0, bytes.length);
	}

	text(text: string): string {
		if (this.empty) return text;
		const bytes = Buffer.from(text);
		const covered = this.bytes(bytes);
		return covered === bytes ? text : covered.toString();
	}

	/** Every text in a value: of lists and objects too. */
	value(value: unknown): unknown {
		if (this.empty) return value;
		if (typeof value === 'string') return this.text(value);
		if (Array.isArray(value)) return value.map((item) => this.value(item));
		if (value === null || typeof value !== 'object' || 'toJSON' in value) return value;
		return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, this.value(item)]));
	}

	/** For bytes that come in pieces. @param torn true when what came before the first piece is missing */
	stream(torn = false): MaskedStream {
		return new MaskedStream(this, torn);
	}

	/** A piece out of bytes, with everything hidden that lies in it or reaches into it. */
	piece(bytes: Buffer, from: number, to: number): Buffer {
		return this.#cover(bytes, this.#ranges(bytes), from, to);
	}

	/** How many of the last bytes may be the beginning of a text that goes on. */
	beginning(bytes: Buffer): number {
		let found = 0;
		for (const text of this.#texts) {
			for (let length = Math.min(text.length - 1, bytes.length); length > found; length--) {
				if (bytes[bytes.length - 1] !== text[length - 1]) continue;
				if (bytes.compare(text, 0, length, bytes.length - length) === 0) found = length;
			}
		}
		return found;
	}

	/** How many of the first bytes may be the end of a text that began before; fewer than are hidden otherwise do not count. */
	ending(bytes: Buffer): number {
		let found = shortest - 1;
		for (const text of this.#texts) {
			for (let length = Math.min(text.length - 1, bytes.length); length > found; length--) {
				if (bytes.compare(text, text.length - length, text.length, 0, length) === 0) found = length;
			}
		}
		return found < shortest ? 0 : found;
	}

	/** Where texts begin and end, in order. */
	#ranges(bytes: Buffer): [from: number, to: number][] {
		const ranges: [number, number][] = [];
		if (this.empty) return ranges;
		for (let at = 0; at <= bytes.length - shortest; at++) {
			const beginning = beginningAt(bytes, at);
			if (this.#begins[beginning] === 0) continue;
			for (const text of this.#byBeginning.get(beginning) ?? []) {
				const end = at + text.length;
				if (end > bytes.length || bytes.compare(text, 0, text.length, at, end) !== 0) continue;
				const last = ranges.at(-1);
				// Of something that repeats itself, such as a line of dashes, there would be as many as it has bytes.
				if (last !== undefined && at <= last[1]) last[1] = Math.max(last[1], end);
				else ranges.push([at, end]);
			}
		}
		return ranges;
	}

	#cover(bytes: Buffer, ranges: readonly [number, number][], from: number, to: number): Buffer {
		const piece = from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to);
		if (ranges.length === 0) return piece;
		const covered = Buffer.from(piece);
		for (const [begin, end] of ranges) {
			if (end > from && begin < to) covered.fill(star, Math.max(0, begin - from), Math.min(end, to) - from);
		}
		return covered;
	}
}

/** A number that stands for the first bytes of a text; most that begin otherwise have another. */
function beginningAt(bytes: Buffer, at: number): number {
	const number = (bytes[at]! << 12) ^ (bytes[at + 1]! << 8) ^ (bytes[at + 2]! << 4) ^ bytes[at + 3]!;
	return number & (beginnings - 1);
}

/**
 * A text as it is, and as programs write it in JSON, in addresses and forms, and in `Authorization: Basic`.
 */
function writingsOf(bytes: Buffer): Buffer[] {
	if (bytes.length < shortest || bytes.length > longestWritten) return [bytes];
	const base64 = [0, 1, 2].map((before) => certainBase64(bytes, before));
	const long = base64.filter(({ length }) => length >= shortestBase64);
	const written = long.flatMap((text) => [text, text.replaceAll('+', '-').replaceAll('/', '_')]);
	if (isUtf8(bytes)) {
		const text = bytes.toString();
		const form = new URLSearchParams([['', text]]).toString().slice(1);
		written.push(JSON.stringify(text).slice(1, -1), encodeURIComponent(text), encodeURI(text), form);
	}
	return [bytes, ...written.map((text) => Buffer.from(text))];
}

/** What base64 has for bytes that so many others stand before, as far as it is the same whatever those and what follows are. */
function certainBase64(bytes: Buffer, before: number): string {
	const text = Buffer.concat([Buffer.alloc(before), bytes]).toString('base64');
	return text.slice(Math.ceil((before * 8) / 6), Math.floor(((before + bytes.length) * 8) / 6));
}

/** Of an address that is a secret, such as a chat's, the secret is what stands behind the host, and is told without that. */
function pathOf(bytes: Buffer): Buffer[] {
	const path = /^https?:\/\/[^/]+(\/.{7,})$/s.exec(bytes.toString('latin1'))?.[1];
	return path === undefined ? [] : [Buffer.from(path, 'latin1')];
}

function linesOf(bytes: Buffer): Buffer[] {
	const lines = bytes.toString('latin1').split(/\r?\n/);
	return lines.length > 1 ? lines.map((line) => Buffer.from(line, 'latin1')) : [];
}

/** Hides what is torn between pieces: the end of what came is held back as long as it may be the beginning of a text. */
export class MaskedStream {
	readonly #mask: Mask;
	/** What was given out last, as far as a text may reach back into it, and what is held back. */
	#kept: Buffer = Buffer.alloc(0);
	#given = 0;
	#torn: boolean;

	constructor(mask: Mask, torn: boolean) {
		this.#mask = mask;
		this.#torn = torn;
	}

	/** Takes a piece; gives what is certain by now, from where it left off. */
	write(piece: Buffer): Buffer {
		const bytes = this.#untorn(this.#kept.length === 0 ? piece : Buffer.concat([this.#kept, piece]));
		return this.#give(bytes, bytes.length - this.#mask.beginning(bytes));
	}

	/** What was held back. @param torn true when more came, and is missing: then it is hidden unless it is too short to tell anything */
	end(torn = false): Buffer {
		const bytes = this.#kept;
		const held = bytes.length - this.#given;
		const given = this.#give(bytes, bytes.length);
		return torn && held >= shortest ? Buffer.alloc(held, star) : given;
	}

	/** Hides what may be the end of a text whose beginning is missing. */
	#untorn(bytes: Buffer): Buffer {
		if (!this.#torn || bytes.length === 0) return bytes;
		this.#torn = false;
		const ending = this.#mask.ending(bytes);
		return ending === 0 ? bytes : Buffer.from(bytes).fill(star, 0, ending);
	}

	#give(bytes: Buffer, to: number): Buffer {
		const given = this.#mask.piece(bytes, this.#given, to);
		const from = Math.max(0, to - this.#mask.reach);
		// A copy, as the piece may be overwritten by who gave it.
		this.#kept = Buffer.from(bytes.subarray(from));
		this.#given = to - from;
		return given;
	}
}
