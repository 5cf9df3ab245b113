/** A delivery that its sender repeats gives the runs of the first time. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { type Listener, startListener } from './helpers/listener.ts';

const routes = `
routes:
  deploy:
    params: { version: {} }
    command: echo "ran $version" | tee -a ran
  other: { command: echo other }
  slow:
    concurrency: { when_busy: reject }
    command: until test -e go; do sleep 0.01; done
`;

const key = (value: string) => ({ 'idempotency-key': value });
const ran = (listener: Listener) =>
	fs.existsSync(path.join(listener.dir, 'ran'))
		? fs.readFileSync(path.join(listener.dir, 'ran'), 'utf8').split('\n').filter(Boolean)
		: [];

test('the same Idempotency-Key gives the same run, at once, waited for, and after a restart', async () => {
	const listener = await startListener({ routes });
	const first = await listener.post('/deploy', { version: '1' }, key('"8e03978e"'));
	assert.equal(first.status, 202);
	const again = await listener.post('/deploy', { version: '1' }, key('"8e03978e"'));
	assert.equal(again.status, 202);
	assert.equal(again.headers.location, first.headers.location);
	assert.equal(again.json.runs[0].id, first.json.runs[0].id);
	const waited = await listener.post('/deploy?async=false', { version: '1' }, key('"8e03978e"'));
	assert.equal(waited.status, 200);
	assert.equal(waited.json.id, first.json.runs[0].id);
	assert.equal(waited.json.output.text, 'ran 1\n');
	const streamed = await listener.post(
		'/deploy?async=false',
		{ version: '1' },
		{ ...key('"8e03978e"'), accept: 'text/plain' },
	);
	assert.equal(streamed.text, 'ran 1\n');
	await listener.stop();

	const next = await listener.again();
	const late = await next.post('/deploy', { version: '2' }, key('"8e03978e"'));
	assert.equal(late.json.runs[0].id, first.json.runs[0].id);
	assert.equal(late.json.runs[0].state, 'succeeded');
	assert.deepEqual(ran(next), ['ran 1']);
	const { text } = await next.get('/metrics');
	assert.match(text, /deliveries_total\{route="deploy",outcome="repeated",status="2xx"\} 1/);

	const { json } = await next.post('/other', undefined, key('"8e03978e"'));
	assert.notEqual(json.runs[0].id, first.json.runs[0].id, 'another route has other keys');
	const without = await next.post('/deploy', { version: '3' });
	await next.ended(without.json.runs[0].id);
	assert.deepEqual(ran(next), ['ran 1', 'ran 3']);
});

test('a hundred that come at once with one key are one run', async () => {
	const listener = await startListener({ routes });
	const answers = await Promise.all(
		Array.from({ length: 100 }, () => listener.post('/deploy', { version: '1' }, key('storm'))),
	);
	assert.deepEqual([...new Set(answers.map(({ status }) => status))], [202]);
	const ids = new Set(answers.map(({ json }) => json.runs[0].id));
	assert.equal(ids.size, 1);
	await listener.ended([...ids][0]!);
	assert.equal(await listener.runCount(), 1);
	assert.deepEqual(ran(listener), ['ran 1']);
});

test('a delivery that was refused is taken when it comes again', async () => {
	const listener = await startListener({ routes });
	const running = await listener.post('/slow', undefined, key('a'));
	assert.equal(running.status, 202);
	assert.equal((await listener.post('/slow', undefined, key('b'))).status, 409);
	assert.equal((await listener.post('/slow', undefined, key('a'))).status, 202, 'known, and not busy');
	fs.writeFileSync(path.join(listener.dir, 'go'), '');
	await listener.ended(running.json.runs[0].id);
	assert.equal((await listener.post('/slow', undefined, key('b'))).status, 202);
});

test('an Idempotency-Key that is none is refused, and runs nothing', async () => {
	const listener = await startListener({ routes });
	for (const bad of ['', 'two words', 'x'.repeat(256), 'ü']) {
		const answer = await listener.post('/deploy', { version: '1' }, key(bad));
		assert.equal(answer.status, 400, bad);
		assert.match(answer.json.detail, /Idempotency-Key.*1 to 255 visible ASCII/);
	}
	assert.equal((await listener.post('/deploy', { version: '1' }, key('x'.repeat(255)))).status, 202);
	assert.equal(await listener.runCount(), 1);
});
