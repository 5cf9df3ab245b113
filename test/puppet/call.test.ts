/** The function `webhook::call`: an answer as a value, while the catalog is applied. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { startListener, temporaryDirectory } from '../helpers/listener.ts';
import { puppetApply, puppetTest, standIn } from '../helpers/puppet.ts';

puppetTest('webhook::call brings the answer as a value, also one that stays secret', async (t) => {
	const server = await standIn(({ url, method, body, headers }) => {
		const json = { 'content-type': 'application/json; charset=utf-8' };
		switch (url) {
			case '/license':
				return { status: 200, body: 'license 7\n' };
			case '/json':
				return { status: 200, headers: json, body: '{"nodes":[{"name":"db1"}]}' };
			case '/echo':
				return {
					status: 200,
					headers: json,
					body: JSON.stringify(`${method} ${body} ${headers.authorization}`),
				};
			default:
				return { status: 200, body: 'hushAnswer' };
		}
	});
	const listener = await startListener({
		routes: 'routes: { password: { method: get, command: echo hushRun } }',
	});
	const at = `http://127.0.0.1:${server.port}`;

	for (const late of ['--preprocess_deferred', '--no-preprocess_deferred']) {
		const dir = temporaryDirectory();
		const ran = await puppetApply(
			`
			$here = { 'fqdn' => '127.0.0.1', 'port' => ${server.port} }
			file { '${dir}/license': content => Deferred('webhook::call', ['${at}/license']) }
			file { '${dir}/node': content => Deferred('dig', [Deferred('webhook::call', ['${at}/json']), 'nodes', 0, 'name']) }
			file { '${dir}/text': content => Deferred('webhook::call', [$here + { 'route' => 'json', 'parse' => false }]) }
			file { '${dir}/echo': content => Deferred('webhook::call', [$here + {
				'route' => 'echo', 'data' => { 'a' => 1 }, 'token' => Sensitive('hushToken') }]) }
			http { 'token':
				url   => '${at}/token',
				token => Deferred('webhook::call', [{ 'url' => '${at}/secret', 'sensitive' => true }]),
			}
			http { 'data':
				url  => '${at}/data',
				data => { 'password' => Deferred('webhook::call', [{
					'fqdn' => '127.0.0.1', 'port' => ${listener.port}, 'route' => 'password', 'wait' => true, 'sensitive' => true,
				}]) },
			}
			`,
			{ dir: path.join(dir, 'puppet'), options: [late, '--debug', '--show_diff'] },
		);
		const written = (name: string) => fs.readFileSync(path.join(dir, name), 'utf8');

		await t.test(`${late}: text, JSON and what a run printed`, () => {
			assert.equal(ran.code, 2, ran.stderr);
			assert.equal(written('license'), 'license 7\n');
			assert.equal(written('node'), 'db1');
			assert.equal(written('text'), '{"nodes":[{"name":"db1"}]}');
			assert.equal(written('echo'), 'POST {"a":1} Bearer hushToken');
			const sent = (url: string) => server.received.findLast((one) => one.url === url);
			assert.equal(sent('/token')?.headers.authorization, 'Bearer hushAnswer');
			assert.equal(sent('/data')?.body, '{"password":"hushRun\\n"}');
		});
		await t.test(`${late}: PW-T15: what is secret is not shown`, () => {
			const shown = (ran.stdout + ran.stderr).replaceAll(/POST \{"a":1\} Bearer hushToken/g, '');
			assert.doesNotMatch(shown, /hush/);
		});
	}
});

puppetTest('webhook::call that fails says why', async (t) => {
	const server = await standIn(({ url }) =>
		url === '/json'
			? { status: 200, headers: { 'content-type': 'application/json' }, body: '{' }
			: { status: 404, body: 'no such license' },
	);
	const at = `http://127.0.0.1:${server.port}`;
	const failures: [string, string, RegExp][] = [
		['gone', `'${at}/none'`, /GET http:\S+\/none: 404 Not Found instead of 200-299: no such license/],
		['broken', `'${at}/json'`, /webhook::call: the answer says that it is JSON, but it is not/],
		[
			'wrong',
			"{ 'url' => 'http://x/', 'metod' => 'get' }",
			/webhook::call: unknown key "metod", known are url, fqdn/,
		],
		['half', "{ 'fqdn' => '127.0.0.1' }", /webhook::call: give url, or fqdn and route/],
	];
	await t.test('resolved late, inside the data of requests, it fails these alone', async () => {
		const calls = failures.map(
			([title, call]) =>
				`http { '${title}': url => '${at}/x', data => { 'x' => Deferred('webhook::call', [${call}]) } }`,
		);
		const ran = await puppetApply(`${calls.join('\n')} notify { 'other': }`, {
			options: ['--no-preprocess_deferred'],
		});
		assert.equal(ran.code, 6, ran.stderr);
		for (const [title, , message] of failures) {
			const told = ran.stderr.match(new RegExp(`Http\\[${title}\\].*`))?.[0];
			assert.match(String(told), message);
		}
		assert.match(ran.stdout, /Notify\[other\]/);
	});
	await t.test('while the catalog is compiled, it fails the Puppet run', async () => {
		const ran = await puppetApply(`notice(webhook::call('${at}/none'))`);
		assert.equal(ran.code, 1);
		assert.match(ran.stderr, /404 Not Found instead of 200-299: no such license/);
	});
});
