/** Registries, clouds and build servers that send webhooks, as far as a listener sees them, with the hosts that they have keys at. */

import { execFileSync } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, type KeyObject, randomUUID, sign } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { after } from 'node:test';
import { temporaryDirectory } from './listener.ts';
import { bytesOf, type Fixture, hmac, type Ready } from './senders.ts';

/** A message that Pub/Sub or SNS carries, in place of a body. */
export type Carried = Fixture & { readonly inner?: unknown };

function pair(): { publicKey: KeyObject; privateKey: KeyObject } {
	return generateKeyPairSync('rsa', { modulusLength: 2048 });
}

const open: http.Server[] = [];
after(() => {
	for (const server of open) server.close().closeAllConnections();
});

/** Where Google's and Amazon's keys are, for the listener of a test. */
export class KeyHost {
	/** Paths that were asked for. */
	readonly asked: string[] = [];
	readonly google = pair();
	readonly amazon = pair();
	readonly stranger = pair();
	url = '';

	static async start(): Promise<KeyHost> {
		const host = new KeyHost();
		const certificates: Record<string, string> = {
			'/SimpleNotificationService-0123456789abcdef.pem': certificateFor(host.amazon.privateKey),
			'/elsewhere/SimpleNotificationService-strange.pem': certificateFor(host.stranger.privateKey),
			'/old.pem': certificateFor(host.amazon.privateKey, true),
		};
		const jwk = host.google.publicKey.export({ format: 'jwk' });
		const server = http.createServer((request, response) => {
			host.asked.push(request.url ?? '');
			const certificate = certificates[request.url ?? ''];
			if (request.url === '/certs')
				response.end(JSON.stringify({ keys: [{ ...jwk, kid: 'one', use: 'sig' }] }));
			else if (certificate !== undefined) response.end(certificate);
			else response.writeHead(request.url?.startsWith('/?') ? 200 : 404).end();
		});
		server.listen(0, '127.0.0.1');
		await once(server, 'listening');
		open.push(server);
		host.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
		return host;
	}
}

function certificateFor(key: KeyObject, expired = false): string {
	const dir = temporaryDirectory();
	const file = path.join(dir, 'key.pem');
	fs.writeFileSync(file, key.export({ format: 'pem', type: 'pkcs8' }));
	if (!expired) {
		const args = ['req', '-x509', '-key', file, '-subj', '/CN=sns.amazonaws.com', '-days', '2'];
		return execFileSync('openssl', args, { encoding: 'utf8', stdio: 'pipe' });
	}
	const [request, made] = [path.join(dir, 'x.csr'), path.join(dir, 'x.pem')];
	fs.writeFileSync(path.join(dir, 'index.txt'), '');
	fs.writeFileSync(
		path.join(dir, 'conf'),
		`[ca]\ndefault_ca = a\n[a]\ndatabase = ${dir}/index.txt\nnew_certs_dir = ${dir}\nrand_serial = yes\ndefault_md = sha256\npolicy = p\n[p]\ncommonName = supplied\n`,
	);
	execFileSync('openssl', ['req', '-new', '-key', file, '-subj', '/CN=sns.amazonaws.com', '-out', request], {
		stdio: 'pipe',
	});
	const times = ['-startdate', '20200101000000Z', '-enddate', '20200102000000Z'];
	const own = ['-selfsign', '-keyfile', file, '-in', request, '-out', made, '-notext', '-batch'];
	execFileSync('openssl', ['ca', '-config', path.join(dir, 'conf'), ...own, ...times], { stdio: 'pipe' });
	return fs.readFileSync(made, 'utf8');
}

// ---- Google -----------------------------------------------------------------------------------------------------

export const googleAudience = 'https://webhook.example.com/images';
export const googleAccount = 'push@example.iam.gserviceaccount.com';

const base64url = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
const seconds = () => Math.floor(Date.now() / 1000);

export interface TokenParts {
	readonly claims?: Readonly<Record<string, unknown>>;
	readonly header?: Readonly<Record<string, unknown>>;
	readonly key?: KeyObject;
}

