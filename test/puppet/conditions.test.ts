/** When a request is sent and when not: probes, `creates` and `once`, with the exit status of each outcome of a Puppet run. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { startListener, temporaryDirectory } from '../helpers/listener.ts';
import { puppetApply, puppetTest, standIn } from '../helpers/puppet.ts';

puppetTest('PW-T9, PW-B4: a probe decides whether a request is sent', async (t) => {
	const server = await standIn(({ url }) => {
		switch (url) {
			case '/teams/billing':
				return { status: 200, body: '{"name":"billing","nodes":[{"state":"active"}]}' };
			case '/state':
				return { status: 200, body: 'maintenance: off\n' };
			case '/secured':
				return { status: 401, body: 'who are you?' };
			default:
				return { status: url.startsWith('/none') ? 404 : 200 };
		}
	});
	const manifest = `
		Http { fqdn => '127.0.0.1', port => ${server.port}, ensure => post }

		http { 'there': unless => 'teams/billing' }
		http { 'not there': route => 'sent-1', unless => 'none' }
		http { 'active': unless => { 'route' => 'teams/billing', 'json' => { 'name' => 'billing', 'nodes.0.state' => 'active' } } }
		http { 'not idle': route => 'sent-2', unless => { 'route' => 'teams/billing', 'json' => { 'nodes.0.state' => 'idle' } } }
		http { 'in maintenance': onlyif => { 'route' => 'state', 'body' => '^maintenance: on$' } }
		http { 'not in maintenance': route => 'sent-3', onlyif => { 'route' => 'state', 'body' => '^maintenance: off$' } }
		http { 'one of two': unless => ['none', { 'url' => 'http://127.0.0.1:${server.port}/state', 'method' => 'head' }] }
		http { 'gone': route => 'sent-4', onlyif => { 'route' => 'none', 'status' => [404, 410] } }
		notify { 'a change': }
		~> http { 'refreshed but there': refreshonly => true, unless => 'teams/billing' }
		~> http { 'refreshed': route => 'sent-5', refreshonly => true, unless => 'none', subscribe => Notify['a change'] }
	`;
	const paths = (method: string) =>
		server.received.filter((one) => one.method === method).map(({ url }) => url);

	await t.test('in a Puppet run', async () => {
		const ran = await puppetApply(manifest);
		assert.equal(ran.code, 2, ran.stderr);
		assert.deepEqual(paths('POST').toSorted(), ['/sent-1', '/sent-2', '/sent-3', '/sent-4', '/sent-5']);
		assert.doesNotMatch(ran.stdout, /Http\[(there|active|in maintenance|one of two)\]/);
	});

	await t.test(
		'PW-T10: in noop mode too, like the commands of an exec; then nothing else is sent',
		async () => {
			server.received.length = 0;
			const ran = await puppetApply(manifest, { options: ['--noop'] });
			assert.equal(ran.code, 0, ran.stderr);
			assert.deepEqual(paths('POST'), []);
			assert.equal(paths('GET').length, 8);
			const would = [...ran.stdout.matchAll(/should be 'POST http:\S+\/(\S+)' \(noop\)/g)].map(
				(match) => match[1],
			);
			assert.deepEqual(would, ['sent-1', 'sent-2', 'sent-3', 'sent-4']);
		},
	);

	await t.test('a probe that brings nothing to go by fails the resource, and nothing is sent', async () => {
		server.received.length = 0;
		const ran = await puppetApply(`
			Http { fqdn => '127.0.0.1', port => ${server.port}, ensure => post }
			http { 'not allowed': unless => 'secured' } -> notify { 'after': }
			http { 'nobody there': onlyif => 'http://127.0.0.1:1/' }
		`);
		assert.equal(ran.code, 4, ran.stderr);
		assert.match(
			ran.stderr,
			/Http\[not allowed\]: Could not evaluate: unless: GET .*: 401 Unauthorized: who are you\?, which leaves open/,
		);
		assert.match(ran.stderr, /Http\[nobody there\]: Could not evaluate: onlyif: GET .*Connection refused/);
		assert.match(ran.stderr, /Notify\[after\]: Skipping because of failed dependencies/);
		assert.deepEqual(paths('POST'), []);
	});
});

puppetTest('creates and once: each outcome has its exit status', async (t) => {
	const listener = await startListener({
		routes: `
routes:
  register: { params: { node: {}, secret: {} }, command: 'echo "$node registered"' }
  team: { method: get, command: 'echo "{\\"id\\": 7}"' }
  refuse: { command: exit 3 }
`,
	});
	const dir = temporaryDirectory();
	const puppetDir = path.join(dir, 'puppet');
	const apply = (node: string, more = '', options: string[] = []) =>
		puppetApply(
			`
			Http { fqdn => '127.0.0.1', port => ${listener.port} }
			http { 'register': data => { 'node' => '${node}', 'secret' => Sensitive('hushOnce') }, wait => true, once => true }
			http { 'team': creates => '${dir}/team.json', save_to => '${dir}/team.json', wait => true }
			${more}
			`,
			{ dir: puppetDir, options },
		);
	const counts = () => Promise.all(['register', 'team'].map((route) => listener.runCount(route)));
	const state = path.join(puppetDir, 'var/state/webhook_http.json');

	await t.test('2: the first Puppet run sends both', async () => {
		const ran = await apply('n1');
		assert.equal(ran.code, 2, ran.stderr);
		assert.deepEqual(await counts(), [1, 1]);
		assert.equal(fs.readFileSync(`${dir}/team.json`, 'utf8'), '{"id": 7}\n');
		assert.match(ran.stdout, /Http\[team\]\/ensure: sent GET .*succeeded, saved to .*team\.json/);
	});

	await t.test('0: the next one nothing', async () => {
		const ran = await apply('n1', '', ['--debug']);
		assert.equal(ran.code, 0, ran.stderr);
		assert.deepEqual(await counts(), [1, 1]);
		assert.match(ran.stdout, /Http\[register\].*not sent: it was sent before, and is the same/);
		assert.match(ran.stdout, /Http\[team\].*not sent: .*team\.json exists/);
	});

	await t.test('0: nor does noop mode when the data have changed, which it says', async () => {
		const ran = await apply('n2', '', ['--noop']);
		assert.equal(ran.code, 0, ran.stderr);
		assert.match(
			ran.stdout,
			/Http\[register\]\/ensure: .*should be 'POST .*\/register\?async=false' \(noop\)/,
		);
		assert.deepEqual(await counts(), [1, 1]);
	});

	await t.test('6: changed data are sent, and another resource fails', async () => {
		const ran = await apply('n2', "http { 'refuse': ensure => post, once => true, wait => true }");
		assert.equal(ran.code, 6, ran.stderr);
		assert.deepEqual(await counts(), [2, 1]);
	});

	await t.test('4: what failed is not taken for sent', async () => {
		const ran = await apply('n2', "http { 'refuse': ensure => post, once => true, wait => true }");
		assert.equal(ran.code, 4, ran.stderr);
		assert.equal(await listener.runCount('refuse'), 2);
	});

	await t.test('1: a manifest that is wrong sends nothing', async () => {
		const ran = await apply('n3', "http { 'half': ensure => post, url => 'http://127.0.0.1/' }");
		assert.equal(ran.code, 1);
		assert.match(ran.stderr, /url and fqdn are alternatives/);
		assert.deepEqual(await counts(), [2, 1]);
	});

	await t.test('what was sent is kept in a private file that does not tell it', () => {
		assert.equal(fs.statSync(state).mode & 0o777, 0o600);
		const text = fs.readFileSync(state, 'utf8');
		assert.deepEqual(Object.keys(JSON.parse(text).sent), ['register']);
		assert.doesNotMatch(text, /hush|n2/);
	});

	await t.test('a file that is damaged is told, and what it stood for is sent once more', async () => {
		fs.writeFileSync(state, '{"key"');
		const ran = await apply('n2');
		assert.equal(ran.code, 2, ran.stderr);
		assert.match(ran.stderr, /webhook_http\.json: it is not JSON; requests with once are sent again/);
		assert.deepEqual(await counts(), [3, 1]);
		assert.equal((await apply('n2')).code, 0);
	});
});

puppetTest('500 requests in one catalog', async (t) => {
	const server = await standIn(() => ({ status: 202, body: '{"runs":[]}' }));
	const before = performance.now();
	const ran = await puppetApply(`
		Integer[1, 500].each |$n| {
			http { "call ${'$'}{n}": fqdn => '127.0.0.1', port => ${server.port}, route => "r/${'$'}{n}", data => { 'n' => $n }, once => true }
		}
	`);
	assert.equal(ran.code, 2, ran.stderr);
	assert.equal(new Set(server.received.map(({ url }) => url)).size, 500);
	t.diagnostic(`${((performance.now() - before) / 1000).toFixed(1)} s, Puppet's own start included`);
});
