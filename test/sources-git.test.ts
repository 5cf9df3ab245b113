/**
 * Senders that sign, and git servers: who gets in, with which proof, and what their deliveries mean. The first half asks a
 * real listener, in the way of each sender and in every way to be wrong; the second compares what is read with what was sent.
 */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash, generateKeyPairSync, randomUUID, sign as signWith } from 'node:crypto';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { sign as octokitSign } from '@octokit/webhooks-methods';
import fc from 'fast-check';
import { Webhook } from 'standardwebhooks';
import { digestOf } from '../listener/auth/signature.ts';
import { type Body, type Delivery, eventOf, noCertificate } from '../listener/delivery.ts';
import { BadRequest } from '../listener/errors.ts';
import { Secret } from '../listener/secret.ts';
import type { Reading, Source } from '../listener/sources/kind.ts';
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
	bytesOf,
	type Fixture,
	fixtures,
	hmac,
	type Ready,
	type Sender,
	senders,
	signed,
} from './helpers/senders.ts';

/** Those of this file's half. */
const here = [...new Set(Object.keys(senders).map((name) => name.split(' ')[0] as string)), 'azure-devops'];

// ---- Through the front door -------------------------------------------------------------------------------------

/** The path of a sender's route. */
const routeOf = (name: string) => name.replace(' ', '/');

/** A delivery that becomes one run. */
function usual(name: string): Fixture {
	const [source = ''] = name.split(' ');
	const one = fixtures(source).filter((it) => it.events.length === 1 && it.form === undefined);
	return one.find(({ name }) => name === 'push') ?? (one[0] as Fixture);
}

function yaml(value: unknown): string {
	return JSON.stringify(value);
}

/** What a route says of its source. */
function written(name: string): string {
	return name === 'hmac' ? '{ hmac: { event: X-Event } }' : (name.split(' ')[0] as string);
}

/** Every field of an event, as a parameter. */
const fields = [
	...['action', 'ref', 'branch', 'tag', 'commit', 'created', 'deleted', 'forced', 'sender'],
	...['name', 'full_name', 'url', 'ssh_url'].map((name) => `repository.${name}`),
	...['registry', 'repository', 'tag', 'digest'].map((name) => `image.${name}`),
];
const params = Object.fromEntries(
	fields.map((field) => [field.replace('.', '_'), { from: `event.${field}`, pattern: '.+' }]),
);

/** The parameters that an event becomes: all that is not empty. */
function parametersOf(known: Readonly<Record<string, unknown>>): Record<string, string> {
	const event = eventOf(known as { kind: string });
	const values = fields.map((field): [string, string] => {
		const value = field
			.split('.')
			.reduce<unknown>((at, name) => (at as Record<string, unknown>)[name], event);
		return [field.replace('.', '_'), String(value)];
	});
	return Object.fromEntries(values.filter(([, value]) => value !== ''));
}

const routes = Object.entries(senders).map(
	([name, { secret }]) =>
		`  ${routeOf(name)}: { source: ${written(name)}, secret: ${yaml(secret)}, params: ${yaml(params)}, command: 'printf %s "$WEBHOOK_EVENT"' }`,
);

/** The kind of the event that a run is for. */
async function kindOf(listener: Listener, id: string): Promise<string> {
	await listener.ended(id);
	return listener.output(id);
}

function deliver(listener: Listener, route: string, { body, headers }: Ready): Promise<Answer> {
	return listener.post(`/${route}`, body, headers);
}

/** A refusal that tells the caller nothing, and starts nothing. */
async function assertRefused(listener: Listener, route: string, ready: Ready): Promise<void> {
	const earlier = await listener.runCount(route);
	const answer = await deliver(listener, route, ready);
	assert.equal(answer.status, 401, answer.text);
	assert.ok(answer.headers['www-authenticate']);
	assert.equal(answer.json.detail, 'the caller is not known; send what the route asks for');
	assert.equal(await listener.runCount(route), earlier, 'a run was started');
}

/** Changes one bit in the middle. */
function tampered(body: Buffer): Buffer {
	const copy = Buffer.from(body);
	const middle = copy.length >> 1;
	copy[middle] = copy[middle]! ^ 1;
	return copy;
}

const minutes = (n: number) => Math.floor(Date.now() / 1000) + 60 * n;

/** What is right, but for one header; undefined takes it away. */
function but({ headers, body }: Ready, name: string, value: string | undefined): Ready {
	const { [name]: _old, ...others } = headers;
	return { headers: value === undefined ? others : { ...others, [name]: value }, body };
}

type Way = (sender: Sender, right: Ready, fixture: Fixture) => Ready | undefined;

/** A way that concerns the header with the proof. */
function ofProof(change: (proof: string) => string | undefined): Way {
	return ({ proof }, right) => but(right, proof, change(right.headers[proof] ?? ''));
}

/** A way that concerns the time of signing, for senders that sign one. */
function ofTime(change: (sender: Sender, right: Ready, timestamp: string, fixture: Fixture) => Ready): Way {
	return (sender, right, fixture) =>
		sender.timestamp === undefined ? undefined : change(sender, right, sender.timestamp, fixture);
}