/** An ID token as Google makes it for a push subscription; a claim that is undefined is left out. */
export function googleToken(
	host: KeyHost,
	{ claims = {}, header = {}, key = host.google.privateKey }: TokenParts = {},
): string {
	const head = { alg: 'RS256', kid: 'one', typ: 'JWT', ...header };
	const usual = {
		...{ aud: googleAudience, azp: '1', sub: '1', email: googleAccount, email_verified: true },
		...{ iss: 'https://accounts.google.com', iat: seconds(), exp: seconds() + 3600 },
	};
	const text = `${base64url(head)}.${base64url({ ...usual, ...claims })}`;
	if (head.alg === 'none') return `${text}.`;
	const signature =
		head.alg === 'HS256'
			? hmac(
					'sha256',
					createPublicKey(host.google.privateKey).export({ format: 'pem', type: 'spki' }) as string,
					text,
				)
			: sign('RSA-SHA256', Buffer.from(text), key);
	return `${text}.${signature.toString('base64url')}`;
}

export function fromPubSub(
	host: KeyHost,
	{ headers, inner }: Carried,
	token = googleToken(host),
	messageId = randomUUID(),
): Ready {
	const data = Buffer.from(typeof inner === 'string' ? inner : JSON.stringify(inner)).toString('base64');
	const body = {
		message: { data, messageId, publishTime: '2026-03-01T10:00:00Z', attributes: {} },
		subscription: 'projects/example/subscriptions/gcr',
	};
	return {
		headers: { 'Content-Type': 'application/json', ...headers, Authorization: `Bearer ${token}` },
		body: Buffer.from(JSON.stringify(body)),
	};
}

// ---- Amazon -----------------------------------------------------------------------------------------------------

export const amazonTopic = 'arn:aws:sns:eu-west-1:123456789012:images';

export interface MessageParts {
	/** Fields in place of the usual ones, signed with them; undefined is left out. */
	readonly fields?: Readonly<Record<string, string | undefined>>;
	/** Fields that are changed once it is signed. */
	readonly changed?: Readonly<Record<string, string>>;
	readonly key?: KeyObject;
}

const notificationFields = ['Message', 'MessageId', 'Subject', 'Timestamp', 'TopicArn', 'Type'];
const otherFields = ['Message', 'MessageId', 'SubscribeURL', 'Timestamp', 'Token', 'TopicArn', 'Type'];

export function fromSns(
	host: KeyHost,
	{ inner }: Pick<Carried, 'inner'>,
	{ fields = {}, changed = {}, key = host.amazon.privateKey }: MessageParts = {},
): Ready {
	const message: Record<string, string | undefined> = {
		Type: 'Notification',
		MessageId: randomUUID(),
		TopicArn: amazonTopic,
		Message: typeof inner === 'string' ? inner : JSON.stringify(inner),
		Timestamp: new Date().toISOString(),
		SignatureVersion: '2',
		SigningCertURL: `${host.url}/SimpleNotificationService-0123456789abcdef.pem`,
		UnsubscribeURL: `${host.url}/?Action=Unsubscribe`,
		...fields,
	};
	const names = message.Type === 'Notification' ? notificationFields : otherFields;
	const text = names
		.flatMap((name) => (message[name] === undefined ? [] : [`${name}\n${message[name]}\n`]))
		.join('');
	const algorithm = message.SignatureVersion === '1' ? 'RSA-SHA1' : 'RSA-SHA256';
	const Signature = sign(algorithm, Buffer.from(text), key).toString('base64');
	return {
		headers: {
			'Content-Type': 'text/plain; charset=UTF-8',
			'x-amz-sns-message-type': String(message.Type),
			'x-amz-sns-topic-arn': String(message.TopicArn),
		},
		body: Buffer.from(JSON.stringify({ ...message, Signature, ...changed }, null, 2)),
	};
}

// ---- Those with a secret ----------------------------------------------------------------------------------------

export function fromHarbor(fixture: Fixture, secret: string): Ready {
	const { headers, body } = bytesOf(fixture);
	return { headers: { ...headers, Authorization: secret }, body };
}

export function fromNexus(fixture: Fixture, secret: string, id = randomUUID()): Ready {
	const { headers, body } = bytesOf(fixture);
	const signature = hmac('sha1', secret, body).toString('hex');
	return {
		headers: { ...headers, 'X-Nexus-Webhook-Signature': signature, 'X-Nexus-Webhook-Delivery': id },
		body,
	};
}
