/** Who may call: each kind of auth with what is right and with every way to be wrong, and what stands around them. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHmac, generateKeyPairSync, hash, type KeyObject } from 'node:crypto';
import fs from 'node:fs';
import http, { type OutgoingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { exportJWK, type JWTPayload, SignJWT } from 'jose';
import { command, type Listener, root, send, startListener, temporaryDirectory } from './helpers/listener.ts';
import { raw } from './helpers/raw.ts';

const token = 'tok-2f6d0c1e93';
const older = 'tok-77b1a4520d';
const shared = 'It is a secret to everybody';
const signing = 'a secret that is long enough for HS256, by far';

/** Times as senders write them: seconds since 1970. */
const now = () => Math.floor(Date.now() / 1000);
const hmac = (algorithm: string, ...parts: (string | Buffer)[]) => {
	const made = createHmac(algorithm, shared);
	for (const part of parts) made.update(part);
	return made;
};
const basicly = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`;

/** An issuer of tokens, with its keys at an address that can be made to fail. */
const keys = { first: keyPair('first'), second: keyPair('second'), foreign: keyPair('first') };
interface Pair {
	readonly kid: string;
	readonly privateKey: KeyObject;
	readonly publicKey: KeyObject;
}
function keyPair(kid: string): Pair {
	return { kid, ...generateKeyPairSync('ec', { namedCurve: 'P-256' }) };
}
let published: readonly Pair[] = [keys.first];
let fetches = 0;
const issuer = http.createServer(async (_request, response) => {
	fetches++;
	const all = published.map(async ({ kid, publicKey }) => ({ ...(await exportJWK(publicKey)), kid }));
	response.setHeader('content-type', 'application/json');
	response.end(JSON.stringify({ keys: await Promise.all(all) }));
});

/** What a token says; undefined takes away what it says usually. */
type Claimed = Readonly<Record<string, unknown>>;

function tokenOf(claims: Claimed = {}, { pair = keys.first, algorithm = 'ES256' } = {}): Promise<string> {
	const usual = {
		iss: 'https://ci.example.com',
		aud: 'webhook',
		exp: now() + 300,
		ref: 'refs/heads/main',
		sub: 'p',
	};
	return new SignJWT({ ...usual, ...claims } as JWTPayload)
		.setProtectedHeader({ alg: algorithm, kid: pair.kid })
		.sign(pair.privateKey);
}

function symmetricToken(secret: string, algorithm = 'HS256', claims: Claimed = {}): Promise<string> {
	const usual = { iss: 'https://ci.example.com', aud: 'webhook', exp: now() + 300 };
	return new SignJWT({ ...usual, ...claims } as JWTPayload)
		.setProtectedHeader({ alg: algorithm })
		.sign(new TextEncoder().encode(secret));
}

/** A token made by hand, for what no library signs. */
function tokenByHand(header: object, payload: object, signature = ''): string {
	const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
	return `${encode(header)}.${encode(payload)}.${signature}`;
}

const body = '{"a":1}';

let listener: Listener;
before(async () => {
	await new Promise<void>((resolve) => issuer.listen(0, '127.0.0.1', resolve));
	const { port } = issuer.address() as AddressInfo;
	listener = await startListener({
		env: { HOOK_PASSWORD: 'pass:word ü' },
		files: { 'jenkins.token': `${token}\n` },
		routes: `
listen: { address: ["127.0.0.1", "::1"], port: 0, trusted_proxies: [unix, 127.0.0.9, 10.0.0.0/8, "2001:db8::/32"] }
auth:
  jenkins: { bearer: [{ file: jenkins.token }, ${older}] }
  gitlab: { basic: { user: iamgood, password: { env: HOOK_PASSWORD } } }
  key: { header: { name: X-Api-Key, value: ${token} } }
  signed: { hmac: { secret: "${shared}" } }
  timed: { hmac: { secret: "${shared}", header: X-Sig, algorithm: sha512, encoding: base64, prefix: "v1,", timestamp: X-Time, id: X-Id, signed: "{id}.{timestamp}.{body}" } }
  ci: { jwt: { issuer: "https://ci.example.com", audience: webhook, jwks: "http://127.0.0.1:${port}/keys", claims: { ref: "refs/heads/*" } } }
  pod: { jwt: { issuer: "https://ci.example.com", audience: [other, webhook], secret: "${signing}" } }
  lan: { ip: [127.0.0.1, "2001:db8:1::/48", 192.0.2.0/24] }
  field: { body: { field: secret, value: ${token} } }
  nested: { body: { field: "/auth/the~1secret/0", value: ${token} } }
  both: { all: [lan, { header: { name: X-Api-Key, value: ${token} } }] }
