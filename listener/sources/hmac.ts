/** A sender that signs with a shared secret in a way of its own, which routes.yaml describes. */

import { z } from 'zod';
import { checkSignatureSpec, compileSignature, signatureKeys } from '../auth/signature.ts';
import { day } from '../config/values.ts';
import { eventOf, headerOf } from '../delivery.ts';
import type { Secrets } from '../secret.ts';
import { idOf, textAt, wordOf } from './fields.ts';
import type { SourceKind } from './kind.ts';

const options = z
	.strictObject({
		...signatureKeys,
		event: z
			.string()
			.regex(/^(?:\/.*|[A-Za-z0-9!#$%&'*+.^_`|~-]+)$/, {
				error: 'must be a header, such as X-Event, or a place in the body, such as /event/type',
			})
			.optional()
			.meta({
				description:
					"Where the event's kind is: a header, or a place in the body as a JSON pointer (/event/type). Default: none, every event is a call.",
			}),
	})
	.superRefine(checkSignatureSpec)
	.meta({ description: 'Any sender that signs what it sends with a shared secret.' });

export const hmac: SourceKind<z.output<typeof options>> = {
	name: 'hmac',
	secret: 'required',
	options,
	bare: true,
	compile({ event, ...spec }, secrets) {
		const { id } = spec;
		const pointer = event?.startsWith('/') ? pointerKeys(event) : undefined;
		return {
			name: 'hmac',
			verification: compileSignature('hmac', 'hmac', spec, secrets as Secrets),
			read(delivery, body) {
				const told = pointer === undefined ? event && headerOf(delivery, event) : textAt(body, ...pointer);
				return { kind: 'events', events: [eventOf({ kind: wordOf(told ?? '') })] };
			},
			deliveryId: (delivery) => (id === undefined ? null : idOf(headerOf(delivery, id))),
			// How long such a sender tries is not known; a week is what the most patient do.
			remember: 7 * day,
		};
	},
};

/** The keys of a JSON pointer (RFC 6901). */
function pointerKeys(pointer: string): string[] {
	return pointer
		.slice(1)
		.split('/')
		.map((key) => key.replaceAll('~1', '/').replaceAll('~0', '~'));
}
