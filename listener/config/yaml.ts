/**
 * YAML with places: the value of a file, and for every key and value in it the line and column. js-yaml parses; composing
 * values is done here, because people need every fault with its place, and a configuration needs less than YAML can say:
 * one document, text keys, no tags of one's own, no expansion without bound. Scalars are those of YAML 1.2's core schema
 * (`yes`, `on` and `022` are not what they were in 1.1); anchors and the merge key `<<` work.
 */

import {
	boolCoreTag,
	EVENT_ID,
	type Event,
	floatCoreTag,
	getScalarValue,
	intCoreTag,
	NOT_RESOLVED,
	nullCoreTag,
	parseEvents,
	SCALAR_STYLE,
	type ScalarEvent,
	YAMLException,
} from 'js-yaml';
import { syntaxSentence } from './syntax.ts';

export type Key = readonly (string | number)[];

/** Both 1-based. */
export interface Place {
	readonly line: number;
	readonly column: number;
}

export interface YamlFault extends Place {
	readonly key: Key;
	readonly message: string;
}

interface Node {
	/** Where it begins in the text; -1 for a value that is not written, such as that of `key:`. */
	readonly offset: number;
	readonly value: unknown;
	/** How many values it holds, itself included, aliases counted as often as they are used. */
	size: number;
	/** How a scalar is written; undefined for what is none. */
	readonly style?: ScalarEvent['style'];
	readonly entries?: Map<string, Entry>;
	readonly items?: Node[];
}

interface Entry {
	readonly offset: number;
	readonly node: Node;
	/** Came through `<<`, so a key of the map's own takes its place. */
	readonly merged: boolean;
}

/** With aliases a text of 1 KB can stand for billions of values. 10,000 routes are about 150,000. */
const maxValues = 1_000_000;

/** One YAML document. */
export class YamlFile {
	/** Plain values; maps have no prototype. Undefined when the text could not be read at all. */
	readonly value: unknown;
	readonly faults: readonly YamlFault[];
	readonly #root: Node | undefined;
	readonly #text: string;
	readonly #lines: Lines;

