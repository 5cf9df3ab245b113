/**
 * Reading bodies that may hold anything: senders leave fields out, change them between versions, and let their users write
 * bodies of their own. What is not there, or is of another type, reads as nothing.
 */

import { createHash } from 'node:crypto';
import { type Body, type Delivery, headerOf } from '../delivery.ts';
import { BadRequest } from '../errors.ts';

/** What is at a way of keys; undefined when something on the way is missing. */
export function at(body: unknown, ...keys: readonly (string | number)[]): unknown {
	let value = body;
	for (const key of keys) {
		// Only its own: "constructor" and the like are in every object.
		if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return undefined;
		value = (value as Record<string | number, unknown>)[key];
	}
	return value;
}

/** The text there, a number as JSON writes it; empty when there is none. */
export function textAt(body: unknown, ...keys: readonly (string | number)[]): string {
	const value = at(body, ...keys);
	if (typeof value === 'string') return value;
	return typeof value === 'number' ? String(value) : '';
}

/** The list there; empty when there is none. */
export function listAt(body: unknown, ...keys: readonly (string | number)[]): readonly unknown[] {
	const value = at(body, ...keys);
	return Array.isArray(value) ? value : [];
}

/** The first that is not empty. */
export function firstOf(...texts: readonly string[]): string {
	return texts.find((text) => text !== '') ?? '';
}

/** @param sender for the message: `GitHub` @throws BadRequest unless the body is a map, as JSON objects and forms are */
export function mapOf(body: Body, sender: string): Readonly<Record<string, unknown>> {
	if (typeof body === 'object' && !Array.isArray(body)) return body as Readonly<Record<string, unknown>>;
	const what = body === undefined ? 'there is none' : 'it is a list';
	throw new BadRequest(`the body has to be a JSON object, as ${sender} sends it; ${what}`);
}

/** @throws BadRequest when it was not sent */
export function requiredHeader(delivery: Delivery, name: string, sender: string): string {
	const value = headerOf(delivery, name);
	if (value === '')
		throw new BadRequest(`there is no header ${name}, which ${sender} sends with every delivery`);
	return value;
}

/** A text that is fit to know a delivery by; null otherwise. */
export function idOf(text: string): string | null {
	return /^[!-~]{1,255}$/.test(text) ? text : null;
}

/** An id for what has none of its own, made of what tells one delivery from another. */
export function keyOf(...parts: readonly (string | Uint8Array)[]): string {
	const hash = createHash('sha256');
	// With their lengths, so that "a", "bc" is not "ab", "c".
	for (const part of parts) hash.update(`${part.length}:`).update(part);
	return hash.digest('base64url');
}

/** The last part of `owner/name`. */
export function lastPart(path: string): string {
	return path.slice(path.lastIndexOf('/') + 1);
}

/** A sender's own word, fit to be an event's kind; `call` when it is none. */
export function wordOf(text: string): string {
	return /^[!-~]{1,100}$/.test(text) ? text : 'call';
}
