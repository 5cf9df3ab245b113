/** Gitea, and what it grew from and into: Gogs and Forgejo. They differ in the names of their headers. */

import { z } from 'zod';
import { checkSignature } from '../auth/signature.ts';
import { day } from '../config/values.ts';
import { type Delivery, eventOf, headerOf, type Image } from '../delivery.ts';
import type { Secrets } from '../secret.ts';
import { at, firstOf, idOf, mapOf, requiredHeader, textAt } from './fields.ts';
import { eventLikeGithub } from './github.ts';
import { tagOrDigest } from './images.ts';
import { type SourceKind, verificationOf } from './kind.ts';

type Spelling = 'Gitea' | 'Forgejo' | 'Gogs';

const options = z.strictObject({});

const bareHex = { algorithm: 'sha256', encoding: 'hex', prefix: '' } as const;

/** @param spellings of the headers, the first that is there counts: Forgejo began with Gitea's */
function kind(name: string, ...spellings: readonly [Spelling, ...Spelling[]]): SourceKind {
	const spellingOf = (delivery: Delivery): Spelling =>
		spellings.find((it) => headerOf(delivery, `X-${it}-Event`) !== '') ?? spellings[0];
	return {
		name,
		secret: 'required',
		options: options.meta({ description: `${spellings[0]}.` }),
		bare: true,
		compile: (_options, secrets) => ({
			name,
			verification: verificationOf(name, (delivery) => {
				const header = `X-${spellingOf(delivery)}-Signature`;
				return checkSignature(
					delivery,
					{ header, ...bareHex },
					secrets as Secrets,
					[signedBytes(delivery)],
					name,
				);
			}),
			read(delivery, body) {
				const event = requiredHeader(delivery, `X-${spellingOf(delivery)}-Event`, spellings[0]);
				const payload = mapOf(body, spellings[0]);
				const image = event === 'package' ? packageOf(at(payload, 'package')) : undefined;
				const told = eventLikeGithub(event, payload);
				return {
					kind: 'events',
					events: [image === undefined ? told : eventOf({ ...told, kind: 'image', image })],
				};
			},
			deliveryId: (delivery) => idOf(headerOf(delivery, `X-${spellingOf(delivery)}-Delivery`)),
			// They do not try again; what an operator sends again gets an id of its own.
			remember: 7 * day,
		}),
	};
}

export const gitea = kind('gitea', 'Gitea');
export const forgejo = kind('forgejo', 'Forgejo', 'Gitea');
export const gogs = kind('gogs', 'Gogs');

/**
 * What the signature is over: the JSON, also when it arrives as the field of a form. That field has to be there once, or what
 * is verified and what is read might be two things; without it the bytes of the form count, which nobody has signed.
 */
function signedBytes({ headers, body }: Delivery): Buffer {
	const type = String(headers['content-type'] ?? '')
		.split(';', 1)[0]
		?.trim()
		.toLowerCase();
	if (type !== 'application/x-www-form-urlencoded') return body;
	const [payload, ...others] = new URLSearchParams(body.toString()).getAll('payload');
	return payload === undefined || others.length > 0 ? body : Buffer.from(payload);
}

/** The container image of a package event; undefined when the package is another thing. */
function packageOf(thing: unknown): Image | undefined {
	if (textAt(thing, 'type') !== 'container') return undefined;
	const owner = firstOf(textAt(thing, 'owner', 'login'), textAt(thing, 'owner', 'username'));
	const page = textAt(thing, 'html_url');
	return {
		registry: URL.canParse(page) ? new URL(page).host : '',
		repository: [owner, textAt(thing, 'name')].filter((part) => part !== '').join('/'),
		...tagOrDigest(textAt(thing, 'version')),
	};
}