defaults: { rate: { failures: 1000000/s } }
routes:
  bearer: { auth: jenkins, method: [get, post], command: "true" }
  basic: { auth: [gitlab], command: "true" }
  header: { auth: key, command: "true" }
  hmac: { auth: signed, command: "true", stdin: body }
  timed: { auth: timed, command: "true", stdin: body }
  jwt: { auth: ci, command: "true" }
  hs256: { auth: pod, command: "true" }
  ip: { auth: lan, command: "true" }
  body: { auth: field, command: "true", stdin: body }
  nested: { auth: nested, command: "true" }
  all: { auth: both, command: "true" }
  any: { auth: [jenkins, gitlab, lan], command: "true" }
`,
	});
});
after(() => issuer.close());

interface Sent {
	readonly headers?: OutgoingHttpHeaders;
	readonly body?: string | Buffer;
	readonly method?: string;
}
type Case = readonly [title: string, status: number, sent: Sent | (() => Sent | Promise<Sent>)];

const bearer = (given: string): Sent => ({ headers: { authorization: `Bearer ${given}` } });
const authorization = (given: string): Sent => ({ headers: { authorization: given } });
const json = { 'content-type': 'application/json' };
const sig256 = `sha256=${hmac('sha256', body).digest('hex')}`;
const changed = (text: string, at: number) =>
	text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ 1) + text.slice(at + 1);

function timed(time: string | number, { id = 'id-1', of = body, secret = shared } = {}): Sent {
	const signature = createHmac('sha512', secret).update(`${id}.${time}.`).update(of).digest('base64');
	return { body, headers: { ...json, 'x-sig': `v1,${signature}`, 'x-time': String(time), 'x-id': id } };
}

const table: Readonly<Record<string, readonly Case[]>> = {
	bearer: [
		['right', 202, bearer(token)],
		['right, by the older of two secrets', 202, bearer(older)],
		['right, its scheme in capitals', 202, authorization(`BEARER ${token}`)],
		['right, asked for by HEAD', 200, { ...bearer(token), method: 'HEAD' }],
		['missing', 401, {}],
		['missing, asked for by HEAD', 401, { method: 'HEAD' }],
		['empty', 401, authorization('')],
		['a scheme without a token', 401, authorization('Bearer')],
		['wrong', 401, bearer('something-else')],
		['wrong in its last byte', 401, bearer(changed(token, token.length - 1))],
		['wrong in its first byte', 401, bearer(changed(token, 0))],
		['a beginning of the right one', 401, bearer(token.slice(0, -1))],
		['the right one and more', 401, bearer(`${token}x`)],
		['in other case', 401, bearer(token.toUpperCase())],
		['of another scheme', 401, authorization(`Token ${token}`)],
		['without a scheme', 401, authorization(token)],
		['both secrets at once', 401, bearer(`${token} ${older}`)],
		['in the query', 401, { headers: { 'x-token': token } }],
	],
	basic: [
		['right, with a colon and a letter beyond ASCII', 202, authorization(basicly('iamgood:pass:word ü'))],
		[
			'right, its scheme in small letters',
			202,
			authorization(basicly('iamgood:pass:word ü').replace('Basic', 'basic')),
		],
		['missing', 401, {}],
		['empty', 401, authorization('Basic ')],
		['a wrong password', 401, authorization(basicly('iamgood:password'))],
		['a password wrong in its last byte', 401, authorization(basicly('iamgood:pass:word ý'))],
		['an empty password', 401, authorization(basicly('iamgood:'))],
		['a wrong user', 401, authorization(basicly('iambad:pass:word ü'))],
		['a user in other case', 401, authorization(basicly('IamGood:pass:word ü'))],
		['no user', 401, authorization(basicly(':pass:word ü'))],
		['no colon', 401, authorization(basicly('iamgood'))],
		['of another scheme', 401, bearer(basicly('iamgood:pass:word ü').slice(6))],
		['no base64', 401, authorization('Basic iamgood:pass:word')],
		['base64 with more after it', 401, authorization(`${basicly('iamgood:pass:word ü')} x`)],
		[
			'right, sent by a web page of another origin',
			403,
			{ headers: { authorization: basicly('iamgood:pass:word ü'), origin: 'https://evil.example' } },
		],
	],
	header: [
		['right', 202, { headers: { 'x-api-key': token } }],
		['missing', 401, {}],
		['empty', 401, { headers: { 'x-api-key': '' } }],
		['wrong', 401, { headers: { 'x-api-key': 'no' } }],
		['wrong in its last byte', 401, { headers: { 'x-api-key': changed(token, token.length - 1) } }],
		['in other case', 401, { headers: { 'x-api-key': token.toUpperCase() } }],
		['sent twice', 401, { headers: { 'x-api-key': [token, token] } }],
		['a right and a wrong one', 401, { headers: { 'x-api-key': [token, 'no'] } }],
		['in another header', 401, { headers: { 'x-api-token': token } }],
	],
	hmac: [
		['right', 202, { body, headers: { ...json, 'x-signature': sig256 } }],
		[
			'right, in capitals',
			202,
			{ body, headers: { 'x-signature': `sha256=${sig256.slice(7).toUpperCase()}` } },
		],
		[
			'right, over bytes that are no text',
			202,
			() => {
				const bytes = Buffer.from([0xff, 0x00, 0xef, 0xbb, 0xbf]);
				return {
					body: bytes,
					headers: {
						'content-type': 'application/octet-stream',
						'x-signature': `sha256=${hmac('sha256', bytes).digest('hex')}`,
					},
				};
			},
		],
		['missing', 401, { body, headers: json }],
		['empty', 401, { body, headers: { 'x-signature': '' } }],
		['a prefix and nothing after it', 401, { body, headers: { 'x-signature': 'sha256=' } }],
		['without its prefix', 401, { body, headers: { 'x-signature': sig256.slice(7) } }],
		['wrong by one digit', 401, { body, headers: { 'x-signature': changed(sig256, 70) } }],
		['cut short', 401, { body, headers: { 'x-signature': sig256.slice(0, -1) } }],
		['cut short by a byte', 401, { body, headers: { 'x-signature': sig256.slice(0, -2) } }],
		['with more after it', 401, { body, headers: { 'x-signature': `${sig256}00` } }],
		['with what is no digit', 401, { body, headers: { 'x-signature': `sha256=${'zz'.repeat(32)}` } }],
		['of a body changed by one byte', 401, { body: changed(body, 3), headers: { 'x-signature': sig256 } }],
		['of a body with a line end more', 401, { body: `${body}\n`, headers: { 'x-signature': sig256 } }],
		['of an empty body', 401, { body: '', headers: { 'x-signature': sig256 } }],
		[
			'of another algorithm',
			401,
			{ body, headers: { 'x-signature': `sha1=${hmac('sha1', body).digest('hex')}` } },
		],
		[
			'of another algorithm under the right name',
			401,
			{ body, headers: { 'x-signature': `sha256=${hmac('sha512', body).digest('hex')}` } },
		],
		[
			'in another encoding',
			401,
			{ body, headers: { 'x-signature': `sha256=${hmac('sha256', body).digest('base64')}` } },
		],
		[
			'by another secret',
			401,
			{
				body,
				headers: { 'x-signature': `sha256=${createHmac('sha256', 'other').update(body).digest('hex')}` },
			},
		],
		[
			'by an empty secret',
			401,
			{ body, headers: { 'x-signature': `sha256=${createHmac('sha256', '').update(body).digest('hex')}` } },
		],
		['sent twice', 401, { body, headers: { 'x-signature': [sig256, sig256] } }],
	],
	timed: [
		['right', 202, () => timed(now())],
		['right, in milliseconds', 202, () => timed(Date.now())],
		['right, a minute late', 202, () => timed(now() - 60)],
		['late', 401, () => timed(now() - 400)],
		['of the future', 401, () => timed(now() + 400)],
		['of 1970', 401, () => timed(0)],
		['without a time', 401, () => ({ ...timed(now()), headers: { ...timed(now()).headers, 'x-time': '' } })],
		[
			'with another time than was signed',
			401,
			() => ({ body, headers: { ...timed(now() - 9).headers, 'x-time': String(now()) } }),
		],
		['with a time that is no number', 401, () => timed('soon')],
		['with a time of two numbers', 401, () => timed(`${now()}, ${now()}`)],
		[
			'with another id than was signed',
			401,
			() => ({ body, headers: { ...timed(now()).headers, 'x-id': 'id-2' } }),
		],
		['of another body', 401, () => timed(now(), { of: '{}' })],
		['by another secret', 401, () => timed(now(), { secret: 'other' })],
	],
	jwt: [
		['right', 202, async () => bearer(await tokenOf())],
		[
			'right, expired less than clocks may differ',
			202,
			async () => bearer(await tokenOf({ exp: now() - 30 })),
		],
		['right, for several', 202, async () => bearer(await tokenOf({ aud: ['else', 'webhook'] }))],
		['missing', 401, {}],
		['empty', 401, authorization('Bearer ')],
		['no token', 401, bearer('abc')],
		['three dots', 401, bearer('...')],
		['expired', 401, async () => bearer(await tokenOf({ exp: now() - 120 }))],
		['without an end', 401, async () => bearer(await tokenOf({ exp: undefined }))],
		['not valid yet', 401, async () => bearer(await tokenOf({ nbf: now() + 120 }))],
		[
			'of another issuer',
			401,
			async () => bearer(await tokenOf({ iss: 'https://ci.example.com.evil.example' })),
		],
		['without an issuer', 401, async () => bearer(await tokenOf({ iss: undefined }))],
		['for somebody else', 401, async () => bearer(await tokenOf({ aud: 'else' }))],
		['for nobody', 401, async () => bearer(await tokenOf({ aud: undefined }))],
		['of a claim that is not admitted', 403, async () => bearer(await tokenOf({ ref: 'refs/tags/v1' }))],
		['without a claim that is asked for', 403, async () => bearer(await tokenOf({ ref: undefined }))],
		['of a claim of another type', 403, async () => bearer(await tokenOf({ ref: { heads: 'main' } }))],
		[
			'changed by one byte',
			401,
			async () => {
				const good = await tokenOf();
				return bearer(changed(good, good.indexOf('.') + 3));
			},
		],
		['without its signature', 401, async () => bearer((await tokenOf()).replace(/[^.]*$/, ''))],
		[
			'by a key of the right name that is another',
			401,
			async () => bearer(await tokenOf({}, { pair: keys.foreign })),
		],
		[
			'by a key that the issuer has not',
			401,
			async () => bearer(await tokenOf({}, { pair: { ...keys.second, kid: 'gone' } })),
		],
		[
			'unsigned (none)',
			401,
			() =>
				bearer(
					tokenByHand(
						{ alg: 'none' },
						{ iss: 'https://ci.example.com', aud: 'webhook', exp: now() + 60, ref: 'refs/heads/x' },
					),
				),
		],
		[
			'unsigned (nOnE)',
			401,
			() =>
				bearer(
					tokenByHand(
						{ alg: 'nOnE' },
						{ iss: 'https://ci.example.com', aud: 'webhook', exp: now() + 60, ref: 'refs/heads/x' },
					),
				),
		],
		[
			'signed with the public key as a secret',
			401,
			async () =>
				bearer(
					await symmetricToken(
						keys.first.publicKey.export({ type: 'spki', format: 'pem' }).toString(),
						'HS256',
						{ ref: 'refs/heads/main' },
					),
				),
		],
		['of another scheme', 401, async () => authorization(`JWT ${await tokenOf()}`)],
	],
	hs256: [
		['right', 202, async () => bearer(await symmetricToken(signing))],
		['by another secret', 401, async () => bearer(await symmetricToken(`${signing}.`))],
		[
			'by another algorithm of the same family',
			401,
			async () => bearer(await symmetricToken(signing, 'HS512')),
		],
		['by a public key', 401, async () => bearer(await tokenOf())],
		['expired', 401, async () => bearer(await symmetricToken(signing, 'HS256', { exp: now() - 3600 }))],
	],
	ip: [
		['right', 202, {}],
		['right, but sent by a web page', 403, { headers: { origin: 'https://evil.example' } }],
		['right, but under a name that a web page brought about', 403, { headers: { host: 'rebound.example' } }],
		['told by a header that no trusted proxy wrote', 202, { headers: { 'x-forwarded-for': '203.0.113.9' } }],
	],
	body: [
		['right', 202, { body: `{"secret":"${token}","x":1}`, headers: json }],
		[
			'right, under any content type',
			202,
			{ body: `{"secret":"${token}"}`, headers: { 'content-type': 'text/plain' } },
		],
		['right, under no content type', 202, { body: `{"secret":"${token}"}` }],
		[
			'right, as curl -d sends it',
			202,
			{ body: `{"secret":"${token}"}`, headers: { 'content-type': 'application/x-www-form-urlencoded' } },
		],
		[
			'right, in a form',
			202,
			{ body: `a=b&secret=${token}`, headers: { 'content-type': 'application/x-www-form-urlencoded' } },
		],
		['missing', 401, { body: '{}', headers: json }],
		['no body', 401, {}],
		['empty', 401, { body: '{"secret":""}', headers: json }],
		['wrong', 401, { body: '{"secret":"no"}', headers: json }],
		[
			'wrong in its last byte',
			401,
			{ body: `{"secret":"${changed(token, token.length - 1)}"}`, headers: json },
		],
		['in other case', 401, { body: `{"secret":"${token.toUpperCase()}"}`, headers: json }],
		['under another name', 401, { body: `{"Secret":"${token}"}`, headers: json }],
		['a list', 401, { body: `{"secret":["${token}"]}`, headers: json }],
		['null', 401, { body: '{"secret":null}', headers: json }],
		['true', 401, { body: '{"secret":true}', headers: json }],
		['in what every object inherits', 401, { body: `{"__proto__":{"secret":"${token}"}}`, headers: json }],
		[
			'given twice in a form',
			401,
			{
				body: `secret=${token}&secret=${token}`,
				headers: { 'content-type': 'application/x-www-form-urlencoded' },
			},
		],
		['broken JSON', 401, { body: `{"secret":"${token}"`, headers: json }],
		['a text', 401, { body: `"${token}"`, headers: json }],
		['compressed', 401, { body: `{"secret":"${token}"}`, headers: { ...json, 'content-encoding': 'gzip' } }],
	],
	nested: [
		['right', 202, { body: JSON.stringify({ auth: { 'the/secret': [token] } }), headers: json }],
		['elsewhere', 401, { body: JSON.stringify({ auth: { the: { secret: [token] } } }), headers: json }],
	],
	all: [
		['right', 202, { headers: { 'x-api-key': token } }],
		['one of two missing', 401, {}],
		['one of two wrong', 401, { headers: { 'x-api-key': 'no' } }],
	],
	any: [
		['right by the first', 202, bearer(token)],
		['right by the last', 202, authorization('Bearer no')],
		['wrong by all, sent by a web page', 401, { headers: { origin: 'null' } }],
	],
};

describe('auth', () => {
	for (const [route, cases] of Object.entries(table)) {
		for (const [title, status, sent] of cases) {
			const outcome = status < 300 ? 'is taken' : `is answered ${status} and starts nothing`;
			test(`${route}: ${title} ${outcome}`, async () => {
				const request = typeof sent === 'function' ? await sent() : sent;
				const before = await listener.runCount(route);
				const answer = await listener.request(`/${route}`, { method: 'POST', ...request });
				assert.equal(answer.status, status, answer.text);
				assert.equal((await listener.runCount(route)) - before, status === 202 ? 1 : 0);
				if (status === 401) assert.ok(answer.headers['www-authenticate'], 'WWW-Authenticate is there');
			});
		}
	}

	test('RK-B4: an Authorization header sent twice is answered 401, whichever is right', async () => {
		for (const [first, second] of [
			[token, 'no'],
			['no', token],
			[token, token],
		]) {
			const request = `POST /bearer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\nAuthorization: Bearer ${first}\r\nAuthorization: Bearer ${second}\r\n\r\n`;
			assert.match(await raw(listener.port, request), /^HTTP\/1\.1 401 /);
		}
	});

	test('a refusal says neither which check failed nor how; the log does, without the secret', async () => {
		const given = 'not-the-token';
		const answer = await listener.post('/any', undefined, {
			authorization: `Bearer ${given}`,
			origin: 'https://evil.example',
		});
		assert.equal(answer.status, 401);
		assert.equal(answer.json.code, 'ERR_UNAUTHORIZED');
		assert.doesNotMatch(answer.text, /jenkins|gitlab|\blan\b|token|127\.0\.0\.1/);
		assert.match(
			String(answer.headers['www-authenticate']),
			/^Bearer, Basic realm="[^"]+", charset="UTF-8"$/,
		);
		const line = await listener.logged('the refusal', (one) => one.delivery === answer.json.delivery);
		assert.match(
			String(line.reason),
			/^jenkins: the token is another; gitlab: there is no .*; lan: a web page/,
		);
		assert.ok(!JSON.stringify(listener.log()).includes(given));
	});

	test('a script signs as docs/routes.md shows', async () => {
		const page = fs.readFileSync(path.join(root, 'docs/routes.md'), 'utf8');
		const script = /A script signs like this[\s\S]*?```sh\n([\s\S]*?)```/.exec(page)?.[1] ?? '';
		const own = await startListener({
			files: { 'inventory.secret': 'a secret of both\n' },
			routes:
				'auth: { i: { hmac: { secret: { file: inventory.secret }, header: X-Inventory-Signature, timestamp: X-Inventory-Time } } }\nroutes:\n  changed: { auth: i, command: "true" }\n',
		});
		const printed = execFileSync('sh', ['-ec', script.replace('https://hooks.example.com', own.url)], {
			cwd: own.dir,
			env: { ...process.env, body: '{"host": "web1"}' },
			stdio: ['ignore', 'pipe', 'ignore'],
		});
		assert.match(printed.toString(), /"runs":\[/);
	});

	test('RK-C13: user and password may be in the address, as GitLab is given them', () => {
		const url = `http://iamgood:${encodeURIComponent('pass:word ü')}@127.0.0.1:${listener.port}/basic`;
		const printed = execFileSync('curl', ['-sS', '-X', 'POST', '-w', '%{http_code}', '-o', '/dev/null', url]);
		assert.equal(printed.toString(), '202');
	});

	test('who called is in the log', async () => {
		await listener.post('/basic', undefined, { authorization: basicly('iamgood:pass:word ü') });
		const line = await listener.logged('it', (one) => one.route === 'basic' && one.caller !== undefined);
		assert.equal(line.caller, 'basic user iamgood');
	});

	test('no secret is in the log, the answers of endpoints, or the output of commands', async () => {
		const { code, stdout, stderr } = await command(['check', '--config', listener.config, '--json'], {
			env: { HOOK_PASSWORD: 'pass:word ü' },
		});
		assert.equal(code, 0, stderr);
		const routes = await listener.get('/-/routes');
		const told = [stdout, stderr, routes.text, JSON.stringify(listener.log())].join('\n');
		for (const secret of [token, older, shared, signing, 'pass:word'])
			assert.ok(!told.includes(secret), secret);
		const names = Object.fromEntries(
			routes.json.routes.map((route: { name: string; auth: string[] }) => [route.name, route.auth]),
		);
		assert.deepEqual(names.any, ['jenkins', 'gitlab', 'lan']);
	});
});

