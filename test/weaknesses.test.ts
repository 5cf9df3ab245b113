/**
 * What was wrong with the five systems that this one replaces, ten things before all: each as the test that would have found it.
 * What a weakness has of its own is tested here; the many ways of some of them have files of their own, which are named.
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import fs from 'node:fs';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { loadConfig } from '../listener/config/config.ts';
import { sourceKinds } from '../listener/sources/source.ts';
import {
	type Listener,
	processesOf,
	spawnListener,
	startListener,
	temporaryDirectory,
	until,
} from './helpers/listener.ts';
import { startUpstream, type Upstream } from './helpers/upstream.ts';

const token = 'weak-t0ken';
const authorization = (text: string) => ({ authorization: text });
const basic = (text: string) => authorization(`Basic ${Buffer.from(text).toString('base64')}`);

let listener: Listener;
let upstream: Upstream;
before(async () => {
	upstream = await startUpstream((asked, response) => {
		response.statusCode = Number(asked.url.slice(1)) || 200;
		response.end();
	});
	listener = await startListener({
		files: { 'percent.txt': '100%(here)s' },
		routes: `
auth:
  ci: { bearer: ${token} }
  user: { basic: { user: iamgood, password: "100%(pass)s%" } }
defaults: { rate: { failures: 1000000/s } }
routes:
  guarded: { auth: ci, params: { n: {} }, command: [echo, "{{n}}"] }
  basic: { auth: user, command: [cat, percent.txt] }
  roles: { params: { role: { required: true } }, command: [echo, "{{role}}"] }
  environment:
    params: { environment: { required: true } }
    concurrency: { when_busy: parallel }
    command: 'sleep 0.0$((\${#environment} % 5)); echo "$environment"'
  exits: { params: { status: {} }, command: 'exit "$status"' }
  dies: { params: { signal: {} }, command: 'kill "-$signal" $$' }
  upstream: { params: { status: {} }, steps: [{ http: { url: "${upstream.url}/{{status}}" } }, { command: echo went on }] }
  stops: { steps: [{ command: exit 3 }, { command: touch went-on }] }
  push:
    source: github
    secret: ${token}
    params: { branch: { from: event.branch, required: true } }
    command: [echo, "{{branch}}"]
`,
	});
});

const waited = async (route: string, body: object, headers = {}) =>
	listener.post(`/${route}?async=false`, body, headers);

/** Expects the file to be refused, and gives why. */
async function refused(routes: string, files: Readonly<Record<string, string>> = {}): Promise<string> {
	const dir = temporaryDirectory();
	for (const [name, text] of Object.entries(files)) fs.writeFileSync(path.join(dir, name), text);
	const config = path.join(dir, 'routes.yaml');
	fs.writeFileSync(config, routes);
	return loadConfig(config, { EMPTY: '' }).then(
		() => assert.fail(`was taken: ${routes}`),
		(error: Error) => error.message,
	);
}

describe('1. values of requests in a shell, as root, for everybody (all places: injection.test.ts)', () => {
	test('JW-B2: a role that ends the quotes is refused, as is a list of them, and makes no file', async () => {
		const file = path.join(listener.dir, 'made');
		for (const role of [
			`x'; touch ${file}; '`,
			[`x'; touch ${file}; '`],
			{ $gt: '' },
			'$(touch made)',
			'`touch made`',
		]) {
			const answer = await waited('roles', { role });
			assert.equal(answer.status, 422, answer.text);
		}
		assert.equal(fs.existsSync(file), false);
	});

	test('PW-B2, TW-B1: without a word it listens to this host only, and elsewhere a route without auth is refused', async () => {
		const open = 'routes: { run: { method: get, command: "true" } }\n';
		for (const address of ['0.0.0.0', '"::"', '192.0.2.1'])
			assert.match(await refused(`listen: { address: ${address} }\n${open}`), /route "run"/);
		const dir = temporaryDirectory();
		fs.writeFileSync(path.join(dir, 'routes.yaml'), open);
		const { listen } = await loadConfig(path.join(dir, 'routes.yaml'), {});
		assert.deepEqual(listen.address, ['127.0.0.1']);
	});
});

