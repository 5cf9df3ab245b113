/** What people see in a terminal: tables that fit it, times as they are spoken of, and output that can do it no harm. */

import { StringDecoder } from 'node:string_decoder';
import { styleText } from 'node:util';

/** A field of a table: bare text, or text in a colour. */
export type Field = string | { readonly text: string; readonly colour: 'red' | 'green' | 'yellow' | 'cyan' };

export interface Column {
	readonly title: string;
	/** May be cut at its end when the terminal is too narrow for all. */
	readonly flexible?: true;
}

export interface TableForm {
	/** Characters in a line; undefined for as many as it takes. */
	readonly width: number | undefined;
	readonly colour: boolean;
}

/** Characters that a column keeps however narrow the terminal is; with fewer nothing in it could be recognised. */
const narrowest = 10;
const gap = '  ';

/** Lines of a table, each with its line end. A column in which no row has anything is left out; without titles there is no head. */
export function table(
	columns: readonly Column[],
	rows: readonly (readonly Field[])[],
	form: TableForm,
): string {
	const titles = columns.map(({ title }) => title);
	const texts = rows.map((row) =>
		row.map((field) => visible(typeof field === 'string' ? field : field.text)),
	);
	const shown = columns.flatMap((_, index) => (texts.some((row) => row[index] !== '') ? [index] : []));
	const widths = columns.map((_, index) =>
		Math.max(...[titles, ...texts].map((row) => widthOf(row[index]!))),
	);
	if (form.width !== undefined) fit(widths, columns, shown, form.width);

	const line = (row: readonly string[], paint: (text: string, index: number) => string) =>
		shown
			.map((index, place) => {
				const text = cut(row[index]!, widths[index]!);
				const padding = place === shown.length - 1 ? '' : ' '.repeat(widths[index]! - widthOf(text));
				return `${form.colour ? paint(text, index) : text}${padding}`;
			})
			.join(gap)
			.trimEnd();
	const head = line(titles, (text) => styleText('bold', text, { validateStream: false }));
	const body = rows.map((row, number) =>
		line(texts[number]!, (text, index) => {
			const field = row[index]!;
			return typeof field === 'string' ? text : styleText(field.colour, text, { validateStream: false });
		}),
	);
	return (titles.some(Boolean) ? [head, ...body] : body).map((text) => `${text}\n`).join('');
}

/** Takes from the widest flexible column until all fit, or can give no more. */
function fit(widths: number[], columns: readonly Column[], shown: readonly number[], width: number): void {
	const flexible = shown.filter((index) => columns[index]?.flexible);
	const sum = () => shown.reduce((all, index) => all + widths[index]! + gap.length, -gap.length);
	for (let over = sum() - width; over > 0; over--) {
		const widest = flexible.reduce<number | undefined>(
			(most, index) => (most === undefined || widths[index]! > widths[most]! ? index : most),
			undefined,
		);
		if (widest === undefined || widths[widest]! <= narrowest) return;
		widths[widest]!--;
	}
}