/** Ways to be wrong, each made of what is right; undefined where a sender cannot be wrong so. */
const ways: Readonly<Record<string, Way>> = {
	'changed by one bit on its way': ({ proof }, { headers, body }) =>
		proof === 'X-Gitlab-Token' ? undefined : { headers, body: tampered(body) },
	'signed with another secret': (sender, _right, fixture) => signed(sender, fixture, {}, sender.other),
	'signed with another algorithm': (sender, right) =>
		sender.wrongAlgorithm && but(right, sender.proof, sender.wrongAlgorithm(right.body)),
	'without the header that proves it': ofProof(() => undefined),
	'with that header empty': ofProof(() => ''),
	'with a part of the proof': ofProof((proof) => proof.slice(0, -2)),
	'with the proof and more': ofProof((proof) => `${proof}00`),
	'with a proof whose end is no digit': ofProof((proof) => `${proof.slice(0, -1)}!`),
	'with the proof sent twice': (sender, right, fixture) =>
		// Standard Webhooks send lists, of which any will do.
		sender.proof.endsWith('-signature')
			? undefined
			: ofProof((proof) => `${proof}, ${proof}`)(sender, right, fixture),
	'signed six minutes ago': ofTime((sender, _right, _header, fixture) =>
		signed(sender, fixture, { time: minutes(-6) }),
	),
	'signed six minutes in the future': ofTime((sender, _right, _header, fixture) =>
		signed(sender, fixture, { time: minutes(6) }),
	),
	'with a time that was not signed': ofTime((_sender, right, header) =>
		but(right, header, String(minutes(-1))),
	),
	'with a time that is no number': ofTime((_sender, right, header) => but(right, header, 'now')),
	'without a time': ofTime((_sender, right, header) => but(right, header, undefined)),
};

describe('a delivery', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes: `routes:\n${routes.join('\n')}\n` });
	});

	for (const [name, sender] of Object.entries(senders)) {
		const route = routeOf(name);
		const fixture = usual(name);

		test(`of ${name} with the right proof becomes a run, and the same one when it is sent again`, async () => {
			const ready = signed(sender, fixture);
			const answer = await deliver(listener, route, ready);
			assert.equal(answer.status, 202, answer.text);
			const run = await listener.ended(answer.json.runs[0].id);
			assert.equal(run.state, 'succeeded');
			assert.equal(await kindOf(listener, run.id), fixture.events[0]?.kind);

			const again = await deliver(listener, route, ready);
			assert.equal(again.status, 202);
			// A sender that has no id for a delivery can mean a second one.
			const same = name !== 'hmac';
			assert.equal(again.json.runs[0].id === run.id, same);
			const another = await deliver(listener, route, signed(sender, fixture, { id: randomUUID() }));
			if (name !== 'slack') assert.notEqual(another.json.runs[0].id, run.id);
		});

		for (const [way, change] of Object.entries(ways)) {
			// Made anew when it is sent: what is late or early now may not be so in a minute.
			const make = () => change(sender, signed(sender, fixture), fixture);
			if (make() === undefined) continue;
			test(`of ${name} ${way} is refused and starts nothing`, () =>
				assertRefused(listener, route, make() as Ready));
		}

		if (sender.timestamp !== undefined) {
			test(`of ${name} may be four minutes old, or early`, async () => {
				for (const time of [minutes(-4), minutes(4)]) {
					const answer = await deliver(listener, route, signed(sender, fixture, { time }));
					assert.equal(answer.status, 202, answer.text);
				}
			});
		}

		test(`of ${name} that is proved and no JSON object is a bad request`, async () => {
			for (const text of ['{"ref": ', '[]', '"text"', '3', 'null', '\xff']) {
				const body = Buffer.from(text, 'latin1');
				const headers = { 'Content-Type': 'application/json', ...fixture.headers };
				const right = await deliver(listener, route, {
					headers: { ...headers, ...sender.sign(body, sender.secret) },
					body,
				});
				// Of a list, who describes a sender of his own may make something.
				assert.equal(right.status, name === 'hmac' && text === '[]' ? 202 : 400, `${text}: ${right.text}`);
				const wrong = await deliver(listener, route, {
					headers: { ...headers, ...sender.sign(body, sender.other) },
					body,
				});
				assert.equal(wrong.status, 401, `${text}: ${wrong.text}`);
			}
		});
	}

	test('RK-B8, RK-B9, FX-B10, FX-B11: of each source becomes a run for each of its events, with all that they tell', async () => {
		for (const [name, sender] of Object.entries(senders)) {
			for (const fixture of fixtures(name.split(' ')[0] as string)) {
				// Early versions of Forgejo spoke as Gitea does.
				const speaker = 'X-Gitea-Event' in fixture.headers ? senders.gitea! : sender;
				const answer = await deliver(listener, routeOf(name), signed(speaker, fixture));
				const kinds = fixture.events.map(({ kind }) => kind);
				assert.equal(
					answer.status,
					kinds.length === 0 ? 200 : 202,
					`${name} ${fixture.name}: ${answer.text}`,
				);
				const ids: string[] = (answer.json.runs ?? []).map(({ id }: { id: string }) => id);
				const told = await Promise.all(ids.map((id) => kindOf(listener, id)));
				assert.deepEqual(told, kinds, `${name} ${fixture.name}`);
				const parameters = await Promise.all(ids.map(async (id) => (await listener.run(id)).parameters));
				assert.deepEqual(parameters, fixture.events.map(parametersOf), `${name} ${fixture.name}`);
			}
		}
	});

	test('that is a push of no ref is ignored, and the answer says why', async () => {
		const nothing = fixtures('bitbucket').find(({ name }) => name === 'push-of-nothing') as Fixture;
		const answer = await deliver(listener, 'bitbucket', signed(senders.bitbucket!, nothing));
		assert.deepEqual(answer.json, { ignored: ['the push changes no ref'] });
	});

	test('that changes more refs than anybody has is refused', async () => {
		const change = { old: null, new: { type: 'tag', name: 'v1', target: { hash: 'a' } }, created: true };
		const body = { push: { changes: Array.from({ length: 10_001 }, () => change) } };
		const many: Fixture = { name: '', headers: { 'X-Event-Key': 'repo:push' }, body, events: [] };
		const answer = await deliver(listener, 'bitbucket', signed(senders.bitbucket!, many));
		assert.equal(answer.status, 400);
		assert.equal(answer.json.detail, 'the push changes 10001 refs; at most 10000 are taken at once');
	});

	test('FX-B8: leaves nothing of its body in the log, whatever is wrong with it', async () => {
		const marker = 'ish7Ohng';
		for (const text of [`{"ref":"${marker}"}`, `{"ref":"${marker}"`, `"${marker}"`, `["${marker}"]`]) {
			const body = Buffer.from(text);
			for (const secret of [senders.github!.secret, senders.github!.other]) {
				const answer = await deliver(listener, 'github', {
					headers: senders.github!.sign(body, secret),
					body,
				});
				assert.ok([400, 401].includes(answer.status));
				await listener.logged('the refusal', (line) => line.delivery === answer.json.delivery);
			}
		}
		assert.ok(!JSON.stringify(listener.log()).includes(marker));
	});

	test('with a signature in capitals is taken', async () => {
		const { headers, body } = signed(senders.github!, usual('github'));
		const proof = String(headers['X-Hub-Signature-256']).replace(/(?<==.*)[a-f]/g, (digit) =>
			digit.toUpperCase(),
		);
		const answer = await deliver(listener, 'github', {
			headers: { ...headers, 'X-Hub-Signature-256': proof },
			body,
		});
		assert.equal(answer.status, 202);
	});

	test('of GitHub that does not say its event is a bad request', async () => {
		for (const name of ['github', 'gitlab', 'bitbucket', 'bitbucket-server', 'gitea', 'forgejo', 'gogs']) {
			const fixture: Fixture = { name, headers: {}, body: {}, events: [] };
			const answer = await deliver(listener, name, signed(senders[name]!, fixture));
			assert.equal(answer.status, 400, name);
			assert.match(answer.json.detail, /there is (no|neither a) header X-/);
		}
	});

	test('RK-B4: of GitLab about a tag is no push, whatever its other headers say', async () => {
		const tag = fixtures('gitlab').find(({ name }) => name === 'tag') as Fixture;
		const { headers, body } = signed(senders.gitlab!, tag);
		const answer = await deliver(listener, 'gitlab', {
			headers: { ...headers, 'X-Other': 'X-Gitlab-Event: Push Hook', Accept: 'Push Hook' },
			body,
		});
		assert.equal(await kindOf(listener, answer.json.runs[0].id), 'tag');
	});

	test('of a sender that is another than the route says is refused', async () => {
		for (const [other, theirs] of Object.entries(senders)) {
			const { headers, body } = signed(theirs, usual(other));
			for (const name of ['gitlab signing', 'standard-webhooks', 'slack', 'github', 'gogs']) {
				const sender = senders[name]!;
				// Who has the same secret and signs in the same way cannot be told apart.
				if (sender.proof === theirs.proof || (other.includes('svix') && name === 'standard-webhooks'))
					continue;
				assert.equal(
					(await deliver(listener, routeOf(name), { headers, body })).status,
					401,
					`${other} as ${name}`,
				);
			}
		}
	});
});

