/** Sonatype Nexus Repository. It signs with SHA-1, which is weak as a hash and still sound below an HMAC. */

import { z } from 'zod';
import { checkSignature } from '../auth/signature.ts';
import { day } from '../config/values.ts';
import { type Event, eventOf, headerOf } from '../delivery.ts';
import type { Secrets } from '../secret.ts';
import { at, idOf, mapOf, textAt, wordOf } from './fields.ts';
import { imageEvent } from './images.ts';
import { type SourceKind, verificationOf } from './kind.ts';

const form = {
	header: 'X-Nexus-Webhook-Signature',
	algorithm: 'sha1',
	encoding: 'hex',
	prefix: '',
} as const;

const options = z
	.strictObject({
		registry: z
			.string()
			.regex(/^[A-Za-z0-9.-]+(:\d+)?\/?$/, {
				error: 'must be a host, and a port if need be, such as registry.example.com:5000',
			})
			.optional()
			.meta({
				description:
					'The host of the registry, which Nexus does not tell, for event.image.registry. Default: none.',
			}),
	})
	.meta({ description: 'Sonatype Nexus Repository. The secret is the "Secret Key" of the capability.' });

export const nexus: SourceKind<z.output<typeof options>> = {
	name: 'nexus',
	secret: 'required',
	options,
	bare: true,
	compile({ registry = '' }, secrets) {
		const host = registry.replace(/\/$/, '');
		return {
			name: 'nexus',
			verification: verificationOf('nexus', (delivery) =>
				checkSignature(delivery, form, secrets as Secrets, [delivery.body], 'nexus'),
			),
			read(delivery, body) {
				const payload = mapOf(body, 'Nexus');
				// Such as rm:repository:component.
				const type = headerOf(delivery, 'X-Nexus-Webhook-ID').split(':').at(-1) ?? '';
				return { kind: 'events', events: [eventIn(type, payload, host)] };
			},
			deliveryId: (delivery) => idOf(headerOf(delivery, 'X-Nexus-Webhook-Delivery')),
			// It does not try again.
			remember: day,
		};
	},
};

function eventIn(type: string, payload: unknown, registry: string): Event {
	const action = textAt(payload, 'action');
	// Whoever did it, and from which address: `admin/192.0.2.7`.
	const initiator = textAt(payload, 'initiator');
	const sender = initiator.slice(0, Math.max(0, initiator.lastIndexOf('/'))) || initiator;
	const component = at(payload, 'component');
	if (textAt(component, 'format') === 'docker') {
		const image = {
			registry,
			repository: textAt(component, 'name'),
			tag: textAt(component, 'version'),
			digest: '',
		};
		const deleted = action === 'DELETED' || action === 'PURGED';
		return eventOf(imageEvent(image, action, { deleted, created: action === 'CREATED', sender }));
	}
	return eventOf({ kind: wordOf(type), action, sender });
}