describe('keys of an issuer', () => {
	test('that are new are fetched when a token names one, and those that are known are not fetched again', async () => {
		const own = await issuing();
		published = [keys.first];
		const before = fetches;
		for (let i = 0; i < 3; i++)
			assert.equal((await own.post('/', '', bearerHeaders(await tokenOf()))).status, 202);
		assert.equal(fetches - before, 1);
		published = [keys.first, keys.second];
		const rotated = await tokenOf({}, { pair: keys.second });
		assert.equal((await own.post('/', '', bearerHeaders(rotated))).status, 202);
		assert.equal(fetches - before, 2);
		// Anybody can have keys fetched by naming one that there is not, so that is done twice a minute at most.
		const unknown = await tokenOf({}, { pair: { ...keys.second, kid: 'third' } });
		assert.equal((await own.post('/', '', bearerHeaders(unknown))).status, 401);
		assert.equal(fetches - before, 2);
	});

	test('are fetched once for many callers at a time', async () => {
		const own = await issuing();
		published = [keys.first];
		const before = fetches;
		const tokens = await Promise.all(Array.from({ length: 20 }, () => tokenOf()));
		const answers = await Promise.all(tokens.map((one) => own.post('/', '', bearerHeaders(one))));
		assert.ok(answers.every(({ status }) => status === 202));
		assert.equal(fetches - before, 1);
	});

	test('of an issuer that does not answer, or with what is none, let nobody in, and the log says why', async () => {
		const broken = http.createServer((request, response) => {
			if (request.url === '/redirect') response.writeHead(302, { location: '/keys' }).end();
			else if (request.url === '/large') response.end(`{"keys":[${' '.repeat(300_000)}]}`);
			else if (request.url === '/status') response.writeHead(500).end();
			else response.end('<html>');
		});
		await new Promise<void>((resolve) => broken.listen(0, '127.0.0.1', resolve));
		const { port } = broken.address() as AddressInfo;
		const places = ['redirect', 'large', 'status', 'html'];
		const auths = places.map(
			(place) =>
				`  ${place}: { jwt: { issuer: "https://ci.example.com", audience: webhook, jwks: "http://127.0.0.1:${port}/${place}" } }`,
		);
		const routes = places.map((place) => `  ${place}: { auth: ${place}, command: "true" }`);
		const own = await startListener({
			routes: `auth:\n${auths.join('\n')}\nroutes:\n${routes.join('\n')}\n`,
		});
		for (const place of places) {
			const answer = await own.post(`/${place}`, '', bearerHeaders(await tokenOf()));
			assert.equal(answer.status, 401, place);
			const line = await own.logged(place, (one) => one.route === place && one.status === 401);
			assert.match(String(line.reason), /the keys of http:.* cannot be had: /);
		}
		broken.close();
	});

	test('are taken from a file as well', async () => {
		const own = await startListener({
			files: {
				'keys.json': JSON.stringify({
					keys: [{ ...(await exportJWK(keys.second.publicKey)), kid: 'second' }],
				}),
			},
			routes:
				'auth: { ci: { jwt: { issuer: "https://ci.example.com", audience: webhook, jwks: keys.json } } }\nroutes:\n  ci: { auth: ci, command: "true" }\n',
		});
		assert.equal(
			(await own.post('/ci', '', bearerHeaders(await tokenOf({}, { pair: keys.second })))).status,
			202,
		);
		assert.equal((await own.post('/ci', '', bearerHeaders(await tokenOf()))).status, 401);
	});

	const bearerHeaders = (given: string) => ({ authorization: `Bearer ${given}` });
	function issuing(): Promise<Listener> {
		const { port } = issuer.address() as AddressInfo;
		return startListener({
			routes: `auth: { ci: { jwt: { issuer: "https://ci.example.com", audience: webhook, jwks: "http://127.0.0.1:${port}/" } } }\nroutes:\n  "": { auth: ci, command: "true" }\n`,
		});
	}
});

