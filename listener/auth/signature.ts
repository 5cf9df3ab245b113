/**
 * Signatures made with a shared secret: an HMAC over the exact bytes received. Which algorithm it is says the configuration,
 * never the sender: who may choose it chooses the weakest.
 */

import { timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { duration } from '../config/values.ts';
import { type Delivery, headerOf } from '../delivery.ts';
import type { Secrets } from '../secret.ts';
import { admitted, type Check, unknown, type Verdict } from './kind.ts';

/** Bytes of a digest. */
const sizes = { sha256: 32, sha512: 64, sha1: 20 } as const;
export type Algorithm = keyof typeof sizes;
export type Encoding = 'hex' | 'base64';

/** How a sender writes its signature. */
export interface Form {
	/** The header that has it, as in messages; case does not matter. */
	readonly header: string;
	readonly algorithm: Algorithm;
	readonly encoding: Encoding;
	/** What stands before it, such as `sha256=`. */
	readonly prefix: string;
}

/** What is signed, in order. */
export type Signed = readonly (string | Uint8Array)[];

/** Checks the signature in a header; one of the secrets suffices. @param who it is, when it is right */
export function checkSignature(
	delivery: Delivery,
	{ header, algorithm, encoding, prefix }: Form,
	secrets: Secrets,
	signed: Signed,
	who: string,
): Verdict {
	const text = headerOf(delivery, header);
	if (text === '') return unknown(`there is no header ${header}, or nothing in it`);
	const digest = text.startsWith(prefix)
		? digestOf(text.slice(prefix.length), algorithm, encoding)
		: undefined;
	if (digest === undefined) {
		const before = prefix === '' ? '' : ` after "${prefix}"`;
		return unknown(`the header ${header} is not one ${algorithm} digest in ${encoding}${before}`);
	}
	return isSignedWith(secrets, algorithm, digest, signed)
		? admitted(who)
		: unknown(
				`the signature in ${header} does not match: another secret, or the body was changed on its way`,
			);
}

/** Whether it is the keyed hash under one of the secrets, in a time that does not tell how far off it is. */
export function isSignedWith(
	secrets: Secrets,
	algorithm: Algorithm,
	digest: Uint8Array,
	signed: Signed,
): boolean {
	return secrets.current.some((secret) => timingSafeEqual(secret.hmac(algorithm, ...signed), digest));
}

/**
 * The bytes of a digest; undefined when the text is not exactly one. Hexadecimal digits may be capitals.
 * Node's decoders skip or stop at what does not belong, and would take a text for a digest that begins like one.
 */
export function digestOf(text: string, algorithm: Algorithm, encoding: Encoding): Buffer | undefined {
	const bytes = Buffer.from(text, encoding);
	const exact = bytes.toString(encoding) === (encoding === 'hex' ? text.toLowerCase() : text);
	return exact && bytes.length === sizes[algorithm] ? bytes : undefined;
}

/**
 * What is wrong with the time at which something was signed; undefined when it is near enough to its arrival, before or after.
 * @param time seconds or milliseconds since 1970, as the sender wrote it
 * @param tolerance milliseconds, both ways: what was recorded is not to be sent again later, and clocks differ
 */
export function untimely(
	time: string,
	{ receivedAt }: Pick<Delivery, 'receivedAt'>,
	tolerance: number,
): string | undefined {
	if (!/^\d{1,15}$/.test(time)) return 'the timestamp is missing, or no number of seconds since 1970';
	// Seconds will have eleven digits until the year 5138.
	const age = receivedAt - Number(time) * (time.length > 11 ? 1 : 1000);
	if (Math.abs(age) <= tolerance) return undefined;
	const seconds = `${Math.round(Math.abs(age) / 1000)} s`;
	return age > 0
		? `it was signed ${seconds} ago; it may be at most ${tolerance / 1000} s old`
		: `it was signed ${seconds} in the future; one of the clocks is wrong`;
}

/** Minutes are what clocks differ by and slow connections take; who records a delivery has no longer to send it again. */
export const usualTolerance = 300_000;

const headerName = z
	.string()
	.regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/, { error: 'is no name for a header, such as X-Signature' });

