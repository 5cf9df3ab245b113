/** What callers get wrong, or do on purpose. Each is answered with its status and a reason, starts nothing, and harms nobody. */

import assert from 'node:assert/strict';
import type http from 'node:http';
import { before, describe, test } from 'node:test';
import zlib from 'node:zlib';
import { type Listener, type RequestOptions, startListener } from './helpers/listener.ts';
import { RawConnection, raw } from './helpers/raw.ts';

const routes = `
listen: { address: 127.0.0.1, port: 0, max_body: 1 MiB, header_timeout: 500ms, body_timeout: 500ms }
routes:
  deploy:
    method: [get, post]
    params:
      role: { required: true }
      count: { type: integer }
      on: { type: boolean }
      environment: { enum: [qa, production] }
    command: [echo, "{{role}}"]
  free: { params: { any: { pattern: "(?s).*" } }, command: [echo, "{{any}}"] }
  of/:role: { method: get, command: [echo, "{{role}}"] }
  copy: { stdin: body, command: cat }
`;

let listener: Listener;
before(async () => {
	listener = await startListener({ routes });
});
/** Sends, and expects a problem with this status, no run, and a reason that matches. */
async function refused(path: string, options: RequestOptions, status: number, reason: RegExp): Promise<void> {
	const before = await listener.runCount();
	const answer = await listener.request(path, { method: 'POST', ...options });
	assert.equal(answer.status, status, answer.text);
	assert.match(String(answer.headers['content-type']), /^application\/problem\+json/);
	assert.match(answer.json.detail, reason);
	assert.equal(await listener.runCount(), before, 'a run was started');
}

