/**
 * One value in the text of a YAML file, replaced where it stands. Everything around it stays as it is, byte for byte: comments, order,
 * anchors, quotes, folded blocks. Reading and writing the file anew would lose them.
 */

import {
	COLLECTION_STYLE,
	EVENT_ID,
	type Event,
	getScalarValue,
	parseEvents,
	SCALAR_STYLE,
	type ScalarEvent,
} from 'js-yaml';

/** What became of a value. */
export interface Edit {
	readonly text: string;
	/** The value that was there; undefined when there was none. */
	readonly before: string | undefined;
}

/** Why a value cannot be set: what, which one, and what to do; follows the file's name. */
export class CannotSet extends Error {}

interface Scalar {
	readonly kind: 'scalar';
	readonly event: ScalarEvent;
}
interface Alias {
	readonly kind: 'alias';
	readonly start: number;
	readonly end: number;
}
interface List {
	readonly kind: 'list';
	readonly items: readonly Value[];
}
interface Entries {
	readonly kind: 'map';
	/** Where its first key begins, or its brace. */
	readonly start: number;
	readonly flow: boolean;
	readonly entries: readonly { readonly key: Value; readonly value: Value }[];
}
type Value = Scalar | Alias | List | Entries;

/** A value with what is known of where it stands. */
interface Found {
	readonly value: Value;
	/** The scalar that is its key; undefined for an item of a list. */
	readonly key: ScalarEvent | undefined;
}

/**
 * Sets one value.
 * @param key a key of the top level as it is written there, or keys and numbers of list items with dots between them
 * @param create set it also when it is not there
 * @throws CannotSet
 */
export function setValue(text: string, key: string, value: string, create: boolean): Edit {
	const events = eventsOf(text);
	const root = documentOf(events);
	const found = root && find(text, root, key);
	const edited = found
		? replaced(text, key, found, value)
		: create
			? added(text, root, key, value)
			: undefined;
	if (edited === undefined) throw new CannotSet(`has no key ${key}; add it by hand, or say "create: true"`);
	if (edited.text !== text) prove(text, events, edited.text, found, value);
	return edited;
}

function eventsOf(text: string): Event[] {
	try {
		return parseEvents(text, {});
	} catch (error) {
		throw new CannotSet(`is no YAML that can be read: ${(error as Error).message.split('\n')[0]}`);
	}
}

/** The value of the only document; undefined when there is none. */
function documentOf(events: readonly Event[]): Value | undefined {
	if (events.filter(({ type }) => type === EVENT_ID.DOCUMENT).length > 1)
		throw new CannotSet('holds several documents, of which Hiera reads only the first; leave one');
	let next = 1;
	const read = (): Value | undefined => {
		const event = events[next++];
		switch (event?.type) {
			case EVENT_ID.SCALAR:
				return { kind: 'scalar', event };
			case EVENT_ID.ALIAS:
				// Its name, without the star.
				return { kind: 'alias', start: event.anchorStart - 1, end: event.anchorEnd };
			case EVENT_ID.SEQUENCE: {
				const items: Value[] = [];
				for (let item = read(); item !== undefined; item = read()) items.push(item);
				return { kind: 'list', items };
			}
			case EVENT_ID.MAPPING: {
				const entries: { key: Value; value: Value }[] = [];
				for (let key = read(); key !== undefined; key = read()) {
					const value = read();
					if (value !== undefined) entries.push({ key, value });
				}
				return { kind: 'map', start: event.start, flow: event.style === COLLECTION_STYLE.FLOW, entries };
			}
			default:
				return undefined;
		}
	};
	return read();
}

/** The value under a key: the whole of it as one key comes first, since keys may have dots themselves. */
function find(text: string, value: Value, key: string): Found | undefined {
	if (value.kind === 'list') {
		const [index = '', ...rest] = key.split('.');
		const item = /^(0|[1-9]\d*)$/.test(index) ? value.items[Number(index)] : undefined;
		if (item === undefined) return undefined;
		return rest.length === 0 ? { value: item, key: undefined } : find(text, item, rest.join('.'));
	}
	if (value.kind !== 'map') return undefined;
	const entry = entryOf(text, value, key);
	if (entry !== undefined) return entry;
	for (let dot = key.lastIndexOf('.'); dot > 0; dot = key.lastIndexOf('.', dot - 1)) {
		const above = entryOf(text, value, key.slice(0, dot));
		const below = above && find(text, above.value, key.slice(dot + 1));
		if (below !== undefined) return below;
	}
	return undefined;
}