describe('2. a secret that is missing or empty, and so lets everybody in (all places: secrets.test.ts)', () => {
	for (const { name, secret } of sourceKinds) {
		if (secret !== 'required') continue;
		test(`RK-B2, PG-B7, FX-B1: ${name} is refused with none, an empty one, an empty file, an empty variable`, async () => {
			const route = (more: string) => `routes:\n  a: { source: ${name}, command: "true"${more} }\n`;
			await refused(route(''));
			for (const empty of [
				'""',
				"''",
				'',
				'{ file: empty }',
				'{ file: line }',
				'{ env: EMPTY }',
				'{ env: NONE }',
				'[]',
				'[x, ""]',
			])
				await refused(route(`, secret: ${empty}`), { empty: '', line: '\n' });
		});
	}

	test('FX-B2: gcr without an audience, or an empty one, is refused', async () => {
		for (const options of ['', '{}', '{ audience: "" }', '{ audience: [] }', '{ audience: [""] }'])
			await refused(`routes:\n  a: { source: { gcr: ${options} }, command: "true" }\n`);
	});
});

describe('3. what requests share', () => {
	test('RK-B7, PG-B1: 300 environments that are asked for 40 at a time are each run once, as they were asked for', async () => {
		const wanted = Array.from({ length: 300 }, (_, index) => `env_${index}`);
		const left = [...wanted];
		const ids: string[] = [];
		const caller = async () => {
			for (let environment = left.pop(); environment !== undefined; environment = left.pop()) {
				const answer = await listener.post('/environment', { environment });
				assert.equal(answer.status, 202, answer.text);
				ids.push(answer.json.runs[0].id);
			}
		};
		await Promise.all(Array.from({ length: 40 }, caller));
		const got = [];
		for (const id of ids) {
			const run = await listener.ended(id);
			assert.equal(await listener.output(id), `${run.parameters.environment}\n`);
			got.push(run.parameters.environment);
		}
		assert.deepEqual(got.sort(), wanted.sort());
	});

	test('PG-B11: triggers that are asked for and were never counted take no place', async () => {
		for (let index = 0; index < 50; index++)
			assert.equal((await listener.get(`/-/triggers/asked-${index}`)).json.count, 0);
		assert.deepEqual((await listener.get('/-/triggers')).json.triggers, []);
	});
});

describe('4. failure told as success', () => {
	test('RK-B1, RK-H4: who may not call, or sends what is none, is told so by the status', async () => {
		const statuses = async (route: string, body: string, headers: object) =>
			(await listener.post(`/${route}`, body, headers as Record<string, string>)).status;
		const json = { 'content-type': 'application/json' };
		assert.equal(await statuses('guarded', '{}', json), 401);
		assert.equal(await statuses('nowhere', '{}', json), 404);
		assert.equal(await statuses('roles', '{', json), 400);
		assert.equal(await statuses('roles', '{}', json), 422);
		assert.equal(await statuses('roles', 'role', { 'content-type': 'text/plain' }), 415);
	});

	test('PW-B3, FX-B3, PG-B4: an answer of another server that is no success fails the run, and what follows is not done', async () => {
		for (const status of ['500', '404', '301', '204']) {
			const answer = await waited('upstream', { status });
			const right = status === '204';
			assert.equal(answer.status, right ? 200 : 500, answer.text);
			assert.equal(answer.json.state, right ? 'succeeded' : 'failed');
			assert.equal(answer.json.output.text.includes('went on'), right);
		}
	});

	test('TW-B3, RK-V4: a command that fails is a run that failed, with its exit status', async () => {
		for (const status of [1, 4, 6, 127]) {
			const answer = await waited('exits', { status: String(status) });
			assert.equal(answer.status, 500);
			assert.equal(answer.json.exitCode, status);
		}
	});
});

