/** Names and values in text: query strings and forms. Flat, with a limit, and exact: what is no text is refused, never mended. */

import { isUtf8 } from 'node:buffer';
import { Busboy, type BusboyInstance } from '@fastify/busboy';
import { BadRequest } from '../errors.ts';

/**
 * Values in a form or query. Far more than any has; each costs time on the one thread that serves everybody, and 25 MiB hold
 * hundreds of thousands.
 */
const maxFields = 1000;

/** What a form says: a name given more than once has the list of its values. Has no prototype. */
export type Fields = Record<string, string | string[]>;

/** Reads the query of a request line, without its question mark. @throws BadRequest */
export function parseQuery(text: string): Fields {
	if (text === '') return none;
	// Node hands unencoded bytes on as Latin-1, so that `ü` sent raw would silently be two other letters.
	if (/\P{ASCII}/u.test(text)) throw notEncoded('the query');
	return parsePairs(text, 'the query');
}

const none: Fields = Object.freeze(Object.create(null));

/**
 * Reads `name=value&name=value`, as query strings and forms have it. Names are plain: brackets and dots mean nothing.
 * @param what is read, for messages: "the form"
 * @throws BadRequest for broken escapes, and for more than 1000 pairs
 */
export function parsePairs(text: string, what: string): Fields {
	const values: Fields = Object.create(null);
	const pairs = text.split('&', maxFields + 1);
	if (pairs.length > maxFields) throw new BadRequest(`${what} has more than ${maxFields} values`);
	for (const pair of pairs) {
		if (pair === '') continue;
		const equals = pair.indexOf('=');
		const name = decode(equals < 0 ? pair : pair.slice(0, equals), what);
		add(values, name, equals < 0 ? '' : decode(pair.slice(equals + 1), what), what);
	}
	return values;
}

function decode(text: string, what: string): string {
	if (!text.includes('%')) return text.includes('+') ? text.replaceAll('+', ' ') : text;
	try {
		return decodeURIComponent(text.replaceAll('+', ' '));
	} catch {
		throw notEncoded(what);
	}
}

function notEncoded(what: string): BadRequest {
	return new BadRequest(`${what} is not percent-encoded UTF-8; encode a literal % as %25`);
}

function add(values: Fields, name: string, value: string, what: string): void {
	if (name === '__proto__') throw new BadRequest(`${what} has a key "__proto__", which is refused`);
	const before = values[name];
	if (before === undefined) values[name] = value;
	else if (typeof before === 'string') values[name] = [before, value];
	else before.push(value);
}

/**
 * Reads multipart/form-data, plain fields only.
 * @param header the Content-Type, which has the boundary
 * @throws BadRequest for files, for more than 1000 parts, and for what is broken
 */
export async function parseMultipart(content: Buffer, header: string): Promise<Fields> {
	const boundary = /;\s*boundary\s*=\s*(?:"([^"]+)"|([^;\s]+))/i.exec(header);
	const delimiter = `--${boundary?.[1] ?? boundary?.[2] ?? ''}`;
	// Counted beforehand: the parser can leave parts out, but not stop.
	let parts = 0;
	for (let at = content.indexOf(delimiter); at >= 0; at = content.indexOf(delimiter, at + delimiter.length)) {
		if (++parts > maxFields + 1) throw new BadRequest(`the form has more than ${maxFields} parts`);
	}
	const values = await fieldsOf(content, header);
	if (!isUtf8(content)) throw new BadRequest('the form is not UTF-8 text');
	return values;
}

function fieldsOf(content: Buffer, header: string): Promise<Fields> {
	const values: Fields = Object.create(null);
	const broken = () => new BadRequest('the body is not valid multipart/form-data');
	return new Promise((resolve, reject) => {
		let form: BusboyInstance;
		try {
			form = new Busboy({ headers: { 'content-type': header }, limits: { fieldSize: content.length } });
		} catch {
			reject(broken());
			return;
		}
		form.on('field', (name: string | undefined, value) => {
			try {
				if (name === undefined) reject(broken());
				else add(values, name, value, 'the form');
			} catch (error) {
				reject(error);
			}
		});
		form.on('file', (name, file) => {
			file.on('error', () => {}).resume();
			const part = JSON.stringify(String(name).slice(0, 100));
			reject(
				new BadRequest(
					`part ${part} of the form is a file; a route takes plain fields, and files only as bytes for its command (stdin: body)`,
				),
			);
		});
		form.on('error', () => reject(broken()));
		form.on('finish', () => resolve(values));
		form.end(content);
	});
}