describe('pings and handshakes', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes: `routes:\n${routes.join('\n')}\n` });
	});

	/** Answered, and nothing ran. */
	async function assertAnswered(
		name: string,
		fixture: Omit<Fixture, 'name' | 'events'>,
		text: string,
		proved = true,
	) {
		const whole = { name, events: [], ...fixture };
		const ready = proved ? signed(senders[name]!, whole) : bytesOf(whole);
		const answer = await deliver(listener, name, ready);
		assert.equal(answer.status, 200, answer.text);
		assert.equal(answer.text, text);
		assert.equal(await listener.runCount(name), 0);
		await assertRefused(listener, name, signed(senders[name]!, whole, {}, senders[name]!.other));
	}

	test('GitHub pings, and is answered', () =>
		assertAnswered(
			'github',
			{ headers: { 'X-GitHub-Event': 'ping' }, body: { zen: 'Keep it.', hook_id: 1 } },
			'Pong',
		));

	test('Slack asks whether the URL is ours, and gets its challenge back', () =>
		assertAnswered(
			'slack',
			{
				headers: {},
				body: {
					type: 'url_verification',
					token: 'x',
					challenge: '3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P',
				},
			},
			'3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P',
		));

	test('Slack looks at the certificate of a slash command, and no command runs', () =>
		assertAnswered('slack', { headers: {}, form: { ssl_check: '1', token: 'x' } }, ''));

	test('Bitbucket Server tests the connection without signing, and is answered', async () => {
		const ping = { headers: { 'X-Event-Key': 'diagnostics:ping' }, body: { test: true } };
		await assertAnswered('bitbucket-server', ping, '', false);
		await assertAnswered('bitbucket-server', ping, '');
	});

	test('what only looks like a ping of Bitbucket Server runs nothing', async () => {
		const push = usual('bitbucket-server');
		const { headers, body } = bytesOf(push);
		const answer = await deliver(listener, 'bitbucket-server', {
			headers: { ...headers, 'X-Event-Key': 'diagnostics:ping' },
			body,
		});
		assert.equal(answer.status, 200);
		assert.equal(answer.text, '');
		await assertRefused(listener, 'bitbucket-server', { headers, body });
		await assertRefused(listener, 'bitbucket-server', {
			headers: { ...headers, 'X-Event-Key': 'diagnostics:ping, repo:refs_changed' },
			body,
		});
	});
});

