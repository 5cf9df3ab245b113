/** The whole way: `puppet apply` sends, a real listener takes it, the route's command runs. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { type Listener, startListener, temporaryDirectory } from '../helpers/listener.ts';
import { puppetApply, puppetTest } from '../helpers/puppet.ts';

/** The runs of a route, oldest first, each with its output once it has ended. */
async function runsOf(listener: Listener, route: string): Promise<{ state: string; output: string }[]> {
	const { runs } = (await listener.get(`/-/runs?route=${encodeURIComponent(route)}`)).json;
	const found = [];
	for (const { id } of runs.toReversed()) {
		const { state } = await listener.ended(id);
		found.push({ state, output: await listener.output(id) });
	}
	return found;
}

puppetTest('routes are called, their commands run, and what comes of it is in the report', async (t) => {
	const dir = temporaryDirectory();
	const listener = await startListener({
		routes: `
routes:
  kick_haproxy_app_internal: { method: get, command: echo kicked }
  deploy:
    params: { role: { required: true, pattern: "[a-z]+" }, version: { required: true }, dry_run: {} }
    command: 'echo "$role $version dry_run=$dry_run"'
  facts: { stdin: body, command: cat }
  secret: { params: { token: {} }, command: 'echo "the token is $token"; echo done' }
  broken: { method: get, command: 'echo one; echo two >&2; exit 3' }
  slow: { method: get, timeout: 200ms, command: sleep 30 }
  later: { method: get, command: sleep 2 }
  chatty: { method: get, command: seq 2000 }
  busy: { method: get, concurrency: { when_busy: reject }, command: sleep 2 }
  any: { method: [get, put, patch, delete], auth: [token, user], params: { n: {} }, stdin: parameters, command: cat }
  signed: { auth: signed, stdin: body, command: 'cat; echo' }
  github: { source: github, secret: hushGithub, command: 'echo "event $WEBHOOK_EVENT"' }
  standard: { source: standard-webhooks, secret: whsec_aHVzaFN0YW5kYXJk, command: 'echo "event $WEBHOOK_EVENT"' }
auth:
  token: { bearer: hushBearer }
  user: { basic: { user: deployer, password: hushPassword } }
  signed: { hmac: { secret: hushSigning } }
`,
	});
	const at = `http://127.0.0.1:${listener.port}`;
	const ran = await puppetApply(`
		Http { fqdn => '127.0.0.1', port => ${listener.port} }

		http { 'kick_haproxy_app_internal': ensure => get }
		http { 'deploy': ensure => post, data => { 'role' => 'web', 'version' => '2.1.4' } }
		http { 'deploy with a query':
			ensure => post,
			route  => '/deploy?dry_run=true',
			data   => { 'role' => 'web', 'version' => 7 },
			wait   => true,
		}
		http { 'facts': data => { 'nested' => { 'list' => [1, 2.5, true, undef], 'name' => 'ü' } } }
		http { 'secret': data => { 'token' => Sensitive('hushToken') }, wait => true }
		http { 'chatty': wait => true }

		http { 'broken': wait => true } -> notify { 'after broken': }
		http { 'broken but not waited for': route => 'broken' } -> notify { 'after the other': }
		http { 'slow': wait => true }
		http { 'later': wait => true, timeout => 0.5 }
		http { 'busy': } -> http { 'busy again': route => 'busy' }

		http { 'form': fqdn => undef, port => undef, url => 'http://127.0.0.1:${listener.port}/deploy', header => 'application/x-www-form-urlencoded',
			data => { 'role' => 'web', 'version' => 'a+b' }, wait => true }
		http { 'token': ensure => put, route => 'any?n=1', token => Sensitive('hushBearer'), wait => true }
		http { 'user': ensure => patch, route => 'any', data => { 'n' => 2 }, wait => true,
			user => 'deployer', password => Sensitive('hushPassword'), save_to => { 'path' => '${dir}/output', 'mode' => '0640' } }
		http { 'delete': ensure => delete, route => 'any', token => 'hushBearer', tries => 3, returns => 202 }
		http { 'head': ensure => head, route => 'any', token => 'hushBearer' }
		http { 'nobody': route => 'any', user => 'deployer', password => 'wrongPassword', tries => 3 }
		http { 'signed': data => 'ü', header => 'text/plain', wait => true,
			hmac => { 'secret' => Sensitive('hushSigning'), 'header' => 'X-Signature' } }
		http { 'wrongly signed': route => 'signed', data => 'ü', hmac => 'wrongSecret' }
		http { 'github': data => { 'zen' => 'x' }, hmac => 'hushGithub', header => { 'X-GitHub-Event' => 'star' }, wait => true }
		http { 'standard': data => { 'type' => 'invoice.paid' }, wait => true,
			hmac => { 'style' => 'standard-webhooks', 'secret' => Sensitive('whsec_aHVzaFN0YW5kYXJk') } }

		http { 'bad': route => 'deploy', data => { 'role' => 'WEB' } }
		http { 'wrong method': ensure => get, route => 'deploy' }
		http { 'nowhere': }
		http { 'nowhere is fine': route => 'nowhere', returns => 404 }
	`);
	assert.equal(ran.code, 6, ran.stderr);
	const failed = (title: string) =>
		ran.stderr.match(new RegExp(`Http\\[${title}\\]/ensure: .*? failed: (.*)`))?.[1] ?? '';

	await t.test('PW-T1: get runs the route of the title', async () => {
		assert.deepEqual(await runsOf(listener, 'kick_haproxy_app_internal'), [
			{ state: 'succeeded', output: 'kicked\n' },
		]);
		assert.match(
			ran.stdout,
			new RegExp(`sent GET ${at}/kick_haproxy_app_internal: 202 Accepted, run \\w{26} queued`),
		);
	});

	await t.test('PW-T2, PW-T14: post hands data and the query string to the command', async () => {
		const outputs = (await runsOf(listener, 'deploy')).map(({ output }) => output);
		assert.deepEqual(outputs, ['web 2.1.4 dry_run=\n', 'web 7 dry_run=true\n', 'web a+b dry_run=\n']);
	});

	await t.test('PW-T8: nested data arrives as it was written', async () => {
		const [run] = await runsOf(listener, 'facts');
		assert.equal(run?.output, '{"nested":{"list":[1,2.5,true,null],"name":"ü"}}');
	});

	await t.test('wait logs what the run printed', () => {
		assert.match(ran.stdout, /^Notice: .*Http\[deploy with a query\].*: web 7 dry_run=true$/m);
		assert.match(
			ran.stdout,
			/Http\[deploy with a query\]\/ensure: sent POST .*: 200 OK, run \w{26} succeeded$/m,
		);
		const lines = [...ran.stdout.matchAll(/^Notice: .*Http\[chatty\].*: (\d+|\[.*)$/gm)].map(
			(match) => match[1],
		);
		assert.deepEqual(
			[lines.length, lines[0], lines[900], lines.at(-1)],
			[1001, '1', '[1000 lines left out; the listener has them all]', '2000'],
		);
	});

	await t.test('PW-T15: a token that the run prints is masked', async () => {
		assert.match(ran.stdout, /Http\[secret\].*: the token is \[redacted\]$/m);
		assert.doesNotMatch(ran.stdout + ran.stderr, /hush|wrongPassword|wrongSecret/);
		assert.equal((await runsOf(listener, 'secret'))[0]?.output, 'the token is hushToken\ndone\n');
	});

	await t.test(
		'PW-B3: wait fails the resource when the run fails, with its reason, and skips what requires it',
		() => {
			assert.match(ran.stdout, /^Notice: .*Http\[broken\].*: one$/m);
			assert.match(ran.stdout, /^Notice: .*Http\[broken\].*: two$/m);
			assert.match(
				failed('broken'),
				new RegExp(`^GET ${at}/broken\\?async=false: run \\w{26} failed: .*exited with 3`),
			);
			assert.match(ran.stderr, /Notify\[after broken\]: Skipping/);
			assert.match(ran.stdout, /Notify\[after the other\]\/message: defined/);
		},
	);

	await t.test(
		'wait fails the resource when the run takes longer than its route allows, or than timeout',
		() => {
			assert.match(failed('slow'), /run \w{26} failed: .*(time|limit)/);
			assert.match(failed('later'), /run \w{26} was accepted but not over within 0\.5 seconds \(timeout\)$/);
		},
	);

	await t.test('PW-T7, PW-B2: any method, with the credentials that the route asks for', async () => {
		assert.deepEqual(
			(await runsOf(listener, 'any')).map(({ output }) => output),
			['{"n":"1"}\n', '{"n":"2"}\n', '{}\n'],
		);
		assert.match(failed('nobody'), /401 Unauthorized instead of 200-299: ./);
		assert.doesNotMatch(ran.stdout + ran.stderr, /try 1 of 3/);
	});

	await t.test('PW-H6: head is answered, and runs nothing', () => {
		assert.match(ran.stdout, /Http\[head\]\/ensure: sent HEAD .*\/any: 200 OK$/m);
	});

	await t.test('save_to keeps what the run printed, readable as it says', () => {
		assert.equal(fs.readFileSync(path.join(dir, 'output'), 'utf8'), '{"n":"2"}\n');
		assert.equal(fs.statSync(path.join(dir, 'output')).mode & 0o777, 0o640);
	});

	await t.test('a signature is what the listener takes for one, in each style', async () => {
		assert.equal(failed('signed'), '');
		assert.deepEqual(await runsOf(listener, 'signed'), [{ state: 'succeeded', output: 'ü\n' }]);
		assert.match(failed('wrongly signed'), /40[13] \w+ instead of 200-299: ./);
		assert.match(ran.stdout, /Http\[github\].*: event star$/m);
		assert.match(ran.stdout, /Http\[standard\].*: event invoice\.paid$/m);
	});

	await t.test('what the listener refuses fails with its reason', () => {
		assert.match(failed('bad'), /422 Unprocessable Entity instead of 200-299: .*"role".*"version"/);
		assert.match(failed('wrong method'), /405 Method Not Allowed instead of 200-299: ./);
		assert.match(failed('nowhere'), /404 Not Found instead of 200-299: ./);
		assert.match(failed('busy again'), /409 Conflict instead of 200-299: route "busy" is busy/);
		assert.match(ran.stdout, /Http\[nowhere is fine\]\/ensure: sent GET .*: 404 Not Found/);
	});
});

puppetTest('PW-T10: noop sends nothing and says what would be sent', async () => {
	const listener = await startListener({
		routes: 'routes: { kick: { method: [get, post], command: "true" } }',
	});
	const ran = await puppetApply(
		`
		Http { fqdn => '127.0.0.1', port => ${listener.port} }
		http { 'kick': }
		http { 'post': route => 'kick?x=1', data => { 'a' => 1 } }
		notify { 'a change': } ~> http { 'refreshed': route => 'kick', refreshonly => true }
	`,
		{ options: ['--noop'] },
	);
	assert.equal(ran.code, 0, ran.stderr);
	const at = `http://127.0.0.1:${listener.port}`;
	assert.ok(
		ran.stdout.includes(`Http[kick]/ensure: current_value 'absent', should be 'GET ${at}/kick' (noop)`),
	);
	assert.ok(
		ran.stdout.includes(`Http[post]/ensure: current_value 'absent', should be 'POST ${at}/kick?x=1' (noop)`),
	);
	assert.match(ran.stdout, /Http\[refreshed\]: Would have triggered 'refresh' from 1 event/);
	assert.equal(await listener.runCount(), 0);
});

puppetTest('PW-T9, PW-T16: refreshonly sends once when notified and otherwise not at all', async (t) => {
	const listener = await startListener({
		routes: `
routes:
  always: { method: get, command: "true" }
  never: { method: get, command: "true" }
  by_one: { method: get, command: "true" }
  by_three: { method: get, command: "true" }
  failing: { method: get, command: exit 3 }
`,
	});
	const dir = temporaryDirectory();
	const manifest = `
		Http { fqdn => '127.0.0.1', port => ${listener.port} }

		file { '${dir}/a': content => 'a' }
		file { '${dir}/b': content => 'b' }
		file { '${dir}/c': content => 'c' }

		http { 'always': subscribe => File['${dir}/a'] }
		http { 'never': refreshonly => true }
		http { 'by_one': refreshonly => true, subscribe => File['${dir}/a'] }
		http { 'by_three': refreshonly => true, subscribe => File['${dir}/a', '${dir}/b', '${dir}/c'] }
		http { 'failing': refreshonly => true, wait => true, subscribe => File['${dir}/a'] } -> notify { 'after failing': }
	`;
	const counts = async () => {
		const routes = ['always', 'never', 'by_one', 'by_three', 'failing'];
		return Promise.all(routes.map((route) => listener.runCount(route)));
	};

	await t.test('on a change', async () => {
		const ran = await puppetApply(manifest, { dir: path.join(dir, 'puppet') });
		assert.equal(ran.code, 6, ran.stderr);
		assert.deepEqual(await counts(), [1, 0, 1, 1, 1]);
		assert.match(ran.stdout, /Http\[by_three\]: sent GET .*: 202 Accepted/);
		assert.match(ran.stdout, /Http\[by_three\]: Triggered 'refresh' from 3 events/);
		assert.match(ran.stderr, /Http\[failing\]: Failed to call refresh: .*failed: .*exited with 3/);
		assert.match(ran.stderr, /Notify\[after failing\]: Skipping because of failed dependencies/);
	});

	await t.test('without a change', async () => {
		const ran = await puppetApply(manifest, { dir: path.join(dir, 'puppet') });
		assert.equal(ran.code, 2, ran.stderr);
		assert.deepEqual(await counts(), [2, 0, 1, 1, 1]);
		assert.doesNotMatch(ran.stdout, /corrective/);
		const report = fs.readFileSync(path.join(dir, 'puppet/var/state/last_run_report.yaml'), 'utf8');
		assert.match(report, /^corrective_change: false$/m);
	});
});

puppetTest(
	'PW-T17: a class of the last run stage calls when everything else is done, and only if that went well',
	async (t) => {
		const dir = temporaryDirectory();
		const listener = await startListener({
			routes: `
routes:
  update_loadbalancer:
    method: get
    command: 'test -e ${dir}/built && echo the node is built || echo too early'
  kick: { method: get, command: "true" }
  changed: { method: get, command: "true" }
`,
		});
		const manifest = (build: string) => `
		class profiles::update_loadbalancer {
			http { 'update_loadbalancer':
				ensure => get,
				port   => '${listener.port}',
				fqdn   => '127.0.0.1',
			}

			http { 'changed':
				port        => ${listener.port},
				fqdn        => '127.0.0.1',
				refreshonly => true,
				subscribe   => Stage['main'],
			}
		}

		class roles::haproxy_member_backend_service {
			stage { 'last':
				require => Stage['main'],
			}

			class { 'profiles::update_loadbalancer':
				stage => 'last',
			}

			class { 'webhook::calls':
				stage    => 'last',
				defaults => { 'fqdn' => '127.0.0.1', 'port' => ${listener.port} },
				calls    => { 'kick' => {}, 'kick again' => { 'route' => 'kick', 'wait' => true } },
			}

			${build}
		}

		include roles::haproxy_member_backend_service
	`;

		await t.test('after a Puppet run that went well', async () => {
			const ran = await puppetApply(
				manifest(`exec { '/bin/sleep 0.3': } -> exec { '/bin/touch ${dir}/built': }`),
			);
			assert.equal(ran.code, 2, ran.stderr);
			assert.deepEqual(await runsOf(listener, 'update_loadbalancer'), [
				{ state: 'succeeded', output: 'the node is built\n' },
			]);
			assert.equal(await listener.runCount('kick'), 2);
			assert.equal(await listener.runCount('changed'), 1);
		});

		await t.test('not after one that failed', async () => {
			const ran = await puppetApply(manifest("exec { '/bin/false': }"));
			assert.equal(ran.code, 4);
			assert.match(ran.stderr, /Http\[update_loadbalancer\]: Skipping because of failed dependencies/);
			assert.equal(await listener.runCount(), 4);
		});

		await t.test('after one that changed nothing, save what waits for a change', async () => {
			const ran = await puppetApply(manifest("exec { '/bin/true': unless => '/bin/true' }"));
			assert.equal(ran.code, 2, ran.stderr);
			assert.equal(await listener.runCount('kick'), 4);
			assert.equal(await listener.runCount('changed'), 1);
		});
	},
);

puppetTest(
	'PW-T11: a listener that is down fails the resource and what requires it, and nothing else',
	async () => {
		const listener = await startListener({ routes: 'routes: { kick: { method: get, command: "true" } }' });
		const other = await startListener({ routes: 'routes: { kick: { method: get, command: "true" } }' });
		await listener.stop();
		const ran = await puppetApply(`
		http { 'kick': fqdn => '127.0.0.1', port => ${listener.port} } -> notify { 'after kick': }
		http { 'the other': route => 'kick', fqdn => '127.0.0.1', port => ${other.port} }
	`);
		assert.equal(ran.code, 6);
		assert.match(
			ran.stderr,
			/Http\[kick\]\/ensure: .* failed: GET .*\/kick: failed after .*: .*Connection refused/,
		);
		assert.match(ran.stderr, /Notify\[after kick\]: Skipping because of failed dependencies/);
		assert.equal(await other.runCount('kick'), 1);
	},
);