describe('5. success told as failure, and going on after the end', () => {
	test('PW-B5: a command that succeeds is answered as one', async () => {
		assert.equal((await waited('exits', { status: '0' })).status, 200);
	});

	test('TW-B2: an exit status of 2 is that, and a death by signal 2 is another thing', async () => {
		const exit = (await waited('exits', { status: '2' })).json;
		assert.deepEqual([exit.reason, exit.exitCode, exit.signal], ['exit', 2, null]);
		const signal = (await waited('dies', { signal: 'INT' })).json;
		assert.deepEqual([signal.reason, signal.exitCode, signal.signal], ['signal', null, 'SIGINT']);
	});

	test('JW-B1: after a step that fails no other is done', async () => {
		assert.equal((await waited('stops', {})).json.state, 'failed');
		assert.equal(fs.existsSync(path.join(listener.dir, 'went-on')), false);
	});

	test('JW-B4, RK-B11: no request ends the listener, nor a command that kills its parent', async () => {
		const own = await startListener({
			routes: 'routes:\n  kills: { command: "kill -9 $PPID" }\n  exits: { command: exit 7 }\n',
		});
		for (const body of ['null', '[]', '{"role":null}', '\xff', '"', '{"a":{"__proto__":null}}'])
			await own.post('/exits', Buffer.from(body, 'latin1'), { 'content-type': 'application/json' });
		const killed = await own.post('/kills');
		assert.ok(['failed', 'succeeded'].includes((await own.ended(killed.json.runs[0].id)).state));
		assert.equal((await own.post('/exits?async=false')).json.exitCode, 7);
		assert.equal(own.process.exitCode, null);
	});
});

describe('6. races of locks and counts (locks: lockfile.test.ts, counts: triggers.test.ts)', () => {
	test('TW-B4: of calls that come together exactly one runs, until it has ended', async () => {
		const own = await startListener({
			routes:
				'routes:\n  agent:\n    params: { file: { pattern: ".*" } }\n    concurrency: { when_busy: reject }\n    command: \'until test -e "$file"; do sleep 0.05; done\'\n',
		});
		const file = path.join(own.dir, 'go');
		const answers = await Promise.all(Array.from({ length: 30 }, () => own.post('/agent', { file })));
		const statuses = answers.map(({ status }) => status);
		assert.equal(statuses.filter((status) => status === 202).length, 1);
		assert.equal(statuses.filter((status) => status === 409).length, 29);
		fs.writeFileSync(file, '');
		const { json } = answers.find(({ status }) => status === 202)!;
		await own.ended(json.runs[0].id);
		assert.equal((await own.post('/agent', { file })).status, 202);
	});
});

test('7. a caller that is slow, for whom all others wait: limits.test.ts', async () => {
	const slow = net.connect(listener.port, '127.0.0.1').on('error', () => {});
	slow.write('POST /guarded HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{');
	assert.equal((await waited('roles', { role: 'web' })).status, 200);
	slow.destroy();
});

