/** `bearer`: a token in `Authorization: Bearer …` (RFC 6750), never in the address, which proxies and browsers write down. */

import { headerOf } from '../delivery.ts';
import { matchesOne, type SecretSpec, secretSchema } from '../secret.ts';
import { tellUnsendable } from './header.ts';
import { type AuthKind, admitted, unknown } from './kind.ts';

export const bearer: AuthKind<SecretSpec> = {
	name: 'bearer',
	options: secretSchema.meta({ description: 'A token, sent as "Authorization: Bearer …".' }),
	compile(spec, making) {
		const secrets = making.secrets(spec);
		tellUnsendable(secrets, making);
		return {
			kind: 'bearer',
			name: making.name,
			check(delivery) {
				const token = bearerToken(headerOf(delivery, 'authorization'));
				if (token === undefined) return unknown('there is no "Authorization: Bearer …"', 'Bearer');
				return matchesOne(secrets, Buffer.from(token, 'latin1'))
					? admitted(making.name)
					: unknown('the token is another', 'Bearer');
			},
		};
	},
};

/** The token of an Authorization header; undefined when it has another scheme, or none. */
export function bearerToken(authorization: string): string | undefined {
	return /^bearer +(\S.*)$/is.exec(authorization)?.[1];
}
