/**
 * Who may call a route. `verify` is the only way to a VerifiedDelivery, and everything that acts on a delivery asks for one,
 * so a check that was forgotten does not compile. Kinds of auth look at the exact bytes received, never at a parsed body.
 */

import type { Delivery } from '../delivery.ts';
import { Forbidden, Unauthorized } from '../errors.ts';
import type { Check, Refused } from './kind.ts';
import { checkLocal } from './local.ts';
import { checkOpen } from './open.ts';

/** How a route checks its callers. With neither `any` nor `source` it is open: to all who reach it, or to this host's programs. */
export interface Access {
	/** True when the route says `auth: none`. */
	readonly open: boolean;
	/** The auth that the route names: one of them suffices. */
	readonly any: readonly Check[];
	/** The source's own verification; it has to pass beside `any`. null: it has none, or there is no source. */
	readonly source: Check | null;
}

/** True when everybody who reaches it, or every program of this host, may call. */
export function isOpen({ any, source }: Access): boolean {
	return any.length === 0 && source === null;
}

/** Made by `verify` alone: the private field keeps look-alikes out. */
class Verified {
	readonly #delivery: Delivery;
	readonly #who: string;

	constructor(delivery: Delivery, who: string) {
		this.#delivery = delivery;
		this.#who = who;
	}

	get delivery(): Delivery {
		return this.#delivery;
	}

	/** Who was found to call, for the log; empty when the route is open. */
	get who(): string {
		return this.#who;
	}
}

/** A delivery whose sender may call the route it was sent to. */
export type VerifiedDelivery = Verified;

/**
 * Checks a delivery's sender.
 * @throws Unauthorized when it is not known, Forbidden when it may not call the route
 */
export async function verify(delivery: Delivery, access: Access): Promise<VerifiedDelivery> {
	const { any, source } = access;
	if (isOpen(access)) {
		if (access.open) checkOpen(delivery);
		else
			checkLocal(
				delivery,
				'this route is open to programs of this host only, as it does not say "auth: none"',
			);
		return new Verified(delivery, '');
	}
	const callers = any.length === 0 ? '' : await admittedBy(any, delivery);
	const sender = source === null ? '' : await admittedBy([source], delivery);
	return new Verified(delivery, [sender, callers].filter((who) => who !== '').join(', '));
}

/** Who the first check that passes says it is. */
async function admittedBy(checks: readonly Check[], delivery: Delivery): Promise<string> {
	const refusals: Refused[] = [];
	for (const check of checks) {
		const verdict = await check.check(delivery);
		if (verdict.ok) return verdict.who;
		refusals.push({ ...verdict, reason: `${check.name}: ${verdict.reason}` });
	}
	throw refusal(refusals);
}

/** 403 only when no other proof would help: somebody whose address is not admitted but who may have a token is asked for it. */
function refusal(refusals: readonly Refused[]): Unauthorized | Forbidden {
	const why = refusals.map(({ reason }) => reason).join('; ');
	if (refusals.every(({ status }) => status === 403)) {
		return new Forbidden('the caller may not call this route', { why });
	}
	const challenges = refusals.flatMap(({ challenge }) => challenge ?? []);
	return new Unauthorized('the caller is not known; send what the route asks for', {
		why,
		headers: { 'WWW-Authenticate': [...new Set(challenges)].join(', ') || 'Webhook' },
	});
}