describe('8. headers and names that are matched loosely', () => {
	const everything =
		'application/json X-Gitlab-Event Push Hook Authorization: Basic aWFtZ29vZA== Bearer weak-t0ken';

	test('RK-B4: words of a header count in that header alone, and as its whole value', async () => {
		for (const name of ['x-junk', 'user-agent', 'cookie', 'x-authorization', 'proxy-authorization'])
			assert.equal((await listener.post('/guarded', undefined, { [name]: `Bearer ${token}` })).status, 401);
		assert.equal((await listener.post('/guarded', undefined, { 'x-junk': everything })).status, 401);
		assert.equal((await listener.post('/guarded', undefined, authorization(everything))).status, 401);
	});

	test('RK-B13, FX-B4: a part of a secret, and one with more behind it, is another', async () => {
		const pass = '100%(pass)s%';
		for (const wrong of [pass.slice(0, -1), `${pass}x`, pass.slice(1), ` ${pass}`, pass.toUpperCase(), ''])
			assert.equal((await listener.post('/basic', undefined, basic(`iamgood:${wrong}`))).status, 401);
		for (const wrong of [token.slice(0, -1), `${token}x`, `${token},${token}`])
			assert.equal(
				(await listener.post('/guarded', undefined, authorization(`Bearer ${wrong}`))).status,
				401,
			);
	});

	test('RK-B13, FX-B4, PG-B7: no check compares a secret itself, whose first difference time would tell', () => {
		const root = path.join(import.meta.dirname, '../listener');
		for (const dir of ['auth', 'sources', 'http']) {
			for (const file of fs.readdirSync(path.join(root, dir))) {
				const text = fs.readFileSync(path.join(root, dir, file), 'utf8');
				assert.doesNotMatch(
					text,
					/[!=]==? *[\w.]*reveal\(\)|reveal\(\)(?:\.toString\([^)]*\))? *[!=]==?|reveal\(\)\.(equals|compare)/,
					file,
				);
			}
		}
	});

	test('RK-B12: a % in a password, a command or a file is a %', async () => {
		const answer = await listener.post('/basic?async=false', undefined, basic('iamgood:100%(pass)s%'));
		assert.equal(answer.json.output.text, '100%(here)s');
	});

	test('RK-B8, RK-B9, RK-B10: of a push the whole branch is the value, a tag is none, and what could be an option is refused', async () => {
		const push = async (ref: string, more: object = {}) => {
			const body = JSON.stringify({ ref, after: 'a'.repeat(40), repository: { full_name: 'a/b' }, ...more });
			return listener.post('/push?async=false', body, {
				'content-type': 'application/json',
				'x-github-event': 'push',
				'x-github-delivery': `${Math.random()}`,
				'x-hub-signature-256': `sha256=${createHmac('sha256', token).update(body).digest('hex')}`,
			});
		};
		assert.equal((await push('refs/heads/feature/foo')).json.output.text, 'feature/foo\n');
		assert.equal((await push('refs/tags/v1')).status, 422);
		for (const name of ['-f', '--help', '', 'a b', '$(id)', '../x', 'a\nb'])
			assert.equal((await push(`refs/heads/${name}`)).status, 422, name);
	});
});

describe('9. paths that callers choose', () => {
	test('JW-B3: what a route does not declare changes nothing, and a value that climbs is refused', async () => {
		const answer = await waited('roles', {
			role: 'web',
			cwd: '/',
			command: 'id',
			git_repo: '/etc',
			env: { A: 'b' },
		});
		assert.equal(answer.json.output.text, 'web\n');
		assert.deepEqual(answer.json.parameters, { role: 'web' });
		for (const role of ['../../etc/passwd', 'a/../b', '..'])
			assert.equal((await waited('roles', { role })).status, 422, role);
	});

	test('PG-B5, PG-B7: the server that a step asks is none that a caller names', async () => {
		const told = await refused(
			'routes:\n  fetch: { params: { url: {} }, steps: [{ http: { url: "{{url}}" } }] }\n',
		);
		assert.match(told, /would let a caller choose whom the request goes to/);
		assert.match(
			await refused(
				'routes:\n  fetch: { params: { host: {} }, steps: [{ http: { url: "http://{{host}}/x" } }] }\n',
			),
			/host/,
		);
	});
});

