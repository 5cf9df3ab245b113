/** `puppet-webhook explain`: the real command over files, beside a real listener that decides about the same delivery. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { command, type Listener, root, startListener, temporaryDirectory } from './helpers/listener.ts';

const token = 'jenkins-geheimnis';
const secret = 'githubs-geheimnis';
const routes = `
auth:
  jenkins: { bearer: ${token} }
  ops: { ip: [192.0.2.0/24] }
routes:
  deploy/:environment:
    auth: [jenkins, ops]
    when: body.project.name != "scratch" && !body.dry
    params:
      environment: { enum: [qa, production] }
      project: { from: body.project.name, required: true }
      who: { default: nobody }
    command: [deploy, "{{environment}}", "--project={{project}}"]
    cwd: /srv/{{environment}}
    env: { DB_PASSWORD: hidden-by-name, NOTE: "uses ${token}" }
    concurrency: { group: "deploy-{{environment}}", when_busy: coalesce }
  pushed:
    source: github
    secret: ${secret}
    when: event.branch == "main"
    params: { branch: { from: event.branch } }
    command: touch /tmp/never
  own: { method: get, command: date }
  nodes:
    auth: [ops]
    when: client.certname.endsWith(".example.com")
    command: echo "$WEBHOOK_CERTNAME"
`;

/** A delivery as HTTP text. */
const http = (body: object, { path = '/deploy/qa?who=me', bearer = token, method = 'POST' } = {}) =>
	[
		`${method} ${path} HTTP/1.1`,
		'Host: localhost',
		...(bearer === '' ? [] : [`Authorization: Bearer ${bearer}`]),
		'Content-Type: application/json',
		'',
		JSON.stringify(body),
		'',
	].join('\n');
const wanted = { project: { name: 'shop' }, dry: false };

const dir = temporaryDirectory();
const config = path.join(dir, 'routes.yaml');
let count = 0;

/** Runs the command on a delivery. @param given a file's text */
async function explain(given: string | Buffer, ...more: readonly string[]) {
	const file = path.join(dir, `delivery-${++count}`);
	fs.writeFileSync(file, given);
	return command(['explain', '--config', config, '--delivery', file, ...more]);
}

/** The same, read by a machine. */
async function explained(given: string | Buffer, ...more: readonly string[]) {
	const { stdout, stderr, code } = await explain(given, '--json', ...more);
	assert.notEqual(stdout, '', stderr);
	return { code, ...JSON.parse(stdout) };
}

before(() => fs.writeFileSync(config, `listen: { address: 127.0.0.1, port: 0 }\n${routes}`));

