/** What a kind of source is: a sender whose deliveries we can verify and read. */

import type { z } from 'zod';
import type { Check } from '../auth/kind.ts';
import type { Body, Delivery, Event } from '../delivery.ts';
import type { Secret, Secrets } from '../secret.ts';

/** What a verified delivery turns out to be. */
export type Reading =
	/** Each event may become a run. `body` takes the delivery's place in expressions and parameters, where not all of that was verified. */
	| { readonly kind: 'events'; readonly events: readonly Event[]; readonly body?: Body }
	/** Nothing that anybody could want to run something for; answered 200 with the reason. */
	| { readonly kind: 'ignored'; readonly reason: string }
	/** A ping, a handshake, a challenge: answered like this, and nothing runs. */
	| { readonly kind: 'answer'; readonly status: number; readonly type: string; readonly body: string }
	/** The sender wants this URL fetched once, to know that deliveries are wanted. It has been checked. */
	| { readonly kind: 'confirm'; readonly url: string };

/** A sender, as a route names it. */
export interface Source {
	/** Such as `github`. */
	readonly name: string;
	/** Checks that the sender sent exactly these bytes; null when it has no way to prove it, so that the route needs `auth` or a secret path. */
	readonly verification: Check | null;
	/**
	 * Reads a verified delivery. Never throws for what a sender may leave out.
	 * @param body what JSON or a form's field `payload` holds, or the form's fields
	 * @throws BadRequest when it is not what this sender sends
	 */
	read(delivery: Delivery, body: Body): Reading;
	/** The sender's id for this delivery, the same when it sends it again; null when it has none. */
	deliveryId(delivery: Delivery, body: Body): string | null;
	/** Milliseconds for which that id is remembered: long after the sender's last retry. */
	readonly remember: number;
	/** Senders that may ask by OPTIONS whether deliveries are wanted here, as CloudEvents senders do; none without it. */
	readonly origins?: readonly string[];
}

/** A kind of source, one a file; the table of them is in source.ts. */
export interface SourceKind<Options = unknown> {
	/** As routes.yaml names it. */
	readonly name: string;
	/** Whether a route with this source has `secret`. */
	readonly secret: 'required' | 'optional' | 'none';
	/** What is wrong with a secret that this sender cannot have, such as one that is not base64; null: nothing. */
	secretFault?(secret: Secret): string | null;
	/** What may be said below the name: `source: { hmac: { header: X-Signature } }`. */
	readonly options: z.ZodType<Options>;
	/** Whether it can be said by its name alone. */
	readonly bare: boolean;
	/** @param secrets null exactly when the route has none */
	compile(options: Options, secrets: Secrets | null): Source;
}

/** A source's check of its sender, over the bytes of the body. @param name of the kind */
export function verificationOf(name: string, check: Check['check']): Check {
	return { kind: name, name, ofBody: true, check };
}

/** Answers a ping or a handshake. */
export function plainAnswer(body: string): Reading {
	return { kind: 'answer', status: 200, type: 'text/plain; charset=utf-8', body };
}