describe('trusted proxies', () => {
	let socketPath = '';
	let proxied: Listener;
	before(async () => {
		socketPath = path.join(temporaryDirectory(), 'http.sock');
		proxied = await startListener({
			routes: `
listen: { address: [127.0.0.1, "unix:${socketPath}"], port: 0, trusted_proxies: [unix, 10.0.0.0/8, "2001:db8::/32"] }
auth: { office: { ip: [192.0.2.0/24, "2001:db9::/64"] } }
routes:
  office: { auth: office, command: "true" }
  open: { auth: none, command: "true" }
  local: { command: "true" }
`,
		});
	});

	const cases: readonly [title: string, status: number, headers: OutgoingHttpHeaders][] = [
		['an admitted address', 202, { 'x-forwarded-for': '192.0.2.7' }],
		['an admitted address with a port', 202, { 'x-forwarded-for': '192.0.2.7:4711' }],
		['an admitted IPv6 address', 202, { 'x-forwarded-for': '2001:db9::1' }],
		['an admitted IPv6 address with a port', 202, { 'x-forwarded-for': '[2001:db9::1]:4711' }],
		['an admitted address, mapped into IPv6', 202, { 'x-forwarded-for': '::ffff:192.0.2.7' }],
		[
			'an admitted address behind another trusted proxy',
			202,
			{ 'x-forwarded-for': '203.0.113.1, 192.0.2.7, 10.1.2.3' },
		],
		['an admitted address in Forwarded', 202, { forwarded: 'for=192.0.2.7;proto=https' }],
		[
			'an admitted IPv6 address in Forwarded',
			202,
			{ forwarded: 'for=203.0.113.1, for="[2001:db9::1]:80";by="a,b"' },
		],
		['the same in both headers', 202, { forwarded: 'For=192.0.2.7', 'x-forwarded-for': '192.0.2.7' }],
		['another address', 403, { 'x-forwarded-for': '203.0.113.1' }],
		[
			'another address behind an admitted one that anybody can have written',
			403,
			{ 'x-forwarded-for': '192.0.2.7, 203.0.113.1' },
		],
		['different ones in both headers', 403, { forwarded: 'for=192.0.2.7', 'x-forwarded-for': '203.0.113.1' }],
		[
			'different ones in both headers, the other way round',
			403,
			{ forwarded: 'for=203.0.113.1', 'x-forwarded-for': '192.0.2.7' },
		],
		['nothing', 403, { 'x-forwarded-for': '' }],
		['no address', 403, { 'x-forwarded-for': 'unknown' }],
		['no address behind a trusted proxy', 403, { 'x-forwarded-for': '192.0.2.7, garbage, 10.0.0.1' }],
		['an obfuscated one', 403, { forwarded: 'for=_hidden' }],
		['Forwarded without for', 403, { forwarded: 'by=192.0.2.7' }],
		['an unclosed quote', 403, { forwarded: 'for="192.0.2.7' }],
		['two headers, the last of which counts', 403, { 'x-forwarded-for': ['192.0.2.7', '203.0.113.1'] }],
		['two headers, the last of which is admitted', 202, { 'x-forwarded-for': ['203.0.113.1', '192.0.2.7'] }],
	];
	for (const [title, status, headers] of cases) {
		test(`that tell ${title}: ${status}`, async () => {
			const answer = await send({ socketPath }, '/office', { method: 'POST', headers });
			assert.equal(answer.status, status, answer.text);
		});
	}

	test('are believed in the log and in WEBHOOK_CLIENT, and what others write is not', async () => {
		const headers = { 'x-forwarded-for': '192.0.2.7' };
		const answer = await send({ socketPath }, '/open', { method: 'POST', headers });
		const line = await proxied.logged(
			'it',
			(one) => one.route === 'open' && (one.runs as string[])?.[0] === answer.json.runs[0].id,
		);
		assert.equal(line.client, '192.0.2.7');
		await proxied.post('/open', undefined, headers);
		await proxied.logged('another', (one) => one.route === 'open' && one.client === '127.0.0.1');
		assert.equal((await proxied.post('/office', undefined, headers)).status, 403);
	});

	test('are never programs of this host, whatever they tell', async () => {
		for (const url of ['/local', '/-/runs']) {
			const method = url === '/local' ? 'POST' : 'GET';
			const headers = { 'x-forwarded-for': '127.0.0.1' };
			assert.equal((await send({ socketPath }, url, { method, headers })).status, 403, url);
			assert.ok((await send({ socketPath }, url, { method })).status < 300, url);
		}
	});
});

