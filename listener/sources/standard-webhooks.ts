/** Standard Webhooks (standardwebhooks.com), as many services send them; Svix has other names for the same headers. */

import { createPublicKey, verify } from 'node:crypto';
import { z } from 'zod';
import { admitted, unknown, type Verdict } from '../auth/kind.ts';
import { digestOf, isSignedWith, untimely, usualTolerance } from '../auth/signature.ts';
import { day } from '../config/values.ts';
import { type Delivery, eventOf, headerOf } from '../delivery.ts';
import { Secret, type Secrets } from '../secret.ts';
import { idOf, mapOf, textAt, wordOf } from './fields.ts';
import { type SourceKind, verificationOf } from './kind.ts';

const options = z
	.strictObject({})
	.meta({ description: 'Standard Webhooks, under their own names of headers or those of Svix.' });

const name = 'standard-webhooks';

export const standardWebhooks: SourceKind = {
	name,
	secret: 'required',
	secretFault: (secret) =>
		keyOf(secret) === undefined
			? 'has to be "whsec_" and base64, or "whpk_" and a public key in base64, as the sender shows it'
			: null,
	options,
	bare: true,
	compile: (_options, secrets) => ({
		name,
		verification: verificationOf(name, (delivery) =>
			checkStandard(delivery, prefixOf(delivery), (secrets as Secrets).current, name),
		),
		read(_delivery, body) {
			const payload = mapOf(body, 'a sender of Standard Webhooks');
			return { kind: 'events', events: [eventOf({ kind: wordOf(textAt(payload, 'type')) })] };
		},
		deliveryId: (delivery) => idOf(headerOf(delivery, `${prefixOf(delivery)}-id`)),
		// Senders are told to try for days.
		remember: 7 * day,
	}),
};

/** One set of headers for all that is asked of a delivery: parts of two would be signed by nobody. */
function prefixOf({ headers }: Delivery): 'webhook' | 'svix' {
	return headers['webhook-signature'] === undefined && headers['svix-signature'] !== undefined
		? 'svix'
		: 'webhook';
}

/**
 * Checks the signatures in `webhook-signature`, of which one that is right suffices: senders that change their secret sign with
 * both. Versions that are not known are passed over.
 */
export function checkStandard(
	delivery: Delivery,
	prefix: 'webhook' | 'svix',
	secrets: readonly Secret[],
	who: string,
): Verdict {
	const header = (name: string) => headerOf(delivery, `${prefix}-${name}`);
	const [id, time, signatures] = [header('id'), header('timestamp'), header('signature')];
	if (signatures === '') return unknown(`there is no header ${prefix}-signature, or nothing in it`);
	if (id === '') return unknown(`there is no header ${prefix}-id, or nothing in it`);
	const late = untimely(time, delivery, usualTolerance);
	if (late !== undefined) return unknown(`${prefix}-timestamp: ${late}`);
	// The header's own text: a number read and written again may look otherwise.
	const signed = [`${id}.${time}.`, delivery.body];
	const given = signatures.split(' ', mostSignatures);
	const right = secrets.some((secret) => {
		const key = keyOf(secret);
		return key !== undefined && given.some((signature) => isRight(signature, key, signed));
	});
	return right
		? admitted(who)
		: unknown(
				`no signature in ${prefix}-signature matches: another secret, or the body was changed on its way`,
			);
}

/** More than a sender has keys at once; each costs a hash over the body. */
const mostSignatures = 16;

/** To verify with: a shared secret, or the 32 bytes of an Ed25519 public key. */
type Key =
	| { readonly version: 'v1'; readonly shared: Secrets }
	| { readonly version: 'v1a'; readonly point: Buffer };

/** The key in a secret; undefined when it is none. */
export function keyOf(secret: Secret): Key | undefined {
	const [, prefix, text = ''] = /^(whsec_|whpk_|)(.*)$/.exec(secret.reveal().toString('latin1')) ?? [];
	const bytes = Buffer.from(text, 'base64');
	const bare = (it: string) => it.replace(/={1,2}$/, '');
	if (bytes.length === 0 || bare(bytes.toString('base64')) !== bare(text)) return undefined;
	if (prefix !== 'whpk_') return { version: 'v1', shared: { current: [new Secret(bytes)] } };
	return bytes.length === 32 ? { version: 'v1a', point: bytes } : undefined;
}

/** What DER has before an Ed25519 public key. */
const spki = Buffer.from('302a300506032b6570032100', 'hex');

function isRight(signature: string, key: Key, signed: readonly (string | Buffer)[]): boolean {
	if (!signature.startsWith(`${key.version},`)) return false;
	const text = signature.slice(key.version.length + 1);
	if (key.version === 'v1') {
		const digest = digestOf(text, 'sha256', 'base64');
		return digest !== undefined && isSignedWith(key.shared, 'sha256', digest, signed);
	}
	const bytes = Buffer.from(text, 'base64');
	if (bytes.length !== 64 || bytes.toString('base64') !== text) return false;
	const publicKey = createPublicKey({ key: Buffer.concat([spki, key.point]), format: 'der', type: 'spki' });
	return verify(null, Buffer.concat(signed.map((part) => Buffer.from(part as string))), publicKey, bytes);
}
