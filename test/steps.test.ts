/** Runs of several steps, seen from outside: what they do and in which order, what others are asked by them, and what follows. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { loadConfig } from '../listener/config/config.ts';
import { ConfigError } from '../listener/errors.ts';
import { type Listener, startListener, temporaryDirectory, until } from './helpers/listener.ts';
import { certificate, startUpstream, type Upstream } from './helpers/upstream.ts';

/** A run once it has ended, with all of its output. */
async function ran(listener: Listener, route: string, body?: object) {
	const accepted = await listener.post(`/${route}`, body);
	assert.equal(accepted.status, 202, accepted.text);
	const { id } = accepted.json.runs[0];
	const run = await listener.ended(id);
	return { ...run, text: await listener.output(id) };
}

const said = (run: Record<string, unknown>) => [run.state, run.reason, run.exitCode];

describe('steps', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({
			routes: `
defaults: { env: { COLOUR: blue } }
routes:
  several:
    params: { role: {} }
    cwd: /
    env: { FRUIT: apple }
    stdin: parameters
    steps:
      - command: 'echo "$role $FRUIT $COLOUR in $PWD"; printf "no end of line"'
      - command: [printf, "%s", "{{role}}"]
      - { command: 'cat; pwd; echo "$FRUIT $COLOUR" "$0"', cwd: /usr, env: { FRUIT: "{{role}}" }, shell: /bin/bash }
  fails:
    steps:
      - command: echo one
      - command: exit 7
      - command: echo never
  missing: { steps: [{ command: "true" }, { command: [no-such-program] }] }
  single: { steps: [{ command: echo alone }] }
  late: { steps: [{ command: echo first }, { command: sleep 1000, timeout: 100ms }] }
  late-run: { timeout: 300ms, steps: [{ command: "true", timeout: 5s }, { command: sleep 1000, timeout: 1h }] }
  held: { steps: [{ command: "true" }, { command: echo begun; sleep 1000 }, { command: echo never }] }
  own: { steps: [{ command: [echo, "{{run.id}} {{run.route}}"], env: {}, cwd: "/" }, { command: "true" }] }
  quoted:
    params: { note: { pattern: "(?s).*" } }
    steps: [{ command: "true" }, { command: ["{{note}}"] }]
`,
		});
	});

	test('are done in order, with the route’s directory, variables and input unless they have their own', async () => {
		const run = await ran(listener, 'several', { role: 'web' });
		assert.deepEqual(said(run), ['succeeded', 'exit', 0]);
		assert.equal(
			run.text,
			`==> step 1 (command)
web apple blue in /
no end of line
==> step 2 (command): printf
web
==> step 3 (command)
{"role":"web"}
/usr
web blue /bin/bash
`,
		);
	});

	test('end with the first that fails, which the run names', async () => {
		const run = await ran(listener, 'fails');
		assert.deepEqual(said(run), ['failed', 'exit', 7]);
		assert.equal(run.message, 'step 2 (command) exited with 7');
		assert.equal(run.text, '==> step 1 (command)\none\n==> step 2 (command)\n');
		const missing = await ran(listener, 'missing');
		assert.deepEqual(said(missing), ['failed', 'spawn', null]);
		assert.match(missing.message, /^step 2 \(command\) was not started: "no-such-program" was not found/);
	});

	test('that are only one print no heading', async () => {
		assert.equal((await ran(listener, 'single')).text, 'alone\n');
	});

	test('are stopped at a time limit of their own, or at the run’s, and the message says which', async () => {
		const own = await ran(listener, 'late');
		assert.deepEqual(said(own), ['failed', 'timeout', null]);
		assert.equal(own.message, 'step 2 (command) was stopped at the time limit of 0.1 s');
		const whole = await ran(listener, 'late-run');
		assert.deepEqual(said(whole), ['failed', 'timeout', null]);
		assert.equal(whole.message, 'step 2 (command) was stopped at the time limit of 0.3 s');
	});

	test('do not go on when the run is cancelled', async () => {
		const { id } = (await listener.post('/held')).json.runs[0];
		await until('the second step', async () => /begun/.test(await listener.output(id)));
		await listener.post(`/-/runs/${id}/cancel`);
		const run = await listener.ended(id);
		assert.deepEqual(said(run), ['cancelled', 'caller', null]);
		assert.equal(run.message, 'step 2 (command) was cancelled');
		assert.doesNotMatch(await listener.output(id), /never/);
	});

	test('see the run’s own values', async () => {
		const run = await ran(listener, 'own');
		assert.match(run.text, new RegExp(`^${run.id} own$`, 'm'));
	});

	test('cannot break their headings by a value', async () => {
		const run = await ran(listener, 'quoted', { note: `a\n==> step 9${'x'.repeat(500)}` });
		assert.match(run.text, /^==> step 1 \(command\)\n==> step 2 \(command\): a\?==> step 9x{150,180}…\n$/);
	});
});