/** What can be said of a signature in routes.yaml, for senders that sign in their own way. */
export const signatureKeys = {
	header: headerName.optional().meta({ description: 'The header with the signature. Default: X-Signature.' }),
	algorithm: z.enum(['sha256', 'sha512', 'sha1']).optional().meta({
		description: 'The hash below the HMAC; sha1 only where a sender has no other. Default: sha256.',
	}),
	encoding: z
		.enum(['hex', 'base64'])
		.optional()
		.meta({ description: 'How the signature is written. Default: hex.' }),
	prefix: z.string().optional().meta({
		description: 'What stands before the signature; "" for nothing. Default: the algorithm and "=".',
	}),
	signed: z.string().optional().meta({
		description:
			'What is signed: {body}, with text, {timestamp} and {id} around it. Default: "{body}"; with timestamp, "{timestamp}.{body}".',
	}),
	timestamp: headerName.optional().meta({
		description: 'The header with the time of signing, in seconds or milliseconds since 1970. Default: none.',
	}),
	tolerance: duration('How far that time may be from the arrival, before or after. Default: 5m.').optional(),
	id: headerName.optional().meta({
		description: "The header with the delivery's id, the same when it is sent again. Default: none.",
	}),
};

export interface SignatureSpec {
	readonly header?: string | undefined;
	readonly algorithm?: Algorithm | undefined;
	readonly encoding?: Encoding | undefined;
	readonly prefix?: string | undefined;
	readonly signed?: string | undefined;
	readonly timestamp?: string | undefined;
	/** Milliseconds. */
	readonly tolerance?: number | undefined;
	readonly id?: string | undefined;
}

/** Refuses what could not work, or would look safer than it is. For the `superRefine` of a map with `signatureKeys`. */
export function checkSignatureSpec(spec: SignatureSpec, context: z.RefinementCtx): void {
	const say = (key: keyof SignatureSpec, message: string) =>
		context.addIssue({ code: 'custom', path: [key], input: spec[key], message });
	const { signed, timestamp, tolerance, id } = spec;
	if (tolerance !== undefined && timestamp === undefined) {
		say('tolerance', 'needs "timestamp", the header with the time of signing');
	}
	if (signed === undefined) return;
	if (signed.split('{body}').length !== 2) say('signed', 'must have {body} in it, once');
	const unknownPart = /\{(?!(?:body|timestamp|id)\})\w*\}?/.exec(signed)?.[0];
	if (unknownPart !== undefined) {
		say('signed', `has ${JSON.stringify(unknownPart)}; it may have {body}, {timestamp} and {id}`);
	}
	if (signed.includes('{timestamp}') && timestamp === undefined) {
		say('signed', 'has {timestamp}; name its header with "timestamp"');
	}
	if (signed.includes('{id}') && id === undefined) say('signed', 'has {id}; name its header with "id"');
	if (timestamp !== undefined && !signed.includes('{timestamp}')) {
		say('timestamp', 'proves nothing unless it is signed: have {timestamp} in "signed"');
	}
}

/** The check of a signature that routes.yaml describes. @param name as routes.yaml calls it */
export function compileSignature(kind: string, name: string, spec: SignatureSpec, secrets: Secrets): Check {
	const { algorithm = 'sha256', timestamp, tolerance = usualTolerance, id } = spec;
	const form: Form = {
		header: spec.header ?? 'X-Signature',
		algorithm,
		encoding: spec.encoding ?? 'hex',
		prefix: spec.prefix ?? `${algorithm}=`,
	};
	const template = spec.signed ?? (timestamp === undefined ? '{body}' : '{timestamp}.{body}');
	const parts = template.split(/(\{(?:body|timestamp|id)\})/);
	return {
		kind,
		name,
		ofBody: true,
		check(delivery) {
			const time = timestamp === undefined ? '' : headerOf(delivery, timestamp);
			if (timestamp !== undefined) {
				const reason = untimely(time, delivery, tolerance);
				if (reason !== undefined) return unknown(`${timestamp}: ${reason}`);
			}
			const signed = parts.map((part) => {
				if (part === '{body}') return delivery.body;
				if (part === '{timestamp}') return time;
				return part === '{id}' && id !== undefined ? headerOf(delivery, id) : part;
			});
			return checkSignature(delivery, form, secrets, signed, name);
		},
	};
}
