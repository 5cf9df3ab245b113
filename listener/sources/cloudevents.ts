/**
 * CloudEvents over HTTP: an event's attributes in headers (binary mode), or the whole event as JSON (structured mode), also
 * several of them in a list.
 */

import type { Body, Delivery } from '../delivery.ts';
import { headerOf } from '../delivery.ts';
import { BadRequest } from '../errors.ts';
import { at, keyOf, textAt } from './fields.ts';

export interface CloudEvent {
	readonly id: string;
	readonly source: string;
	readonly type: string;
	readonly subject: string;
	readonly data: unknown;
	/** All of it, with what extensions add; in binary mode the data alone. */
	readonly whole: unknown;
}

/** How the content type says that a body is a whole event, or several. */
const structured = /^\s*application\/cloudevents(-batch)?\+json\s*(;|$)/i;

/** Whether a delivery is one or more CloudEvents, as its headers tell. */
export function isCloudEvent(delivery: Pick<Delivery, 'headers'>): boolean {
	return headerOf(delivery, 'ce-type') !== '' || structured.test(headerOf(delivery, 'content-type'));
}

/**
 * The events of a delivery, in order.
 * @throws BadRequest when one has no type, source or id, without which it is none
 */
export function cloudEvents(delivery: Pick<Delivery, 'headers'>, body: Body): CloudEvent[] {
	if (headerOf(delivery, 'ce-type') !== '') {
		const attribute = (name: string) => decoded(headerOf(delivery, `ce-${name}`));
		return [
			checked({
				id: attribute('id'),
				source: attribute('source'),
				type: attribute('type'),
				subject: attribute('subject'),
				data: body,
				whole: body,
			}),
		];
	}
	return (Array.isArray(body) ? body : [body]).map((event) =>
		checked({
			id: textAt(event, 'id'),
			source: textAt(event, 'source'),
			type: textAt(event, 'type'),
			subject: textAt(event, 'subject'),
			data: at(event, 'data'),
			whole: event,
		}),
	);
}

/** Headers carry what is not ASCII percent-encoded; what only looks so stays as it is. */
function decoded(text: string): string {
	try {
		return decodeURIComponent(text);
	} catch {
		return text;
	}
}

function checked(event: CloudEvent): CloudEvent {
	const missing = (['type', 'source', 'id'] as const).find((name) => event[name] === '');
	if (missing === undefined) return event;
	throw new BadRequest(`the body has to be a CloudEvent; it has no "${missing}"`);
}

/** What a delivery of events is known by: an id is one of its source only. */
export function cloudEventsKey(events: readonly Pick<CloudEvent, 'id' | 'source'>[]): string {
	return keyOf(...events.flatMap(({ source, id }) => [source, id]));
}
