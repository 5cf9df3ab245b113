/** What becomes of an event of a verified delivery: a run with these parameters, or nothing, and then why. Pure. */

import { isOpen, type VerifiedDelivery } from '../auth/auth.ts';
import { type Body, type Delivery, type Event, eventOf } from '../delivery.ts';
import type { NewRun } from '../runs/run.ts';
import type { Reading } from '../sources/kind.ts';
import type { Finding, Scope } from './expressions.ts';
import { type Parameters, resolveParameters } from './parameters.ts';
import type { Route } from './route.ts';

/** A delivery that no source gives a meaning. */
const plainCall: Reading = Object.freeze({ kind: 'events', events: [eventOf({ kind: 'call' })] });

/** What a verified delivery tells, by the route's source; without one it is a call. @throws BadRequest when it is not what the source sends */
export function read({ delivery }: VerifiedDelivery, { source }: Route, content: Body): Reading {
	return source === null ? plainCall : source.read(delivery, content);
}

/** An event that becomes a run. */
export interface Wanted {
	readonly kind: 'run';
	readonly event: Event;
	readonly parameters: Parameters;
}

export type Decision =
	| Wanted
	| {
			readonly kind: 'ignored';
			readonly event: Event;
			/** For the caller. */
			readonly reason: string;
			/** For the log: with the values that the condition looked at. */
			readonly why: string;
	  };

/**
 * Decides about one event.
 * @throws BadParameters naming each parameter that is missing or not admitted; only for an event that passes the route's `when`
 */
export function decide(route: Route, scope: Scope): Decision {
	const { event } = scope;
	const { when, rules } = route;
	if (when !== null) {
		const result = when.evaluate(scope);
		// A condition that cannot be answered has not said yes.
		if (!('value' in result) || result.value !== true) {
			return { kind: 'ignored', event, ...objection(route, firstNo(when.review(scope))) };
		}
	}
	return { kind: 'run', event, parameters: resolveParameters(rules, scope) };
}

function firstNo(findings: Iterable<Finding>): Finding | undefined {
	for (const finding of findings) if (!finding.holds) return finding;
	return undefined;
}

function objection({ access, when }: Route, finding: Finding | undefined): { reason: string; why: string } {
	const reason = `when: ${finding?.reason ?? `${when?.text} is not true`}`;
	const values = (finding?.values ?? []).map(({ text, value }) => `${text} = ${value}`).join(', ');
	return {
		// Anybody may be asking, and a condition may tell more about a site than anybody should know.
		reason: isOpen(access) && access.open ? "when: the route's condition is not true" : reason,
		why: values === '' ? reason : `${reason} (${values})`,
	};
}

/** The run that an event becomes. @param given `stdin`: bytes for its commands, null for none */
export function runOf(
	{ delivery }: VerifiedDelivery,
	route: Route,
	{ event, parameters }: Wanted,
	given: { readonly id: string; readonly stdin: Buffer | null },
): NewRun {
	return {
		...given,
		route: route.name,
		group: route.group(parameters),
		limit: route.limit,
		whenBusy: route.whenBusy,
		delivery: delivery.id,
		event: event.kind,
		client: delivery.client.ip,
		certname: delivery.client.certname,
		parameters: parameters.values,
		plan: route.plan(parameters),
		acceptedAt: delivery.receivedAt,
	};
}

/** What expressions and parameters of a delivery's events are taken from. @param path the values of the path's `:name` parts */
export function scopeOf(
	{ delivery }: VerifiedDelivery,
	path: Readonly<Record<string, string>>,
	body: Body,
): (event: Event) => Scope {
	const { query, client } = delivery;
	return (event) => ({
		event,
		body,
		query,
		path,
		client,
		// Joined only for an expression that asks.
		get headers() {
			return joinedHeaders(delivery.headers);
		},
	});
}

function joinedHeaders(headers: Delivery['headers']): Record<string, string> {
	const joined: Record<string, string> = {};
	for (const [name, value] of Object.entries(headers)) {
		if (value !== undefined) joined[name] = typeof value === 'string' ? value : value.join(', ');
	}
	return joined;
}
