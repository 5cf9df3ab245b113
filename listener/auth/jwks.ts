/**
 * The public keys that an issuer signs its tokens with (JWKS, RFC 7517): from its address or from a file, kept for a while, and
 * fetched anew when a token names a key that is not among them, as issuers change theirs.
 */

import { readFile } from 'node:fs/promises';
import type { CryptoKey, FlattenedJWSInput, JSONWebKeySet, JWSHeaderParameters, LocalJWKSet } from 'jose';

/** Milliseconds after which keys are fetched again. Issuers announce a new key for longer, and a withdrawn one must not last. */
const fresh = 10 * 60_000;
/** Milliseconds for which keys are used on while the issuer cannot be reached: an outage of its must not become ours. */
const usable = 24 * 3_600_000;
/** Milliseconds between fetches for the sake of unknown keys, since anybody can send a token that names one. */
const pause = 30_000;
/** Milliseconds until a fetch that failed is tried again: callers wait for it, and the issuer may be overloaded. */
const pauseAfterFailure = 5000;
/** Milliseconds that the issuer has to answer; a caller waits meanwhile. */
const patience = 5000;
/** Bytes; issuers have some ten keys of at most 2 KiB. */
const largest = 256 * 1024;

/** The keys cannot be had; the message says why. */
export class KeysUnavailable extends Error {}

/** The keys of one issuer. */
export class KeySet {
	readonly #place: string;
	#keys: LocalJWKSet | undefined;
	/** When the keys were fetched, and before when they are not to be fetched again; by the clock that only goes forward. */
	#fetchedAt = Number.NEGATIVE_INFINITY;
	#pausedUntil = Number.NEGATIVE_INFINITY;
	#failure = '';
	#fetching: Promise<void> | undefined;

	/** @param place an https address, or an absolute path. Nothing is fetched before a token comes. */
	constructor(place: string) {
		this.#place = place;
	}

	/** The key that a token's header names. @throws KeysUnavailable · an error of jose when there is none that fits */
	async keyFor(header: JWSHeaderParameters, token: FlattenedJWSInput): Promise<CryptoKey> {
		if (performance.now() - this.#fetchedAt > fresh) await this.#refresh(0);
		const { errors } = await import('jose');
		try {
			return await this.#current()(header, token);
		} catch (error) {
			if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
			const before = this.#fetchedAt;
			await this.#refresh(pause);
			if (this.#fetchedAt === before) throw error;
			return this.#current()(header, token);
		}
	}

	#current(): LocalJWKSet {
		if (this.#keys !== undefined && performance.now() - this.#fetchedAt <= usable) return this.#keys;
		throw new KeysUnavailable(`the keys of ${this.#place} cannot be had: ${this.#failure}`);
	}

	/** Fetches, unless it is too early for that. Many callers at a time wait for one fetch. @param rest until the next one */
	#refresh(rest: number): Promise<void> {
		if (this.#fetching !== undefined) return this.#fetching;
		if (performance.now() < this.#pausedUntil) return Promise.resolve();
		this.#pausedUntil = performance.now() + rest;
		this.#fetching = this.#fetch()
			.catch((error: Error) => {
				this.#pausedUntil = performance.now() + Math.max(rest, pauseAfterFailure);
				this.#failure = error.cause instanceof Error ? error.cause.message : error.message;
			})
			.finally(() => {
				this.#fetching = undefined;
			});
		return this.#fetching;
	}

	async #fetch(): Promise<void> {
		const text = this.#place.startsWith('/')
			? await readFile(this.#place, 'utf8')
			: await fetchText(this.#place);
		const { createLocalJWKSet } = await import('jose');
		this.#keys = createLocalJWKSet(parseKeys(text));
		this.#fetchedAt = performance.now();
	}
}

/** @throws Error when it is no set of keys */
export function parseKeys(text: string): JSONWebKeySet {
	let keys: unknown;
	try {
		keys = JSON.parse(text);
	} catch {}
	const list = keys !== null && typeof keys === 'object' && 'keys' in keys ? keys.keys : undefined;
	if (!Array.isArray(list) || list.length === 0) throw new Error('holds no JSON Web Key Set, {"keys": […]}');
	return keys as JSONWebKeySet;
}

/** What is at an address that keys are at. @throws Error when it is not to be had, or is too much */
export async function fetchText(address: string): Promise<string> {
	const response = await fetch(address, {
		// A redirect would lead where nobody has said that keys are.
		redirect: 'error',
		headers: { accept: 'application/json' },
		signal: AbortSignal.timeout(patience),
	});
	if (response.status !== 200) {
		await response.body?.cancel();
		throw new Error(`it answers ${response.status}`);
	}
	const chunks: Uint8Array[] = [];
	let size = 0;
	for await (const chunk of response.body ?? []) {
		size += chunk.length;
		if (size > largest) throw new Error(`it sends more than ${largest} bytes`);
		chunks.push(chunk);
	}
	return Buffer.concat(chunks).toString();
}