describe('forms', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes: `routes:\n${routes.join('\n')}\n` });
	});

	const form = { 'Content-Type': 'application/x-www-form-urlencoded' };

	test('XC-1: GitHub signs the form as it is sent', async () => {
		const { headers, body } = usual('github');
		const fixture = { name: '', headers, form: { payload: JSON.stringify(body) }, events: [] };
		assert.equal((await deliver(listener, 'github', signed(senders.github!, fixture))).status, 202);
	});

	for (const name of ['gitea', 'forgejo', 'gogs']) {
		test(`${name} signs what is in the form`, async () => {
			const sender = senders[name]!;
			const fixture = usual(name);
			const json = Buffer.from(JSON.stringify({ ...fixture.body, note: 'ü+ %41&=' }));
			const headers = { ...form, ...fixture.headers, ...sender.sign(json, sender.secret) };
			const pair = `payload=${encodeURIComponent(json.toString())}`;
			const send = (text: string) => deliver(listener, name, { headers, body: Buffer.from(text) });
			assert.equal((await send(pair)).status, 202);
			assert.equal((await send(pair.replace('heads', 'tags'))).status, 401);
			for (const twice of [
				`${pair}&${pair}`,
				`${pair}&payload=%7B%7D`,
				`payload=%7B%7D&${pair}`,
				`p%61yload=%7B%7D&${pair}`,
			]) {
				assert.equal((await send(twice)).status, 401, twice.slice(0, 40));
			}
			assert.equal((await send('other=%7B%7D')).status, 401);
		});
	}
});

describe('secrets', () => {
	const old = senders.github!.other;
	const { secret } = senders.github!;
	const signing = senders['gitlab signing']!;
	let listener: Listener;
	before(async () => {
		listener = await startListener({
			routes: `routes:
  rotating: { source: github, secret: [${yaml(secret)}, ${yaml(old)}], command: "true" }
  sha1: { source: { github: { sha1: true } }, secret: ${yaml(secret)}, command: "true" }
  github: { source: github, secret: ${yaml(secret)}, command: "true" }
  gitlab: { source: gitlab, secret: [${yaml(senders.gitlab!.secret)}, ${yaml(signing.secret)}], command: "true" }
  hook/{{fingerprint}}: { source: { bitbucket: { signed: false } }, secret: ${yaml(secret)}, command: "true" }
`,
		});
	});

	test('may be several, each of them good', async () => {
		for (const each of [secret, old]) {
			const ready = signed(senders.github!, usual('github'), {}, each);
			assert.equal((await deliver(listener, 'rotating', ready)).status, 202);
		}
		await assertRefused(listener, 'rotating', signed(senders.github!, usual('github'), {}, 'a third'));
	});

	test('FX-B9: SHA-1 counts only where the route says so, and never beside SHA-256', async () => {
		const { headers, body } = bytesOf(usual('github'));
		const weak = { ...headers, 'X-Hub-Signature': `sha1=${hmac('sha1', secret, body).toString('hex')}` };
		await assertRefused(listener, 'github', { headers: weak, body });
		assert.equal((await deliver(listener, 'sha1', { headers: weak, body })).status, 202);
		const strong = `sha256=${hmac('sha256', secret, body).toString('hex')}`;
		for (const spoilt of ['', 'sha256=', `sha256=${'0'.repeat(64)}`, `sha1=${'0'.repeat(40)}`]) {
			await assertRefused(listener, 'sha1', { headers: { ...weak, 'X-Hub-Signature-256': spoilt }, body });
		}
		const both = { ...weak, 'X-Hub-Signature': 'sha1=', 'X-Hub-Signature-256': strong };
		assert.equal((await deliver(listener, 'sha1', { headers: both, body })).status, 202);
		for (const algorithm of ['sha256', 'sha512', 'md5']) {
			const chosen = `${algorithm}=${hmac(algorithm, secret, body).toString('hex')}`;
			await assertRefused(listener, 'sha1', { headers: { ...headers, 'X-Hub-Signature': chosen }, body });
		}
	});

	test('of GitLab that hold a signing token require a signature', async () => {
		const fixture = usual('gitlab');
		await assertRefused(listener, 'gitlab', signed(senders.gitlab!, fixture));
		const both = signed(signing, fixture);
		const token = { 'X-Gitlab-Token': senders.gitlab!.secret };
		assert.equal(
			(await deliver(listener, 'gitlab', { headers: { ...both.headers, ...token }, body: both.body })).status,
			202,
		);
	});

	test('are in no line of the log', () => {
		const log = JSON.stringify(listener.log()) + listener.stderr;
		for (const text of [secret, old, signing.secret, signing.secret.slice(6), senders.gitlab!.secret]) {
			assert.ok(!log.includes(text));
		}
	});

	test('FX-H1, FX-S3: Bitbucket may sign nothing where the path is a secret', async () => {
		const ready = bytesOf(usual('bitbucket'));
		const path = (text: string) => `hook/${createHash('sha256').update(text).digest('hex')}`;
		assert.equal((await deliver(listener, path(secret), ready)).status, 202);
		assert.equal((await deliver(listener, path(old), ready)).status, 404);
	});
});

