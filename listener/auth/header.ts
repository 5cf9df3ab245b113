/** `header`: a header of the caller's choosing holds the secret, whole. For senders that can add a header and do nothing else. */

import { z } from 'zod';
import { headerOf } from '../delivery.ts';
import { matchesOne, type SecretSpec, type Secrets, secretSchema } from '../secret.ts';
import { type AuthKind, admitted, type Making, unknown } from './kind.ts';

export const header: AuthKind<{ name: string; value: SecretSpec }> = {
	name: 'header',
	options: z
		.strictObject({
			name: z
				.string()
				.regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/, { error: 'is no name for a header, such as X-Api-Key' })
				.meta({ description: 'The header, in any case.' }),
			value: secretSchema,
		})
		.meta({ description: 'A header that holds a secret.' }),
	compile({ name, value }, making) {
		const secrets = making.secrets(value, 'value');
		tellUnsendable(secrets, making, 'value');
		return {
			kind: 'header',
			name: making.name,
			check(delivery) {
				const given = headerOf(delivery, name);
				if (given === '') return unknown(`there is no header ${name}, or nothing in it`);
				// Node hands bytes on as Latin-1.
				return matchesOne(secrets, Buffer.from(given, 'latin1'))
					? admitted(making.name)
					: unknown(`the header ${name} holds another text`);
			},
		};
	},
};

/** Tells of secrets that no header can hold, with which nobody could ever call. */
export function tellUnsendable(secrets: Secrets, making: Making, ...key: readonly string[]): void {
	const sendable = /^[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?$/;
	if (secrets.current.every((secret) => sendable.test(secret.reveal().toString('latin1')))) return;
	making.fault(
		'can never be sent: a header holds no line end, and no blank at its beginning or end; is it the right secret?',
		...key,
	);
}