describe('explain', () => {
	test('shows the run that a delivery would become, with where each value came from', async () => {
		const { stdout, code } = await explain(http(wanted));
		assert.equal(code, 0, stdout);
		for (const line of [
			/^request +POST \/deploy\/qa from 127\.0\.0\.1$/m,
			/^route +deploy\/:environment$/m,
			/^caller +is admitted$/m,
			/^ +yes +jenkins: /m,
			/^ +no +ops: /m,
			/^when +yes +body\.project\.name != "scratch"$/m,
			/^ +body\.project\.name = "shop"$/m,
			/^parameters +environment = qa, from :environment of the path$/m,
			/^ +project = shop, from body\.project\.name$/m,
			/^ +who = me, from "who" of the query$/m,
			/^run +group deploy-qa, limit 1, when_busy coalesce$/m,
			/"argv":\["deploy","qa","--project=shop"\],"cwd":"\/srv\/qa"/,
			/^ +WEBHOOK_ROUTE=deploy\/:environment$/m,
			/^so +one run would be accepted$/m,
		])
			assert.match(stdout, line);
	});

	test('shows no secret, wherever it has got to', async () => {
		const { stdout } = await explain(http({ ...wanted, project: { name: token } }));
		assert.doesNotMatch(stdout, /geheimnis|hidden-by-name/);
		const machine = await explain(http({ ...wanted, project: { name: token } }), '--json');
		assert.doesNotMatch(machine.stdout, /geheimnis|hidden-by-name/);
	});

	test('says which part of the condition says no, with its values', async () => {
		const { stdout, code } = await explain(http({ ...wanted, project: { name: 'scratch' } }));
		assert.equal(code, 1);
		assert.match(stdout, /^when +no +body\.project\.name != "scratch" is not true\n.*= "scratch"$/m);
		assert.match(stdout, /^ +yes +!body\.dry$/m);
		assert.match(stdout, /^so +nothing would run: when: body\.project\.name != "scratch" is not true$/m);
		assert.doesNotMatch(stdout, /^run/m);
	});

	test('says why a caller is not admitted, and with --unverified what would be if it was', async () => {
		const delivery = http(wanted, { bearer: 'wrong' });
		const refused = await explained(delivery);
		assert.equal(refused.code, 1);
		assert.match(refused.reason, /^401: jenkins: .*; ops: /);
		assert.deepEqual(refused.events, []);
		const { stdout, code } = await explain(delivery, '--unverified');
		assert.equal(code, 0);
		assert.match(stdout, /^caller +is not admitted; the rest is as if it was$/m);
		assert.match(stdout, /^so +one run would be accepted$/m);
	});

	test('names each parameter that is wrong', async () => {
		const { code, reason, events } = await explained(
			http({ ...wanted, project: { name: '-x' } }, { path: '/deploy/lab' }),
		);
		assert.equal(code, 1);
		assert.match(
			reason,
			/^422: parameter "environment" is none of qa, production; parameter "project" begins/,
		);
		assert.equal(events[0].run, null);
		assert.equal(events[0].parameters.length, 3);
	});

	test('says which route almost took it', async () => {
		const reasonFor = async (text: string, ...more: readonly string[]) =>
			(await explained(text, ...more)).reason;
		assert.match(
			await reasonFor(http(wanted, { method: 'GET' })),
			/^405: \/deploy\/qa takes POST, OPTIONS and not GET/,
		);
		assert.match(await reasonFor('GET /owm\n\n'), /^404: there is no route \/owm; did you mean \/own\?/);
		assert.match(
			await reasonFor('GET /own\n\n', 'deploy/:environment'),
			/is taken by route "own" and not by/,
		);
		assert.match(await reasonFor('GET /own\n\n', 'onw'), /there is no route "onw", did you mean "own"\?/);
		assert.match(await reasonFor('HEAD /own\n\n'), /HEAD asks/);
	});

	test('checks a signature over the exact bytes, and takes a request as curl -v shows it', async () => {
		const body = JSON.stringify({
			ref: 'refs/heads/main',
			before: '1'.repeat(40),
			after: '2'.repeat(40),
			repository: { name: 'control', full_name: 'site/control' },
		});
		const signature = createHmac('sha256', secret).update(body).digest('hex');
		const head = [
			'POST /pushed HTTP/1.1',
			'X-GitHub-Event: push',
			'X-GitHub-Delivery: 1',
			`X-Hub-Signature-256: sha256=${signature}`,
			'Content-Type: application/json',
			`Content-Length: ${body.length}`,
		];
		const shown = `* Connected\n${head.map((line) => `> ${line}\r\n`).join('')}> \r\n${body}\n`;
		const good = await explained(shown);
		assert.equal(good.code, 0, good.reason);
		assert.equal(good.events[0].event.branch, 'main');
		assert.equal(good.callers.checks[0].passes, true);
		const tampered = await explained(shown.replace('control', 'kontrol'));
		assert.equal(tampered.code, 1);
		assert.equal(tampered.callers.admitted, false);
		assert.match(tampered.reason, /^401: /);
	});

	test('takes a delivery as JSON, with who called, and the path of the route that is named', async () => {
		const delivery = {
			client: { ip: '192.0.2.7', certname: 'web1.example.com', extensions: { pp_role: 'web' } },
		};
		const node = await explained(JSON.stringify(delivery), 'nodes');
		assert.equal(node.code, 0, node.reason);
		assert.equal(node.request.certname, 'web1.example.com');
		const options = ['--ip', '192.0.2.7', '--certname', 'web1.example.org'];
		const other = await explained('{}', 'nodes', ...options);
		assert.match(other.reason, /^when: client\.certname\.endsWith\("\.example\.com"\) is not true$/);
	});

	test('reads a delivery from standard input', async () => {
		const child = spawn(
			process.execPath,
			[path.join(root, 'listener/main.ts'), 'explain', '-c', config, '-d', '-'],
			{ stdio: ['pipe', 'ignore', 'ignore'] },
		);
		child.stdin.end('GET /own HTTP/1.1\n\n');
		const [code] = await once(child, 'close');
		assert.equal(code, 0);
	});

	test('ends with 2 when the file is no delivery, and with 1 and every fault when routes.yaml has some', async () => {
		for (const [text, message] of [
			['hello', /is neither JSON nor HTTP/],
			['{"pat": "/own"}', /unknown key "pat", did you mean "path"\?/],
			['{}', /"path" is missing/],
			['POST own HTTP/1.1\n\n', /does not begin with a slash/],
			['POST /own HTTP/1.1\nnonsense\n\n', /"nonsense" is no header/],
		] as const) {
			const { code, stderr } = await explain(text);
			assert.equal(code, 2, text);
			assert.match(stderr, message);
		}
		const missing = await command(['explain', '-c', config, '-d', path.join(dir, 'nothing')]);
		assert.equal(missing.code, 2);
		const without = await command(['explain', '-c', config]);
		assert.equal(without.code, 2);
		const faulty = path.join(dir, 'faulty.yaml');
		fs.writeFileSync(faulty, 'routes: { a: { comand: x } }\n');
		const { code, stderr } = await command(['explain', '-c', faulty, '-d', faulty]);
		assert.equal(code, 1);
		assert.match(stderr, /did you mean "command"/);
	});
});

describe('explain and the listener', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes });
	});

	const cases: readonly (readonly [string, string])[] = [
		['a good one', http(wanted)],
		['a condition that says no', http({ ...wanted, dry: true })],
		['a field that is missing', http({ dry: false })],
		['a bad parameter', http(wanted, { path: '/deploy/lab' })],
		['a wrong token', http(wanted, { bearer: 'wrong' })],
		['a wrong method', http(wanted, { method: 'PUT' })],
		['no route', http(wanted, { path: '/nowhere' })],
		['a broken body', http(wanted).replace('{"project"', '{"project')],
	];
	for (const [what, delivery] of cases) {
		test(`agree about ${what}`, async () => {
			const [head = '', body = ''] = delivery.split('\n\n');
			const [line = '', ...fields] = head.split('\n');
			const [method = '', target = ''] = line.split(' ');
			const headers = Object.fromEntries(fields.map((field) => field.split(': ') as [string, string]));
			const answer = await listener.request(target, { method, headers, body: body.trimEnd() });
			const { runs, reason } = await explained(delivery);
			assert.equal(runs, answer.status === 202 ? 1 : 0, reason);
			if (answer.status >= 400) assert.equal(Number(reason.slice(0, 3)), answer.status, reason);
			else if (runs === 0) assert.deepEqual(answer.json.ignored, [reason]);
		});
	}

	test('explain runs nothing', async () => {
		const before = await listener.runCount();
		await explain(http(wanted));
		assert.equal(await listener.runCount(), before);
		assert.equal(fs.existsSync('/tmp/never'), false);
	});
});
