/**
 * Amazon SNS, and through it whatever a topic is told: the events of Amazon's registry (ECR) by a rule of EventBridge, for
 * example. Amazon signs certain fields of the body, so that these have to be read before the signature can be checked.
 */

import { verify } from 'node:crypto';
import { z } from 'zod';
import { admitted, unknown, type Verdict } from '../auth/kind.ts';
import { untimely } from '../auth/signature.ts';
import { SigningCertificates } from '../auth/signing-certificates.ts';
import { day } from '../config/values.ts';
import { type Delivery, eventOf, headerOf } from '../delivery.ts';
import { idOf, textAt } from './fields.ts';
import { imageEvent } from './images.ts';
import { type Reading, type SourceKind, verificationOf } from './kind.ts';

const topic = z.string().regex(/^arn:[a-z-]+:sns:[a-z0-9-]+:\d{12}:[\w.-]+$/, {
	error: 'must be the ARN of a topic, such as arn:aws:sns:eu-west-1:123456789012:deployments',
});

const options = z
	.strictObject({
		topics: z.union([topic, z.array(topic).min(1)], { error: 'must be an ARN, or a list of ARNs' }).meta({
			description:
				'The topics that may deliver, by their ARNs. Every customer of Amazon can have it sign messages, so these are whose they are.',
		}),
		confirm: z.boolean().optional().meta({
			description:
				'Whether a subscription of these topics is confirmed by itself. false: the log has nothing but that one was asked for. Default: true.',
		}),
		endpoint: z
			.string()
			.regex(/^https?:\/\/[A-Za-z0-9.-]+(:\d+)?$/, {
				error: 'must be where SNS is, without a path, such as http://localhost:4566',
			})
			.optional()
			.meta({
				description:
					"Where SNS is when it is not Amazon's, as with LocalStack: certificates and confirmations are fetched there, and nowhere else. Default: Amazon's hosts.",
			}),
	})
	.meta({ description: 'Amazon SNS; it signs with certificates of its own.' });

type Options = z.output<typeof options>;

export const sns: SourceKind<Options> = {
	name: 'sns',
	secret: 'none',
	options,
	bare: false,
	compile(given) {
		const certificates = new SigningCertificates();
		const topics = new Set([given.topics].flat());
		const isTheirs = (address: string) => isOf(address, given.endpoint);
		return {
			name: 'sns',
			verification: verificationOf('sns', (delivery) => check(delivery, topics, isTheirs, certificates)),
			read: ({ body }) => read(signedIn(body), given.confirm !== false, isTheirs),
			deliveryId: ({ body }) => idOf(textAt(signedIn(body), 'MessageId')),
			// It tries for an hour, and what is older than two is refused.
			remember: day,
		};
	},
};

/** Milliseconds: Amazon admits no delivery policy that tries for longer than an hour. */
const oldest = 2 * 3_600_000;

const ofAmazon = /^sns\.[a-z0-9-]{3,}\.amazonaws\.com(\.cn)?$/;

/** Whether an address is of SNS itself, in any of its regions, or of the endpoint that takes its place. */
function isOf(address: string, endpoint: string | undefined): boolean {
	if (!URL.canParse(address)) return false;
	const { protocol, hostname, origin, port, username, password } = new URL(address);
	if (username !== '' || password !== '') return false;
	if (endpoint !== undefined) return origin === endpoint;
	return protocol === 'https:' && port === '' && ofAmazon.test(hostname);
}

/** What is signed of each type, in order. */
const signedFields: Readonly<Record<string, readonly string[]>> = {
	Notification: ['Message', 'MessageId', 'Subject', 'Timestamp', 'TopicArn', 'Type'],
	SubscriptionConfirmation: [
		...['Message', 'MessageId', 'SubscribeURL', 'Timestamp', 'Token', 'TopicArn', 'Type'],
	],
	UnsubscribeConfirmation: [
		...['Message', 'MessageId', 'SubscribeURL', 'Timestamp', 'Token', 'TopicArn', 'Type'],
	],
};

const algorithms: Readonly<Record<string, string>> = { 1: 'RSA-SHA1', 2: 'RSA-SHA256' };