const graphemes = new Intl.Segmenter('en');
/** What terminals give two places: the scripts of East Asia, and pictures. */
const wide =
	/^[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u;

/** How many places of a terminal a text takes. */
function widthOf(text: string): number {
	// Nearly every text there is, and quick.
	if (/^[ -~]*$/.test(text)) return text.length;
	let width = 0;
	for (const { segment } of graphemes.segment(text)) width += wide.test(segment) ? 2 : 1;
	return width;
}

function cut(text: string, width: number): string {
	if (widthOf(text) <= width) return text;
	let kept = '';
	let used = 1;
	for (const { segment } of graphemes.segment(text)) {
		used += widthOf(segment);
		if (used > width) break;
		kept += segment;
	}
	return `${kept}…`;
}

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** How long ago: `12s`, `5m`, `3h`, `2d`. @param ms milliseconds; less than none, by a clock that was set, is `0s` */
export function age(ms: number): string {
	if (ms < minute) return `${Math.max(0, Math.floor(ms / second))}s`;
	if (ms < hour) return `${Math.floor(ms / minute)}m`;
	if (ms < 2 * day) return `${Math.floor(ms / hour)}h`;
	return `${Math.floor(ms / day)}d`;
}

/** How long something took: `85ms`, `2.4s`, `1m05s`, `2h10m`. @param ms milliseconds */
export function span(ms: number): string {
	if (ms < second) return `${Math.max(0, ms)}ms`;
	if (ms < minute) return `${(Math.floor(ms / 100) / 10).toFixed(1)}s`;
	const [large, small, units] = ms < hour ? [minute, second, 'ms'] : [hour, minute, 'hm'];
	const rest = String(Math.floor((ms % large) / small)).padStart(2, '0');
	return `${Math.floor(ms / large)}${units[0]}${rest}${units[1]}`;
}

/** Characters that turn the order of what follows round, so that a line reads otherwise than it is. */
const turning = '\\u202a-\\u202e\\u2066-\\u2069';

/** A text as one line with nothing hidden in it: control characters become their pictures, `␛` and so on. */
export function visible(text: string): string {
	return text.replace(controls, picture);
}

const controls = new RegExp(`\\p{Cc}|[${turning}]`, 'gu');

function picture(control: string): string {
	const code = control.charCodeAt(0);
	if (code < 0x20) return String.fromCharCode(0x2400 + code);
	return code === 0x7f ? '\u2421' : '\ufffd';
}

/** Characters of an escape sequence at most; what goes on for longer is none. */
const longestSequence = 64;

const esc = '\u001b';
/** A CSI sequence (colours, places), the choice of a character set, or else a single control character. */
const sequences = new RegExp(
	`${esc}\\[[0-?]{0,${longestSequence}}[ -/]?[@-~]|${esc}[()*+][ -~]|\\p{Cc}|[${turning}]`,
	'gu',
);
const beginning = new RegExp(`${esc}(?:\\[[0-?]{0,${longestSequence}}[ -/]?|[()*+])?$`);
const colouring = new RegExp(`^${esc}\\[[\\d;:]*m$`);
const erasing = new RegExp(`^${esc}\\[[012]?K$`);

/**
 * Makes what commands print fit to be shown: text, colours, and lines that are written anew (progress). What else a terminal
 * obeys is not passed on, since whoever can make a command print something would set the clipboard and the title, have the
 * terminal type its answers into the shell, or write over what stands above.
 */
export class SafeText {
	readonly #colour: boolean;
	readonly #decoder = new StringDecoder('utf8');
	#rest = '';
	#coloured = false;

	/** @param colour whether colours may pass */
	constructor(colour: boolean) {
		this.#colour = colour;
	}

	write(bytes: Buffer): string {
		return this.#pass(this.#rest + this.#decoder.write(bytes), false);
	}

	/** What is left, and the terminal's own colour again. */
	end(): string {
		const text = this.#pass(this.#rest + this.#decoder.end(), true);
		return this.#coloured ? `${text}${esc}[0m` : text;
	}

	#pass(text: string, last: boolean): string {
		// A sequence may be torn between two pieces.
		const from = last ? -1 : text.search(beginning);
		this.#rest = from < 0 ? '' : text.slice(from);
		return (from < 0 ? text : text.slice(0, from)).replace(sequences, (found) => this.#shown(found));
	}

	#shown(found: string): string {
		if (found === '\n' || found === '\r' || found === '\t') return found;
		if (found.length === 1) return picture(found);
		if (erasing.test(found)) return found;
		if (!this.#colour || !colouring.test(found)) return '';
		this.#coloured = true;
		return found;
	}
}

/** Characters of a sequence that carries text (a title, a link, a picture) at most; what goes on for longer is shown. */
const longestString = 4096;

/** What begins a sequence or is one by itself: all control characters but tab and the two of line ends. */
const control = /(?![\t\n\r])\p{Cc}/gu;

/**
 * Takes out of a text what only a terminal obeys: colours, places, titles, links, bells. A sequence may be torn between two
 * pieces. One that never ends hides nothing: it is over at the end of its line, or when it is longer than any that is meant.
 */
export class BareText {
	/** Within a sequence: behind its escape character, among the numbers of a CSI sequence, in a string, or at what may be its end. */
	#inside: 'nothing' | 'escape' | 'numbers' | 'string' | 'end' = 'nothing';
	#length = 0;

	write(text: string): string {
		let bare = '';
		for (let at = 0; at < text.length; ) {
			if (this.#inside === 'nothing') {
				control.lastIndex = at;
				const found = control.exec(text)?.index ?? text.length;
				bare += text.slice(at, found);
				at = found + 1;
				if (found < text.length) this.#begin(text.charCodeAt(found));
			} else if (this.#take(text.charCodeAt(at))) at++;
		}
		return bare;
	}

	#begin(code: number): void {
		this.#length = 0;
		if (code === 0x1b) this.#inside = 'escape';
		// The same in one character: CSI, and the beginnings of strings.
		else if (code === 0x9b) this.#inside = 'numbers';
		else if ([0x90, 0x98, 0x9d, 0x9e, 0x9f].includes(code)) this.#inside = 'string';
	}

	/** Goes one character on within a sequence; false when that is no part of it any more. */
	#take(code: number): boolean {
		const before = this.#inside;
		const printing = code >= 0x20 && code < 0x7f;
		this.#inside = 'nothing';
		if (before === 'string') {
			if (code === 0x0a || ++this.#length > longestString) return false;
			if (code === 0x07 || code === 0x9c) return true;
			this.#inside = code === 0x1b ? 'end' : 'string';
			return true;
		}
		if (before === 'end' && code !== 0x5c) {
			this.#inside = 'escape';
			return false;
		}
		if (!printing || ++this.#length > longestSequence) return false;
		if (before === 'numbers') {
			if (code < 0x40) this.#inside = 'numbers';
		} else if (before === 'escape') {
			if (code < 0x30) this.#inside = 'escape';
			else if (code === 0x5b) this.#inside = 'numbers';
			else if ('PX]^_'.includes(String.fromCharCode(code))) this.#begin(0x90);
		}
		return true;
	}
}