describe('a sender that signs in a way of its own', () => {
	const secret = senders.hmac!.secret;

	test('is verified as its route describes', async () => {
		const listener = await startListener({
			routes: `routes:
  base64: { source: { hmac: { header: X-Sum, algorithm: sha512, encoding: base64, prefix: "", id: X-Id, event: /event/type } }, secret: ${yaml(secret)}, command: 'printf %s "$WEBHOOK_EVENT"' }
  stripe: { source: { hmac: { prefix: "v1=", timestamp: X-Time } }, secret: ${yaml(secret)}, command: "true" }
  slack: { source: { hmac: { prefix: "v0=", timestamp: X-Time, tolerance: 2m, id: X-Id, signed: "v0:{timestamp}:{id}:{body}:" } }, secret: ${yaml(secret)}, command: "true" }
`,
		});
		const body = Buffer.from('{"event":{"type":"build.done"}}');
		const send = (route: string, headers: Record<string, string>) =>
			deliver(listener, route, { headers, body });

		const sum = { 'X-Sum': hmac('sha512', secret, body).toString('base64'), 'X-Id': '7' };
		const first = await send('base64', sum);
		assert.equal(first.status, 202, first.text);
		assert.equal(await kindOf(listener, first.json.runs[0].id), 'build.done');
		assert.equal((await send('base64', sum)).json.runs[0].id, first.json.runs[0].id);
		const hex = hmac('sha512', secret, body).toString('hex');
		for (const wrong of [hex, sum['X-Sum'].replace('==', ''), `${sum['X-Sum']}=`, sum['X-Sum'].slice(4)]) {
			assert.equal((await send('base64', { ...sum, 'X-Sum': wrong })).status, 401, wrong);
		}

		for (const each of [String(minutes(0)), `${minutes(0)}000`]) {
			const signature = `v1=${hmac('sha256', secret, `${each}.`, body).toString('hex')}`;
			assert.equal((await send('stripe', { 'X-Time': each, 'X-Signature': signature })).status, 202, each);
			assert.equal((await send('stripe', { 'X-Time': `${each} `, 'X-Signature': signature })).status, 202);
			assert.equal((await send('stripe', { 'X-Time': `0${each}`, 'X-Signature': signature })).status, 401);
		}

		const time = minutes(0);
		const own = (at: number, id: string) => ({
			'X-Time': String(at),
			'X-Id': id,
			'X-Signature': `v0=${hmac('sha256', secret, `v0:${at}:${id}:`, body, ':').toString('hex')}`,
		});
		assert.equal((await send('slack', own(time, 'a'))).status, 202);
		assert.equal((await send('slack', { ...own(time, 'a'), 'X-Id': 'b' })).status, 401);
		assert.equal((await send('slack', own(minutes(-3), 'a'))).status, 401);
	});

	test('is not taken into service where what is said could not work, or would prove nothing', async () => {
		const faults: Record<string, [string, RegExp]> = {
			a: ['{ hmac: { signed: "{timestamp}" } }', /must have \{body\} in it, once/],
			b: [
				'{ hmac: { signed: "{time}{body}" } }',
				/has "\{time\}"; it may have \{body\}, \{timestamp\} and \{id\}/,
			],
			c: ['{ hmac: { signed: "{id}{body}" } }', /has \{id\}; name its header with "id"/],
			d: ['{ hmac: { signed: "{timestamp}{body}" } }', /has \{timestamp\}; name its header with "timestamp"/],
			e: ['{ hmac: { timestamp: X-Time, signed: "{body}" } }', /proves nothing unless it is signed/],
			f: ['{ hmac: { tolerance: 1m } }', /needs "timestamp"/],
			g: ['{ hmac: { algorithm: md5 } }', /algorithm: must be sha256, sha512 or sha1, not "md5"/],
			h: ['{ hmac: { header: "X Y" } }', /is no name for a header/],
			i: ['{ hmac: { event: "a b" } }', /must be a header, such as X-Event, or a place in the body/],
			j: ['standard-webhooks', /the secret has to be "whsec_" and base64/],
		};
		const dir = temporaryDirectory();
		const file = path.join(dir, 'routes.yaml');
		const lines = Object.entries(faults).map(
			([name, [source]]) => `  ${name}: { source: ${source}, secret: "not base64!", command: "true" }`,
		);
		const more = [
			'  k: { source: gitlab, secret: " token", command: "true" }',
			'  l: { source: gitlab, secret: "whsec_!", command: "true" }',
			'  m: { source: github, command: "true" }',
			'  n: { source: github, secret: "", command: "true" }',
			'  o: { source: azure-devops, secret: x, command: "true" }',
			'  p: { source: githup, secret: x, command: "true" }',
		];
		fs.writeFileSync(file, `routes:\n${[...lines, ...more].join('\n')}\n`);
		const { code, stdout, stderr } = await command(['check', '--config', file]);
		assert.equal(code, 1);
		const told = stdout + stderr;
		const of = (name: string) =>
			told
				.split('\n')
				.filter((line) => line.includes(`route "${name}"`))
				.join('\n');
		for (const [name, [, sentence]] of Object.entries(faults)) assert.match(of(name), sentence, told);
		assert.match(of('k'), /has a line break, or a blank at one of its ends/);
		assert.match(of('l'), /begins like a signing token, "whsec_", but no base64 follows/);
		assert.match(of('m'), /source "github" signs what it sends: say its "secret"/);
		assert.match(of('n'), /empty/);
		assert.match(of('o'), /nothing that a secret could verify/);
		assert.match(of('p'), /did you mean "github"/);
		assert.ok(!told.includes('not base64!'));
	});

	test('is checked without its secret where only the listener has that', async () => {
		const file = path.join(temporaryDirectory(), 'routes.yaml');
		const sources = ['standard-webhooks', 'gitlab', 'github'];
		const lines = sources.map(
			(name) => `  ${name}: { source: ${name}, secret: { file: away }, command: "true" }`,
		);
		fs.writeFileSync(file, `routes:\n${lines.join('\n')}\n`);
		assert.equal((await command(['check', '--config', file])).code, 1);
		const { code, stdout } = await command(['check', '--no-secrets', '--config', file]);
		assert.equal(code, 0, stdout);
	});
});

