/** Triggers, as steps, operators and other programs count them up, and as they are told. */

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { command, type Listener, startListener, until } from './helpers/listener.ts';

const routes = `
routes:
  count: { steps: [{ trigger: shop }] }
  named: { params: { name: { pattern: ".*" } }, concurrency: { when_busy: parallel }, steps: [{ trigger: "deploy/{{name}}" }, { command: echo after }] }
  told: { command: exit 1, on_failure: { trigger: "failed-{{run.route}}" } }
  crash:
    steps:
      - trigger: crashed
      - command: '[ -e again ] || { touch again; echo begun; sleep 1000; }'
`;

describe('triggers', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes });
	});

	const count = async (name: string) =>
		(await listener.get(`/-/triggers/${encodeURIComponent(name)}`)).json.count;
	async function ran(route: string, body?: object) {
		const { id } = (await listener.post(`/${route}`, body)).json.runs[0];
		return { ...(await listener.ended(id)), text: await listener.output(id) };
	}

	test('are at 0 until they are counted up', async () => {
		const { status, json } = await listener.get('/-/triggers/never');
		assert.equal(status, 200);
		assert.deepEqual(json, { name: 'never', count: 0, countedAt: null, url: '/-/triggers/never' });
	});

	test('are counted up by a step, once each time it is performed', async () => {
		const before = Date.now();
		const run = await ran('count');
		assert.deepEqual([run.state, run.text], ['succeeded', 'trigger shop is at 1\n']);
		assert.equal((await ran('count')).text, 'trigger shop is at 2\n');
		const { json } = await listener.get('/-/triggers/shop');
		assert.equal(json.count, 2);
		const at = Date.parse(json.countedAt);
		assert.ok(at >= before && at <= Date.now(), json.countedAt);
	});

	test('lose no count when many are counted up at once', async () => {
		const runs = await Promise.all(Array.from({ length: 40 }, () => ran('named', { name: 'many' })));
		assert.ok(runs.every(({ state }) => state === 'succeeded'));
		const told = runs.map(({ text }) => Number(/is at (\d+)$/m.exec(text)?.[1]));
		assert.deepEqual(
			told.sort((a, b) => a - b),
			Array.from({ length: 40 }, (_, i) => i + 1),
		);
		assert.equal(await count('deploy/many'), 40);
	});

	test('may be counted up after a run has failed', async () => {
		await ran('told');
		assert.equal(await count('failed-told'), 1);
	});

	test('have plain names: a step whose values make another one fails and counts nothing', async () => {
		for (const [name, why] of [
			['a b', /has a character that names of triggers have not/],
			['../up', /has a part "\." or "\.\."/],
			['x'.repeat(300), /is longer than 255 characters/],
		] as const) {
			const run = await ran('named', { name });
			assert.deepEqual([run.state, run.reason], ['failed', 'spawn']);
			assert.match(run.message, /^step 1 \(trigger\) was not done: the trigger's name ".*" /);
			assert.match(run.message, why);
		}
	});

	test('are counted up by POST, and refuse a name that is none', async () => {
		const first = await listener.post('/-/triggers/by%2Fhand');
		assert.equal(first.status, 200);
		assert.deepEqual(
			[first.json.name, first.json.count, first.json.url],
			['by/hand', 1, '/-/triggers/by%2Fhand'],
		);
		assert.equal((await listener.post('/-/triggers/by%2Fhand')).json.count, 2);
		const refused = await listener.post('/-/triggers/a%20b');
		assert.equal(refused.status, 422);
		assert.match(refused.json.detail, /parameter "trigger" has a character/);
		assert.equal((await listener.post('/-/triggers')).status, 405);
		assert.equal((await listener.request('/-/triggers/x', { method: 'DELETE' })).status, 405);
	});

	test('answer this host’s programs only, like every endpoint', async () => {
		const proxied = { 'x-forwarded-for': '192.0.2.1' };
		assert.equal((await listener.get('/-/triggers', proxied)).status, 403);
		assert.equal((await listener.post('/-/triggers/shop', undefined, proxied)).status, 403);
		const page = { origin: 'http://evil.example.com', 'sec-fetch-site': 'cross-site' };
		const before = await count('shop');
		assert.equal((await listener.post('/-/triggers/shop', undefined, page)).status, 403);
		assert.equal(await count('shop'), before);
	});

	test('are listed by name, page by page', async () => {
		for (const name of ['list-c', 'list-a', 'list-b']) await listener.post(`/-/triggers/${name}`);
		const found: string[] = [];
		let next: string | null = '/-/triggers?limit=2';
		while (next !== null) {
			const { json } = await listener.get(next);
			assert.ok(json.triggers.length <= 2);
			found.push(...json.triggers.map(({ name }: { name: string }) => name));
			next = json.next;
		}
		assert.deepEqual(found, [...found].sort());
		for (const name of ['list-a', 'list-b', 'list-c']) assert.ok(found.includes(name), name);
		assert.equal((await listener.get('/-/triggers?limit=0')).status, 422);
	});

	test('are counted up by the command trigger', async () => {
		const said = await command(['trigger', 'by/command', '--url', listener.url]);
		assert.deepEqual([said.code, said.stdout], [0, 'trigger by/command is at 1\n'], said.stderr);
		const json = await command(['trigger', 'by/command', '--json', '--url', listener.url]);
		assert.deepEqual([json.code, JSON.parse(json.stdout).count], [0, 2]);
		const refused = await command(['trigger', 'a b', '--url', listener.url]);
		assert.equal(refused.code, 1);
		assert.match(refused.stderr, /has a character that names of triggers have not/);
	});
});

test('triggers keep their counts over kill -9, and a run that is done again counts again', async () => {
	const first = await startListener({ routes });
	const { id } = (await first.post('/crash')).json.runs[0];
	await until('the second step', async () => /begun/.test(await first.output(id)));
	assert.equal((await first.get('/-/triggers/crashed')).json.count, 1);
	await first.stop('SIGKILL');
	const next = await first.again();
	const run = await next.ended(id);
	assert.deepEqual([run.state, run.attempt], ['succeeded', 2]);
	assert.equal((await next.get('/-/triggers/crashed')).json.count, 2);
});