describe('what follows a run', () => {
	let listener: Listener;
	const tell = `echo "$WEBHOOK_STATE $WEBHOOK_REASON [$WEBHOOK_EXIT_CODE] $WEBHOOK_MESSAGE"`;
	before(async () => {
		listener = await startListener({
			routes: `
routes:
  good: { command: echo did, on_success: { command: '${tell}' }, on_failure: { command: echo never } }
  bad: { command: exit 3, on_success: { command: echo never }, on_failure: [{ command: '${tell}' }, { command: [echo, "{{run.state}}: {{run.message}} ({{run.exit_code}})"] }] }
  late: { timeout: 100ms, command: sleep 1000, on_failure: { command: '${tell}' } }
  late-twice: { timeout: 100ms, command: sleep 1000, on_failure: { command: sleep 1000 } }
  bad-end: { command: exit 3, on_failure: [{ command: "true" }, { command: exit 4 }] }
  good-end: { retry: { attempts: 3, delay: 100ms }, command: echo did, on_success: { command: exit 5 }, on_failure: { command: '${tell}' } }
  again: { retry: { attempts: 3, delay: 100ms }, command: 'echo x >>tries; exit 1', on_failure: { command: 'wc -l <tries; echo told >>told' } }
  held: { command: echo begun; sleep 1000, on_failure: { command: 'echo told >told-of-cancel' } }
  held-end: { command: exit 3, on_failure: { command: 'echo begun; sleep 1000' } }
  held-good: { command: "true", on_success: { command: 'echo begun; sleep 1000' }, on_failure: { command: 'echo told >told-of-cancel' } }
`,
		});
	});

	test('on_success sees how the run ended', async () => {
		const run = await ran(listener, 'good');
		assert.deepEqual([...said(run), run.message], ['succeeded', 'exit', 0, '']);
		assert.equal(run.text, 'did\n==> on_success (command)\nsucceeded exit [0] \n');
	});

	test('on_failure sees why the run failed', async () => {
		const run = await ran(listener, 'bad');
		assert.deepEqual([...said(run), run.message], ['failed', 'exit', 3, 'the command exited with 3']);
		assert.equal(
			run.text,
			`==> on_failure step 1 (command)
failed exit [3] the command exited with 3
==> on_failure step 2 (command): echo
failed: the command exited with 3 (3)
`,
		);
	});

	test('on_failure follows a time limit too, and has one of its own', async () => {
		const run = await ran(listener, 'late');
		assert.equal(run.reason, 'timeout');
		assert.match(run.text, /^failed timeout \[\] the command was stopped at the time limit of 0\.1 s$/m);
		const twice = await ran(listener, 'late-twice');
		assert.equal(twice.reason, 'timeout');
		assert.equal(
			twice.message,
			'the command was stopped at the time limit of 0.1 s; then on_failure (command) was stopped at the time limit of 0.1 s',
		);
	});

	test('an on_failure that fails hides nothing of the first failure', async () => {
		const run = await ran(listener, 'bad-end');
		assert.deepEqual(said(run), ['failed', 'exit', 3]);
		assert.equal(run.message, 'the command exited with 3; then on_failure step 2 (command) exited with 4');
	});

	test('an on_success that fails fails the run, is told to on_failure, and does not have the run done again', async () => {
		const run = await ran(listener, 'good-end');
		assert.deepEqual([...said(run), run.attempt], ['failed', 'exit', 5, 1]);
		assert.equal(run.message, 'on_success (command) exited with 5');
		assert.match(run.text, /^failed exit \[5\] on_success \(command\) exited with 5$/m);
	});

	test('on_failure follows the last attempt only', async () => {
		const run = await ran(listener, 'again');
		assert.deepEqual([...said(run), run.attempt], ['failed', 'exit', 1, 3]);
		assert.equal(run.text, '==> on_failure (command)\n3\n');
		assert.equal(fs.readFileSync(path.join(listener.dir, 'told'), 'utf8'), 'told\n');
	});

	test('nothing follows a run that is cancelled, and what follows one can be cancelled', async () => {
		const cancelled = async (route: string) => {
			const { id } = (await listener.post(`/${route}`)).json.runs[0];
			await until('it to begin', async () => /begun/.test(await listener.output(id)));
			await listener.post(`/-/runs/${id}/cancel`);
			return listener.ended(id);
		};
		assert.deepEqual(said(await cancelled('held')), ['cancelled', 'caller', null]);
		assert.deepEqual(said(await cancelled('held-good')), ['cancelled', 'caller', null]);
		assert.ok(!fs.existsSync(path.join(listener.dir, 'told-of-cancel')));
		const end = await cancelled('held-end');
		assert.deepEqual(said(end), ['failed', 'exit', 3]);
		assert.match(end.message, /^the command exited with 3; then on_failure \(command\) was cancelled$/);
	});

	test('a run whose on_failure the listener’s stop cuts short is done again by the next start', async () => {
		const first = await startListener({
			routes:
				'routes: { cut: { command: "echo x >>tries; exit 3", on_failure: { command: "[ -e second ] || { touch second; sleep 1000; }; echo told >>told" } } }',
			args: ['--drain', '100ms'],
		});
		const { id } = (await first.post('/cut')).json.runs[0];
		await until('on_failure to begin', () => fs.existsSync(path.join(first.dir, 'second')));
		await first.stop();
		const next = await first.again();
		const run = await next.ended(id);
		assert.deepEqual([...said(run), run.attempt], ['failed', 'exit', 3, 2]);
		assert.equal(fs.readFileSync(path.join(next.dir, 'tries'), 'utf8'), 'x\nx\n');
		assert.equal(fs.readFileSync(path.join(next.dir, 'told'), 'utf8'), 'told\n');
	});
});

