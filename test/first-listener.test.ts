/** What the listener this one replaces promised or got wrong, as far as no other test shows it. Row by row, by the front door. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { type Listener, startListener, until } from './helpers/listener.ts';

const routes = `
routes:
  talk: { command: 'echo one; echo two >&2; echo three; exit 3' }
  declared:
    params: { role: { required: true } }
    command: 'echo "role=$role secret=$secret X=$HTTP_X_THING"'
  where:
    env: { PATH: /opt/puppet/bin:/usr/bin:/bin }
    command: 'echo "$PATH"; echo "$HOME"; echo "$LEAK"'
  quoted: { command: "printf '%s\\\\n' \\"say \\\\\\"hi\\\\\\" #{1 + 1} it's\\"" }
  slow: { command: 'echo begun; sleep 0.3; echo done >finished' }
  fails: { wait: true, command: 'exit 7' }
`;

describe('the first listener', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes, env: { LEAK: 'of the listener', HOME: '/var/empty' } });
	});

	test('PW-H3, PW-B12: both streams are logged line by line with run and route, and the exit status is', async () => {
		const id = (await listener.post('/talk')).json.runs[0].id;
		const finished = await listener.logged('the end', (line) => line.run === id && line.exitCode === 3);
		assert.deepEqual([finished.route, finished.state, finished.reason], ['talk', 'failed', 'exit']);
		const lines = listener.log().filter((line) => line.run === id && line.level === 'info');
		assert.deepEqual(
			lines
				.map(({ message, route }) => `${route}: ${message}`)
				.filter((text) => !text.includes('run finished')),
			['talk: one', 'talk: two', 'talk: three'],
		);
	});

	test('PW-H4, RK-V7, TW-V6, FX-V7: each delivery is a line of the log: who, what, which route, how it was answered', async () => {
		await listener.post('/nowhere?token=abc');
		const line = await listener.logged('the delivery', (each) => each.path === '/nowhere');
		assert.deepEqual([line.method, line.status, line.client], ['POST', 404, '127.0.0.1']);
		assert.doesNotMatch(JSON.stringify(line), /abc/);
	});

	test('PW-H8: a value reaches the command when it is declared, and nothing else of a request does', async () => {
		const answer = await listener.post(
			'/declared?async=false',
			{ role: 'web', secret: 'x' },
			{ 'x-thing': 'y' },
		);
		assert.equal(answer.json.output.text, 'role=web secret= X=\n');
	});

	test('PW-H9: a route sets its own environment, and the listener’s own stays with it', async () => {
		const answer = await listener.post('/where?async=false');
		assert.equal(answer.json.output.text, '/opt/puppet/bin:/usr/bin:/bin\n/var/empty\n\n');
	});

	test('PW-B1: a command is run as it is written, quotes and #{} included', async () => {
		const answer = await listener.post('/quoted?async=false');
		assert.equal(answer.json.output.text, 'say "hi" #{1 + 1} it\'s\n');
	});

	test('PW-B5, PW-B7: success is 200, failure is 500, and neither shows the inside of the listener', async () => {
		const good = await listener.post('/declared?async=false', { role: 'web' });
		const bad = await listener.post('/fails');
		assert.deepEqual([good.status, bad.status, bad.json.exitCode], [200, 500, 7]);
		for (const { text } of [good, bad, await listener.post('/declared', '{"role":')]) {
			assert.doesNotMatch(text, /\.ts|node_modules|at .*\(/);
		}
	});

	test('PW-H10: TERM and INT let the command finish and end the listener, which never left the foreground', async () => {
		for (const signal of ['SIGTERM', 'SIGINT'] as const) {
			const own = await startListener({ routes });
			const id = (await own.post('/slow')).json.runs[0].id;
			await own.logged('the beginning', (line) => line.run === id && line.message === 'begun');
			assert.deepEqual(await own.stop(signal), { code: 0, signal: null });
			assert.equal(fs.readFileSync(path.join(own.dir, 'finished'), 'utf8'), 'done\n');
		}
	});

	test('PW-H12: a command becomes another user and starts mco there', async (t) => {
		if (process.getuid?.() !== 0) {
			assert.equal(process.env.CI, undefined, 'CI runs as root');
			t.skip('only root may become another user');
			return;
		}
		// A stand-in for mco, which takes a broker and nodes: it says what it was called with, and by whom.
		const mco = '#!/bin/sh\necho "$(id -un) runs mco $*"\n';
		const own = await startListener({
			files: { mco },
			routes: `
routes:
  kick_haproxy_app_internal:
    method: get
    command: su -s /bin/sh nobody -c "$PWD/mco puppet runonce -F role=haproxy_app_internal"
`,
		});
		fs.chmodSync(own.dir, 0o755);
		fs.chmodSync(path.join(own.dir, 'mco'), 0o755);
		const answer = await own.get('/kick_haproxy_app_internal?async=false');
		assert.equal(answer.json.output.text, 'nobody runs mco puppet runonce -F role=haproxy_app_internal\n');
		await until('the log to have it', () => own.log().some((line) => /nobody runs mco/.test(line.message)));
	});
});
