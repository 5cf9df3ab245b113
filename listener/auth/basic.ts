/** `basic`: user and password (RFC 7617), which many senders take from the address that they are given: `https://user:password@host/`. */

import { z } from 'zod';
import { headerOf } from '../delivery.ts';
import { matchesOne, Secret, type SecretSpec, secretSchema } from '../secret.ts';
import { type AuthKind, admitted, forbidden, unknown } from './kind.ts';
import { broughtAbout } from './open.ts';

const challenge = 'Basic realm="puppet-webhook", charset="UTF-8"';

export const basic: AuthKind<{ user: string; password: SecretSpec }> = {
	name: 'basic',
	options: z
		.strictObject({
			user: z
				.string()
				.regex(/^[^:\p{Cc}]+$/u, { error: 'must not be empty, nor have a colon or a control character' })
				.meta({ description: 'The name of the user.' }),
			password: secretSchema,
		})
		.meta({ description: 'User and password, sent as "Authorization: Basic …".' }),
	compile({ user, password }, making) {
		const secrets = making.secrets(password, 'password');
		const expected = new Secret(user);
		return {
			kind: 'basic',
			name: making.name,
			check(delivery) {
				const given = credentials(headerOf(delivery, 'authorization'));
				if (given === undefined) return unknown('there is no "Authorization: Basic …"', challenge);
				// Both are compared in any case, so that time does not tell which of them is wrong.
				const rightUser = expected.matches(given.user);
				const rightPassword = matchesOne(secrets, given.password);
				if (!rightUser || !rightPassword) return unknown('user or password is another', challenge);
				// A browser that knows the password sends it by itself, also when another page asks it to.
				const page = broughtAbout(delivery);
				return page === undefined ? admitted(`basic user ${user}`) : forbidden(page);
			},
		};
	},
};

/** What the header holds; undefined when it has another scheme, or is not as RFC 7617 has it. */
function credentials(authorization: string): { user: Buffer; password: Buffer } | undefined {
	const text = /^basic +([A-Za-z0-9+/]+={0,2})$/i.exec(authorization)?.[1];
	if (text === undefined) return undefined;
	const bytes = Buffer.from(text, 'base64');
	const colon = bytes.indexOf(0x3a);
	if (colon < 0) return undefined;
	return { user: bytes.subarray(0, colon), password: bytes.subarray(colon + 1) };
}