	constructor(bytes: Buffer) {
		const decoded = decode(bytes);
		if ('fault' in decoded) {
			this.#text = '';
			this.#lines = new Lines('');
			this.faults = [decoded.fault];
			return;
		}
		this.#text = decoded.text;
		this.#lines = new Lines(decoded.text);
		const composer = new Composer(decoded.text, this.#lines);
		this.#root = composer.document();
		this.value = this.#root?.value;
		this.faults = composer.faults;
	}

	/**
	 * Where a key or its value stands; for one that is not there, the nearest thing around it that is.
	 * @param characters of the value, when it is text, that come before the place
	 */
	place(key: Key, of: 'key' | 'value', characters = 0): Place {
		let node = this.#root;
		let offset = Math.max(node?.offset ?? 0, 0);
		for (const [index, part] of key.entries()) {
			const entry = node?.entries?.get(String(part));
			const next = entry?.node ?? (typeof part === 'number' ? node?.items?.[part] : undefined);
			if (next === undefined) break;
			// Of a map, or around a key that is missing, people look for the name, not for the first thing in it.
			const byName = of === 'key' || index < key.length - 1 || next.offset < 0 || next.entries || next.items;
			offset = entry && byName ? entry.offset : next.offset;
			node = next;
		}
		return this.#lines.place(
			characters === 0 || node?.style === undefined || node.offset !== offset
				? offset
				: within(this.#text, node, characters),
		);
	}
}

const blank = /\s/;

/**
 * Where a character of a scalar's value stands in the file. Line breaks and indentation are not in the value as they are in the
 * file, while everything else is: so it is the other characters that are counted.
 */
function within(text: string, { offset, value, style }: Node, characters: number): number {
	const read = String(value);
	let left = [...read.slice(0, characters)].filter((character) => !blank.test(character)).length;
	const atBlank = characters >= read.length || blank.test(read.charAt(characters));
	const quoted = style === SCALAR_STYLE.SINGLE_QUOTED || style === SCALAR_STYLE.DOUBLE_QUOTED;
	let at = quoted ? offset + 1 : offset;
	while (at < text.length && !(left === 0 && atBlank)) {
		const rest = text.slice(at, at + 10);
		const escaped = escapes[style ?? 0]?.exec(rest)?.[0];
		const unit = escaped ?? String.fromCodePoint(rest.codePointAt(0)!);
		if (!blank.test(unit) && !blankEscape.test(unit)) {
			if (left === 0) return at;
			left--;
		}
		at += unit.length;
	}
	return at;
}

/** What stands for one character, by the style. */
const escapes: Readonly<Record<number, RegExp>> = {
	[SCALAR_STYLE.SINGLE_QUOTED]: /^''/,
	[SCALAR_STYLE.DOUBLE_QUOTED]: /^\\(?:x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|.)/s,
};
const blankEscape = /^\\[nrtvf \n\r_NLP]$/;

/** Bytes as text, without a byte order mark. */
function decode(bytes: Buffer): { text: string } | { fault: YamlFault } {
	try {
		return { text: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
	} catch {
		const utf16 = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
		const lax = bytes.toString('utf8');
		const replacement = Buffer.from('\ufffd');
		let offset = 0;
		let index = 0;
		for (const part of lax.split('\ufffd')) {
			offset += Buffer.byteLength(part);
			index += part.length;
			// One that is really written in the file is no fault.
			if (bytes.compare(replacement, 0, 3, offset, offset + 3) !== 0) break;
			offset += 3;
			index += 1;
		}
		const remedy = utf16 ? 'it looks like UTF-16; save it as UTF-8' : 'save the file as UTF-8';
		return { fault: { ...new Lines(lax).place(index), key: [], message: `is not UTF-8 text: ${remedy}` } };
	}
}

class Lines {
	readonly #starts: number[] = [0];

	constructor(text: string) {
		for (const match of text.matchAll(/\r\n|\r|\n/g)) this.#starts.push(match.index + match[0].length);
	}

	place(offset: number): Place {
		let low = 0;
		let high = this.#starts.length - 1;
		while (low < high) {
			const middle = (low + high + 1) >> 1;
			if (this.#starts[middle]! <= offset) low = middle;
			else high = middle - 1;
		}
		return { line: low + 1, column: offset - this.#starts[low]! + 1 };
	}
}

const nothing: Node = { offset: -1, value: null, size: 1 };

class Composer {
	readonly faults: YamlFault[] = [];
	readonly #text: string;
	readonly #lines: Lines;
	readonly #anchors = new Map<string, Node | 'unfinished'>();
	readonly #key: (string | number)[] = [];
	#events: readonly Event[] = [];
	#next = 0;
	#values = 0;

	constructor(text: string, lines: Lines) {
		this.#text = text;
		this.#lines = lines;
	}

	document(): Node | undefined {
		try {
			this.#events = parseEvents(this.#text, {});
		} catch (error) {
			if (!(error instanceof YAMLException)) throw error;
			const offset = Math.min(error.mark?.position ?? 0, this.#text.length);
			this.#fault(offset, syntaxSentence(error.reason, this.#text, offset));
			return undefined;
		}
		if (this.#events.length === 0) {
			this.#fault(0, 'is empty; it needs at least: routes:');
			return undefined;
		}
		this.#next = 1;
		const root = this.#events[1]?.type === EVENT_ID.POP ? nothing : this.#node();
		const second = this.#events.slice(1).findIndex((event) => event.type === EVENT_ID.DOCUMENT) + 1;
		if (second > 0) {
			const begin = this.#events
				.slice(second)
				.map(offsetOf)
				.find((offset) => offset >= 0);
			const message = 'begins a second document; one file is one document, take the "---" away';
			this.#fault(begin ?? this.#text.length, message);
		}
		return root;
	}

	#fault(offset: number, message: string): void {
		this.faults.push({ ...this.#lines.place(Math.max(offset, 0)), key: [...this.#key], message });
	}

	/** The next value, with all that it holds. */
	#node(): Node {
		const event = this.#events[this.#next++]!;
		switch (event.type) {
			case EVENT_ID.SCALAR:
				return this.#anchored(event, () => this.#scalar(event));
			case EVENT_ID.SEQUENCE:
				return this.#anchored(event, () => this.#sequence(event.start));
			case EVENT_ID.MAPPING:
				return this.#anchored(event, () => this.#mapping(event.start));
			case EVENT_ID.ALIAS:
				return this.#alias(event.anchorStart, event.anchorEnd);
			default:
				return nothing;
		}
	}

	#anchored(event: Exclude<Event, { type: 1 | 5 | 6 }>, compose: () => Node): Node {
		const name = event.anchorStart < 0 ? undefined : this.#text.slice(event.anchorStart, event.anchorEnd);
		if (name !== undefined) this.#anchors.set(name, 'unfinished');
		if (event.tagStart >= 0 && event.type !== EVENT_ID.SCALAR) {
			const tag = this.#text.slice(event.tagStart, event.tagEnd);
			if (tag !== '!!map' && tag !== '!!seq') this.#fault(event.tagStart, unknownTag);
		}
		const node = compose();
		if (name !== undefined) this.#anchors.set(name, node);
		return node;
	}

	#alias(start: number, end: number): Node {
		const name = this.#text.slice(start, end);
		const target = this.#anchors.get(name);
		if (target === undefined) {
			this.#fault(
				start - 1,
				// Without the name: what begins with * and is not quoted may as well be a password.
				'* stands for an anchor (&) above, and there is none of that name; text that begins with * goes in quotes',
			);
		} else if (target === 'unfinished') {
			this.#fault(start - 1, `*${name} stands inside of &${name}, so it would have no end`);
		} else if (this.#spend(target.size, start - 1)) {
			return target;
		}
		return { ...nothing, offset: start - 1 };
	}

	/** False, with a fault the first time, when there are more values than a configuration can need. */
	#spend(values: number, offset: number): boolean {
		if (this.#values > maxValues) return false;
		this.#values += values;
		if (this.#values <= maxValues) return true;
		this.#fault(
			offset,
			`here are more than ${maxValues} values, aliases counted as often as they are used; write fewer`,
		);
		return false;
	}

	#scalar(event: ScalarEvent): Node {
		const text = getScalarValue(this.#text, event);
		const offset = offsetOf(event);
		const tag = event.tagStart < 0 ? '' : this.#text.slice(event.tagStart, event.tagEnd);
		this.#spend(1, offset);
		let value: unknown = text;
		if (tag === '' && event.style === SCALAR_STYLE.PLAIN) value = this.#plain(text, offset);
		else if (tag !== '' && tag !== '!' && tag !== '!!str') this.#fault(event.tagStart, unknownTag);
		return { offset, value, size: 1, style: event.style };
	}

	/** A value without quotes is null, true, false, a number, or text. */
	#plain(text: string, offset: number): unknown {
		for (const tag of [nullCoreTag, boolCoreTag, intCoreTag, floatCoreTag]) {
			if (tag.implicitFirstChars && !tag.implicitFirstChars.includes(text.charAt(0))) continue;
			const value: unknown = tag.resolve(text, false, tag.tagName);
			if (value === NOT_RESOLVED) continue;
			// 2.10 is the number 2.1 and 022 is 22: somebody who writes a version or a mode would get another one.
			if (typeof value === 'number' && String(value) !== text) {
				this.#fault(
					offset,
					`${text} would be read as the number ${value}; write "${text}" in quotes, or ${value}`,
				);
			}
			return value;
		}
		return text;
	}

