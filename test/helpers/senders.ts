/** Senders of webhooks, as far as a listener sees them: bytes, headers, and how each of them signs. */

import { createHmac, randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { root } from './listener.ts';

export interface Fixture {
	/** Without `.json`. */
	readonly name: string;
	readonly headers: Readonly<Record<string, string>>;
	readonly body?: object;
	readonly form?: Readonly<Record<string, string>>;
	/** What is said of each event; what is not said is empty or false. */
	readonly events: readonly Readonly<Record<string, unknown>>[];
}

/** The deliveries in test/fixtures/sources/<source>. */
export function fixtures(source: string): Fixture[] {
	const dir = path.join(root, 'test/fixtures/sources', source);
	return fs
		.readdirSync(dir)
		.sort()
		.map((file) => ({
			name: path.basename(file, '.json'),
			...JSON.parse(fs.readFileSync(path.join(dir, file), 'utf8')),
		}));
}

/** A delivery ready to be sent. */
export interface Ready {
	readonly headers: Record<string, string>;
	readonly body: Buffer;
}

export interface Moment {
	/** The delivery's id. */
	readonly id?: string;
	/** Seconds since 1970 at which it is signed. */
	readonly time?: number;
}

/** A sender's way of proving who it is. */
export interface Sender {
	/** A secret as its users make one. */
	readonly secret: string;
	/** Another one. */
	readonly other: string;
	/** The header that proves it, and the one with the time when it signs that. */
	readonly proof: string;
	readonly timestamp?: string;
	/** The headers that it adds. */
	sign(body: Buffer, secret: string, moment?: Moment): Record<string, string>;
	/** A proof that is as good, but for the algorithm. */
	wrongAlgorithm?(body: Buffer): string;
}

export function hmac(
	algorithm: string,
	key: string | Buffer,
	...parts: readonly (string | Buffer)[]
): Buffer {
	const hash = createHmac(algorithm, key);
	for (const part of parts) hash.update(part);
	return hash.digest();
}

const key = 'It is no secret any more: kahx4Iesh';
const otherKey = 'It is no secret either: ohDoh7Uu';
const signing = `whsec_${Buffer.from('0123456789abcdef0123456789abcdef').toString('base64')}`;
const otherSigning = `whsec_${Buffer.from('fedcba9876543210fedcba9876543210').toString('base64')}`;

const now = () => Math.floor(Date.now() / 1000);

/** One that signs the body under one header. */
function ofBody(proof: string, prefix: string, idHeader: string | undefined): Sender {
	return {
		secret: key,
		other: otherKey,
		proof,
		sign: (body, secret, { id = randomUUID() } = {}) => ({
			[proof]: `${prefix}${hmac('sha256', secret, body).toString('hex')}`,
			...(idHeader === undefined ? {} : { [idHeader]: id }),
		}),
		wrongAlgorithm: (body) => `sha1=${hmac('sha1', key, body).toString('hex')}`,
	};
}

/** One of the Standard Webhooks, under their names or others. */
function standard(prefix: string): Sender {
	return {
		secret: signing,
		other: otherSigning,
		proof: `${prefix}-signature`,
		timestamp: `${prefix}-timestamp`,
		sign: (body, secret, { id = randomUUID(), time = now() } = {}) => ({
			[`${prefix}-id`]: id,
			[`${prefix}-timestamp`]: String(time),
			[`${prefix}-signature`]: `v1,${hmac('sha256', Buffer.from(secret.slice(6), 'base64'), `${id}.${time}.`, body).toString('base64')}`,
		}),
		wrongAlgorithm: (body) => `v2,${hmac('sha512', signing, body).toString('base64')}`,
	};
}

/** By the name of the source; those that have two ways have the second one after a blank. */
export const senders: Readonly<Record<string, Sender>> = {
	github: ofBody('X-Hub-Signature-256', 'sha256=', 'X-GitHub-Delivery'),
	gitlab: {
		secret: key,
		other: otherKey,
		proof: 'X-Gitlab-Token',
		sign: (_body, secret, { id = randomUUID() } = {}) => ({
			'X-Gitlab-Token': secret,
			'Idempotency-Key': id,
		}),
	},
	'gitlab signing': standard('webhook'),
	bitbucket: ofBody('X-Hub-Signature', 'sha256=', 'X-Request-UUID'),
	'bitbucket-server': ofBody('X-Hub-Signature', 'sha256=', 'X-Request-Id'),
	gitea: ofBody('X-Gitea-Signature', '', 'X-Gitea-Delivery'),
	forgejo: ofBody('X-Forgejo-Signature', '', 'X-Forgejo-Delivery'),
	gogs: ofBody('X-Gogs-Signature', '', 'X-Gogs-Delivery'),
	'standard-webhooks': standard('webhook'),
	'standard-webhooks svix': standard('svix'),
	slack: {
		secret: key,
		other: otherKey,
		proof: 'X-Slack-Signature',
		timestamp: 'X-Slack-Request-Timestamp',
		sign: (body, secret, { time = now() } = {}) => ({
			'X-Slack-Request-Timestamp': String(time),
			'X-Slack-Signature': `v0=${hmac('sha256', secret, `v0:${time}:`, body).toString('hex')}`,
		}),
		wrongAlgorithm: (body) => `v0=${hmac('sha1', key, `v0:${now()}:`, body).toString('hex')}`,
	},
	hmac: ofBody('X-Signature', 'sha256=', undefined),
};

/** A fixture's bytes, and the headers it has of itself. */
export function bytesOf({ headers, body, form }: Fixture): Ready {
	const type = form === undefined ? 'application/json' : 'application/x-www-form-urlencoded';
	const text = form === undefined ? JSON.stringify(body) : new URLSearchParams(form).toString();
	return { headers: { 'Content-Type': type, ...headers }, body: Buffer.from(text) };
}

/** A fixture as its sender sends it. */
export function signed(sender: Sender, fixture: Fixture, moment: Moment = {}, secret = sender.secret): Ready {
	const { headers, body } = bytesOf(fixture);
	return { headers: { ...headers, ...sender.sign(body, secret, moment) }, body };
}
