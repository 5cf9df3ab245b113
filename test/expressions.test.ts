/** Conditions (`when`) and values (`params.*.from`): what they decide, what callers and the log get to know, and that they end. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import fc from 'fast-check';
import { type Body, eventOf, noCertificate } from '../listener/delivery.ts';
import { ExpressionCompiler, type Result, type Scope } from '../listener/routes/expressions.ts';
import { command, type Listener, root, startListener, temporaryDirectory } from './helpers/listener.ts';

describe('a condition', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({
			routes: `
auth:
  sender: { bearer: the-senders-token }
routes:
  call: { when: body.environment == "production" && body.count > 2, command: "true" }
  several: { when: 'has(body.ok) && body.ok', command: "true" }
  headers: { method: get, when: 'headers["x-role"].startsWith("web") && query.size == "1"', command: "true" }
  path/:name: { method: get, when: path.name != "none" && client.ip == "127.0.0.1", command: "true" }
  open: { auth: none, when: body.internal_name == "x", command: "true" }
  known: { auth: sender, when: 'body.name == "x"', command: "true" }
  tokens: { when: body.api_token != body.other, command: "true" }
  slow: { when: 'body.a.exists(x, body.b.exists(y, x == y + 1.0))', command: "true" }
  texts: { when: body.text.contains(body.part), command: "true" }
  hanging: { when: 'body.text.matches("(a+)+$")', command: "true" }
`,
		});
	});

	test('that is true lets the delivery become a run', async () => {
		const answer = await listener.post('/call', { environment: 'production', count: 3 });
		assert.equal(answer.status, 202);
	});

	test('that is not true is answered 200 with the part of it that said no, and runs nothing', async () => {
		const answer = await listener.post('/call', { environment: 'production', count: 2 });
		assert.equal(answer.status, 200);
		assert.deepEqual(answer.json, { ignored: ['when: body.count > 2 is not true'] });
		const other = await listener.post('/call', { environment: 'qa', count: 3 });
		assert.deepEqual(other.json, { ignored: ['when: body.environment == "production" is not true'] });
		assert.equal(await listener.runCount('several'), 0);
	});

	test('is logged with the values that it looked at when it says no', async () => {
		await listener.post('/call', { environment: 'staging', count: 3 });
		const line = await listener.logged('the reason', ({ reason }) => String(reason).includes('staging'));
		assert.equal(
			line.reason,
			'when: body.environment == "production" is not true (body.environment = "staging")',
		);
	});

	test('that asks for what is not there is not true, and says what is missing', async () => {
		const cases: readonly [unknown, string][] = [
			[{ environment: 'production' }, 'when: body.count > 2: body has no field "count"'],
			[[], 'when: body.environment == "production": body has no field "environment"'],
			[undefined, 'when: body.environment == "production": there is no body'],
		];
		for (const [body, reason] of cases) {
			const answer = await listener.post('/call', body as object);
			assert.equal(answer.status, 200);
			assert.deepEqual(answer.json, { ignored: [reason] });
		}
	});

	test('that gives neither true nor false is not true, and compares numbers of JSON as they are', async () => {
		const answer = await listener.post('/several', { ok: 'yes' });
		assert.deepEqual(answer.json, { ignored: ['when: body.ok is neither true nor false, but a text'] });
		assert.equal((await listener.post('/call', { environment: 'production', count: 2.5 })).status, 202);
	});

	test('sees headers in lower case, the query, the parts of the path, and who calls', async () => {
		assert.equal((await listener.get('/headers?size=1', { 'X-Role': 'web1' })).status, 202);
		assert.equal((await listener.get('/headers?size=2', { 'X-Role': 'web1' })).status, 200);
		assert.equal((await listener.get('/path/some')).status, 202);
		assert.equal((await listener.get('/path/none')).status, 200);
	});

	test('is not told to callers whom nobody has verified', async () => {
		const anybody = await listener.post('/open', { internal_name: 'y' });
		assert.deepEqual(anybody.json, { ignored: ["when: the route's condition is not true"] });
		const sender = await listener.post(
			'/known',
			{ name: 'y' },
			{ authorization: 'Bearer the-senders-token' },
		);
		assert.deepEqual(sender.json, { ignored: ['when: body.name == "x" is not true'] });
	});

	test('shows no value of what is called a secret', async () => {
		const answer = await listener.post('/tokens', { api_token: 'geheim123', other: 'geheim123' });
		assert.equal(answer.status, 200);
		await listener.logged('the reason', ({ reason }) => String(reason).includes('api_token = [secret]'));
		assert.doesNotMatch(answer.text, /geheim123/);
	});

	test('ends soon whatever body comes, and is not true then', { timeout: 60_000 }, async () => {
		const many = Array(400_000).fill(0);
		const slow = await listener.post('/slow', { a: many, b: many });
		assert.match(slow.json.ignored[0], /takes more than 1000000 steps/);
		const half = 'a'.repeat(500_000);
		const texts = await listener.post('/texts', { text: half + half, part: `${half}b${half}` });
		assert.match(texts.json.ignored[0], /searches for a text of more than 256/);
		const hanging = await listener.post('/hanging', { text: `${'a'.repeat(100_000)}b` });
		assert.equal(hanging.status, 200);
	});
});

describe('a condition on the events of a source', () => {
	test('decides about each event', async () => {
		const listener = await startListener({
			routes:
				'auth: { host: { ip: [127.0.0.1] } }\n' +
				'routes:\n  deploy:\n    source: bitbucket\n    secret: bitbuckets-secret\n' +
				'    when: event.branch != "scratch" && !event.deleted\n' +
				'    params: { branch: { from: event.branch } }\n    command: echo "$branch"\n',
		});
		const change = (name: string) => ({
			new: { type: 'branch', name, target: { hash: '2'.repeat(40) } },
			old: null,
			created: true,
			closed: false,
			forced: false,
		});
		const { createHmac } = await import('node:crypto');
		const body = JSON.stringify({
			push: { changes: ['main', 'scratch', 'test'].map(change) },
			repository: { name: 'control', full_name: 'site/control' },
		});
		const signature = `sha256=${createHmac('sha256', 'bitbuckets-secret').update(body).digest('hex')}`;
		const headers = {
			'content-type': 'application/json',
			'x-event-key': 'repo:push',
			'x-hub-signature': signature,
		};
		const answer = await listener.post('/deploy', body, headers);
		assert.equal(answer.status, 202, answer.text);
		assert.equal(answer.json.runs.length, 2);
		const outputs = await Promise.all(
			answer.json.runs.map(async ({ id }: { id: string }) => {
				await listener.ended(id);
				return listener.output(id);
			}),
		);
		assert.deepEqual(outputs.sort(), ['main\n', 'test\n']);
	});
});

describe('the value of a parameter', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({
			routes: `
routes:
  echo/:part:
    wait: true
    params:
      project: { from: body.project.name, required: true }
      count: { from: size(body.commits), type: integer, default: 0 }
      first: { from: 'body.commits[0].id', default: none }
      size: { from: body.size }
      upper: { from: path.part.upperAscii() }
      agent: { from: 'headers["x-agent"]', default: unknown }
      event: { from: event.tag, default: untagged }
      list: { from: body.list }
    command: echo "$project/$count/$first/$size/$upper/$agent/$event"
`,
		});
	});
	const echoed = async (body: object, headers = {}) => {
		const answer = await listener.post('/echo/abc', body, headers);
		assert.equal(answer.status, 200, answer.text);
		return listener.output(answer.json.id ?? answer.json.runs[0].id);
	};

	test('is what its expression gives', async () => {
		const body = { project: { name: 'shop' }, commits: [{ id: 'c1' }, { id: 'c2' }], size: 2.5 };
		assert.equal(await echoed(body, { 'X-Agent': 'curl' }), 'shop/2/c1/2.5/ABC/curl/untagged\n');
	});

	test('is absent, or its default, where what the expression asks for is missing or empty', async () => {
		assert.equal(await echoed({ project: { name: 'shop' } }), 'shop/0/none//ABC/unknown/untagged\n');
	});

	test('is missing when it is required and the body has no such field', async () => {
		const answer = await listener.post('/echo/abc', { project: {} });
		assert.equal(answer.status, 422);
		assert.deepEqual(answer.json.parameters, [{ parameter: 'project', reason: 'is missing' }]);
	});

	test('is checked like any other, and is never a list or a map', async () => {
		const answer = await listener.post('/echo/abc', {
			project: { name: '$(id)' },
			commits: 5,
			list: [1],
			size: { a: 1 },
		});
		assert.equal(answer.status, 422);
		const reasons = Object.fromEntries(
			answer.json.parameters.map((p: { parameter: string; reason: string }) => [p.parameter, p.reason]),
		);
		assert.match(reasons.project, /^has a character that is not admitted/);
		assert.match(reasons.count, /^cannot be made of this delivery: /);
		assert.match(reasons.list, /is a list/);
		assert.match(reasons.size, /is an object/);
	});
});

describe('an expression with a fault', () => {
	const dir = temporaryDirectory();
	/** What `check` says of a route, without the file's name. */
	const faultsOf = async (route: string): Promise<string[]> => {
		fs.writeFileSync(path.join(dir, 'routes.yaml'), `routes:\n${route.replace(/^/gm, '  ')}\n`);
		const { stderr, code } = await command(['check', '--config', path.join(dir, 'routes.yaml')]);
		assert.equal(code, 1, stderr);
		return stderr
			.trim()
			.split('\n')
			.filter((line) => line.includes('routes.yaml:'))
			.map((line) => line.replace(/^.*routes\.yaml:/, ''));
	};

	test('is refused at its place in the file, however it is written there', async () => {
		const route = [
			'plain: { when: event.brnch == "x", command: a }',
			`single: { when: 'event.branch == ''x'' && event.brnch == "y"', command: a }`,
			'double: { when: "event.branch == \\"x\\" && event.brnch == \\"y\\"", command: a }',
			'literal:',
			'  when: |',
			'    event.branch == "x"',
			'      && event.brnch == "y"',
			'  command: a',
			'folded:',
			'  when: >-',
			'    event.branch == "x" &&',
			'    event.brnch == "y"',
			'  command: a',
			'from: { params: { a: { from: body.x + evnt.kind } }, command: a }',
		].join('\n');
		// The line and column at which the slip stands in the file, whose first line is `routes:`.
		const places = route
			.split('\n')
			.flatMap((line, index) => (line.includes('brnch') ? `${index + 2}:${line.indexOf('brnch') + 3}` : []));
		const faults = await faultsOf(route);
		const meant = 'event has no field "brnch", did you mean "branch"?';
		const names = ['plain', 'single', 'double', 'literal', 'folded'];
		assert.deepEqual(
			faults.slice(0, -1),
			names.map((name, index) => `${places[index]}: route "${name}": when: ${meant}`),
		);
		assert.equal(
			faults.at(-1),
			'15:41: route "from": params.a.from: "evnt" is not known, did you mean "event"?',
		);
	});

	const compiler = new ExpressionCompiler();
	const cases: readonly [string, RegExp][] = [
		['', /ends too early/],
		['event.branch ==', /ends too early/],
		['event.branch = "x"', /unexpected character: =/],
		['event.branch', /gives a text; a condition has to be true or false/],
		['event.branch.startWith("x")', /no function "startWith", did you mean "startsWith"/],
		['event.deleted == "true"', /bool == string is not possible/],
		['has(event.brnch)', /has no field "brnch"/],
		['client.nothing', /client has no field "nothing", known are ip, certname, extensions/],
		['headers["X-GitHub-Event"] == "push"', /in lower case here: headers\["x-github-event"\]/],
		['path.envv == "x"', /path has no part ":envv", did you mean "env"/],
		['body.x.matches(body.y)', /has to be written here/],
		['body.x.matches("(?=a)")', /RE2 syntax/],
		['headers["x-gitlab-token"] == "geheim"', /holds a secret, which logs would show/],
		['1 == 1.0', /numbers of JSON are double/],
		['true'.padEnd(5000), /longer than 4096 characters/],
		['__metered(true)', /no function/],
	];
	for (const [text, message] of cases) {
		test(`is refused, with the remedy: ${text.slice(0, 40)}`, () => {
			const compiled = compiler.compile(text, 'when', ['env']);
			assert.ok('faults' in compiled, text);
			assert.match(compiled.faults.map((fault) => fault.message).join('\n'), message);
		});
	}
});

