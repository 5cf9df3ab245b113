/** A secret: something to compare with, to sign with, and never to show. */

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { inspect } from 'node:util';

/** Hashes under it say nothing to who sees them, and are of one length, so that comparing takes the same time for all. */
const comparing = randomBytes(32);

/** A secret's bytes, never empty. It prints as `[secret]`, whoever prints it and by whatever way. */
export class Secret {
	readonly #bytes: Buffer;

	/** @throws TypeError when there is nothing in it, since an empty secret would let everybody in */
	constructor(value: string | Uint8Array) {
		this.#bytes = Buffer.from(value as string);
		if (this.#bytes.length === 0) throw new TypeError('a secret must not be empty');
	}

	/** Whether it is the same, in a time that tells neither where they differ nor how long this one is. */
	matches(given: string | Uint8Array): boolean {
		return timingSafeEqual(digest(given), digest(this.#bytes));
	}

	/** The parts' keyed hash under this secret. @param algorithm `sha256`, `sha512`, or `sha1` where a sender has no other */
	hmac(algorithm: 'sha1' | 'sha256' | 'sha512', ...parts: readonly (string | Uint8Array)[]): Buffer {
		const hmac = createHmac(algorithm, this.#bytes);
		for (const part of parts) hmac.update(part);
		return hmac.digest();
	}

	/** The bytes themselves, for who has to send, mask or fingerprint them. */
	reveal(): Buffer {
		return this.#bytes;
	}

	toString(): string {
		return '[secret]';
	}

	toJSON(): string {
		return '[secret]';
	}

	[inspect.custom](): string {
		return '[secret]';
	}
}

function digest(value: string | Uint8Array): Buffer {
	return createHmac('sha256', comparing).update(value).digest();
}

/** A secret as routes.yaml names it: all values that are valid at the moment. Files are read again when they change. */
export interface Secrets {
	/** At least one. */
	readonly current: readonly Secret[];
}
