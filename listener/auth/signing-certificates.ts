/**
 * Certificates that a sender names in what it sends, with whose keys it has signed that. Whoever calls may name any, so who asks
 * for one has made sure that it is the sender's own; here is seen to it that callers cannot make us fetch without end.
 */

import { type KeyObject, X509Certificate } from 'node:crypto';
import { fetchText } from './jwks.ts';

/** Milliseconds for which a certificate is kept. Amazon changes its own about once a year. */
const fresh = 24 * 3_600_000;
/** Milliseconds before one that could not be had is fetched again. */
const pause = 30_000;
/** Certificates that are kept or being fetched; there is one for each region. A stranger who names others fills these, no more. */
const most = 32;

interface Known {
	readonly key: Promise<KeyObject>;
	/** By the clock that only goes forward. */
	until: number;
}

export class SigningCertificates {
	readonly #known = new Map<string, Known>();

	/** The public key of the certificate at an address. @throws Error when it cannot be had, or is not valid now */
	keyAt(address: string): Promise<KeyObject> {
		const now = performance.now();
		for (const [other, { until }] of this.#known) if (until <= now) this.#known.delete(other);
		const before = this.#known.get(address);
		if (before !== undefined) return before.key;
		if (this.#known.size >= most) return Promise.reject(new Error('too many certificates were asked for'));
		const known: Known = { key: fetchKey(address), until: now + fresh };
		this.#known.set(address, known);
		known.key.catch(() => {
			known.until = performance.now() + pause;
		});
		return known.key;
	}
}

async function fetchKey(address: string): Promise<KeyObject> {
	const certificate = new X509Certificate(await fetchText(address));
	const now = Date.now();
	if (now < certificate.validFromDate.getTime() || now > certificate.validToDate.getTime()) {
		throw new Error('the certificate is not valid now');
	}
	return certificate.publicKey;
}
