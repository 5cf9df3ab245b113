/** `hmac`: the body is signed with a shared secret, in a way that routes.yaml describes. */

import { z } from 'zod';
import { type SecretSpec, secretSchema } from '../secret.ts';
import type { AuthKind } from './kind.ts';
import { checkSignatureSpec, compileSignature, type SignatureSpec, signatureKeys } from './signature.ts';

export const hmac: AuthKind<SignatureSpec & { secret: SecretSpec }> = {
	name: 'hmac',
	options: z
		.strictObject({ secret: secretSchema, ...signatureKeys })
		.superRefine(checkSignatureSpec)
		.meta({ description: 'A signature of the body, made with a secret that both sides know.' }),
	compile({ secret, ...spec }, making) {
		const check = compileSignature('hmac', making.name, spec, making.secrets(secret, 'secret'));
		return { ...check, ofBody: true };
	},
};