/** The same for bytes that no client sends. */
async function refusedRaw(bytes: string | Buffer, status: number, reason?: RegExp): Promise<void> {
	const before = await listener.runCount();
	const answer = await raw(listener.port, bytes);
	assert.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `));
	assert.match(answer, /content-type: application\/problem\+json/i);
	if (reason) assert.match(answer, reason);
	assert.equal(await listener.runCount(), before, 'a run was started');
}

const type = (name: string): http.OutgoingHttpHeaders => ({ 'content-type': name });
const json = type('application/json');
const form = type('application/x-www-form-urlencoded');
const multipart = type('multipart/form-data; boundary=b');
const gzipped = (name: http.OutgoingHttpHeaders) => ({ ...name, 'content-encoding': 'gzip' });

describe('a body', () => {
	const table: readonly [title: string, options: RequestOptions, status: number, reason: RegExp][] = [
		['that is not JSON', { body: '{"role": web}', headers: json }, 400, /not valid JSON/],
		['RK-H11: of JSON that ends too early', { body: '{"role": "web"', headers: json }, 400, /not valid JSON/],
		['of JSON with something behind it', { body: '{"role": "web"} x', headers: json }, 400, /not valid JSON/],
		['that is a word', { body: '"web"', headers: json }, 400, /not a JSON object or list/],
		['that is a number', { body: '5', headers: json }, 400, /not a JSON object or list/],
		['that is null', { body: 'null', headers: json }, 400, /not a JSON object or list/],
		['with __proto__', { body: '{"role":"web","__proto__":{"x":1}}', headers: json }, 400, /__proto__/],
		[
			'with __proto__ deep inside',
			{ body: '{"role":"web","a":[{"__proto__":1}]}', headers: json },
			400,
			/__proto__/,
		],
		[
			'with __proto__ in escapes',
			{ body: '{"role":"web","\\u005f_proto__":1}', headers: json },
			400,
			/__proto__/,
		],
		[
			'with __proto__ under a form type',
			{ body: '{"role":"web","__proto__":1}', headers: form },
			400,
			/__proto__/,
		],
		['with __proto__ in a form', { body: 'role=web&__proto__=1', headers: form }, 400, /__proto__/],
		[
			'that begins like JSON under a form type and is none',
			{ body: '{role=web}', headers: form },
			400,
			/not valid JSON/,
		],
		[
			'that is gzip and broken',
			{ body: zlib.gzipSync('{"role":"web"}').subarray(0, 20), headers: gzipped(json) },
			400,
			/decompressed/,
		],
		['that says gzip and is not', { body: '{"role":"web"}', headers: gzipped(json) }, 400, /decompressed/],
		[
			'that says brotli and is not',
			{ body: '{"role":"web"}', headers: { ...json, 'content-encoding': 'br' } },
			400,
			/decompressed/,
		],
		['that is a broken gzip form', { body: 'role=web', headers: gzipped(form) }, 400, /decompressed/],
		[
			'that is broken gzip for standard input',
			{ body: 'text', headers: gzipped(type('text/plain')) },
			400,
			/decompressed/,
		],
		[
			'in an encoding nobody knows',
			{ body: 'role=web', headers: { ...form, 'content-encoding': 'zstd' } },
			415,
			/Content-Encoding "zstd"/,
		],
		[
			'in another charset',
			{ body: 'role=web', headers: type('application/x-www-form-urlencoded; charset=ISO-8859-1') },
			415,
			/charset "iso-8859-1"/,
		],
		[
			'that is no UTF-8',
			{ body: Buffer.from('{"role":"w\xfcb"}', 'latin1'), headers: json },
			400,
			/not UTF-8/,
		],
		[
			'that is no UTF-8, compressed',
			{ body: zlib.gzipSync(Buffer.from('{"role":"w\xfcb"}', 'latin1')), headers: gzipped(json) },
			400,
			/not UTF-8/,
		],
		[
			'of another type',
			{ body: 'role=web', headers: type('text/plain') },
			415,
			/"text\/plain" is not understood/,
		],
		[
			'of bytes',
			{ body: Buffer.from([0, 1, 2]), headers: type('application/octet-stream') },
			415,
			/octet-stream/,
		],
		['of no type that is not JSON', { body: 'role=web' }, 415, /no Content-Type/],
		['that is a form with broken escapes', { body: 'role=%zz', headers: form }, 400, /percent-encoded/],
		[
			'that is a form with escapes that are no UTF-8',
			{ body: 'role=%ff', headers: form },
			400,
			/percent-encoded/,
		],
		[
			'that is a form of 1001 values',
			{ body: `role=web${'&a=1'.repeat(1000)}`, headers: form },
			400,
			/more than 1000/,
		],
		[
			'that is multipart without its boundary',
			{ body: '--b--\r\n', headers: type('multipart/form-data') },
			400,
			/multipart/,
		],
		[
			'that is multipart and ends too early',
			{ body: '--b\r\nContent-Disposition: form-data; name="role"\r\n\r\nweb', headers: multipart },
			400,
			/multipart/,
		],
		[
			'that is multipart with a part without name',
			{ body: '--b\r\nContent-Disposition: form-data\r\n\r\nweb\r\n--b--\r\n', headers: multipart },
			400,
			/multipart/,
		],
		[
			'that is multipart with a file',
			{
				body: '--b\r\nContent-Disposition: form-data; name="role"; filename="f"\r\n\r\nweb\r\n--b--\r\n',
				headers: multipart,
			},
			400,
			/part "role" of the form is a file/,
		],
		[
			'that is multipart with __proto__',
			{
				body: '--b\r\nContent-Disposition: form-data; name="__proto__"\r\n\r\nweb\r\n--b--\r\n',
				headers: multipart,
			},
			400,
			/__proto__/,
		],
		[
			'that is multipart of 1001 parts',
			{
				body: `${'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'.repeat(1001)}--b--\r\n`,
				headers: multipart,
			},
			400,
			/more than 1000/,
		],
	];
	for (const [title, options, status, reason] of table) {
		test(`${title} is refused with ${status}`, () =>
			refused(title.includes('standard input') ? '/copy' : '/deploy', options, status, reason));
	}

	test('of JSON nested 100,000 deep is read or refused, and crashes nothing', async () => {
		const deep = '['.repeat(100_000) + ']'.repeat(100_000);
		const answer = await listener.post('/deploy?role=web&async=false', `{"x":${deep}}`, json);
		assert.equal(answer.json.output.text, 'web\n');
		await refused('/deploy', { body: `{"role":${deep}}`, headers: json }, 422, /parameter "role"/);
		await refused('/deploy', { body: `{"role":${deep}, "__proto__": 1}`, headers: json }, 400, /__proto__/);
		await refused(
			'/deploy',
			{ body: `{"role":${deep}, "__proto__": 1}`, headers: form },
			400,
			/JSON|__proto__/,
		);
	});
});

describe('a body that is too large', () => {
	const head = 'POST /deploy HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n';

	test('by its own account is refused with 413 before any of it is read', async () => {
		const connection = new RawConnection(listener.port).write(`${head}Content-Length: 104857600\r\n\r\n`);
		await waitFor(connection);
		assert.equal(connection.status, 413);
		assert.match(connection.received, /larger than 1048576 bytes/);
		connection.socket.destroy();
	});

	test('a caller that asks first (Expect: 100-continue) sends none of it', async () => {
		const connection = new RawConnection(listener.port).write(
			`${head}Content-Length: 104857600\r\nExpect: 100-continue\r\n\r\n`,
		);
		await waitFor(connection);
		assert.doesNotMatch(connection.received, /100 Continue/);
		assert.equal(connection.status, 413);
		connection.socket.destroy();
	});

	test('a caller that asks first and may send gets 100 Continue, then its answer', async () => {
		const body = '{"role":"web"}';
		const connection = new RawConnection(listener.port).write(
			`${head}Content-Length: ${body.length}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n`,
		);
		await waitFor(connection);
		assert.equal(connection.status, 100);
		connection.write(body);
		assert.match(await connection.end(), /HTTP\/1\.1 202 /);
	});

	test('an unknown path is answered 404 before its body is read', async () => {
		const connection = new RawConnection(listener.port).write(
			'POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 104857600\r\nExpect: 100-continue\r\n\r\n',
		);
		await waitFor(connection);
		assert.equal(connection.status, 404);
		connection.socket.destroy();
	});

	test('without saying so is refused with 413 as soon as it is, and its sender may read that', async () => {
		const body = Buffer.alloc(3 * 1024 * 1024, '{');
		await refused('/deploy', { body, headers: { ...json, 'transfer-encoding': 'chunked' } }, 413, /max_body/);
		await refused(
			'/copy',
			{ body, headers: { ...type('text/plain'), 'transfer-encoding': 'chunked' } },
			413,
			/max_body/,
		);
	});

	test('once decompressed is refused with 413', async () => {
		const bomb = zlib.gzipSync(Buffer.alloc(200 * 1024 * 1024, ' '));
		assert.ok(bomb.length < 1024 * 1024);
		await refused('/deploy', { body: bomb, headers: gzipped(json) }, 413, /max_body/);
		await refused('/deploy', { body: bomb, headers: gzipped(form) }, 413, /max_body/);
		await refused('/deploy', { body: bomb, headers: gzipped(multipart) }, 413, /max_body/);
		await refused('/copy', { body: bomb, headers: gzipped(type('text/plain')) }, 413, /max_body/);
	});
});

describe('a caller that is slow', () => {
	test('with its body gets 408, and the connection ends', async () => {
		const connection = new RawConnection(listener.port).write(
			'POST /deploy HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{',
		);
		const drip = setInterval(() => connection.write(' '), 50);
		const answer = await connection.end();
		clearInterval(drip);
		assert.match(answer, /^HTTP\/1\.1 408 /);
		assert.match(answer, /body_timeout/);
	});

	test('with its header gets 408, and the connection ends', async () => {
		const connection = new RawConnection(listener.port).write(
			'GET /of/web HTTP/1.1\r\nHost: 127.0.0.1\r\nX-',
		);
		const drip = setInterval(() => connection.write('a'), 50);
		const answer = await connection.end();
		clearInterval(drip);
		assert.match(answer, /^HTTP\/1\.1 408 /);
		assert.match(answer, /header_timeout/);
	});

	test('keeps nobody else waiting', async () => {
		const slow = Array.from({ length: 200 }, () =>
			new RawConnection(listener.port).write(
				'POST /deploy HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{',
			),
		);
		assert.equal((await listener.get('/of/web?async=false')).json.output.text, 'web\n');
		for (const answer of await Promise.all(slow.map((connection) => connection.end()))) {
			assert.match(answer, /^HTTP\/1\.1 408 /);
		}
	});

	test('a caller that leaves in the middle of its body leaves nothing behind', async () => {
		const before = await listener.runCount();
		const connection = new RawConnection(listener.port).write(
			'POST /deploy HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{"role"',
		);
		connection.socket.end();
		await connection.end();
		const line = await listener.logged('it', (l) => /went away/.test(String(l.reason)));
		assert.equal(line.status, undefined);
		assert.equal(await listener.runCount(), before);
	});
});

describe('a request that is no HTTP', () => {
	const request = (line: string, header = '') =>
		`${line}\r\nHost: 127.0.0.1\r\nConnection: close\r\n${header}\r\n`;
	const post = (header: string) => request('POST /deploy HTTP/1.1', header);

	test('RK-H12: Content-Length that is no number is refused with 400', () =>
		refusedRaw(post('Content-Length: abc\r\n'), 400, /Content-Length is not a number/));
	test('two Content-Lengths that differ are refused with 400', () =>
		refusedRaw(post('Content-Length: 1\r\nContent-Length: 2\r\n'), 400));
	test('Content-Length beside chunks, as request smuggling has it, is refused with 400', () =>
		refusedRaw(`${post('Content-Length: 4\r\nTransfer-Encoding: chunked\r\n')}0\r\n\r\n`, 400));
	test('a broken chunk is refused with 400', () =>
		refusedRaw(`${post('Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n')}zz\r\n`, 400));
	test('a path of 64 KB is refused with 431', () =>
		refusedRaw(request(`GET /${'a'.repeat(65_536)} HTTP/1.1`), 431));
	test('a header of 64 KB is refused with 431', () =>
		refusedRaw(request('GET /of/web HTTP/1.1', `X: ${'a'.repeat(65_536)}\r\n`), 431));
	test('nonsense is refused with 400', () => refusedRaw('\x16\x03\x01 hello\r\n\r\n', 400));
	test('a header with a NUL is refused with 400', () =>
		refusedRaw(request('GET /of/web HTTP/1.1', 'X: a\0b\r\n'), 400));
	test('HTTP/1.1 without Host is refused with 400', async () => {
		assert.match(
			await raw(listener.port, 'GET /of/web HTTP/1.1\r\nConnection: close\r\n\r\n'),
			/^HTTP\/1\.1 400 /,
		);
	});
});

describe('a path', () => {
	const table: readonly [title: string, path: string, status: number, reason: RegExp][] = [
		['with %00', '/of/a%00b', 400, /NUL/],
		['with a broken escape', '/of/%zz', 400, /percent-encoded/],
		['with escapes that are no UTF-8', '/of/%ff', 400, /percent-encoded/],
		['with dots', '/of/..', 422, /".." as a part of a path/],
		['with encoded dots', '/of/%2e%2e', 422, /".." as a part of a path/],
		['that climbs by an encoded slash', '/of/a%2F..%2Fb', 422, /".." as a part of a path/],
		['that climbs out of a route', '/of/../deploy', 404, /there is no route/],
		['with an empty segment', '/of//', 404, /there is no route/],
		['in other letters', '/OF/web', 404, /there is no route/],
		['that hides an endpoint', '/%2d/runs', 404, /there is no route/],
	];
	for (const [title, path, status, reason] of table) {
		test(`${title} is refused with ${status}`, () => refused(path, { method: 'GET' }, status, reason));
	}

	test('with %2F gives a value with a slash', async () => {
		assert.equal((await listener.get('/of/a%2Fb?async=false')).json.output.text, 'a/b\n');
	});

	test('of 10 KB is answered, and the answer does not repeat it', async () => {
		const answer = await listener.get(`/${'a'.repeat(10_000)}`);
		assert.equal(answer.status, 404);
		assert.ok(answer.text.length < 1000);
	});
});

describe('parameters', () => {
	const table: readonly [
		title: string,
		path: string,
		options: RequestOptions,
		problems: readonly (readonly [string, RegExp])[],
	][] = [
		['a missing one', '/deploy', { body: {} }, [['role', /is missing/]]],
		['RK-H11: a missing one, as there is no body', '/deploy', {}, [['role', /is missing/]]],
		['a missing one, as the body is a list', '/deploy', { body: ['web'] }, [['role', /is missing/]]],
		['a doubled one in the query', '/deploy?role=a&role=b', {}, [['role', /more than once/]]],
		[
			'a doubled one in a form',
			'/deploy',
			{ body: 'role=a&role=b', headers: form },
			[['role', /more than once/]],
		],
		['a list', '/deploy', { body: { role: ['a'] } }, [['role', /list/]]],
		['an object', '/deploy', { body: { role: { a: 1 } } }, [['role', /object/]]],
		['null', '/deploy', { body: { role: null } }, [['role', /null/]]],
		['text for an integer', '/deploy', { body: { role: 'web', count: 'many' } }, [['count', /whole number/]]],
		['text for a boolean', '/deploy', { body: { role: 'web', on: 'yes' } }, [['on', /true nor false/]]],
		[
			'one that is none of those listed',
			'/deploy',
			{ body: { role: 'web', environment: 'moon' } },
			[['environment', /none of qa, production/]],
		],
		[
			'every one that is wrong',
			'/deploy',
			{ body: { role: 'a b', count: 1.5, environment: '' } },
			[
				['role', /not admitted/],
				['count', /whole number/],
				['environment', /none of/],
			],
		],
		['a NUL', '/free', { body: { any: 'a\0b' } }, [['any', /NUL/]]],
		['half a character', '/free', { body: '{"any":"\\ud800"}', headers: json }, [['any', /Unicode/]]],
		['one that is too long', '/free', { body: { any: 'a'.repeat(8193) } }, [['any', /8192/]]],
	];
	for (const [title, path, options, problems] of table) {
		test(`${title} is named in a 422`, async () => {
			await refused(path, options, 422, /parameter "/);
			const answer = await listener.request(path, { method: 'POST', ...options });
			const { parameters } = answer.json;
			assert.equal(parameters.length, problems.length, answer.text);
			for (const [index, [name, reason]] of problems.entries()) {
				assert.equal(parameters[index].parameter, name);
				assert.match(parameters[index].reason, reason);
			}
		});
	}

	test('a refusal does not repeat the value', async () => {
		const answer = await listener.post('/deploy', { role: 'not $admitted' });
		assert.equal(answer.status, 422);
		assert.doesNotMatch(answer.text, /\$admitted/);
	});

	test('a query with broken escapes, or with letters that are not encoded, is refused with 400', async () => {
		await refused('/deploy?role=%zz', {}, 400, /the query is not percent-encoded/);
		await refusedRaw(
			Buffer.from(
				'GET /deploy?role=\xc3\xbc HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n',
				'latin1',
			),
			400,
		);
	});
});

test('after all this the listener is the same process, and well', async () => {
	assert.equal(listener.process.exitCode, null);
	assert.equal((await listener.get('/of/web?async=false')).json.output.text, 'web\n');
	assert.deepEqual(
		listener.log().filter((line) => line.level === 'error'),
		[],
	);
	assert.equal(listener.stderr, '');
});

/** Resolves when the first answer, or part of one, is there. */
function waitFor(connection: RawConnection): Promise<unknown> {
	return new Promise((resolve) => connection.socket.once('data', () => setImmediate(resolve)));
}