describe('azure-devops', () => {
	test('gets in by the auth of its route alone', async () => {
		const listener = await startListener({
			routes: `auth: { azure: { basic: { user: azure, password: swordfish } } }
routes:
  azure: { source: azure-devops, auth: azure, command: "true" }
`,
		});
		const [fixture] = fixtures('azure-devops').filter(({ name }) => name === 'push-several');
		const { headers, body } = bytesOf(fixture!);
		await assertRefused(listener, 'azure', { headers, body });
		const basic = (text: string) => ({
			...headers,
			Authorization: `Basic ${Buffer.from(text).toString('base64')}`,
		});
		await assertRefused(listener, 'azure', { headers: basic('azure:another'), body });
		const answer = await deliver(listener, 'azure', { headers: basic('azure:swordfish'), body });
		assert.equal(answer.status, 202, answer.text);
		assert.equal(answer.json.runs.length, 3);
		const again = await deliver(listener, 'azure', { headers: basic('azure:swordfish'), body });
		assert.deepEqual(
			again.json.runs.map(({ id }: { id: string }) => id),
			answer.json.runs.map(({ id }: { id: string }) => id),
		);
	});
});

describe('docs/sources.md', () => {
	const page = fs.readFileSync(path.join(root, 'docs/sources.md'), 'utf8');
	const blocks = [...page.matchAll(/^```yaml\n([\s\S]*?)^```$/gm)].map(([, text = '']) => text);
	const shown = blocks.filter((text) =>
		here.some((name) => new RegExp(`source: (\\{ )?${name}\\b`).test(text)),
	);
	const files: Record<string, string> = { 'azure-devops.secret': 'swordfish' };
	for (const [name, { secret }] of Object.entries(senders)) files[`${name}.secret`] = `${secret}\n`;

	/** Those that the page's examples want, a push of `production` where they ask for that. */
	const wanted: Readonly<Record<string, string>> = {
		github: 'push-forced',
		'bitbucket-server': 'push-several',
		'azure-devops': 'push-several',
		slack: 'slash-command',
		'standard-webhooks': 'typed',
		hmac: 'typed',
	};

	function fixtureFor(source: string, example: string): Fixture {
		const name = wanted[source] ?? 'push';
		const fixture = fixtures(source).find((it) => it.name === name) as Fixture;
		if (!example.includes('== "production"')) return fixture;
		return JSON.parse(JSON.stringify(fixture).replaceAll('feature/hiera', 'production'));
	}

	test('names every source there is', () => {
		for (const { name } of sourceKinds) assert.match(page, new RegExp(`^\\| .*\\[\`${name}\`\\]\\(#`, 'm'));
	});

	test('has an example of each source', () => {
		for (const name of here) assert.match(shown.join(), new RegExp(`source: (\\{ )?${name}\\b`));
	});

	for (const text of shown) {
		const named = [...text.matchAll(/^ {2}([\w-]+):\n {4}source: (?:\{ )?([\w-]+)/gm)];
		test(`shows how ${named.map(([, , source]) => source).join(', ')} gets in, and who else does not`, async () => {
			const listener = await startListener({ routes: text, files });
			for (const [, route = '', source = ''] of named) {
				const fixture = fixtureFor(source, text);
				const { headers, body } = bytesOf(fixture);
				await assertRefused(listener, route, { headers, body });
				const proof = senders[source]?.sign(body, senders[source].secret) ?? {
					Authorization: `Basic ${Buffer.from('azure:swordfish').toString('base64')}`,
				};
				const answer = await deliver(listener, route, { headers: { ...headers, ...proof }, body });
				if (text.includes('status: 200')) assert.equal(answer.text, 'On its way.\n');
				else {
					assert.equal(answer.status, 202, answer.text);
					const { branch } = (await listener.run(answer.json.runs[0].id)).parameters;
					if (text.includes('event.branch, ')) assert.equal(branch, fixture.events[0]?.branch);
				}
				assert.equal(await listener.runCount(route), 1);
			}
		});
	}

	test('shows how a shell signs', async () => {
		const example = shown.find((text) => text.includes('hmac')) as string;
		const listener = await startListener({ routes: example, files });
		const script = /^```sh\n([\s\S]*?)^```$/m.exec(page)?.[1] ?? '';
		assert.match(script, /openssl/);
		const { stdout } = await promisify(execFile)(
			'/bin/sh',
			['-c', script.replace('https://webhook.example.com:6969', listener.url)],
			{ env: { ...process.env, SECRET: senders.hmac!.secret }, timeout: 30_000 },
		);
		const run = await listener.ended(JSON.parse(stdout).runs[0].id);
		assert.deepEqual(run.parameters, { role: 'haproxy' });
	});
});

// ---- What is verified and read -----------------------------------------------------------------------------------

function sourceOf(
	name: string,
	secret: string | Buffer = senders[name]?.secret ?? 'x',
	options: unknown = {},
): Source {
	const kind = sourceKinds.find((it) => it.name === name)!;
	const secrets = kind.secret === 'none' ? null : { current: [new Secret(secret)] };
	return kind.compile(kind.options.parse(options), secrets);
}

function deliveryOf(
	headers: Readonly<Record<string, string>>,
	body: Buffer,
	receivedAt = Date.now(),
): Delivery {
	return {
		id: '01',
		receivedAt,
		method: 'POST',
		path: '/',
		query: {},
		headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])),
		body,
		client: { ip: '192.0.2.1', loopback: false, ...noCertificate },
	};
}

/** What a parsed body is to a source: JSON, also from a form's `payload`; or the form's fields. */
function contentOf({ body, form }: Fixture): Body {
	if (form === undefined) return body as Body;
	return form.payload === undefined ? form : JSON.parse(form.payload);
}

function read(source: Source, fixture: Fixture): Reading {
	const { headers, body } = bytesOf(fixture);
	return source.read(deliveryOf(headers, body), contentOf(fixture));
}

async function passes(source: Source, delivery: Delivery): Promise<boolean> {
	return (await source.verification!.check(delivery)).ok;
}