describe('a step http', () => {
	let upstream: Upstream;
	let secure: Upstream;
	let listener: Listener;
	const dir = temporaryDirectory();
	const flaky = new Map<string, number>();

	before(async () => {
		const tls = certificate(dir);
		const answering: Parameters<typeof startUpstream>[0] = ({ url }, response) => {
			const [, status, rest] = /^\/(\d{3})(.*)/.exec(url) ?? [];
			if (url.startsWith('/slow')) return;
			if (url.startsWith('/cut')) return void response.destroy();
			if (url.startsWith('/big')) return void response.end('0123456789abcdef'.repeat(16 * 1024));
			if (url.startsWith('/flaky')) {
				const times = (flaky.get(url) ?? 0) + 1;
				flaky.set(url, times);
				response.statusCode = times < 3 ? 503 : 200;
				return void response.end(`time ${times}`);
			}
			if (url.startsWith('/there')) return void response.end('arrived');
			if (status?.startsWith('3'))
				response.setHeader('location', rest?.startsWith('/away') ? 'http://localhost:1/x' : '/there');
			response.statusCode = Number(status ?? 200);
			response.end(`answered ${url}`);
		};
		upstream = await startUpstream(answering);
		secure = await startUpstream(answering, tls);
		const to = upstream.url;
		listener = await startListener({
			env: { STEP_KEY: 'key-of-the-environment' },
			files: {
				'ca.pem': fs.readFileSync(tls.cert, 'utf8'),
				'url.secret': `${to}/whole-url-is-secret?x=y\n`,
				'token.secret': 'token-in-a-file\n',
			},
			routes: `
routes:
  plain: { steps: [{ http: { url: ${to}/plain?a=b } }] }
  post:
    params: { role: { pattern: "(?s).*" }, count: { type: integer }, note: { pattern: "(?s).*" } }
    steps:
      - http:
          url: ${to}/post/{{role}}/x?role={{role}}&note={{note}}
          method: put
          headers: { X-Role: "is {{role}}", Accept: application/json }
          json: { text: "for {{role}}", note: "{{note}}", count: "{{count}}", deep: [{ a: "{{run.route}}" }, 5, true, null] }
  text: { params: { role: {} }, steps: [{ http: { url: ${to}/text, body: "role={{role}}\\n" } }] }
  header: { params: { note: { pattern: "(?s).*" } }, steps: [{ http: { url: ${to}/header, headers: { X-Note: "{{note}}" } } }] }
  dots: { params: { part: { pattern: ".*" } }, steps: [{ http: { url: "${to}/dots/{{part}}/x" } }] }
  status:
    params: { status: { required: true } }
    steps: [{ http: { url: "${to}/{{status}}" } }]
  statuses:
    params: { status: { required: true } }
    steps: [{ http: { url: "${to}/{{status}}", status: [404, 5xx, 200-202] } }]
  retry: { params: { id: {} }, steps: [{ http: { url: "${to}/flaky/{{id}}", retry: { attempts: 3, delay: 50ms } } }] }
  few: { params: { id: {} }, steps: [{ http: { url: "${to}/flaky/{{id}}", retry: { attempts: 2, delay: 50ms } } }] }
  slow: { steps: [{ http: { url: ${to}/slow, timeout: 100ms } }] }
  late: { timeout: 200ms, steps: [{ http: { url: ${to}/slow } }, { command: echo never }] }
  held: { steps: [{ http: { url: ${to}/slow/held } }] }
  pause: { steps: [{ http: { url: ${to}/500/pause, retry: { attempts: 2, delay: 1h } } }] }
  cut: { steps: [{ http: { url: ${to}/cut } }] }
  nobody: { steps: [{ http: { url: "http://127.0.0.1:1/x" } }] }
  unknown: { steps: [{ http: { url: "http://no-such-host.invalid/x" } }] }
  big: { steps: [{ http: { url: ${to}/big } }, { command: echo after }] }
  redirect: { steps: [{ http: { url: ${to}/302 } }] }
  follow: { steps: [{ http: { url: ${to}/302, follow_redirects: true } }] }
  away: { steps: [{ http: { url: ${to}/302/away, follow_redirects: true } }] }
  untrusted: { steps: [{ http: { url: ${secure.url}/x } }] }
  trusted: { steps: [{ http: { url: ${secure.url}/x, ca: ca.pem } }] }
  misnamed: { steps: [{ http: { url: "${secure.url.replace('127.0.0.1', 'localhost')}/x", ca: ca.pem } }] }
  titled: { steps: [{ http: { url: "${to}/secret-path?token=abc" } }, { command: "true" }] }
  hosts:
    params: { host: { enum: ["127.0.0.1", localhost] }, whole: { enum: ["${to}/whole"] } }
    steps:
      - http: { url: "http://{{host}}:${new URL(to).port}/host" }
      - http: { url: "{{whole}}" }
  notify:
    command: echo 'a "quoted" line'; exit 3
    on_failure: { http: { url: "${to}/notify/{{run.id}}?why={{run.message}}", headers: { X-Api-Key: notify-key }, json: { text: "{{run.route}} {{run.state}}: {{run.message}}" } } }
  keyed:
    steps: [{ http: { url: ${to}/keyed, headers: { Authorization: Bearer abcdef-token, X-Api-Key: key-in-the-clear, Content-Type: text/x } } }]
  secrets:
    steps:
      - http: { url: { file: url.secret }, headers: { X-Api-Key: { env: STEP_KEY } } }
      - http: { url: "${to}/bearer", bearer: { file: token.secret } }
      - http: { url: "${to}/basic", basic: { user: jenkins, password: [{ env: STEP_KEY }, other] } }
  not-a-url: { steps: [{ http: { url: { file: token.secret } } }] }
  keyed-later:
    retry: { attempts: 2, delay: 2s }
    steps: [{ http: { url: ${to}/500/keyed-later, headers: { X-Api-Key: later-key } } }]
`,
		});
	});

	/** That no file below the state directory holds one of the texts. */
	async function keptNowhere(texts: readonly string[]): Promise<void> {
		for (const name of fs.readdirSync(listener.state, { recursive: true, withFileTypes: true })) {
			if (!name.isFile()) continue;
			const kept = fs.readFileSync(path.join(name.parentPath, name.name), 'latin1');
			for (const text of texts) assert.ok(!kept.includes(text), `${name.name} holds ${text}`);
		}
		for (const text of texts)
			assert.ok(!JSON.stringify(listener.log()).includes(text), `the log holds ${text}`);
	}

	const last = (prefix: string) => upstream.at(prefix).at(-1)!;

	test('sends a request and keeps the answer as output', async () => {
		const run = await ran(listener, 'plain');
		assert.deepEqual([...said(run), run.message], ['succeeded', 'exit', null, '']);
		assert.equal(run.text, 'answered /plain?a=b');
		const { method, headers, body } = last('/plain');
		assert.deepEqual([method, headers['user-agent'], body], ['GET', 'puppet-webhook', '']);
	});

	test('keeps values where they belong: in a path, a query, JSON texts and a header', async () => {
		const role = 'a/../b?c=d&e#f%2F"},{"x":"é{{count}}';
		const plain = await ran(listener, 'post', { role: 'web', count: 5, note: 'a b' });
		assert.equal(plain.state, 'succeeded', plain.message);
		assert.equal(last('/post').headers['x-role'], 'is web');
		assert.equal(last('/post').headers.accept, 'application/json');
		assert.equal(last('/post').headers['content-type'], 'application/json');
		const run = await ran(listener, 'post', { role, count: -1, note: '"\n\\' });
		assert.equal(run.state, 'succeeded', run.message);
		const { method, url, body, headers } = last('/post');
		const text = encodeURIComponent(role);
		assert.deepEqual([method, url], ['PUT', `/post/${text}/x?role=${text}&note=%22%0A%5C`]);
		assert.deepEqual(JSON.parse(body), {
			text: `for ${role}`,
			note: '"\n\\',
			count: '-1',
			deep: [{ a: 'post' }, 5, true, null],
		});
		assert.equal(Buffer.from(headers['x-role'] as string, 'latin1').toString('latin1'), `is ${role}`);
	});

	test('sends text, which is a POST', async () => {
		await ran(listener, 'text', { role: 'web' });
		const { method, headers, body } = last('/text');
		assert.deepEqual(
			[method, headers['content-type'], body],
			['POST', 'text/plain; charset=utf-8', 'role=web\n'],
		);
	});

	test('refuses a value that would be a second header', async () => {
		const run = await ran(listener, 'header', { note: 'a\r\nX-Evil: yes' });
		assert.deepEqual(said(run), ['failed', 'spawn', null]);
		assert.match(run.message, /^the step \(http\) was not sent: its header "x-note" would have a line break/);
		assert.equal(upstream.at('/header').length, 0);
	});

	test('refuses a value that would leave its part of the path', async () => {
		for (const part of ['..', '.', '%2e%2e']) {
			const run = await ran(listener, 'dots', { part });
			if (part.startsWith('.')) assert.match(run.message, /was not sent: its url has a part "\." or "\.\."/);
			else assert.equal(last('/dots').url, '/dots/%252e%252e/x');
		}
		assert.equal(upstream.at('/dots').length, 1);
	});

	test('fails when the status is not expected', async () => {
		assert.equal((await ran(listener, 'status', { status: '204' })).state, 'succeeded');
		const run = await ran(listener, 'status', { status: '404' });
		assert.deepEqual(said(run), ['failed', 'exit', null]);
		assert.match(
			run.message,
			/^the step \(http\) was answered 404 by 127\.0\.0\.1:\d+, expected was 200 to 299$/,
		);
		assert.equal(run.text, 'answered /404');
		for (const [status, state] of [
			['404', 'succeeded'],
			['503', 'succeeded'],
			['201', 'succeeded'],
			['203', 'failed'],
		])
			assert.equal((await ran(listener, 'statuses', { status })).state, state, status);
	});

	test('is sent again when it fails, as often as it says', async () => {
		const run = await ran(listener, 'retry', { id: 'a' });
		assert.equal(run.state, 'succeeded', run.message);
		assert.match(
			run.text,
			/^time 1\nattempt 1 of 3 was answered 503 by .*; again in 0\.05 s\ntime 2\nattempt 2 of 3 was answered 503 .*\ntime 3$/,
		);
		assert.equal((await ran(listener, 'few', { id: 'b' })).state, 'failed');
		assert.equal(flaky.get('/flaky/b'), 2);
	});

	test('ends at its own time limit, at the run’s, and when the run is cancelled', async () => {
		const slow = await ran(listener, 'slow');
		assert.deepEqual(said(slow), ['failed', 'timeout', null]);
		assert.match(slow.message, /^the step \(http\) had no answer from 127\.0\.0\.1:\d+ within 0\.1 s$/);
		const late = await ran(listener, 'late');
		assert.equal(late.message, 'step 1 (http) was stopped at the time limit of 0.2 s');
		for (const [route, place] of [
			['held', '/slow/held'],
			['pause', '/500/pause'],
		] as const) {
			const { id } = (await listener.post(`/${route}`)).json.runs[0];
			await until('the request', () => upstream.at(place).length > 0);
			await listener.post(`/-/runs/${id}/cancel`);
			assert.deepEqual(said(await listener.ended(id)), ['cancelled', 'caller', null], route);
		}
	});

	test('says why there was no answer', async () => {
		const expected: Record<string, RegExp> = {
			cut: /had no answer from 127\.0\.0\.1:\d+: it cut the connection$/,
			nobody: /had no answer from 127\.0\.0\.1:1: nothing listens there$/,
			unknown:
				/had no answer from no-such-host\.invalid: (this host does not know the name|its name cannot be looked up at the moment)$/,
		};
		for (const [route, message] of Object.entries(expected)) {
			const run = await ran(listener, route);
			assert.equal(run.state, 'failed');
			assert.match(run.message, message);
		}
	});

	test('keeps the beginning of a long answer', async () => {
		const run = await ran(listener, 'big');
		assert.equal(run.state, 'succeeded', run.message);
		const [, answer = '', rest] = /^==> step 1 .*\n([0-9a-f]*)\n([\s\S]*)$/.exec(run.text) ?? [];
		assert.equal(answer.length, 64 * 1024);
		assert.equal(rest, '(no more than 64 KiB of an answer are kept)\n==> step 2 (command)\nafter\n');
	});

	test('follows a redirect only when it is told to, and to the same server', async () => {
		const run = await ran(listener, 'redirect');
		assert.match(run.message, /was answered 302 .*"follow_redirects: true" would follow it$/);
		const followed = await ran(listener, 'follow');
		assert.deepEqual([followed.state, followed.text], ['succeeded', 'arrived']);
		assert.match(
			(await ran(listener, 'away')).message,
			/it leads to another server, where it is not followed$/,
		);
	});

	test('trusts only certificates that the system or `ca` vouches for', async () => {
		assert.match(
			(await ran(listener, 'untrusted')).message,
			/its certificate is of no CA that is trusted here; name the CA's file under "ca"$/,
		);
		const trusted = await ran(listener, 'trusted');
		assert.equal(trusted.state, 'succeeded', trusted.message);
		assert.match((await ran(listener, 'misnamed')).message, /its certificate is for another name$/);
		assert.equal(secure.asked.length, 1);
	});

	test('names the server in its heading and nothing that may be secret', async () => {
		const run = await ran(listener, 'titled');
		assert.match(run.text, /^==> step 1 \(http\): GET http:\/\/127\.0\.0\.1:\d+\n/);
		assert.doesNotMatch(run.text.split('\n')[0]!, /secret|token/);
	});

	test('asks another server by a parameter only when all its values are in routes.yaml', async () => {
		const run = await ran(listener, 'hosts', { host: '127.0.0.1', whole: `${upstream.url}/whole` });
		assert.equal(run.state, 'succeeded', run.message);
		assert.deepEqual([upstream.at('/host').length, upstream.at('/whole').length], [1, 1]);
		assert.equal((await listener.post('/hosts', { host: 'evil.example.com' })).status, 422);
	});

	test('tells of a run that failed', async () => {
		const run = await ran(listener, 'notify');
		assert.deepEqual([run.state, run.message], ['failed', 'the command exited with 3']);
		const { url, body, headers } = last('/notify');
		assert.equal(headers['x-api-key'], 'notify-key');
		assert.equal(url, `/notify/${run.id}?why=the%20command%20exited%20with%203`);
		assert.deepEqual(JSON.parse(body), { text: 'notify failed: the command exited with 3' });
		assert.match(run.text, /\n==> on_failure \(http\): POST http:\/\/127\.0\.0\.1:\d+\n/);
	});

	test('sends headers that routes.yaml spells out, and keeps them out of the state directory', async () => {
		const run = await ran(listener, 'keyed');
		assert.equal(run.state, 'succeeded', run.message);
		const { headers } = last('/keyed');
		assert.deepEqual(
			[headers.authorization, headers['x-api-key'], headers['content-type']],
			['Bearer abcdef-token', 'key-in-the-clear', 'text/x'],
		);
		await keptNowhere(['abcdef-token', 'key-in-the-clear']);
	});

	test('sends secrets that stand elsewhere, and keeps them out of the state directory, the output and the log', async () => {
		const run = await ran(listener, 'secrets');
		assert.equal(run.state, 'succeeded', run.message);
		assert.equal(last('/whole-url-is-secret').headers['x-api-key'], 'key-of-the-environment');
		assert.equal(last('/bearer').headers.authorization, 'Bearer token-in-a-file');
		const basic = Buffer.from('jenkins:key-of-the-environment').toString('base64');
		assert.equal(last('/basic').headers.authorization, `Basic ${basic}`);
		assert.match(run.text, /^==> step 1 \(http\): GET\n/);
		const hidden = ['whole-url-is-secret', 'token-in-a-file', 'key-of-the-environment', basic];
		await keptNowhere(hidden.slice(1));
		const other = await ran(listener, 'not-a-url');
		assert.match(other.message, /was not sent: its url is no url$/);
	});

	test('takes such a header as routes.yaml has it when the run is performed, and none that was meant for another url', async () => {
		const { id } = (await listener.post('/keyed-later')).json.runs[0];
		await until('the first attempt', () => upstream.at('/500/keyed-later').length === 1);
		const text = fs.readFileSync(listener.config, 'utf8');
		fs.writeFileSync(listener.config, text.replace('later-key', 'newer-key'));
		assert.equal((await listener.post('/-/reload')).status, 200);
		await listener.ended(id);
		assert.deepEqual(
			upstream.at('/500/keyed-later').map(({ headers }) => headers['x-api-key']),
			['later-key', 'newer-key'],
		);
		const other = (await listener.post('/keyed-later')).json.runs[0];
		await until('the first attempt', () => upstream.at('/500/keyed-later').length === 3);
		fs.writeFileSync(listener.config, text.replace('/500/keyed-later', '/elsewhere'));
		assert.equal((await listener.post('/-/reload')).status, 200);
		const run = await listener.ended(other.id);
		assert.match(
			run.message,
			/was not sent: routes\.yaml has no more what was meant for it at routes\.keyed-later\.steps\.0\.http\.headers\.x-api-key; /,
		);
		assert.equal(upstream.at('/500/keyed-later').length, 3);
		assert.equal(upstream.at('/elsewhere').length, 0);
	});
});

