/**
 * Who may call a route. `verify` is the only way to a VerifiedDelivery, and everything that acts on a delivery asks for one,
 * so a check that was forgotten does not compile. Kinds of auth look at the exact bytes received, never at a parsed body.
 */

import type { Delivery } from '../delivery.ts';
import { checkLocal } from './local.ts';
import { checkOpen } from './open.ts';

/** How a route checks its callers. `open` asks for no proof; unless the route `said` so, only this host's programs pass. */
export interface Auth {
	readonly kind: 'open';
	/** True when the route says `auth: none`, false when it is open because it says nothing and listens on loopback. */
	readonly said: boolean;
}

/** Made by `verify` alone: the private field keeps look-alikes out. */
class Verified {
	readonly #delivery: Delivery;

	constructor(delivery: Delivery) {
		this.#delivery = delivery;
	}

	get delivery(): Delivery {
		return this.#delivery;
	}
}

/** A delivery whose sender may call the route it was sent to. */
export type VerifiedDelivery = Verified;

/** Checks a delivery's sender. @throws Forbidden when it may not call the route */
export function verify(delivery: Delivery, auth: Auth): VerifiedDelivery {
	if (auth.said) checkOpen(delivery);
	else
		checkLocal(delivery, 'this route is open to programs of this host only, as it does not say "auth: none"');
	return new Verified(delivery);
}
