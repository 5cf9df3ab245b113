/** A secret: something to compare with, to sign with, and never to show. */

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { inspect } from 'node:util';
import { z } from 'zod';

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

/** A secret as routes.yaml names it: all values that are valid at the moment. A configuration is read anew when one changes. */
export interface Secrets {
	/** At least one. */
	readonly current: readonly Secret[];
}

/** Whether one of the secrets is what was given. It takes the same time whichever it is. */
export function matchesOne({ current }: Secrets, given: string | Uint8Array): boolean {
	return current.map((secret) => secret.matches(given)).includes(true);
}

/** One secret as it is written in routes.yaml: itself, or where it is. */
export type OneSecretSpec =
	| string
	| { readonly env: string }
	| { readonly file: string; readonly exact?: boolean | undefined }
	| { readonly credential: string; readonly exact?: boolean | undefined };

/** A secret as it is written in routes.yaml; of several, each is valid. */
export type SecretSpec = OneSecretSpec | readonly OneSecretSpec[];

const exact = z.boolean().optional().meta({
	description: 'true: a line end at its end belongs to the secret. Default: false, it does not.',
});

const oneSecret: z.ZodType<OneSecretSpec> = z.union(
	[
		z.string({ error: 'has to be text (in quotes), or where it is' }).min(1, {
			error: 'is empty, and an empty secret would let everybody in',
		}),
		z.strictObject({
			env: z
				.string()
				.regex(/^[A-Za-z_][A-Za-z0-9_]*$/, { error: 'is no name for an environment variable' })
				.meta({ description: "A variable in the listener's environment." }),
		}),
		z.strictObject({
			file: z.string().min(1).meta({
				description: "A file that holds it, and nothing else; relative to this file's own directory.",
			}),
			exact,
		}),
		z.strictObject({
			credential: z
				.string()
				.regex(/^(?!\.{1,2}$)[^\0/]+$/, {
					error: 'must be the name that LoadCredential= gives it, without a path',
				})
				.meta({ description: 'A credential of the systemd unit, by its name.' }),
			exact,
		}),
	],
	// Not "must be", after which what is there instead would be told.
	{ error: 'has to be text (in quotes), or where it is: { file: … }, { env: … } or { credential: … }' },
);

/** What may be written wherever a secret is asked for. */
export const secretSchema: z.ZodType<SecretSpec> = z
	.union([oneSecret, z.array(oneSecret).min(1)], {
		error:
			'has to be text (in quotes), or where it is: { file: … }, { env: … } or { credential: … }; or a list of these',
	})
	.meta({
		description:
			'A secret: its text, { env: NAME }, { file: path }, { credential: name } of systemd, or a list of these, all of which are valid.',
	});