describe('steps that are refused', () => {
	const dir = temporaryDirectory();
	async function faults(route: string): Promise<string[]> {
		const file = path.join(dir, 'routes.yaml');
		fs.writeFileSync(file, `routes:\n  a:\n    params: { role: {}, host: { enum: ["a/b"] } }\n${route}`);
		const error = await loadConfig(file, {}).catch((error) => error);
		assert.ok(error instanceof ConfigError, String(error));
		return error.message.split('\n').map((line) => line.replace(/^.*?: route "a": /, ''));
	}

	const table: [what: string, route: string, ...faults: RegExp[]][] = [
		['neither command nor steps', '', /^"command" is missing$/],
		['both', '    command: x\n    steps: [{ command: y }]\n', /^steps: cannot be there beside "command"/],
		['no step', '    steps: []\n', /^steps: must not be an empty list$/],
		['a step that is text', '    steps: [echo]\n', /^steps item 1: must be a map/],
		[
			'an empty step',
			'    steps: [{}]\n',
			/^steps item 1: does nothing: a step has one of command, hieradata, http, trigger$/,
		],
		[
			'a step that is two',
			'    steps: [{ command: x }, { command: x, trigger: y }]\n',
			/^steps item 2: has command and trigger, and a step does one thing: make a step of each$/,
		],
		[
			'a misspelt kind',
			'    steps: [{ comand: x }]\n',
			/^steps item 1: unknown key "comand", did you mean "command"\?$/,
		],
		[
			'keys of a command on another step',
			'    steps: [{ trigger: x, cwd: /x }]\n',
			/^steps item 1\.cwd: is for commands, and this step is of the kind trigger$/,
		],
		[
			'faults in texts',
			'    steps: [{ command: "echo {{role}}" }, { command: [echo, "{{rol}}"], env: { A: "{{" } }, { trigger: "{{run.state}}" }]\n',
			/^steps item 1\.command: \{\{role\}\} inside a shell string .*use "\$role"/,
			/^steps item 2\.command item 2: \{\{rol\}\} is used but not declared/,
			/^steps item 2\.env\.A: "\{\{" is never closed/,
			/^steps item 3\.trigger: \{\{run\.state\}\} is known only when the run's steps have ended: use it in on_success or on_failure$/,
		],
		[
			'an unknown value of the run',
			'    command: x\n    on_failure: { command: [echo, "{{run.url}}"] }\n',
			/^on_failure\.command item 2: \{\{run\.url\}\} is no value of a run; there are run\.id, .*run\.message$/,
		],
		[
			'a value of the run in a shell string',
			'    command: x\n    on_failure: [{ command: "echo {{run.message}}" }]\n',
			/^on_failure item 1\.command: .*use "\$WEBHOOK_MESSAGE"/,
		],
		[
			'a value of the run in a group',
			'    command: x\n    concurrency: { group: "{{run.id}}" }\n',
			/^concurrency\.group: \{\{run\.id\}\} is known only when the run is performed: use it in steps$/,
		],
		['a request without url', '    steps: [{ http: {} }]\n', /^steps item 1\.http: "url" is missing$/],
		[
			'a url whose server a caller chooses',
			'    steps: [{ http: { url: "https://{{role}}/x" } }, { http: { url: "{{role}}" } }, { http: { url: "https://{{host}}/" } }, { http: { url: "https://{{run.id}}/" } }]\n',
			/^steps item 1\.http\.url: \{\{role\}\} stands before the path/,
			/^steps item 2\.http\.url: \{\{role\}\} would let a caller choose whom/,
			/^steps item 3\.http\.url: \{\{host\}\} stands before the path, where its values can have letters/,
			/^steps item 4\.http\.url: a value of the run cannot say which server is asked$/,
		],
		[
			'urls that are none',
			`    steps: [${[
				'ftp://x/',
				'x',
				'https://u:p@h/',
				'https://h/#f',
				'https://h/a/../b',
				'https://h/a b',
				'https://[/',
			]
				.map((url) => `{ http: { url: "${url}" } }`)
				.join(', ')}]\n`,
			/^steps item 1\.http\.url: must begin with http/,
			/^steps item 2\.http\.url: must begin with http/,
			/^steps item 3\.http\.url: has a user or password/,
			/^steps item 4\.http\.url: has a part behind "#"/,
			/^steps item 5\.http\.url: has a part "\."/,
			/^steps item 6\.http\.url: has a blank/,
			/^steps item 7\.http\.url: is no url/,
		],
		[
			'requests that do not fit together',
			'    steps: [{ http: { url: "http://h", method: get, json: {} } }, { http: { url: "http://h", json: {}, body: x } }, { http: { url: "http://h", headers: { X-A: "1", x-a: "2" } } }]\n',
			/^steps item 1\.http\.method: has no body/,
			/^steps item 2\.http\.body: cannot be there beside "json"/,
			/^steps item 3\.http\.headers: "x-a" is given more than once/,
		],
		[
			'headers, statuses and keys of JSON that are none',
			'    steps: [{ http: { url: "http://h", headers: { Content-Length: 5 }, status: 600 } }, { http: { url: "http://h", status: [200-100] } }]\n',
			/^steps item 1\.http\.headers\.Content-Length: is set by the listener itself$/,
			/^steps item 1\.http\.status: must be a status such as 200/,
			/^steps item 2\.http\.status/,
		],
		[
			'a key of JSON with a value in it',
			'    steps: [{ http: { url: "http://h", json: { "{{role}}": 1 } } }]\n',
			/^steps item 1\.http\.json\.\S+: \{\{…\}\} can stand in values, and not in a key$/,
		],
		[
			'a trigger without name',
			'    steps: [{ trigger: a b }]\n',
			/^steps item 1\.trigger: has a character that/,
		],
		[
			'a file of CAs that is not there',
			'    steps: [{ http: { url: "https://h", ca: none.pem } }]\n',
			/^steps item 1\.http\.ca: .*none\.pem does not exist/,
		],
	];
	for (const [what, route, ...expected] of table) {
		test(`by ${what} are told with the remedy`, async () => {
			const found = await faults(route);
			assert.equal(found.length, expected.length, found.join('\n'));
			for (const [i, pattern] of expected.entries()) assert.match(found[i]!, pattern);
		});
	}
});