describe('what is read', () => {
	for (const name of here) {
		const source = sourceOf(name, senders[name]?.secret, name === 'hmac' ? { event: 'X-Event' } : {});
		for (const fixture of fixtures(name)) {
			test(`of ${name}, ${fixture.name}, is what the delivery tells`, () => {
				const reading = read(source, fixture);
				if (fixture.events.length === 0) return assert.equal(reading.kind, 'ignored');
				assert.ok(reading.kind === 'events');
				assert.deepEqual(
					reading.events,
					fixture.events.map((known) => eventOf(known as { kind: string })),
				);
			});
		}
	}

	/** GitHub's own examples: of each event, some. */
	const examples: { name: string; examples: Record<string, unknown>[] }[] = createRequire(import.meta.url)(
		'@octokit/webhooks-examples',
	);
	const github = sourceOf('github');
	const told = {
		repository: {
			name: 'Hello-World',
			full_name: 'Codertocat/Hello-World',
			url: 'https://github.com/Codertocat/Hello-World.git',
			ssh_url: 'git@github.com:Codertocat/Hello-World.git',
		},
		sender: 'Codertocat',
	};

	test("GitHub's own examples are verified and read, every one", async () => {
		assert.equal(examples.length, 58);
		const listener = await startListener({
			routes: `routes:
  github:
    source: github
    secret: ${yaml(senders.github!.secret)}
    when: event.sender == "nobody"
    command: "true"
`,
		});
		const kinds: Record<string, string> = {
			push: 'push|tag',
			workflow_run: 'build',
			package: 'package|image',
		};
		for (const { name, examples: bodies } of examples) {
			for (const body of bodies) {
				const fixture: Fixture = { name, headers: { 'X-GitHub-Event': name }, body, events: [] };
				const answer = await deliver(listener, 'github', signed(senders.github!, fixture));
				assert.equal(answer.status, 200, `${name}: ${answer.text}`);
				const reading = read(github, fixture);
				assert.equal(reading.kind, name === 'ping' ? 'answer' : 'events', name);
				if (reading.kind !== 'events') continue;
				assert.deepEqual(answer.json, { ignored: ['when: event.sender == "nobody" is not true'] });
				const [event] = reading.events;
				assert.match(event!.kind, new RegExp(`^(${kinds[name] ?? name})$`));
				assert.equal(event!.action, body.action ?? '');
			}
		}
	});

	test("GitHub's examples of push, create and delete give exactly their events", () => {
		const after = '6113728f27ae82c7b1a177c8d03f9e96e0adf246';
		const tag = { ref: 'refs/tags/simple-tag', tag: 'simple-tag', ...told };
		const branch = { kind: 'push', ref: 'refs/heads/master', branch: 'master', ...told };
		const gone = { kind: 'tag', ...tag, deleted: true };
		const expected: Record<string, object[]> = {
			push: [
				{ kind: 'tag', ...tag, commit: after, created: true },
				gone,
				gone,
				gone,
				{ ...branch, commit: after, created: true },
				{ ...branch, commit: after, created: true },
				gone,
			],
			create: Array.from({ length: 5 }, () => ({ kind: 'create', ...tag, created: true })),
			delete: Array.from({ length: 4 }, () => ({ kind: 'delete', ...tag, deleted: true })),
		};
		for (const [name, events] of Object.entries(expected)) {
			const bodies = examples.find((it) => it.name === name)!.examples;
			const readings = bodies.map((body) =>
				read(github, { name, headers: { 'X-GitHub-Event': name }, body, events: [] }),
			);
			assert.deepEqual(
				readings.map((reading) => reading.kind === 'events' && reading.events[0]),
				events.map((known) => eventOf(known as { kind: string })),
			);
		}
	});

	test('RK-B11, FX-B5: whatever the body holds, it is read, or refused in words', () => {
		const words = [
			'ref',
			'before',
			'after',
			'repository',
			'full_name',
			'project',
			'push',
			'changes',
			'old',
			'new',
			'type',
		];
		const more = [
			'resource',
			'refUpdates',
			'object_attributes',
			'links',
			'clone',
			'event',
			'payload',
			'package',
			'eventType',
		];
		const key = fc.oneof(fc.constantFrom(...words, ...more), fc.string());
		const { any } = fc.letrec((tie) => ({
			any: fc.oneof(
				{ maxDepth: 4 },
				fc.constantFrom('refs/heads/x', 'refs/', '0'.repeat(40), 'git.push', 'CONTAINER'),
				fc.string(),
				fc.double(),
				fc.constantFrom(null, true, false),
				fc.array(tie('any'), { maxLength: 4 }),
				fc.dictionary(key, tie('any'), { maxKeys: 6 }),
			),
		}));
		const body = fc.oneof(
			fc.dictionary(key, any, { maxKeys: 8 }),
			fc.array(any, { maxLength: 3 }),
			fc.constant(undefined),
		);
		const events = [
			'push',
			'create',
			'workflow_run',
			'package',
			'Push Hook',
			'Pipeline Hook',
			'System Hook',
			'repo:push',
			'repo:refs_changed',
			'pr:x',
			'ping',
		];
		const headers = [
			'x-github-event',
			'x-gitlab-event',
			'x-event-key',
			'x-gitea-event',
			'x-gogs-event',
			'x-event',
		];
		const sources = here.map((name) =>
			sourceOf(name, senders[name]?.secret, name === 'hmac' ? { event: '/event/type' } : {}),
		);
		fc.assert(
			fc.property(body, fc.oneof(fc.constantFrom(...events), fc.string()), (content, event) => {
				const delivery = deliveryOf(
					Object.fromEntries(headers.map((name) => [name, event])),
					Buffer.alloc(0),
				);
				for (const source of sources) {
					try {
						const id = source.deliveryId(delivery, content as Body);
						assert.match(id ?? 'none', /^[!-~]{1,255}$/);
						const reading = source.read(delivery, content as Body);
						if (reading.kind !== 'events') continue;
						assert.ok(reading.events.length > 0);
						for (const { kind } of reading.events) assert.match(kind, /^[!-~]{1,100}$/);
					} catch (error) {
						assert.ok(error instanceof BadRequest, `${source.name}: ${error}`);
					}
				}
			}),
			{ numRuns: 2000 },
		);
	});
});

