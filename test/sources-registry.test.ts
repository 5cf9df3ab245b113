/**
 * Registries, clouds and build servers: who gets in, with which proof, and what their deliveries mean. A table asks a real
 * listener, for each sender, in the right way and in every way to be wrong; then what is read is compared with what was sent.
 */

import assert from 'node:assert/strict';
import crypto, { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import fc from 'fast-check';
import { type Body, type Delivery, eventOf, noCertificate } from '../listener/delivery.ts';
import { BadRequest } from '../listener/errors.ts';
import { Secret } from '../listener/secret.ts';
import { imageOf } from '../listener/sources/images.ts';
import type { Source } from '../listener/sources/kind.ts';
import { sourceKinds } from '../listener/sources/source.ts';
import {
	type Answer,
	command,
	type Listener,
	root,
	startListener,
	temporaryDirectory,
} from './helpers/listener.ts';
import {
	amazonTopic,
	type Carried,
	fromHarbor,
	fromNexus,
	fromPubSub,
	fromSns,
	googleAccount,
	googleAudience,
	googleToken,
	KeyHost,
	type MessageParts,
	type TokenParts,
} from './helpers/registries.ts';
import { bytesOf, fixtures, type Ready } from './helpers/senders.ts';

const key = 'It is no secret any more: kahx4Iesh';
const other = 'It is no secret either: ohDoh7Uu';
const fingerprint = crypto.hash('sha256', key);

const names = ['dockerhub', 'harbor', 'quay', 'nexus', 'gcr', 'acr', 'sns', 'jenkins', 'cdevents'] as const;
type Name = (typeof names)[number];

/** What is written below the sources that need options. */
const options = (host: KeyHost): Partial<Record<Name, object>> => ({
	nexus: { registry: 'registry.example.com:5000/' },
	gcr: { audience: googleAudience, email: googleAccount, jwks: `${host.url}/certs` },
	sns: { topics: amazonTopic, endpoint: host.url },
	cdevents: { origins: ['events.example.com'] },
});

/** By which auth those get in that prove nothing; the others have a secret, or a path that is one. */
const auths: Partial<Record<Name, string>> = { acr: 'token', jenkins: 'person', cdevents: 'token' };

function routesFor(host: KeyHost): string {
	const given = options(host);
	const lines = names.map((name) => {
		const source = given[name] === undefined ? name : JSON.stringify({ [name]: given[name] });
		const secret = name === 'gcr' || name === 'sns' || auths[name] ? '' : `secret: ${JSON.stringify(key)}, `;
		const auth = auths[name] === undefined ? '' : `auth: [${auths[name]}], `;
		const place = pathOf(name).includes(fingerprint) ? `path: "${name}/{{fingerprint}}", ` : '';
		return `  ${name}: { ${place}source: ${source}, ${secret}${auth}command: 'printf %s "$WEBHOOK_EVENT"' }`;
	});
	return `auth:
  token: { header: { name: X-Token, value: ${JSON.stringify(key)} } }
  person: { basic: { user: jenkins, password: ${JSON.stringify(key)} } }
routes:
${lines.join('\n')}
`;
}

function pathOf(name: Name): string {
	return name === 'dockerhub' || name === 'quay' ? `/${name}/${fingerprint}` : `/${name}`;
}

/** A delivery as its sender would make it. */
function right(name: Name, fixture: Carried, host: KeyHost): Ready {
	switch (name) {
		case 'harbor':
			return fromHarbor(fixture, key);
		case 'nexus':
			return fromNexus(fixture, key);
		case 'gcr':
			return fromPubSub(host, fixture);
		case 'sns':
			return fromSns(host, fixture);
		default: {
			const { headers, body } = bytesOf(fixture);
			return { headers: { ...headers, ...proofOf(name, key) }, body };
		}
	}
}

function proofOf(name: Name, secret: string): Record<string, string> {
	const auth = auths[name];
	if (auth === 'token') return { 'X-Token': secret };
	if (auth === 'person')
		return { Authorization: `Basic ${Buffer.from(`jenkins:${secret}`).toString('base64')}` };
	return {};
}

function fixtureOf(name: Name, which: string): Carried {
	return fixtures(name).find((one) => one.name === which) as Carried;
}

/** One that becomes one run. */
const usual: Readonly<Record<Name, string>> = {
	...{
		dockerhub: 'push',
		harbor: 'push',
		quay: 'push',
		nexus: 'push',
		gcr: 'push',
		acr: 'push',
		sns: 'push',
	},
	...{ jenkins: 'completed', cdevents: 'artifact-binary' },
};

function tampered({ headers, body }: Ready): Ready {
	const copy = Buffer.from(body);
	// A letter of the image's name, so that what is changed is what would be run.
	const place = copy.indexOf('team/web');
	assert.ok(place > 0);
	copy[place] = copy[place]! ^ 1;
	return { headers, body: copy };
}

function without({ headers, body }: Ready, name: string): Ready {
	const { [name]: _gone, ...left } = headers;
	return { headers: left, body };
}

function withHeader({ headers, body }: Ready, name: string, value: string): Ready {
	return { headers: { ...headers, [name]: value }, body };
}

type Wrong = Readonly<Record<string, (host: KeyHost) => Ready>>;

const hours = (count: number) => new Date(Date.now() + count * 3_600_000).toISOString();
const google = (parts: TokenParts) => (host: KeyHost) =>
	fromPubSub(host, fixtureOf('gcr', 'push'), googleToken(host, parts));
const amazon = (parts: MessageParts | ((host: KeyHost) => MessageParts)) => (host: KeyHost) =>
	fromSns(host, fixtureOf('sns', 'push'), typeof parts === 'function' ? parts(host) : parts);
const soon = (seconds: number) => Math.floor(Date.now() / 1000) + seconds;

/** Ways to be wrong, by sender; each is answered 401. */
const wrong: Partial<Record<Name, Wrong>> = {
	harbor: {
		'with another text': () => fromHarbor(fixtureOf('harbor', 'push'), other),
		'with the text as a bearer token': () => fromHarbor(fixtureOf('harbor', 'push'), `Bearer ${key}`),
		'with a part of the text': () => fromHarbor(fixtureOf('harbor', 'push'), key.slice(0, -1)),
		'with an empty text': () => fromHarbor(fixtureOf('harbor', 'push'), ''),
		'without the header': () => bytesOf(fixtureOf('harbor', 'push')),
	},
	nexus: {
		'changed by one bit': () => tampered(fromNexus(fixtureOf('nexus', 'push'), key)),
		'signed with another secret': () => fromNexus(fixtureOf('nexus', 'push'), other),
		'signed with SHA-256': () => {
			const ready = fromNexus(fixtureOf('nexus', 'push'), key);
			const sum = crypto.createHmac('sha256', key).update(ready.body).digest('hex');
			return withHeader(ready, 'X-Nexus-Webhook-Signature', sum);
		},
		'without the signature': () =>
			without(fromNexus(fixtureOf('nexus', 'push'), key), 'X-Nexus-Webhook-Signature'),
		'with an empty signature': () =>
			withHeader(fromNexus(fixtureOf('nexus', 'push'), key), 'X-Nexus-Webhook-Signature', ''),
	},
	gcr: {
		'without a token': (host) => without(fromPubSub(host, fixtureOf('gcr', 'push')), 'Authorization'),
		'with what is no token': (host) => fromPubSub(host, fixtureOf('gcr', 'push'), 'a.b.c'),
		'with a token that was changed': (host) =>
			fromPubSub(host, fixtureOf('gcr', 'push'), googleToken(host).replace(/.(?=[^.]*$)/, 'A')),
		'with the token under another scheme': (host) =>
			withHeader(fromPubSub(host, fixtureOf('gcr', 'push')), 'Authorization', `Basic ${googleToken(host)}`),
		'signed with another key': (host) => google({ key: host.stranger.privateKey })(host),
		'signed with a key that Google does not have': google({ header: { kid: 'two' } }),
		'signed with the public key as a secret': google({ header: { alg: 'HS256' } }),
		'not signed at all': google({ header: { alg: 'none' } }),
		'late: with a token that has run out': google({ claims: { exp: soon(-120), iat: soon(-3720) } }),
		'with a token without an end': google({ claims: { exp: undefined } }),
		'with a token that counts later': google({ claims: { nbf: soon(600) } }),
		'FX-B2: for another audience': google({ claims: { aud: 'https://other.example.com/' } }),
		'FX-B2: of another issuer': google({ claims: { iss: 'https://accounts.example.com' } }),
		'FX-B2: of another account': google({ claims: { email: 'stranger@example.iam.gserviceaccount.com' } }),
		'of an account in other letters': google({ claims: { email: googleAccount.toUpperCase() } }),
		'without an account': google({ claims: { email: undefined } }),
		'of an account that is not verified': google({ claims: { email_verified: false } }),
		'of an account that is said to be verified': google({ claims: { email_verified: 'true' } }),
	},
	sns: {
		'changed by one bit': (host) => tampered(fromSns(host, fixtureOf('sns', 'push'))),
		'signed with another key': (host) => amazon({ key: host.stranger.privateKey })(host),
		'with a signature of another version': amazon({ changed: { SignatureVersion: '1' } }),
		'with a version that there is not': amazon({ changed: { SignatureVersion: '3' } }),
		'without a signature': amazon({ changed: { Signature: '' } }),
		'of a topic that is not ours, and rightly signed': amazon({
			fields: { TopicArn: amazonTopic.replace('123456789012', '210987654321') },
		}),
		'with a topic that was not signed': amazon({
			fields: { TopicArn: 'arn:aws:sns:eu-west-1:1:other' },
			changed: { TopicArn: amazonTopic },
		}),
		'late: published three hours ago': amazon({ fields: { Timestamp: hours(-3) } }),
		'published in three hours': amazon({ fields: { Timestamp: hours(3) } }),
		'with a time that was not signed': amazon({
			fields: { Timestamp: hours(-3) },
			changed: { Timestamp: hours(0) },
		}),
		'without a time': amazon({ fields: { Timestamp: undefined } }),
		'with a certificate from elsewhere': amazon(({ stranger }) => ({
			fields: { SigningCertURL: 'https://sns.eu-west-1.amazonaws.com.example.com/x.pem' },
			key: stranger.privateKey,
		})),
		'with a certificate that is none': amazon(({ url }) => ({ fields: { SigningCertURL: `${url}/no.pem` } })),
		'with a certificate that has run out': amazon(({ url }) => ({
			fields: { SigningCertURL: `${url}/old.pem` },
		})),
		'with an address that is no certificate': amazon(({ url }) => ({
			fields: { SigningCertURL: `${url}/SimpleNotificationService-0123456789abcdef.pem?x=/../y` },
			changed: { SigningCertURL: `${url}/certs` },
		})),
		'without a certificate': amazon({ fields: { SigningCertURL: undefined } }),
		'of another type': amazon({ changed: { Type: 'SubscriptionConfirmation' } }),
		'of a type that there is not': amazon({ fields: { Type: '__proto__' } }),
		'with borders between fields moved': amazon({ fields: { MessageId: 'a\nTimestamp\nb' } }),
		'delivered raw': (host) => ({
			headers: { 'x-amz-sns-rawdelivery': 'true', 'x-amz-sns-topic-arn': amazonTopic },
			body: fromSns(host, fixtureOf('sns', 'push')).body,
		}),
	},
	...Object.fromEntries(
		(['acr', 'jenkins', 'cdevents'] as const).map((name) => [
			name,
			{
				'without a proof': () => bytesOf(fixtureOf(name, usual[name])),
				'with another secret': () => {
					const { headers, body } = bytesOf(fixtureOf(name, usual[name]));
					return { headers: { ...headers, ...proofOf(name, other) }, body };
				},
			} satisfies Wrong,
		]),
	),
};

let host: KeyHost;
let listener: Listener;
before(async () => {
	host = await KeyHost.start();
	listener = await startListener({ routes: routesFor(host) });
});

function deliver(name: Name, { body, headers }: Ready): Promise<Answer> {
	return listener.post(pathOf(name), body, headers);
}

/** The kind of the event that a run is for. */
async function kindOf(id: string): Promise<string> {
	await listener.ended(id);
	return listener.output(id);
}

describe('a delivery', () => {
	for (const name of names) {
		test(`of ${name} with the right proof becomes a run, and the same one when it is sent again`, async () => {
			const fixture = fixtureOf(name, usual[name]);
			const ready = right(name, fixture, host);
			const answer = await deliver(name, ready);
			assert.equal(answer.status, 202, answer.text);
			assert.equal(await kindOf(answer.json.runs[0].id), fixture.events[0]?.kind);
			const again = await deliver(name, ready);
			assert.equal(again.status, 202);
			// Two pushes of a tag to Quay are told in the same words.
			assert.equal(again.json.runs[0].id === answer.json.runs[0].id, name !== 'quay');
		});

		for (const [way, make] of Object.entries(wrong[name] ?? {})) {
			test(`of ${name} ${way} gets 401 and starts nothing`, async () => {
				const earlier = await listener.runCount(name);
				const answer = await deliver(name, make(host));
				assert.equal(answer.status, 401, answer.text);
				assert.ok(answer.headers['www-authenticate']);
				assert.equal(answer.json.detail, 'the caller is not known; send what the route asks for');
				assert.equal(await listener.runCount(name), earlier, 'a run was started');
			});
		}

		test(`of ${name} that is proved and no JSON object is told so, and never 410`, async () => {
			for (const text of ['{"a": ', '[]', '"text"', '\xff']) {
				const { headers } = right(name, fixtureOf(name, usual[name]), host);
				const body = Buffer.from(text, 'latin1');
				const signed =
					name === 'nexus' ? fromNexus({ name, headers: {}, body: {}, events: [] }, key).headers : headers;
				if (name === 'nexus') {
					signed['X-Nexus-Webhook-Signature'] = crypto.createHmac('sha1', key).update(body).digest('hex');
				}
				const { status } = await deliver(name, { headers: signed, body });
				// What cannot be read is not signed by Amazon; what is no list of events has none.
				const expected = name === 'sns' ? [401] : text === '[]' ? [200, 400, 202] : [400];
				assert.ok(expected.includes(status), `${text}: ${status}`);
			}
		});
	}

	for (const name of ['dockerhub', 'quay'] as const) {
		test(`FX-B12: of ${name} to another path finds no route, and the log does not tell the path`, async () => {
			const ready = right(name, fixtureOf(name, 'push'), host);
			for (const wrongPath of [
				`/${name}`,
				`/${name}/${crypto.hash('sha256', other)}`,
				`/${name}/${fingerprint}0`,
			]) {
				assert.equal((await listener.post(wrongPath, ready.body, ready.headers)).status, 404, wrongPath);
			}
			assert.ok(!JSON.stringify(listener.log()).includes(fingerprint));
		});
	}

	test('of each source becomes a run for each of its events, and 200 with the reason when there is none', async () => {
		for (const name of names) {
			for (const fixture of fixtures(name)) {
				const answer = await deliver(name, right(name, fixture, host));
				const kinds = fixture.events.map(({ kind }) => kind);
				assert.equal(
					answer.status,
					kinds.length === 0 ? 200 : 202,
					`${name} ${fixture.name}: ${answer.text}`,
				);
				if (kinds.length === 0) assert.equal(answer.json.ignored?.length, 1, `${name} ${fixture.name}`);
				const ids: string[] = (answer.json.runs ?? []).map(({ id }: { id: string }) => id);
				assert.deepEqual(await Promise.all(ids.map(kindOf)), kinds, `${name} ${fixture.name}`);
			}
		}
	});

	test('FX-B15: of gcr that will never be read is acknowledged, so that it is not sent for days', async () => {
		for (const message of [{}, { data: '%%%', messageId: '1' }, { data: 7, messageId: '2' }]) {
			const { headers } = fromPubSub(host, fixtureOf('gcr', 'push'));
			const answer = await deliver('gcr', { headers, body: Buffer.from(JSON.stringify({ message })) });
			assert.equal(answer.status, 200, answer.text);
		}
	});

	test('of sns with a signature of version 1 is taken as well', async () => {
		assert.equal((await deliver('sns', amazon({ fields: { SignatureVersion: '1' } })(host))).status, 202);
		assert.equal((await deliver('sns', amazon({ fields: { Subject: 'Pushed' } })(host))).status, 202);
	});

	test('of sns with a certificate outside of the endpoint fetches nothing', () => {
		const expected =
			/^\/(certs|SimpleNotificationService-0123456789abcdef\.pem|no\.pem|old\.pem|\?Action=ConfirmSubscription.*)$/;
		assert.deepEqual(
			host.asked.filter((url) => !expected.test(url)),
			[],
		);
		const certificates = host.asked.filter((url) => url.includes('0123456789abcdef'));
		assert.equal(certificates.length, 1, 'the certificate is fetched once');
	});

	test('of sns may be sent on with more in it, and only what is signed counts', async () => {
		const source = JSON.stringify({ sns: { topics: amazonTopic, endpoint: host.url } });
		const trusting = await startListener({
			routes: `routes:
  sns:
    source: ${source}
    params: { role: {}, size: { from: body.Message.size }, subject: { from: body.Subject } }
    command: 'printf %s "$role,$size,$subject"'
`,
		});
		const evil = JSON.stringify({
			Type: 'Notification',
			MessageId: 'x',
			Message: '{"size":"evil"}',
			role: 'evil',
		});
		for (const type of ['text/plain', 'application/json', 'application/x-www-form-urlencoded']) {
			const { body } = fromSns(
				host,
				{ inner: { size: 'large' } },
				{ fields: { Subject: 'Hello' }, changed: { role: 'evil', payload: evil } },
			);
			const answer = await trusting.post('/sns', body, { 'Content-Type': type });
			assert.equal(answer.status, 202, answer.text);
			const run = await trusting.ended(answer.json.runs[0].id);
			assert.deepEqual(run.parameters, { size: 'large', subject: 'Hello' }, type);
		}
	});

	test('leaves no secret and no token in the log', () => {
		const log = JSON.stringify(listener.log()) + listener.stderr;
		for (const text of [key, other, Buffer.from(`jenkins:${key}`).toString('base64'), 'eyJhbGciOi']) {
			assert.ok(!log.includes(text), text);
		}
	});
});

describe('pings and handshakes', () => {
	/** Answered with 200, and nothing ran. */
	async function answered(name: Name, ready: Ready): Promise<Answer> {
		const earlier = await listener.runCount(name);
		const answer = await deliver(name, ready);
		assert.equal(answer.status, 200, answer.text);
		assert.equal(await listener.runCount(name), earlier);
		return answer;
	}

	const token = { 'X-Token': key, 'Content-Type': 'application/json' };
	const json = (body: unknown) => Buffer.from(JSON.stringify(body));

	test("a registry of Azure pings, and is answered when it has the route's proof", async () => {
		const body = json({ id: '1', action: 'ping', timestamp: '2026-03-01T10:00:00Z' });
		assert.equal((await answered('acr', { headers: token, body })).text, 'Pong');
		assert.equal((await deliver('acr', { headers: {}, body })).status, 401);
	});

	test('Event Grid validates a subscription, and gets its code back', async () => {
		const body = json([
			{
				id: '1',
				topic: '/t',
				eventType: 'Microsoft.EventGrid.SubscriptionValidationEvent',
				data: { validationCode: '512d38b6', validationUrl: `${host.url}/validate` },
			},
		]);
		const answer = await answered('acr', {
			headers: { ...token, 'aeg-event-type': 'SubscriptionValidation' },
			body,
		});
		assert.deepEqual(answer.json, { validationResponse: '512d38b6' });
		assert.ok(!host.asked.includes('/validate'), 'the address beside it is not called');
	});

	test('senders of CloudEvents ask by OPTIONS, and those that are known get consent', async () => {
		const ask = (name: Name, origin: string | undefined, more = {}) =>
			listener.request(pathOf(name), {
				method: 'OPTIONS',
				headers: {
					...(origin === undefined ? {} : { 'WebHook-Request-Origin': origin }),
					'WebHook-Request-Rate': '120',
					...more,
				},
			});
		for (const [name, origin] of [
			['acr', 'eventgrid.azure.net'],
			['cdevents', 'events.example.com'],
		] as const) {
			const callback = { 'WebHook-Request-Callback': `${host.url}/callback` };
			const consent = await ask(name, origin, callback);
			assert.equal(consent.status, 200);
			assert.equal(consent.headers['webhook-allowed-origin'], origin);
			assert.equal(consent.headers['webhook-allowed-rate'], '120');
			assert.match(String(consent.headers.allow), /POST/);
			for (const stranger of [undefined, '', '*', 'evil.example', `${origin}.evil.example`]) {
				const refused = await ask(name, stranger);
				assert.equal(refused.headers['webhook-allowed-origin'], undefined, stranger);
			}
		}
		assert.equal((await ask('jenkins', 'eventgrid.azure.net')).headers['webhook-allowed-origin'], undefined);
		assert.ok(!host.asked.includes('/callback'), 'the address for a later answer is not called');
	});

	const confirmation = (url: string, type = 'SubscriptionConfirmation') =>
		fromSns(
			host,
			{ inner: 'You have chosen to subscribe' },
			{ fields: { Type: type, Token: '2336412f37', SubscribeURL: url } },
		);
	const visits = () => host.asked.filter((url) => url.startsWith('/?Action=ConfirmSubscription')).length;

	test('SNS asks for a subscription to be confirmed, which is done once it has proved itself', async () => {
		const url = `${host.url}/?Action=ConfirmSubscription&TopicArn=${amazonTopic}&Token=2336412f37`;
		await answered('sns', confirmation(url));
		assert.equal(visits(), 1);

		const forged = {
			...confirmation(url),
			body: Buffer.from(confirmation(url).body.toString().replace('2336412f37', '2336412f38')),
		};
		assert.equal((await deliver('sns', forged)).status, 401);
		const elsewhere = await answered('sns', confirmation('http://127.0.0.1:1/?Action=ConfirmSubscription'));
		assert.match(elsewhere.json.ignored[0], /none of Amazon's/);
		assert.equal(
			(await answered('sns', confirmation(url, 'UnsubscribeConfirmation'))).json.ignored.length,
			1,
		);
		assert.equal(visits(), 1);
		assert.equal(
			(await deliver('sns', confirmation(`${host.url}/gone`))).status,
			502,
			'so that it is asked again',
		);
	});

	test('a route can leave that to people', async () => {
		const source = JSON.stringify({ sns: { topics: [amazonTopic], endpoint: host.url, confirm: false } });
		const careful = await startListener({
			routes: `routes: { sns: { source: ${source}, command: "true" } }\n`,
		});
		const { headers, body } = confirmation(`${host.url}/?Action=ConfirmSubscription`);
		const answer = await careful.post('/sns', body, headers);
		assert.equal(answer.status, 200);
		assert.match(answer.json.ignored[0], /a subscription waits/);
		assert.equal(visits(), 1);
	});
});

test('options that could not be meant are refused, and needed ones are asked for', async () => {
	const said: Record<string, [string, RegExp]> = {
		a: ['gcr', /source: must be .*, not "gcr"/],
		b: ['{ gcr: { audience: x } }', /email/],
		c: ['{ gcr: { audience: x, email: y, jwks: "http://example.com/certs" } }', /must be an https address/],
		d: ['{ sns: { topics: "arn:aws:sns:*:1:x" } }', /must be the ARN of a topic/],
		e: ['{ sns: { topics: [] } }', /topics/],
		f: [
			'{ sns: { topics: "arn:aws:sns:eu-west-1:123456789012:x", endpoint: "http://localhost/x" } }',
			/without a path/,
		],
		g: ['{ cdevents: { origins: ["*"] } }', /must be a host/],
		h: ['{ nexus: { registry: "https://registry.example.com" } }', /must be a host/],
	};
	const file = path.join(temporaryDirectory(), 'routes.yaml');
	const lines = Object.entries(said).map(
		([name, [source]]) =>
			`  ${name}: { source: ${source}, ${name === 'h' ? 'secret: x, ' : 'auth: none, '}command: "true" }`,
	);
	const more = [
		'  i: { source: harbor, command: "true" }',
		'  j: { source: harbor, secret: "x\\n", command: "true" }',
		'  k: { source: quay, secret: x, command: "true" }',
	];
	fs.writeFileSync(
		file,
		`listen: { address: 0.0.0.0 }\nroutes:\n${[...lines, ...more].join('\n')}\n  l: { source: acr, command: "true" }\n`,
	);
	const { code, stderr } = await command(['check', '--config', file]);
	assert.equal(code, 1);
	const of = (name: string) =>
		stderr
			.split('\n')
			.filter((line) => line.includes(`route "${name}"`))
			.join('\n');
	for (const [name, [, sentence]] of Object.entries(said)) assert.match(of(name), sentence, stderr);
	assert.match(of('i'), /say its "secret"/);
	assert.match(of('j'), /the secret has a line break/);
	assert.match(of('k'), /a path with \{\{fingerprint\}\}/);
});

test('a source that proves nothing does not make a route safe for other hosts', async () => {
	const file = path.join(temporaryDirectory(), 'routes.yaml');
	const routes = ['dockerhub', 'quay', 'acr', 'jenkins', 'cdevents'].map(
		(name) => `  ${name}: { source: ${name}, command: "true" }`,
	);
	fs.writeFileSync(file, `listen: { address: 0.0.0.0 }\nroutes:\n${routes.join('\n')}\n`);
	const { stderr } = await command(['check', '--config', file]);
	assert.equal(stderr.match(/other hosts can call it/g)?.length, routes.length, stderr);
});

describe('docs/sources.md', () => {
	const page = fs.readFileSync(path.join(root, 'docs/sources.md'), 'utf8');
	const blocks = [...page.matchAll(/^```yaml\n([\s\S]*?)^```$/gm)].map(([, text = '']) => text);
	const files = Object.fromEntries(names.map((name) => [`${name}.secret`, `${key}\n`]));

	for (const name of names) {
		const pattern = new RegExp(`source:\\s+(\\{ )?${name}\\b`);
		test(`shows how ${name} gets in, and who else does not`, async () => {
			const [example] = blocks.filter((text) => pattern.test(text));
			assert.ok(example !== undefined, 'there is an example');
			const text = example
				.replace('        audience:', `        jwks: ${host.url}/certs\n        audience:`)
				.replace('        topics:', `        endpoint: ${host.url}\n        topics:`);
			const shown = await startListener({ routes: text, files });
			const route = String(/^routes:\n {2}(\S+):$/m.exec(text)?.[1]);
			const fixture = exampleFixture(name);
			const ready =
				auths[name] === 'token' && name === 'acr'
					? { ...bytesOf(fixture), headers: { ...bytesOf(fixture).headers, 'X-Registry-Token': key } }
					: name === 'cdevents'
						? {
								...bytesOf(fixture),
								headers: { ...bytesOf(fixture).headers, Authorization: `Bearer ${key}` },
							}
						: right(name, fixture, host);
			const place = `/${route.replace('{{fingerprint}}', fingerprint)}`;
			const answer = await shown.post(place, ready.body, ready.headers);
			assert.equal(answer.status, 202, answer.text);
			const stranger = await shown.post(
				`/${route.replace('{{fingerprint}}', crypto.hash('sha256', other))}`,
				Buffer.from('{}'),
				{
					'Content-Type': 'application/json',
				},
			);
			assert.ok([401, 404].includes(stranger.status), stranger.text);
			assert.equal(await shown.runCount(), 1);
		});
	}

	function exampleFixture(name: Name): Carried {
		const fixture = fixtureOf(name, usual[name]);
		return JSON.parse(
			JSON.stringify(fixture).replace('"updated_tags":["latest"]', '"updated_tags":["stable"]'),
		);
	}
});

// ---- What is read -------------------------------------------------------------------------------------------------

function sourceOf(name: Name): Source {
	const kind = sourceKinds.find((it) => it.name === name)!;
	const given = kind.options.parse(options(host)[name] ?? {});
	return kind.compile(given, kind.secret === 'none' ? null : { current: [new Secret(key)] });
}

function deliveryOf({ headers, body }: Ready): Delivery {
	return {
		id: '01',
		receivedAt: Date.now(),
		method: 'POST',
		path: '/',
		query: {},
		headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])),
		body,
		client: { ip: '192.0.2.1', loopback: false, ...noCertificate },
	};
}