	#sequence(offset: number): Node {
		const items: Node[] = [];
		let size = 1;
		this.#spend(1, offset);
		while (this.#events[this.#next]?.type !== EVENT_ID.POP) {
			this.#key.push(items.length);
			const node = this.#node();
			this.#key.pop();
			items.push(node);
			size += node.size;
		}
		this.#next++;
		return { offset, value: items.map((item) => item.value), size, items };
	}

	#mapping(offset: number): Node {
		const braces = /^\{\{[^{}\n]*\}\}/.exec(this.#text.slice(offset, offset + 200))?.[0];
		if (braces !== undefined) return this.#unquoted(braces, offset);
		const entries = new Map<string, Entry>();
		this.#spend(1, offset);
		while (this.#events[this.#next]?.type !== EVENT_ID.POP) this.#entry(entries, offset);
		this.#next++;
		const value: Record<string, unknown> = Object.create(null);
		let size = 1;
		for (const [key, { node }] of entries) {
			value[key] = node.value;
			size += node.size;
		}
		return { offset, value, size, entries };
	}

	#entry(entries: Map<string, Entry>, mapping: number): void {
		const event = this.#events[this.#next]!;
		const plain = event.type === EVENT_ID.SCALAR && event.style === SCALAR_STYLE.PLAIN && event.tagStart < 0;
		const keyNode = this.#node();
		const offset = keyNode.offset < 0 ? mapping : keyNode.offset;
		const merge = plain && keyNode.value === '<<';
		const key = typeof keyNode.value === 'string' ? keyNode.value : undefined;

		if (key === undefined) this.#fault(offset, keySentence(keyNode));
		else if (key === '__proto__') this.#fault(offset, '"__proto__" cannot be a key; choose another name');
		const first = key === undefined || merge ? undefined : entries.get(key);
		if (first && !first.merged) {
			this.#fault(
				offset,
				`duplicate key ${JSON.stringify(key)}; it is already in line ${this.#lines.place(first.offset).line}`,
			);
		}

		this.#key.push(key ?? '?');
		const node = this.#node();
		if (merge) this.#merge(entries, node, offset);
		else if (key !== undefined && key !== '__proto__' && (!first || first.merged)) {
			entries.set(key, { offset, node, merged: false });
		}
		this.#key.pop();
	}

	#merge(entries: Map<string, Entry>, source: Node, offset: number): void {
		const maps = source.items ?? [source];
		for (const map of maps) {
			if (!map.entries) {
				this.#fault(offset, 'the merge key << needs a map, or a list of maps, such as *name');
				return;
			}
			// A merge at every level doubles like an alias does.
			if (!this.#spend(map.entries.size, offset)) return;
			for (const [key, entry] of map.entries) {
				if (!entries.has(key)) entries.set(key, { ...entry, merged: true });
			}
		}
	}

	/** `{{name}}` without quotes is a map in a map to YAML, which nobody means here. Taken as text, so that only this is told. */
	#unquoted(braces: string, offset: number): Node {
		this.#fault(offset, `text that begins with "{{" must be in quotes: "${braces}"`);
		let open = 1;
		while (open > 0) {
			const { type } = this.#events[this.#next++]!;
			if (type === EVENT_ID.MAPPING || type === EVENT_ID.SEQUENCE) open++;
			else if (type === EVENT_ID.POP) open--;
		}
		return { offset, value: braces, size: 1 };
	}
}

/** Where an event's text begins, its quote included; -1 when it has none. */
function offsetOf(event: Event): number {
	if (event.type === EVENT_ID.ALIAS) return event.anchorStart - 1;
	if (event.type !== EVENT_ID.SCALAR) return 'start' in event ? event.start : -1;
	const quoted = event.style === SCALAR_STYLE.SINGLE_QUOTED || event.style === SCALAR_STYLE.DOUBLE_QUOTED;
	return quoted ? event.valueStart - 1 : event.valueStart;
}

function keySentence({ value }: Node): string {
	if (value === null) return 'a key is missing before ":"';
	if (typeof value === 'object')
		return 'a list or map cannot be a key; text that begins with [ or { goes in quotes';
	return `the key ${value} is ${typeof value === 'number' ? 'a number' : 'a truth value'} to YAML; write "${value}" in quotes`;
}

/** Without its name: what begins with ! and is not quoted may as well be a password. */
const unknownTag = 'a tag (!) means nothing here; take it away, and put text that begins with ! in quotes';