describe('a secret path', () => {
	const fingerprint = (secret: string) => hash('sha256', secret);
	let own: Listener;
	before(async () => {
		own = await startListener({
			files: { key: 'first\n', 'other.key': 'exact\n' },
			routes: `
listen: { address: ["127.0.0.1"], port: 0 }
auth: { key: { header: { name: X-Key, value: ${token} } } }
routes:
  hub: { path: "hook/{{fingerprint}}", secret: [{ file: key }, second], command: "true" }
  exact: { path: "hook/{{fingerprint}}", secret: { file: other.key, exact: true }, command: "true" }
  "both/{{fingerprint}}/:name": { secret: third, auth: key, command: "true" }
`,
		});
	});

	test('FX-V3: is the hash of each secret, and of nothing else', async () => {
		for (const secret of ['first', 'second', 'exact\n']) {
			// A caller that came through a proxy is none of this host, and yet knows the path.
			const headers = { 'x-forwarded-for': '203.0.113.1' };
			const answer = await own.request(`/hook/${fingerprint(secret)}`, { method: 'POST', headers });
			assert.equal(answer.status, 202, secret);
		}
		for (const wrong of [
			fingerprint('first\n'),
			fingerprint('exact'),
			fingerprint('First'),
			'{{fingerprint}}',
			'%7B%7Bfingerprint%7D%7D',
			'',
		]) {
			assert.equal((await own.post(`/hook/${wrong}`)).status, 404, wrong);
		}
		assert.equal((await own.post(`/hook/${fingerprint('first').toUpperCase()}`)).status, 404);
	});

	test('does not stand for auth that the route names beside it', async () => {
		const url = `/both/${fingerprint('third')}/x`;
		assert.equal((await own.post(url)).status, 401);
		assert.equal((await own.post(url, undefined, { 'x-key': token })).status, 202);
	});

	test('FX-B12: is not in the log, nor in what the endpoints tell', async () => {
		await own.get(`/hook/${fingerprint('first')}`);
		await own.logged('it', (one) => one.status === 405);
		const routes = await own.get('/-/routes');
		assert.equal(routes.json.routes[0].path, '/hook/{{fingerprint}}');
		const told = routes.text + JSON.stringify(own.log());
		for (const secret of ['first', 'second', 'third', 'exact\n'])
			assert.ok(!told.includes(fingerprint(secret)));
	});
});

