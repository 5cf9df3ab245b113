/**
 * Secrets of every kind, with values that are found again wherever they get to: a listener uses them all, callers send them right
 * and wrong, commands print them, configurations break around them. Then all that anybody may read is searched for them, as they
 * are and as they are commonly written.
 */

import assert from 'node:assert/strict';
import { createHmac, hash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import {
	command,
	type Listener,
	type RequestOptions,
	startListener,
	temporaryDirectory,
	until,
} from './helpers/listener.ts';
import { raw } from './helpers/raw.ts';
import { startUpstream, type Upstream } from './helpers/upstream.ts';

/** One that no header, address or JSON text shows as it is. */
const planted = (kind: string) => `zq-${kind}-"7\\%/&+x9<`;

const secrets = {
	bearer: planted('bearer'),
	older: planted('older-bearer'),
	ofFile: planted('of-a-file'),
	ofEnv: planted('of-a-variable'),
	ofCredential: planted('of-a-credential'),
	basic: `${planted('basic')}ü`,
	header: planted('header'),
	body: planted('body'),
	hmac: `${planted('hmac')}ü`,
	jwt: `${planted('jwt')} that is as long as HS256 wants it`,
	github: planted('github'),
	gitlab: planted('gitlab'),
	path: planted('path'),
	fingerprint: hash('sha256', planted('path')),
	stepBearer: planted('step-bearer'),
	stepPassword: planted('step-password'),
	stepHeader: planted('step-header'),
	stepKey: planted('step-key'),
	stepUrl: '/services/zq-step-url-7x9',
	parameter: planted('parameter'),
	waiting: planted('waiting'),
	unquoted: 'zq-unquoted-7x9',
} as const;

/** How a text is commonly written. Of base64 the part that does not depend on what stands beside it. */
function writings(text: string): string[] {
	const bytes = Buffer.from(text);
	const base64 = [0, 1, 2].map((shift) => {
		const written = Buffer.concat([Buffer.alloc(shift), bytes]).toString('base64');
		return written.slice(Math.ceil((8 * shift) / 6), Math.floor((8 * (shift + bytes.length)) / 6));
	});
	return [
		text,
		bytes.toString('latin1'),
		JSON.stringify(text).slice(1, -1),
		encodeURIComponent(text),
		encodeURI(text),
		new URLSearchParams({ x: text }).toString().slice(2),
		...base64,
		...base64.map((written) => written.replaceAll('+', '-').replaceAll('/', '_')),
	];
}
const needles = Object.entries(secrets).flatMap(([name, text]) =>
	[...new Set(writings(text))].map((written) => ({ name, bytes: Buffer.from(written) })),
);

/** Where secrets are found in it, with what is around them. */
function findings(where: string, text: string | Buffer): string[] {
	const bytes = Buffer.from(text as string);
	return needles.flatMap(({ name, bytes: needle }) => {
		const at = bytes.indexOf(needle);
		if (at < 0) return [];
		const around = bytes.subarray(Math.max(0, at - 60), at + needle.length + 20).toString();
		return `${name} in ${where}: …${around.replace(/[^\x20-\x7e]/g, '.')}…`;
	});
}

/** All that is in files below a directory. */
function findingsOnDisk(dir: string): string[] {
	return fs
		.readdirSync(dir, { recursive: true, withFileTypes: true })
		.filter((entry) => entry.isFile())
		.flatMap((entry) => {
			const file = path.join(entry.parentPath, entry.name);
			return [...findings(`the name ${file}`, file), ...findings(file, fs.readFileSync(file))];
		});
}

/** The first few tell enough. */
function assertNone(found: readonly string[]): void {
	assert.deepEqual(found.slice(0, 12), []);
}

const q = JSON.stringify;

function routesFor(upstream: string, dir: string): string {
	const printing = 'env; cat secrets.txt';
	return `
listen: { address: 127.0.0.1, port: 0, header_timeout: 1s, body_timeout: 1s }
log: { format: json, level: debug, file: { path: ${dir}/listener.log } }
auth:
  bearer: { bearer: [${q(secrets.bearer)}, ${q(secrets.older)}] }
  file: { bearer: { file: of-file } }
  env: { bearer: { env: OF_ENV } }
  credential: { bearer: { credential: of-credential } }
  basic: { basic: { user: iamgood, password: ${q(secrets.basic)} } }
  header: { header: { name: X-Api-Key, value: ${q(secrets.header)} } }
  body: { body: { field: secret, value: ${q(secrets.body)} } }
  hmac: { hmac: { secret: ${q(secrets.hmac)} } }
  jwt: { jwt: { issuer: ci, audience: webhook, secret: ${q(secrets.jwt)} } }
defaults: { rate: { failures: 1000000/s } }
routes:
  bearer: { auth: bearer, params: { role: {} }, command: ${q(printing)} }
  file: { auth: file, command: ${q(printing)} }
  env: { auth: env, command: ${q(printing)} }
  credential: { auth: credential, command: ${q(printing)} }
  basic: { auth: basic, command: ${q(printing)} }
  header: { auth: header, command: [cat, secrets.txt] }
  body: { auth: body, stdin: body, command: ${q(`${printing}; cat`)} }
  hmac: { auth: hmac, stdin: body, command: ${q(printing)} }
  jwt: { auth: jwt, command: ${q(printing)} }
  github: { source: github, secret: ${q(secrets.github)}, command: ${q(printing)} }
  gitlab: { source: gitlab, secret: ${q(secrets.gitlab)}, command: ${q(printing)} }
  "h/{{fingerprint}}": { secret: ${q(secrets.path)}, command: ${q(printing)} }
  asks:
    auth: bearer
    steps:
      - http: { url: ${upstream}/a, bearer: ${q(secrets.stepBearer)}, json: { a: 1 } }
      - http: { url: ${upstream}/b, basic: { user: me, password: ${q(secrets.stepPassword)} }, headers: { X-Any: { file: of-step }, X-Api-Key: ${q(secrets.stepKey)} } }
      - http: { url: { env: STEP_URL } }
    on_failure: { http: { url: "http://127.0.0.1:1/", bearer: ${q(secrets.stepBearer)} } }
  fails: { auth: bearer, steps: [{ http: { url: ${upstream}/500, bearer: ${q(secrets.stepBearer)} } }] }
  login:
    auth: bearer
    stdin: parameters
    params: { user: {}, password: { secret: true, pattern: ".*" }, file: { pattern: ".*" } }
    command: |
      cat; echo "$password"; printf %s "$password" | base64 -w0; echo; printf %s ":$password" | base64 -w0; echo
      until test -z "$file" || test -e "$file"; do sleep 0.02; done
      test "$user" != bad
`;
}

function jwt(secret: string, claims: object = {}): string {
	const usual = { iss: 'ci', aud: 'webhook', exp: Math.floor(Date.now() / 1000) + 300 };
	const text = [{ alg: 'HS256' }, { ...usual, ...claims }]
		.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
		.join('.');
	return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const signed = (secret: string, body: string) => createHmac('sha256', secret).update(body).digest('hex');
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const basic = (password: string) => ({
	authorization: `Basic ${Buffer.from(`iamgood:${password}`).toString('base64')}`,
});
const json = { 'content-type': 'application/json' };
const push = '{"ref":"refs/heads/main","repository":{"full_name":"a/b"},"project":{"name":"b"}}';

/** A call of each route with a secret: the right one, or what somebody made of it. */
const calls: readonly ((secretOf: (right: string) => string) => [path: string, options: RequestOptions])[] = [
	(of) => ['/bearer?role=web', { headers: bearer(of(secrets.bearer)) }],
	(of) => ['/bearer', { headers: bearer(of(secrets.older)) }],
	(of) => ['/file', { headers: bearer(of(secrets.ofFile)) }],
	(of) => ['/env', { headers: bearer(of(secrets.ofEnv)) }],
	(of) => ['/credential', { headers: bearer(of(secrets.ofCredential)) }],
	(of) => ['/basic', { headers: basic(of(secrets.basic)) }],
	(of) => ['/header', { headers: { 'x-api-key': of(secrets.header) } }],
	(of) => ['/body', { body: { secret: of(secrets.body) } }],
	(of) => ['/hmac', { body: '{}', headers: { 'x-signature': `sha256=${signed(of(secrets.hmac), '{}')}` } }],
	(of) => ['/jwt', { headers: bearer(jwt(of(secrets.jwt))) }],
	(of) => [
		'/github',
		{
			body: push,
			headers: {
				...json,
				'x-github-event': 'push',
				'x-github-delivery': of('1'),
				'x-hub-signature-256': `sha256=${signed(of(secrets.github), push)}`,
			},
		},
	],
	(of) => [
		'/gitlab',
		{ body: push, headers: { ...json, 'x-gitlab-event': 'Push Hook', 'x-gitlab-token': of(secrets.gitlab) } },
	],
	(of) => [`/h/${hash('sha256', of(secrets.path))}`, {}],
	(of) => ['/asks', { headers: bearer(of(secrets.bearer)) }],
	(of) => ['/fails', { headers: bearer(of(secrets.bearer)) }],
	(of) => [
		'/login',
		{ headers: bearer(of(secrets.bearer)), body: { user: 'good', password: secrets.parameter } },
	],
	(of) => [
		'/login',
		{ headers: bearer(of(secrets.bearer)), body: { user: 'bad', password: secrets.parameter } },
	],
];

/** A password that nobody put in quotes. */
const { unquoted } = secrets;

/** What means something to YAML at the beginning of a text. */
const indicators = [...'!&*%@`|>{}[]#?-:"~=<', "'", '\\'];

/** routes.yaml, broken around a secret. */
const breakages: readonly (readonly [title: string, text: string, by: string | RegExp])[] = [
	['no YAML behind it', `"${secrets.header}`, q(secrets.header)],
	['more behind it', `${q(secrets.header)} ${q(secrets.header)}`, q(secrets.header)],
	[
		'a blank that is missing',
		`{ bearer:${unquoted} }`,
		`{ header: { name: X-Api-Key, value: ${q(secrets.header)} } }`,
	],
	[
		'a map that is text',
		`bearer:${unquoted}`,
		`{ header: { name: X-Api-Key, value: ${q(secrets.header)} } }`,
	],
	['a map', `{ ${q(secrets.header)}: 1 }`, q(secrets.header)],
	['a map of a key that is misspelt', `{ fil: ${q(secrets.header)} }`, q(secrets.header)],
	['a file that is not there', '{ file: missing }', q(secrets.header)],
	['a list in a list', `[[${q(secrets.header)}]]`, q(secrets.header)],
	[
		'as the whole of an auth',
		q(secrets.basic),
		`{ basic: { user: iamgood, password: ${q(secrets.basic)} } }`,
	],
	['twice the key', `${q(secrets.jwt)}, secret: ${q(secrets.jwt)}`, q(secrets.jwt)],
	[
		'a duration',
		`{ secret: ${q(secrets.hmac)}, tolerance: ${q(secrets.hmac)} }`,
		`{ secret: ${q(secrets.hmac)} }`,
	],
	[
		'a step of two kinds',
		`{ command: x, http: { url: "x", bearer: ${q(secrets.stepBearer)} } }`,
		/\{ http: .*\/500.*?\} \}/,
	],
	['a url that is none', `{ http: { url: ${q(secrets.stepUrl)} } }`, /\{ http: .*\/500.*?\} \}/],
	['a user in a url', `{ http: { url: "http://me:${unquoted}@localhost/" } }`, /\{ http: .*\/500.*?\} \}/],
];

