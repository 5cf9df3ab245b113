/**
 * Google's registries (Artifact Registry, Container Registry) through a push subscription of Pub/Sub. Each message comes with
 * a token that Google has signed for the service account of the subscription.
 */

import { z } from 'zod';
import { bearerToken } from '../auth/bearer.ts';
import { KeySet } from '../auth/jwks.ts';
import { payloadOf } from '../auth/jwt.ts';
import { admitted, type Check, unknown } from '../auth/kind.ts';
import { day } from '../config/values.ts';
import { type Body, eventOf, headerOf } from '../delivery.ts';
import { firstOf, idOf, keyOf, textAt } from './fields.ts';
import { imageEvent, imageOf } from './images.ts';
import type { Reading, SourceKind } from './kind.ts';

const googleKeys = 'https://www.googleapis.com/oauth2/v3/certs';
const issuers = ['https://accounts.google.com', 'accounts.google.com'];

const texts = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)], {
	error: 'must be text, or a list of texts',
});

const options = z
	.strictObject({
		audience: texts.meta({
			description:
				'For whom tokens are made: the audience of the subscription, or else the whole URL that it pushes to.',
		}),
		email: texts.meta({
			description:
				'The service account of the subscription. Without it, anybody with an account at Google could have such tokens made.',
		}),
		unwrapped: z.boolean().optional().meta({
			description: 'true: the subscription has "payload unwrapping" enabled. Default: false.',
		}),
		jwks: z
			.string()
			.regex(/^https:\/\/|^http:\/\/(localhost|127\.0\.0\.1|\[::1\])(:\d+)?\//, {
				error: 'must be an https address',
			})
			.optional()
			.meta({
				description: `Where Google's public keys are, for hosts that reach Google by a mirror only. Default: ${googleKeys}.`,
			}),
	})
	.meta({ description: "Google's registries, through a push subscription of Pub/Sub." });

type Options = z.output<typeof options>;

export const gcr: SourceKind<Options> = {
	name: 'gcr',
	secret: 'none',
	options,
	bare: false,
	compile(given) {
		return {
			name: 'gcr',
			verification: compileCheck(given),
			read: (_delivery, body) => read(given.unwrapped === true ? body : messageIn(body)),
			deliveryId: (delivery, body) =>
				given.unwrapped === true
					? (idOf(headerOf(delivery, 'x-goog-pubsub-message-id')) ?? keyOf(delivery.body))
					: idOf(firstOf(textAt(body, 'message', 'messageId'), textAt(body, 'message', 'message_id'))),
			// What is not acknowledged is sent again for as long as the subscription keeps it, at most 31 days.
			remember: 35 * day,
		};
	},
};

function compileCheck({ audience, email, jwks = googleKeys }: Options): Check {
	const keys = new KeySet(jwks);
	const emails = [email].flat();
	const rules = {
		algorithms: ['RS256'],
		issuer: issuers,
		audience: [audience].flat(),
		requiredClaims: ['exp', 'email', 'email_verified'],
		clockTolerance: 60,
	};
	return {
		kind: 'gcr',
		name: 'gcr',
		async check(delivery) {
			const token = bearerToken(headerOf(delivery, 'authorization'));
			if (token === undefined) return unknown('there is no "Authorization: Bearer …"', 'Bearer');
			const claimed = await payloadOf(token, keys, { ...rules, currentDate: new Date(delivery.receivedAt) });
			if (typeof claimed === 'string') return unknown(claimed, 'Bearer');
			const whose = claimed.email;
			if (claimed.email_verified !== true || typeof whose !== 'string' || !emails.includes(whose)) {
				return unknown("the token's e-mail is another, or Google has not verified it", 'Bearer');
			}
			return admitted(`gcr, ${whose}`);
		},
	};
}

/** What a message of Pub/Sub holds; undefined when it is no JSON. */
function messageIn(body: Body): unknown {
	const data = textAt(body, 'message', 'data');
	try {
		return JSON.parse(Buffer.from(data, 'base64').toString());
	} catch {
		return undefined;
	}
}

/** Never refuses: Pub/Sub would send again for days what will not be read any better then. */
function read(payload: unknown): Reading {
	const action = textAt(payload, 'action');
	const tagged = imageOf(textAt(payload, 'tag'));
	const digested = imageOf(textAt(payload, 'digest'));
	const image = {
		registry: firstOf(tagged.registry, digested.registry),
		repository: firstOf(tagged.repository, digested.repository),
		tag: tagged.tag,
		digest: firstOf(digested.digest, tagged.digest),
	};
	if (action === '' || image.repository === '') {
		return { kind: 'ignored', reason: 'the message is none of a registry: it names no action or no image' };
	}
	const deleted = action.toUpperCase() === 'DELETE';
	return { kind: 'events', events: [eventOf(imageEvent(image, action, { deleted }))] };
}