/** A scope whose body is given; the rest says little. */
const scopeWith = (body: unknown): Scope => ({
	event: eventOf({ kind: 'push', branch: 'main' }),
	body: body as Body,
	headers: { 'x-role': 'web' },
	query: { x: ['1', '2'] },
	path: {},
	client: { ip: '::1', loopback: true, ...noCertificate },
});

const evaluate = (text: string, body: unknown): Result => {
	const compiled = new ExpressionCompiler().compile(text, 'when', []);
	assert.ok('expression' in compiled, JSON.stringify(compiled));
	return compiled.expression.evaluate(scopeWith(body));
};

describe('evaluating', () => {
	const truths: readonly (readonly [string, unknown])[] = [
		['body.n == 5 && body.n == 5.0 && body.n == 5u', { n: 5 }],
		['body.n > 9007199254740993', { n: 9007199254740994 }],
		['int(body.n) % 2 == 1', { n: 5 }],
		['body.x == null && body.x != 1', { x: null }],
		['"a" in body.l && 1 in body.l && !(2 in body.l)', { l: ['a', 1] }],
		['"a" in body.m && body.m == {"a": [1, {"b": null}]}', { m: { a: [1, { b: null }] } }],
		['body.l.all(x, x > 0) && body.l.exists_one(x, x == 2) && size(body.l) == 2', { l: [1, 2] }],
		['body.l.filter(x, x > 1).map(x, string(x)).join(",") == "2,3"', { l: [1, 2, 3] }],
		['timestamp(body.t) < timestamp("2027-01-01T00:00:00Z")', { t: '2026-11-20T00:00:00Z' }],
		['timestamp(body.t).getHours("Europe/Berlin") == 1', { t: '2026-11-20T00:00:00Z' }],
		['duration(body.d) > duration("30m")', { d: '1h' }],
		['body.s.matches("^v[0-9]+") && !body.s.matches("^[0-9]")', { s: 'v1' }],
		['"é😀".size() == 2 && body.s.contains("😀")', { s: 'x😀' }],
		['(body.missing == 1 || true) && !(body.missing == 1 && false)', {}],
		['size(query.x) == 2 && headers["x-role"] == "web" // the role', {}],
	];
	for (const [text, body] of truths) {
		test(`is as CEL has it: ${text}`, () => assert.deepEqual(evaluate(text, body), { value: true }));
	}

	test('gives a value or a reason for any body, and never throws', () => {
		const texts = [
			'body.a.b.c == 1',
			'body.a.exists(x, x.b == 1)',
			'body.a + body.b == body.c',
			'body.a[0] < body.b["x"]',
			'body == {"a": 1} || body.a in body.b',
			'body.a.startsWith(body.b) && body.a.matches("x+")',
			'size(body.a) > 1 && string(body.b) != ""',
			'timestamp(body.a).getFullYear("Europe/Berlin") > 1 || int(body.b) > 1',
			'body.a.map(x, body.b.filter(y, y == x)).size() > 1',
		];
		const compiler = new ExpressionCompiler();
		const expressions = texts.map((text) => {
			const compiled = compiler.compile(text, 'when', []);
			assert.ok('expression' in compiled, text);
			return compiled.expression;
		});
		const member = fc.jsonValue({ maxDepth: 4 });
		const bodies = fc.oneof(member, fc.record({ a: member, b: member, c: member }, { requiredKeys: [] }));
		fc.assert(
			fc.property(bodies, fc.constantFrom(...expressions), (body, expression) => {
				const result = expression.evaluate(scopeWith(body));
				assert.ok('value' in result || result.error.length > 0);
				const findings = [...expression.review(scopeWith(body))];
				const holds = 'value' in result && result.value === true;
				if (holds) assert.ok(findings.every((finding) => finding.holds));
				else assert.ok(findings.some((finding) => !finding.holds && finding.reason !== ''));
			}),
			{ numRuns: 2000 },
		);
	});

	const nested = (depth: number) => JSON.parse('['.repeat(depth) + ']'.repeat(depth));
	const list = Array(3_000_000).fill(1);
	const text = 'a'.repeat(20_000_000);
	const hostile: readonly (readonly [string, unknown])[] = [
		['body.l.exists(x, x == 2)', { l: list }],
		['body.l.exists(x, body.l.exists(y, body.l.exists(z, z != y)))', { l: list.slice(0, 1000) }],
		['body.l.all(x, x.a == 1)', { l: list }],
		['body.l == body.m || true', { l: list, m: [...list] }],
		['body.l == body.m || true', { l: nested(200_000), m: nested(200_000) }],
		['body.l + body.l + body.l == []', { l: list }],
		['body.s.contains(body.t)', { s: 'a'.repeat(4_000_000), t: `${'a'.repeat(100_000)}b` }],
		['body.l.exists(x, body.s.contains("b"))', { l: list.slice(0, 100_000), s: 'a'.repeat(100_000) }],
		['body.s.matches("(a|aa)+(b|c)*(a.*)*z$")', { s: text }],
		['body.l.exists(x, body.s.matches("(a+)+$"))', { l: list.slice(0, 3000), s: `${text.slice(0, 9000)}b` }],
		[
			'body.l.exists(x, timestamp(body.t).getHours("Asia/Tokyo") == 99)',
			{ l: list.slice(0, 100_000), t: '2026-11-20T00:00:00Z' },
		],
		['body.s.split("").size() == 1', { s: text }],
	];
	for (const [expression, body] of hostile) {
		test(`is given up, or done, within its bounds: ${expression}`, () => {
			const begin = performance.now();
			const result = evaluate(expression, body);
			const took = performance.now() - begin;
			assert.ok('error' in result, JSON.stringify(result));
			// The bound is in steps; this is a hundred times what they take, for hosts that are busy otherwise.
			assert.ok(took < 10_000, `${took} ms`);
		});
	}

	test('are shown in the documentation as they are taken', async () => {
		const page = fs.readFileSync(path.join(root, 'docs/conditions.md'), 'utf8');
		const examples = [...page.matchAll(/^```yaml\n([\s\S]*?)^```$/gm)].map(([, text = '']) => text);
		assert.equal(examples.length, 2);
		for (const text of examples) {
			const file = path.join(temporaryDirectory(), 'routes.yaml');
			fs.writeFileSync(file, text);
			const { code, stderr } = await command(['check', '--no-secrets', '--config', file]);
			assert.equal(code, 0, stderr);
		}
	});

	test("looks through GitHub's largest push", () => {
		const files = Array.from({ length: 5 }, (_, i) => `data/file${i}.yaml`);
		const commits = Array.from({ length: 2048 }, (_, i) => ({
			id: String(i),
			message: 'm'.repeat(200),
			modified: files,
		}));
		const text =
			'body.commits.exists(c, c.modified.exists(f, f.startsWith("site/")) || c.message.contains("[deploy]"))';
		assert.deepEqual(evaluate(text, { commits }), { value: false });
	});
});
