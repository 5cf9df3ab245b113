/** Expressions: conditions and values in CEL, compiled when the configuration is loaded. */

import type { Body, Client, Event } from '../delivery.ts';

/** What an expression may speak of. */
export interface Scope {
	readonly event: Event;
	readonly body: Body;
	/** Names in lower case; several of one name are joined by `, `. */
	readonly headers: Readonly<Record<string, string>>;
	readonly query: Readonly<Record<string, string | readonly string[]>>;
	/** The values of the path's `:name` parts. */
	readonly path: Readonly<Record<string, string>>;
	readonly client: Client;
}

/** A compiled expression. */
export interface Expression {
	/** As written. */
	readonly text: string;
	/** What it gives, or why it gives nothing, such as a field that the body does not have. */
	evaluate(scope: Scope): { readonly value: unknown } | { readonly error: string };
}