describe('a signature', () => {
	test('is what other implementations make', async () => {
		const body = '{"zen":"Ünïcode \u2028 😀"}';
		const octokit = await octokitSign('s3cret', body);
		assert.ok(
			await passes(
				sourceOf('github', 's3cret'),
				deliveryOf({ 'X-Hub-Signature-256': octokit }, Buffer.from(body)),
			),
		);

		const { secret } = senders['standard-webhooks']!;
		const time = new Date();
		const theirs = new Webhook(secret).sign('msg_1', time, body);
		const headers = { 'webhook-id': 'msg_1', 'webhook-timestamp': String(Math.floor(time.getTime() / 1000)) };
		const delivery = deliveryOf({ ...headers, 'webhook-signature': theirs }, Buffer.from(body));
		assert.ok(await passes(sourceOf('standard-webhooks'), delivery));
		assert.ok(await passes(sourceOf('gitlab', secret), delivery));
		assert.ok(await passes(sourceOf('standard-webhooks', secret.slice(6)), delivery));
	});

	const slackBody =
		'token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar' +
		'&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com' +
		'%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c';
	const published: [string, string, Record<string, string>, string, number][] = [
		[
			'github',
			"It's a Secret to Everybody",
			{ 'X-Hub-Signature-256': 'sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17' },
			'Hello, World!',
			0,
		],
		[
			'slack',
			'8f742231b10e8888abcd99yyyzzz85a5',
			{
				'X-Slack-Request-Timestamp': '1531420618',
				'X-Slack-Signature': 'v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503',
			},
			slackBody,
			1531420618,
		],
		[
			'standard-webhooks',
			'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
			{
				'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
				'webhook-timestamp': '1614265330',
				'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
			},
			'{"test": 2432232314}',
			1614265330,
		],
	];
	for (const [name, secret, headers, body, time] of published) {
		test(`that ${name} has published is right, and wrong a byte or five minutes off`, async () => {
			const source = sourceOf(name, secret);
			const bytes = Buffer.from(body);
			const at = (ms: number) => deliveryOf(headers, bytes, time * 1000 + ms);
			assert.ok(await passes(source, at(0)));
			assert.ok(!(await passes(source, deliveryOf(headers, tampered(bytes), time * 1000))));
			if (time === 0) return;
			for (const ms of [300_000, -300_000]) assert.ok(await passes(source, at(ms)));
			for (const ms of [300_001, -300_001]) assert.ok(!(await passes(source, at(ms))));
		});
	}

	test('of Standard Webhooks may be one of several, and of Ed25519', async () => {
		const { publicKey, privateKey } = generateKeyPairSync('ed25519');
		const point = Buffer.from(publicKey.export({ format: 'jwk' }).x ?? '', 'base64url');
		const source = sourceOf('standard-webhooks', `whpk_${point.toString('base64')}`);
		const body = Buffer.from('{"type":"a"}');
		const time = String(minutes(0));
		const good = `v1a,${signWith(null, Buffer.concat([Buffer.from(`m.${time}.`), body]), privateKey).toString('base64')}`;
		const check = (signatures: string, id = 'm') =>
			passes(
				source,
				deliveryOf({ 'webhook-id': id, 'webhook-timestamp': time, 'webhook-signature': signatures }, body),
			);
		assert.ok(await check(good));
		assert.ok(await check(`v1,AAAA v9,what v1a,AAAA ${good}`));
		for (const bad of [
			'v1a,AAAA',
			good.replace('v1a', 'v1'),
			good.slice(0, -4),
			`${good}=`,
			good.replace(',', ', '),
		]) {
			assert.ok(!(await check(bad)), bad);
		}
		assert.ok(!(await check(good, 'n')));
		const many = sourceOf('standard-webhooks');
		const [right] = Object.values(
			senders['standard-webhooks']!.sign(body, senders['standard-webhooks']!.secret),
		).slice(2);
		assert.ok(right);
		const late = signed(senders['standard-webhooks']!, { name: '', headers: {}, body: {}, events: [] });
		const signature = `${'v1,AAAA '.repeat(3)}${late.headers['webhook-signature']}`;
		assert.ok(await passes(many, deliveryOf({ ...late.headers, 'webhook-signature': signature }, late.body)));
	});

	test('is a digest exactly, or none', () => {
		const digest = hmac('sha256', 'k', 'b');
		for (const encoding of ['hex', 'base64'] as const) {
			assert.deepEqual(digestOf(digest.toString(encoding), 'sha256', encoding), digest);
			fc.assert(
				fc.property(
					fc.oneof(fc.string(), fc.base64String(), fc.stringMatching(/^[0-9a-fA-F]{60,68}$/)),
					(text) => {
						const found = digestOf(text, 'sha256', encoding);
						const exact = encoding === 'hex' ? /^[0-9a-fA-F]{64}$/ : /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/;
						assert.equal(found !== undefined, exact.test(text));
					},
				),
			);
		}
		for (const text of ['abzz', 'abc', digest.toString('hex').slice(1), ` ${digest.toString('hex')}`]) {
			assert.equal(digestOf(text, 'sha256', 'hex'), undefined);
		}
	});
});