function entryOf(text: string, { entries }: Entries, name: string): Found | undefined {
	const found = entries.flatMap(({ key, value }) =>
		key.kind === 'scalar' && getScalarValue(text, key.event) === name ? { value, key: key.event } : [],
	);
	if (found.length > 1) throw new CannotSet(`has the key ${name} more than once; leave one of them`);
	return found[0];
}

function replaced(text: string, name: string, { value, key }: Found, next: string): Edit {
	if (value.kind === 'map' || value.kind === 'list') {
		const what = value.kind === 'map' ? 'a map' : 'a list';
		throw new CannotSet(`has ${what} under ${name}; only single values can be set: name a key below it`);
	}
	const splice = (start: number, end: number, written: string, before: string): Edit => ({
		text: text.slice(0, start) + written + text.slice(end),
		before,
	});
	if (value.kind === 'alias')
		return splice(value.start, value.end, writtenAs(next, 'plain'), text.slice(value.start, value.end));
	const { event } = value;
	const before = getScalarValue(text, event);
	if (before.trimStart().startsWith('ENC['))
		throw new CannotSet(
			`has an encrypted value under ${name}, which is not replaced by one for everybody to read`,
		);
	const tag = event.tagStart < 0 ? '' : text.slice(event.tagStart, event.tagEnd);
	if (tag !== '' && tag !== '!!str' && tag !== '!')
		throw new CannotSet(`has a value of the type ${tag} under ${name}; take the tag away to have it set`);
	if (event.valueStart < 0) {
		const at = Math.max(event.tagEnd, event.anchorEnd, key === undefined ? -1 : afterColon(text, key, name));
		if (at < 0) throw new CannotSet(`has an empty item under ${name}; write a value there`);
		return splice(at, at, ` ${writtenAs(next, 'plain')}`, '');
	}
	const plain = event.style === SCALAR_STYLE.PLAIN;
	// 2.10 without quotes is the number 2.1, for Puppet too.
	if (before === next && !(plain && tag === '' && isChangedNumber(before))) return { text, before };
	if (event.style === SCALAR_STYLE.LITERAL_BLOCK || event.style === SCALAR_STYLE.FOLDED_BLOCK) {
		const start = text.slice(0, event.valueStart).search(/[|>][-+0-9]*[ \t]*(#[^\n]*)?\r?\n$/);
		const end = text.slice(0, event.valueEnd).endsWith('\n') ? '\n' : '';
		return splice(start, event.valueEnd, `${writtenAs(next, 'single')}${end}`, before);
	}
	if (plain) {
		const alike = tag === '' && (alikeNumbers(before, next) || alikeTruths(before, next));
		return splice(event.valueStart, event.valueEnd, alike ? next : writtenAs(next, 'plain'), before);
	}
	const style = event.style === SCALAR_STYLE.DOUBLE_QUOTED ? 'double' : 'single';
	return splice(event.valueStart - 1, event.valueEnd + 1, writtenAs(next, style), before);
}

/** Where a value may be put behind a key that has none. */
function afterColon(text: string, key: ScalarEvent, name: string): number {
	const end = key.valueEnd + (key.style === SCALAR_STYLE.PLAIN ? 0 : 1);
	const colon = /^[ \t]*:/.exec(text.slice(end));
	if (colon === null) throw new CannotSet(`has no value under ${name}; write one there`);
	return end + colon[0].length;
}

const number = /^-?(0|[1-9]\d*)(\.\d+)?$/;

function isChangedNumber(text: string): boolean {
	return /^[-+.\d]/.test(text) && Number.isFinite(Number(text)) && String(Number(text)) !== text;
}

/** A number takes the place of a number only if it is not changed by being one, as 2.10 would be. */
function alikeNumbers(before: string, next: string): boolean {
	return number.test(before) && number.test(next) && !isChangedNumber(next);
}

function alikeTruths(before: string, next: string): boolean {
	const truth = /^(true|false)$/;
	return truth.test(before) && truth.test(next);
}

/** Names, and versions of three parts or more: what no version of YAML takes for anything but text. */
const surelyText = /^(?:[A-Za-z_/][\w./@+-]*|v?\d+(?:\.\d+){2,}(?:[-+.][\w.+-]*)?)$/;
const words = /^(?:y|n|yes|no|on|off|true|false|null)$/i;

function writtenAs(value: string, style: 'plain' | 'single' | 'double'): string {
	if (style === 'plain' && surelyText.test(value) && !words.test(value)) return value;
	// A line break between single quotes would be read as a blank.
	if (style === 'double' || !/^[\x20-\x7e\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]*$/.test(value))
		return JSON.stringify(value).replace(
			/[\x7f-\x9f\u2028\u2029\ufeff]/g,
			(character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
		);
	return `'${value.replaceAll("'", "''")}'`;
}

/** The text with a key that was not there: last at the top, first in a map that is there already. */
function added(text: string, root: Value | undefined, key: string, value: string): Edit {
	const empty =
		root === undefined || (root.kind === 'scalar' && /^(~|null)?$/i.test(getScalarValue(text, root.event)));
	if (!empty && root.kind !== 'map') throw new CannotSet('is no map of keys and values');
	let map = empty ? undefined : (root as Entries);
	let rest = key;
	let top = true;
	for (let dot = rest.lastIndexOf('.'); map && dot > 0; dot = rest.lastIndexOf('.', dot - 1)) {
		const above = entryOf(text, map, rest.slice(0, dot))?.value;
		if (above === undefined) continue;
		if (above.kind !== 'map' || above.entries.length === 0)
			throw new CannotSet(`has no map under ${rest.slice(0, dot)} that ${key} could be put into`);
		[map, rest, top, dot] = [above, rest.slice(dot + 1), false, Number.POSITIVE_INFINITY];
	}
	const names = rest.split('.');
	const end = /\r\n/.test(text) ? '\r\n' : '\n';
	if (map?.flow) {
		if (names.length > 1 || text[map.start] !== '{')
			throw new CannotSet(`has no place for ${key}; write it there by hand`);
		const separator = map.entries.length === 0 ? '' : ', ';
		const entry = `${writtenKey(rest)}: ${writtenAs(value, 'single')}${separator}`;
		return { text: text.slice(0, map.start + 1) + entry + text.slice(map.start + 1), before: undefined };
	}
	const line = map ? text.slice(0, map.start).split('\n').at(-1)! : '';
	const indent = top ? (/^ *$/.exec(line)?.[0] ?? '') : ' '.repeat(line.length);
	const lines = names.map((name, level) => {
		const last = level === names.length - 1;
		return `${indent}${'  '.repeat(level)}${writtenKey(name)}:${last ? ` ${writtenAs(value, 'plain')}` : ''}`;
	});
	if (top) {
		// What stands for "nothing" would be a second value.
		if (root?.kind === 'scalar' && root.event.valueStart >= 0)
			throw new CannotSet('holds null; empty the file to have keys put into it');
		if (/^\.\.\.[ \t]*\r?$/m.test(text)) throw new CannotSet('ends with "..."; take that away');
		const begun = text === '' ? `---${end}` : text.endsWith('\n') ? text : text + end;
		return { text: begun + lines.join(end) + end, before: undefined };
	}
	const inserted = lines.join(end).slice(indent.length) + end + indent;
	return { text: text.slice(0, map!.start) + inserted + text.slice(map!.start), before: undefined };
}

function writtenKey(name: string): string {
	return /^[A-Za-z_][\w:-]*$/.test(name) && !name.endsWith(':') && !words.test(name)
		? name
		: writtenAs(name, 'single');
}

/** Reads the new text and compares: a file of a shape that was not thought of is left alone rather than harmed. */
function prove(
	text: string,
	events: readonly Event[],
	next: string,
	found: Found | undefined,
	value: string,
): void {
	const told = (source: string, list: readonly Event[]) =>
		list.map((event) => {
			const named = (start: number, end: number) => (start < 0 ? '' : source.slice(start, end));
			const anchor = 'anchorStart' in event ? named(event.anchorStart, event.anchorEnd) : '';
			const tag = 'tagStart' in event ? named(event.tagStart, event.tagEnd) : '';
			const scalar = event.type === EVENT_ID.SCALAR ? getScalarValue(source, event) : '';
			return [event.type, scalar, tag, anchor].join('\0');
		});
	const now = eventsOf(next);
	const [before, after] = [told(text, events), told(next, now)];
	const harmed = new CannotSet('is written in a way that no value can be set in it; set it by hand');
	if (found === undefined) {
		// What is new stands in one piece, between what was there.
		const length = events.some(({ type }) => type === EVENT_ID.MAPPING) ? before.length : 0;
		const same = before.findIndex((event, index) => index >= length || event !== after[index]);
		const kept = same < 0 ? length : same;
		if (
			before.slice(kept, length).join() !== after.slice(after.length - (length - kept)).join() &&
			length > 0
		)
			throw harmed;
		return;
	}
	const { value: old } = found;
	const at =
		old.kind === 'scalar'
			? events.indexOf(old.event)
			: events.findIndex((event) => event.type === EVENT_ID.ALIAS && event.anchorEnd === (old as Alias).end);
	const set = now[at];
	const isSet = set?.type === EVENT_ID.SCALAR && getScalarValue(next, set) === value;
	if (!isSet || before.toSpliced(at, 1).join() !== after.toSpliced(at, 1).join()) throw harmed;
}
