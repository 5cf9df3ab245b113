/** What becomes of an event of a verified delivery: a run with these parameters, or nothing, and then why. Pure. */

import type { Event } from '../delivery.ts';
import type { Scope } from './expressions.ts';
import { type Parameters, resolveParameters } from './parameters.ts';
import type { Route } from './route.ts';

export type Decision =
	| { readonly kind: 'run'; readonly event: Event; readonly parameters: Parameters }
	| { readonly kind: 'ignored'; readonly event: Event; readonly reason: string };

/**
 * Decides about one event.
 * @throws BadParameters naming each parameter that is missing or not admitted; only for an event that passes the route's `when`
 */
export function decide(route: Route, scope: Scope): Decision {
	const { event } = scope;
	const reason = objection(route, scope);
	if (reason !== undefined) return { kind: 'ignored', event, reason };
	return { kind: 'run', event, parameters: resolveParameters(route.rules, scope) };
}

/** Why the route does not want the event; undefined when it does. */
function objection({ when }: Route, scope: Scope): string | undefined {
	if (when === null) return undefined;
	const result = when.evaluate(scope);
	// A condition that cannot be answered has not said yes.
	if ('error' in result) return `when: ${when.text}: ${result.error}`;
	return result.value === true ? undefined : `when: ${when.text} is not true`;
}