describe('10. options that are ignored, and exits that lie', () => {
	test('FX-C10, FX-B7: unknown keys, and two routes of one path or one secret, are refused by name', async () => {
		assert.match(
			await refused('routes:\n  a: { comand: x }\n'),
			/unknown key "comand", did you mean "command"/,
		);
		assert.match(await refused('routes:\n  a: { command: x }\n  b: { path: a, command: x }\n'), /"a"/);
		const same = '{ path: "h/{{fingerprint}}", secret: abcdefgh, command: x }';
		const told = await refused(`routes:\n  a: ${same}\n  b: ${same}\n`);
		assert.match(told, /"b"/);
		assert.doesNotMatch(told, /abcdefgh|[0-9a-f]{64}/);
	});

	test('PG-B9, FX-B6, XC-7: a port that is taken ends the listener with 1 and the reason, and leaves no process', async () => {
		const second = spawnListener({
			routes: `listen: { address: 127.0.0.1, port: ${listener.port} }\nroutes: { a: { command: x } }\n`,
		});
		assert.deepEqual(await second.exited(), { code: 1, signal: null });
		assert.match(second.stderr, /another program listens there/);
		await until('its processes to be gone', () => processesOf(second.dir).length === 0);
	});

	test('RK-B3, FX-B8: the log has neither secrets nor bodies, also at its most talkative', async () => {
		const body = { role: 'web', remark: 'zq-remark-of-a-body' };
		await waited('roles', body, { authorization: 'Bearer zq-of-a-header' });
		await listener.post('/guarded', body, authorization('Bearer zq-of-a-header'));
		await listener.post('/push', JSON.stringify(body), { 'content-type': 'application/json' });
		await until('the delivery', () =>
			listener.log().some(({ route, status }) => route === 'push' && status === 401),
		);
		const log = JSON.stringify(listener.log());
		assert.doesNotMatch(log, /zq-remark|zq-of-a-header|weak-t0ken/);
	});

	test('PW-B7, JW-13: no answer holds a trace of the program', async () => {
		const answers = [
			await listener.post('/roles', '{', { 'content-type': 'application/json' }),
			await listener.get('/%zz'),
			await waited('exits', { status: '1' }),
			await listener.post('/-/runs/x/cancel'),
		];
		for (const { text } of answers)
			assert.doesNotMatch(text, /\bat .*\.(ts|js|rb):\d+|node:internal|node_modules|Error:/);
	});

	test('RK-B6: where certificates are asked for, who has none gets no answer at all', async () => {
		const dir = temporaryDirectory();
		const make = (name: string, ...more: string[]) =>
			execFileSync(
				'openssl',
				[
					'req',
					'-x509',
					'-newkey',
					'ec',
					'-pkeyopt',
					'ec_paramgen_curve:prime256v1',
					'-nodes',
					'-days',
					'2',
					'-subj',
					`/CN=${name}`,
					'-addext',
					'subjectAltName=IP:127.0.0.1',
					'-keyout',
					`${dir}/${name}.key`,
					'-out',
					`${dir}/${name}.pem`,
					...more,
				],
				{ stdio: 'ignore' },
			);
		for (const name of ['ours', 'theirs']) make(name);
		const file = (name: string) => fs.readFileSync(path.join(dir, name));
		const own = await startListener({
			routes: `
listen: { address: 127.0.0.1, port: 0, tls: { cert: ${dir}/ours.pem, key: ${dir}/ours.key, ca: ${dir}/ours.pem }, client_certs: required }
routes: { a: { method: get, command: "true" } }
`,
		});
		const ask = (options: https.RequestOptions) =>
			new Promise<number | string>((resolve) => {
				const request = https.get({
					host: '127.0.0.1',
					port: own.port,
					path: '/a',
					ca: file('ours.pem'),
					agent: false,
					...options,
				});
				request.on('response', (response) => resolve(response.resume().statusCode ?? 0));
				request.on('error', ({ message }) => resolve(message));
			});
		assert.equal(await ask({ cert: file('ours.pem'), key: file('ours.key') }), 202);
		assert.equal(typeof (await ask({})), 'string');
		assert.equal(typeof (await ask({ cert: file('theirs.pem'), key: file('theirs.key') })), 'string');
	});
});
