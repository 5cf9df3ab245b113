/** How often routes may be called, and how often somebody may guess. */

import assert from 'node:assert/strict';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { type Listener, send, startListener, temporaryDirectory } from './helpers/listener.ts';

const token = 'the-right-token';
let socketPath = '';
let listener: Listener;
before(async () => {
	socketPath = path.join(temporaryDirectory(), 'http.sock');
	listener = await startListener({
		routes: `
listen: { address: [127.0.0.1, "unix:${socketPath}"], port: 0, trusted_proxies: unix }
auth: { a: { bearer: ${token} } }
defaults: { rate: { client: 1000/h } }
routes:
  client: { auth: none, rate: 3/h, command: "true" }
  together: { auth: none, rate: { route: 3/h, client: 1000/h }, command: "true" }
  refused: { auth: a, rate: { failures: 3/h }, command: "true" }
  other: { auth: a, rate: { failures: 3/h }, command: "true" }
  usual: { auth: a, command: "true" }
  quick: { auth: none, rate: 2/s, command: "true" }
  inherits: { auth: none, command: "true" }
`,
	});
});

/** Calls by way of the trusted proxy. */
async function from(address: string, route: string, given = token, headers = {}) {
	const all = { 'x-forwarded-for': address, authorization: `Bearer ${given}`, ...headers };
	return send({ socketPath }, `/${route}`, { method: 'POST', headers: all });
}

async function statuses(count: number, call: () => Promise<{ status: number }>): Promise<number[]> {
	const found: number[] = [];
	for (let i = 0; i < count; i++) found.push((await call()).status);
	return found;
}

describe('rate', () => {
	test('client: one client gets 429 when it calls too often, and others go on', async () => {
		assert.deepEqual(await statuses(5, () => from('192.0.2.1', 'client')), [202, 202, 202, 429, 429]);
		assert.equal((await from('192.0.2.2', 'client')).status, 202);
		assert.equal(await listener.runCount('client'), 4);
	});

	test('client: addresses of one IPv6 network of 64 bits are one client', async () => {
		const found: number[] = [];
		for (const last of ['1', '2', 'ffff:1', 'a:b:c:d']) {
			const address = last.includes('a') ? `2001:db8:7:8:${last}` : `2001:db8:7:8::${last}`;
			found.push((await from(address, 'client')).status);
		}
		assert.deepEqual(found, [202, 202, 202, 429]);
		assert.equal((await from('2001:db8:7:9::1', 'client')).status, 202);
	});

	test('says when to come again, but not to Puppet, which would sleep that long and then die', async () => {
		await statuses(3, () => from('192.0.2.3', 'client'));
		const answer = await from('192.0.2.3', 'client');
		assert.equal(answer.status, 429);
		assert.equal(answer.json.code, 'ERR_TOO_MANY_REQUESTS');
		const seconds = Number(answer.headers['retry-after']);
		assert.ok(seconds > 1100 && seconds <= 1200, String(seconds));
		const puppet = await from('192.0.2.3', 'client', token, { 'user-agent': 'Puppet/7.23.0 Ruby/3.1.2' });
		assert.equal(puppet.status, 429);
		assert.equal(puppet.headers['retry-after'], undefined);
		const line = await listener.logged('it', (one) => one.delivery === answer.json.delivery);
		assert.equal(line.reason, 'too many of this client: more than 3 in 3600 s');
	});

	test('route: counts deliveries of all clients together, and only those that were verified', async () => {
		let last = 0;
		const next = () => from(`198.51.100.${++last}`, 'together');
		assert.deepEqual(await statuses(4, next), [202, 202, 202, 429]);
	});

	test('comes back evenly', async () => {
		const first = await statuses(3, () => from('192.0.2.4', 'quick'));
		assert.deepEqual(first.slice(0, 2), [202, 202]);
		const end = Date.now() + 10_000;
		let status = 429;
		while (status === 429 && Date.now() < end) status = (await from('192.0.2.4', 'quick')).status;
		assert.equal(status, 202);
	});

	test('of a route is counted apart from that of others', async () => {
		await statuses(4, () => from('192.0.2.5', 'client'));
		assert.equal((await from('192.0.2.5', 'inherits')).status, 202);
	});
});

describe('guessing', () => {
	test('is answered 429 after some failures, whatever comes then, for that client and that route', async () => {
		const guess = () => from('203.0.113.1', 'refused', 'wrong');
		assert.deepEqual(await statuses(5, guess), [401, 401, 401, 429, 429]);
		const right = await from('203.0.113.1', 'refused');
		assert.equal(right.status, 429);
		assert.ok(Number(right.headers['retry-after']) > 0);
		assert.equal((await from('203.0.113.2', 'refused')).status, 202);
		assert.equal((await from('203.0.113.1', 'other')).status, 202);
		assert.equal(await listener.runCount('refused'), 1);
	});

	test('by many requests at once gets no more attempts', async () => {
		const answers = await Promise.all(
			Array.from({ length: 20 }, () => from('203.0.113.3', 'refused', 'wrong')),
		);
		assert.equal(answers.filter(({ status }) => status === 401).length, 3);
	});

	test('is limited where nothing is said, and for the endpoints too, while right callers are not', async () => {
		const usual = await statuses(62, () => from('203.0.113.4', 'usual', 'wrong'));
		assert.equal(usual.indexOf(429), 60);
		assert.ok((await statuses(70, () => from('203.0.113.5', 'usual'))).every((status) => status === 202));
		const own = await startListener({
			routes: `auth: { a: { bearer: ${token} } }\nadmin: { auth: a }\nroutes: {}\n`,
		});
		const admin = await statuses(62, () => own.get('/-/runs', { authorization: 'Bearer wrong' }));
		assert.equal(admin.indexOf(429), 60);
		assert.equal((await own.get('/-/healthy')).status, 200);
	});
});