async function check(
	delivery: Delivery,
	topics: ReadonlySet<string>,
	isTheirs: (address: string) => boolean,
	certificates: SigningCertificates,
): Promise<Verdict> {
	if (headerOf(delivery, 'x-amz-sns-rawdelivery') === 'true') {
		return unknown('raw message delivery is enabled for the subscription, which Amazon does not sign');
	}
	const message = parsed(delivery.body);
	const type = textAt(message, 'Type');
	const fields = Object.hasOwn(signedFields, type) ? signedFields[type] : undefined;
	const algorithm = algorithms[textAt(message, 'SignatureVersion')];
	if (fields === undefined || algorithm === undefined) return unknown('the body is no signed message of SNS');
	// Before anything is fetched: a stranger has to know a topic at least.
	const arn = textAt(message, 'TopicArn');
	if (!topics.has(arn)) return unknown('the topic is another');
	const time = textAt(message, 'Timestamp');
	if (!/^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(time)) return unknown('the timestamp is missing, or none of Amazon');
	const late = untimely(String(Date.parse(time)), delivery, oldest);
	if (late !== undefined) return unknown(late);
	// Values are signed one to a line, and only a message may have several: else their borders could be moved.
	const torn = fields.find((name) => name !== 'Message' && textAt(message, name).includes('\n'));
	if (torn !== undefined) return unknown(`the field ${torn} has more than one line`);

	const address = textAt(message, 'SigningCertURL');
	if (!isTheirs(address) || !/^\/[\w./-]*\.pem$/.test(new URL(address).pathname)) {
		return unknown("the certificate is not at one of Amazon's addresses");
	}
	const signature = Buffer.from(textAt(message, 'Signature'), 'base64');
	try {
		const key = await certificates.keyAt(address);
		if (verify(algorithm, Buffer.from(signedText(message, fields)), key, signature))
			return admitted(`sns, ${arn}`);
	} catch (error) {
		return unknown(`the certificate ${address} cannot be used: ${(error as Error).message}`);
	}
	return unknown('the signature does not match');
}

function parsed(body: Buffer): unknown {
	try {
		return JSON.parse(body.toString());
	} catch {
		return undefined;
	}
}

/** Each field that there is, its name and its value in a line of their own. */
function signedText(message: unknown, fields: readonly string[]): string {
	return fields
		.filter((name) => Object.hasOwn(message as object, name))
		.map((name) => `${name}\n${textAt(message, name)}\n`)
		.join('');
}

/**
 * What of a body Amazon has signed. Whoever has once been sent a message of the topic could send it on with more in it, or under
 * a content type by which the body means something else.
 */
function signedIn(body: Buffer): Readonly<Record<string, string>> {
	const message = parsed(body);
	const type = textAt(message, 'Type');
	const fields = (Object.hasOwn(signedFields, type) ? signedFields[type] : undefined) ?? [];
	return Object.fromEntries(fields.map((name) => [name, textAt(message, name)]));
}

function read(
	body: Readonly<Record<string, string>>,
	confirm: boolean,
	isTheirs: (address: string) => boolean,
): Reading {
	switch (textAt(body, 'Type')) {
		case 'SubscriptionConfirmation': {
			const url = textAt(body, 'SubscribeURL');
			if (!confirm) {
				return {
					kind: 'ignored',
					reason: 'a subscription waits for being confirmed, which the route leaves to people',
				};
			}
			if (!isTheirs(url))
				return { kind: 'ignored', reason: "the address for confirming is none of Amazon's" };
			return { kind: 'confirm', url };
		}
		case 'UnsubscribeConfirmation':
			// Its address would subscribe again.
			return { kind: 'ignored', reason: 'the topic no longer delivers here' };
		default:
			return readMessage(body);
	}
}

/** A message that is an event of EventBridge is read as that; any other is one of a kind of its own. */
function readMessage(signed: Readonly<Record<string, string>>): Reading {
	const text = signed.Message ?? '';
	const inner = /^\s*[{[]/.test(text) ? parsed(Buffer.from(text)) : undefined;
	const body = { ...signed, Message: inner ?? text };
	if (textAt(inner, 'detail-type') !== 'ECR Image Action') {
		return { kind: 'events', events: [eventOf({ kind: 'notification' })], body };
	}
	const detail = (name: string) => textAt(inner, 'detail', name);
	const action = detail('action-type');
	if (detail('result') !== 'SUCCESS') return { kind: 'ignored', reason: `the ${action} of the image failed` };
	const region = textAt(inner, 'region');
	const domain = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com';
	const image = {
		registry: `${textAt(inner, 'account')}.dkr.ecr.${region}.${domain}`,
		repository: detail('repository-name'),
		tag: detail('image-tag'),
		digest: detail('image-digest'),
	};
	return {
		kind: 'events',
		events: [eventOf(imageEvent(image, action, { deleted: action === 'DELETE' }))],
		body,
	};
}