describe('admin.auth', () => {
	let own: Listener;
	const withToken = { authorization: `Bearer ${token}` };
	before(async () => {
		own = await startListener({
			routes: `
auth: { admins: { bearer: ${token} }, monitor: { header: { name: X-Monitor, value: ${older} } } }
admin: { auth: admins }
metrics: { auth: [monitor] }
routes:
  got: { method: get, command: "true" }
`,
		});
	});

	test('is asked of every caller, and of those from a proxy or of another name as well', async () => {
		for (const url of ['/-/runs', '/-/routes', '/-/nowhere']) {
			assert.equal((await own.get(url)).status, 401, url);
			assert.equal((await own.get(url, { authorization: 'Bearer no' })).status, 401, url);
			const answer = await own.get(url, {
				...withToken,
				'x-forwarded-for': '203.0.113.1',
				host: 'hooks.example.com',
			});
			assert.equal(answer.status, url === '/-/nowhere' ? 404 : 200, url);
		}
		assert.equal((await own.post('/-/reload')).status, 401);
		assert.equal((await own.post('/-/reload', undefined, withToken)).status, 200);
	});

	test('leaves /metrics to metrics.auth', async () => {
		assert.equal((await own.get('/metrics', withToken)).status, 401);
		assert.equal((await own.get('/metrics', { 'x-monitor': older })).status, 200);
		assert.equal((await own.get('/-/runs', { 'x-monitor': older })).status, 401);
	});

	test('lets probes of other hosts learn whether the listener is well', async () => {
		for (const url of ['/-/healthy', '/-/ready']) {
			const answer = await own.get(url, { host: 'hooks.example.com', 'x-forwarded-for': '203.0.113.1' });
			assert.equal(answer.status, 200);
		}
	});

	test('is given to operators by --token-file and by PUPPET_WEBHOOK_TOKEN', async () => {
		const file = path.join(own.dir, 'token');
		fs.writeFileSync(file, `${token}\n`, { mode: 0o600 });
		const routes = ['routes', '--url', own.url];
		const without = await command(routes);
		assert.equal(without.code, 1);
		assert.match(without.stderr, /401.*--token-file or PUPPET_WEBHOOK_TOKEN/);
		const byFile = await command([...routes, '--token-file', file]);
		assert.equal(byFile.code, 0, byFile.stderr);
		assert.match(byFile.stdout, /\/got/);
		const byVariable = await command(routes, { env: { PUPPET_WEBHOOK_TOKEN: token } });
		assert.equal(byVariable.code, 0, byVariable.stderr);
		fs.writeFileSync(file, '');
		const empty = await command([...routes, '--token-file', file]);
		assert.equal(empty.code, 1);
		assert.match(empty.stderr, /has to hold one token/);
	});

	test('of metrics may be none, and programs of this host need nothing where admin says nothing', async () => {
		const open = await startListener({
			routes: 'metrics: { auth: none }\nroutes: { got: { command: "true" } }\n',
		});
		const elsewhere = { 'x-forwarded-for': '203.0.113.1', host: 'hooks.example.com' };
		assert.equal((await open.get('/metrics', elsewhere)).status, 200);
		assert.equal((await open.get('/-/runs', elsewhere)).status, 403);
		assert.equal((await open.get('/-/runs')).status, 200);
	});
});