describe('what is read', () => {
	for (const name of names) {
		for (const fixture of fixtures(name)) {
			test(`of ${name}, ${fixture.name}, is what the delivery tells`, () => {
				const delivery = deliveryOf(right(name, fixture, host));
				const reading = sourceOf(name).read(delivery, JSON.parse(delivery.body.toString()));
				if (fixture.events.length === 0) return assert.equal(reading.kind, 'ignored');
				assert.ok(reading.kind === 'events');
				assert.deepEqual(
					reading.events,
					fixture.events.map((known) => eventOf(known as { kind: string })),
				);
			});
		}

		test(`of ${name} never breaks by what is missing or of another type`, () => {
			const source = sourceOf(name);
			const whole = fixtures(name).map((fixture) => deliveryOf(right(name, fixture, host)));
			fc.assert(
				fc.property(
					fc.nat(whole.length - 1),
					fc.nat(),
					fc.jsonValue(),
					fc.boolean(),
					(which, place, value, bare) => {
						const delivery = whole[which]!;
						const body = replaced(JSON.parse(delivery.body.toString()), place, value);
						const headers = bare ? {} : delivery.headers;
						try {
							const reading = source.read({ ...delivery, headers }, body);
							if (reading.kind === 'events')
								for (const event of reading.events) assert.equal(typeof event.kind, 'string');
							const id = source.deliveryId({ ...delivery, headers }, body);
							assert.ok(id === null || /^[!-~]{1,255}$/.test(id));
						} catch (error) {
							assert.ok(error instanceof BadRequest, String(error));
						}
					},
				),
				{ numRuns: 400, seed: 7 },
			);
		});
	}

	/** A body in which one of all its values is another. */
	function replaced(body: unknown, place: number, value: unknown): Body {
		let left = place % 40;
		const walk = (one: unknown): unknown => {
			if (left-- === 0) return value;
			if (Array.isArray(one)) return one.map(walk);
			if (one === null || typeof one !== 'object') return one;
			return Object.fromEntries(Object.entries(one).map(([name, inner]) => [name, walk(inner)]));
		};
		return walk(body) as Body;
	}

	test('FX-S10, FX-B16: names of images fall apart as container engines have it', () => {
		const cases: [string, ReturnType<typeof imageOf>][] = [
			['web', { registry: '', repository: 'web', tag: '', digest: '' }],
			['team/web:1', { registry: '', repository: 'team/web', tag: '1', digest: '' }],
			['localhost/web', { registry: 'localhost', repository: 'web', tag: '', digest: '' }],
			['host:5000/web', { registry: 'host:5000', repository: 'web', tag: '', digest: '' }],
			[
				'a.example:5000/t/web:1.2@sha256:ab',
				{ registry: 'a.example:5000', repository: 't/web', tag: '1.2', digest: 'sha256:ab' },
			],
			['a.example/web@sha256:ab', { registry: 'a.example', repository: 'web', tag: '', digest: 'sha256:ab' }],
			['https://quay.io/t/web', { registry: 'quay.io', repository: 't/web', tag: '', digest: '' }],
			['', { registry: '', repository: '', tag: '', digest: '' }],
		];
		for (const [reference, expected] of cases) assert.deepEqual(imageOf(reference), expected, reference);
	});

	test('ids tell one delivery from another, also of the same words', () => {
		for (const name of ['jenkins', 'cdevents', 'acr', 'harbor'] as const) {
			const source = sourceOf(name);
			const ids = fixtures(name).map((fixture) => {
				const delivery = deliveryOf(right(name, fixture, host));
				return fixture.name === 'nothing'
					? randomUUID()
					: source.deliveryId(delivery, JSON.parse(delivery.body.toString()));
			});
			assert.ok(ids.every((id) => id === null || /^[!-~]{1,255}$/.test(id)));
			assert.ok(source.remember >= 86_400_000);
		}
		const source = sourceOf('jenkins');
		const of = (change: object) => {
			const fixture = fixtureOf('jenkins', 'completed');
			const body = { ...fixture.body, build: { ...(fixture.body as { build: object }).build, ...change } };
			return source.deliveryId(deliveryOf(bytesOf({ ...fixture, body })), body);
		};
		assert.equal(of({}), of({ log: 'tried again' }));
		assert.equal(
			new Set([of({}), of({ phase: 'FINALIZED' }), of({ number: 19 }), of({ timestamp: 5 })]).size,
			4,
		);
	});
});
