/**
 * How often routes are called. A rate is an allowance that comes back evenly: of 60 a minute all may be taken at once, and one
 * comes back each second. Kept in memory for each client of each route, and begun anew by a restart.
 */

import { type Access, type VerifiedDelivery, verify } from '../auth/auth.ts';
import type { Delivery } from '../delivery.ts';
import { Forbidden, TooManyRequests, Unauthorized } from '../errors.ts';
import type { Rate, Route } from '../routes/route.ts';

/** Allowances that are known at a time: some 10 MB. Of more, those longest untouched are forgotten, and so are whole again. */
const most = 50_000;

const refusals = 'too many of this client were refused';

/** Milliseconds, by a clock that only goes forward. */
type Clock = () => number;

/** What is called: a route, or what counts as one. */
type Metered = Pick<Route, 'name' | 'rates'>;

export class Rates {
	/** When each allowance that was taken from will be whole again; the longest untouched first. */
	readonly #whole = new Map<string, number>();
	readonly #now: Clock;

	constructor(now: Clock = () => performance.now()) {
		this.#now = now;
	}

	/**
	 * Counts a delivery of which nothing but its sender's address is known.
	 * @throws TooManyRequests when there were too many of that client, or too many that were refused
	 */
	arrived({ name, rates }: Metered, ip: string): void {
		const client = clientKey(ip);
		this.#expect(rates.failures, `failures ${name} ${client}`, refusals);
		if (rates.client !== null)
			this.#take(rates.client, `client ${name} ${client}`, 'too many of this client');
	}

	/**
	 * Checks a delivery's sender, and counts it when it is refused: whoever guesses gets some attempts, and then no answer to the
	 * question whether a guess was right.
	 * @throws Unauthorized · Forbidden · TooManyRequests
	 */
	async verify(delivery: Delivery, access: Access, { name, rates }: Metered): Promise<VerifiedDelivery> {
		const key = `failures ${name} ${clientKey(delivery.client.ip)}`;
		// Again, since many may have been on their way at once.
		this.#expect(rates.failures, key, refusals);
		try {
			return await verify(delivery, access);
		} catch (error) {
			if (error instanceof Unauthorized || error instanceof Forbidden)
				this.#take(rates.failures, key, refusals);
			throw error;
		}
	}

	/** Counts a delivery that was verified. @throws TooManyRequests when there were too many of all clients together */
	verified({ name, rates }: Metered): void {
		if (rates.route !== null) this.#take(rates.route, `route ${name}`, 'too many of all clients');
	}

	#take(rate: Rate, key: string, what: string): void {
		const whole = this.#expect(rate, key, what);
		this.#whole.delete(key);
		this.#whole.set(key, whole + rate.per / rate.count);
		if (this.#whole.size > most) this.#whole.delete(this.#whole.keys().next().value ?? key);
	}

	/** When the allowance would be whole again. @throws TooManyRequests when nothing is left of it */
	#expect(rate: Rate, key: string, what: string): number {
		const now = this.#now();
		const whole = Math.max(this.#whole.get(key) ?? now, now);
		const wait = whole + rate.per / rate.count - rate.per - now;
		// What floating point leaves over is no reason to refuse.
		if (wait <= 1e-6) return whole;
		const seconds = Math.ceil(wait / 1000);
		throw new TooManyRequests(`too many deliveries; try again in ${seconds} s`, {
			headers: { 'Retry-After': String(seconds) },
			why: `${what}: more than ${rate.count} in ${rate.per / 1000} s`,
		});
	}
}

/** Who counts as one client: an IPv4 address; of IPv6 the network of 64 bits, as each of them has more addresses than one can count. */
function clientKey(ip: string): string {
	if (!ip.includes(':')) return ip;
	const [head = '', tail] = ip.split('::');
	const before = head === '' ? [] : head.split(':');
	const after = tail === undefined || tail === '' ? [] : tail.split(':');
	const zeros = tail === undefined ? 0 : 8 - before.length - after.length;
	return [...before, ...Array<string>(Math.max(zeros, 0)).fill('0'), ...after].slice(0, 4).join(':');
}