describe('planted secrets', () => {
	const dir = temporaryDirectory();
	let upstream: Upstream;
	let listener: Listener;
	const seen: string[] = [];

	const look = (where: string, text: string) => seen.push(...findings(where, text));
	const call = async (where: string, url: string, options: RequestOptions = {}) => {
		const { status, headers, text } = await listener.request(url, { method: 'POST', ...options });
		look(`${where}: answer to ${url}`, `${JSON.stringify(headers)}\n${text}`);
		return { status, text };
	};
	const run = async (...args: string[]) => {
		const { code, stdout, stderr } = await command(args, { env });
		look(`the command ${args[0]}`, stdout + stderr);
		return { code, stdout, stderr };
	};
	let env: Record<string, string>;

	before(async () => {
		// It tells who asks all it was told.
		upstream = await startUpstream((asked, response) => {
			response.statusCode = asked.url === '/500' ? 500 : 200;
			response.setHeader('x-echo', encodeURIComponent(JSON.stringify(asked.headers)));
			response.end(JSON.stringify(asked));
		});
		fs.mkdirSync(path.join(dir, 'credentials'));
		fs.writeFileSync(path.join(dir, 'credentials/of-credential'), `${secrets.ofCredential}\n`);
		env = {
			OF_ENV: secrets.ofEnv,
			STEP_URL: `${upstream.url}${secrets.stepUrl}`,
			CREDENTIALS_DIRECTORY: path.join(dir, 'credentials'),
		};
		listener = await startListener({
			env,
			files: {
				'of-file': `${secrets.ofFile}\n`,
				'of-step': secrets.stepHeader,
				// Not the parameters' values, which nobody but their run knows to be secret.
				'secrets.txt': Object.entries(secrets)
					.filter(([name]) => !['parameter', 'waiting', 'fingerprint', 'unquoted'].includes(name))
					.flatMap(([name, text]) => [name, ...writings(text).filter((_, index) => index !== 1), ''])
					.join('\n'),
			},
			routes: routesFor(upstream.url, dir),
		});
	});

	test('are sent right, and what is printed, told and kept does not hold them', async () => {
		for (const make of calls) {
			const [url, options] = make((right) => right);
			const { status, text } = await call('a right call', url, options);
			assert.equal(status, 202, `${url}: ${text}`);
			const apart = url.includes('?') ? '&' : '?';
			const again = { ...options, headers: { ...options.headers, 'x-github-delivery': '2' } };
			const waited = await call('a waiting call', `${url}${apart}async=false`, again);
			assert.equal(
				waited.status,
				/fails/.test(url) || q(options).includes('bad') ? 500 : 200,
				`${url}: ${waited.text}`,
			);
			for (const accept of ['text/plain', 'text/event-stream']) {
				const third = { ...options, headers: { ...options.headers, accept, 'x-github-delivery': accept } };
				await call(`a call for ${accept}`, `${url}${apart}async=false`, third);
			}
		}
		assertNone(seen.splice(0));
		assert.ok(upstream.asked.some(({ headers }) => headers.authorization === `Bearer ${secrets.stepBearer}`));
		assert.ok(upstream.asked.some(({ url }) => url === secrets.stepUrl));
	});

	test('are sent wrong, or to the wrong place, and no answer holds them', async () => {
		const wrong: ((right: string) => string)[] = [
			(right) => `${right}x`,
			(right) => right.slice(1),
			() => 'x',
		];
		for (const make of calls) {
			for (const change of wrong) {
				const [url, options] = make(change);
				const { status } = await call('a wrong call', url, options);
				assert.ok(status === 401 || status === 404, `${url}: ${status}`);
			}
		}
		// Of these three nobody knows that they are secret.
		const { parameter: _parameter, waiting: _waiting, unquoted: _unquoted, ...configured } = secrets;
		for (const [name, secret] of Object.entries(configured)) {
			const inPath = encodeURIComponent(secret);
			// Whoever asks for a path that is not there is told which, and nobody else.
			await listener.post(`/nowhere/${inPath}?${inPath}`);
			// These are as good a value as any.
			if (!/fingerprint|stepUrl/.test(name)) {
				await call('a trigger that is none', `/-/triggers/${inPath}`, { method: 'GET' });
				await call('a wrong parameter', `/bearer?role=${inPath}`, { headers: bearer(secrets.bearer) });
			}
			await call('a body that is none', '/login', {
				headers: { ...json, ...bearer(secrets.bearer) },
				body: `{"${secret}`,
			});
			await call('a type that is none', '/login', {
				headers: { 'content-type': encodeURIComponent(secret) },
				body: secret,
			});
			await call('a wait that is none', `/bearer?async=${inPath}`, { headers: bearer(secrets.bearer) });
			await call('a method that is none', `/bearer`, {
				method: 'PUT',
				headers: bearer(secret.replace('ü', '')),
			});
			await call('an endpoint', `/-/runs?state=${inPath}`, { method: 'GET' });
			await call('a run that is none', `/-/runs/${inPath}`, { method: 'GET' });
			await call('a key that is none', '/bearer', {
				headers: { ...bearer(secrets.bearer), 'idempotency-key': `a ${secret.replace('ü', '')}` },
			});
			look(
				'a request that is none',
				await raw(listener.port, `GET /${secret} x HTTP/1.1\r\n${secret}\r\n\r\n`),
			);
		}
		assertNone(seen.splice(0));
	});

	test('are not told by endpoints, metrics or commands', async () => {
		const ids: string[] = (await listener.get('/-/runs?limit=200')).json.runs.map(
			({ id }: { id: string }) => id,
		);
		const own = [
			'/-/',
			'/-/routes',
			'/-/runs?limit=200',
			'/-/triggers',
			'/metrics',
			'/-/openapi.json',
			'/-/healthy',
		];
		for (const id of ids) own.push(`/-/runs/${id}`, `/-/runs/${id}/output`);
		for (const url of own) await call('an endpoint', url, { method: 'GET' });
		const last = ids[0] ?? '';
		await call('output', `/-/runs/${last}/output`, {
			method: 'GET',
			headers: { accept: 'application/octet-stream' },
		});
		await call('output', `/-/runs/${last}/output?follow=true`, {
			method: 'GET',
			headers: { accept: 'text/event-stream' },
		});

		const { config, url } = listener;
		assert.equal((await run('check', '--config', config)).code, 0);
		for (const args of [
			['runs', last],
			['logs', last],
		]) {
			assert.equal((await run(...args, '--url', url)).code, 0);
		}
		const telling = ['/basic', '/body', '/login'];
		for (const [index, make] of calls.entries()) {
			const [called] = make((right) => right);
			if (!telling.some((beginning) => called.startsWith(beginning))) continue;
			const [url, { headers = {}, body = '' }] = make((right) => right);
			const text = typeof body === 'string' ? body : JSON.stringify(body);
			const lines = Object.entries(typeof body === 'string' ? headers : { ...json, ...headers });
			const delivery = path.join(dir, `delivery-${index}`);
			const head = [`POST ${url} HTTP/1.1`, ...lines.map(([name, value]) => `${name}: ${value}`)];
			fs.writeFileSync(delivery, `${head.join('\n')}\n\n${text}`, 'utf8');
			const { code, stdout, stderr } = await run('explain', '--config', config, '--delivery', delivery);
			assert.ok(code === 0 || code === 1, stderr);
			assert.notEqual(stdout, '');
			fs.rmSync(delivery);
		}
		assertNone(seen.splice(0));
	});

	test('are not told by the faults of a configuration', async () => {
		const right = fs.readFileSync(listener.config, 'utf8');
		for (const [title, text, by] of breakages) {
			const broken = right.replace(by, () => text);
			assert.notEqual(broken, right, title);
			fs.writeFileSync(listener.config, broken);
			const { status } = await call(title, '/-/reload');
			assert.equal(status, 422, title);
		}
		for (const indicator of indicators) {
			fs.writeFileSync(
				listener.config,
				right.replace(q(secrets.header), () => indicator + unquoted),
			);
			await call(`text that begins with ${indicator}`, '/-/reload');
		}
		fs.writeFileSync(listener.config, `${right}broken: { bearer:${unquoted} }\n`);
		// The same words by the same way.
		assert.equal((await run('check', '--config', listener.config)).code, 1);
		fs.writeFileSync(listener.config, right);
		assert.equal((await call('reload', '/-/reload')).status, 200);
		assertNone(seen.splice(0));
	});

	test('of a run are kept only as long as it is under way', async () => {
		const file = path.join(dir, 'go');
		// Long enough to have pages of the store for itself.
		const start = async (text: string) => {
			const body = { user: 'good', password: `${text}${'.'.repeat(7000)}${text}`, file };
			const answer = await listener.post('/login', body, bearer(secrets.bearer));
			assert.equal(answer.status, 202, answer.text);
			return answer.json.runs[0].id;
		};
		const first = await start(secrets.waiting);
		const queued = await start(secrets.waiting);
		const cancelled = await start(secrets.waiting);
		assert.equal((await listener.post(`/-/runs/${cancelled}/cancel`)).status, 200);
		look('runs under way', (await listener.get('/-/runs?limit=200')).text);
		fs.writeFileSync(file, '');
		for (const id of [first, queued, cancelled]) await listener.ended(id);
		assertNone(seen.splice(0));
	});

	test('are not in the state directory, nor in what was logged', async () => {
		await until('the store to be rid of them', () => findingsOnDisk(listener.state).length === 0).catch(
			() => {},
		);
		assertNone(findingsOnDisk(listener.state));
		await listener.stop('SIGKILL');
		assertNone(findingsOnDisk(listener.state));
		assertNone(findings('the log', JSON.stringify(listener.log())));
		assertNone(findings('standard error', listener.stderr));
		fs.rmSync(path.join(dir, 'credentials'), { recursive: true });
		assertNone(findingsOnDisk(dir));
		assertNone(findingsOnDisk(path.join(listener.dir, 'tmp')));
		assert.ok(listener.log().length > 300);
		assert.ok(fs.statSync(path.join(dir, 'listener.log')).size > 10_000);
	});
});
