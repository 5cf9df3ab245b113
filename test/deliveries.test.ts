/** What callers send to routes and what they get: methods, bodies, waiting, exact answers, streams. */

import assert from 'node:assert/strict';
import type http from 'node:http';
import { before, describe, test } from 'node:test';
import zlib from 'node:zlib';
import { type Answer, type Listener, type RequestOptions, startListener, until } from './helpers/listener.ts';
import { RawConnection, raw } from './helpers/raw.ts';

/** Prints the parameters it got, so that an answer shows what reached the command. */
const show = '[printf, "%s|%s|%s", "{{role}}", "{{version}}", "{{any}}"]';
const params = '{ role: {}, version: {}, any: { pattern: "(?s).*" } }';

const routes = `
routes:
  show: { method: [get, post, put, patch, delete], params: ${params}, command: ${show} }
  posted: { command: "true" }
  got: { method: get, command: "true" }
  nested/path: { method: get, command: "true" }
  of/:role: { method: get, command: [echo, "{{role}}"] }
  copy: { stdin: body, params: { role: {} }, command: "cat" }
  parameters: { stdin: parameters, params: ${params}, command: "cat" }
  fails: { method: [get, post], command: "echo before; exit 3" }
  slow: { method: [get, post], params: { file: { pattern: ".*" } }, command: 'echo first; while ! [ -e "$file" ]; do sleep 0.05; done; echo last' }
  late: { method: get, timeout: 200ms, kill_after: 1s, command: "sleep 30" }
  waits: { method: get, wait: true, command: "echo waited" }
  briefly: { method: get, wait: 100ms, timeout: 20s, params: { file: { pattern: ".*" } }, command: 'while ! [ -e "$file" ]; do sleep 0.05; done' }
  busy: { method: get, params: { file: { pattern: ".*" } }, command: 'while ! [ -e "$file" ]; do sleep 0.05; done', concurrency: { when_busy: reject } }
  twitch:
    method: get
    params: { code: { type: integer, default: 0 } }
    command: 'exit "$code"'
    respond:
      accepted: { body: Triggered puppet run }
      succeeded: { body: Puppet run complete, headers: { X-Site: one } }
      failed: { status: 502, body: Error running puppet }
  twitch/busy:
    method: get
    params: { file: { pattern: ".*" } }
    command: 'while ! [ -e "$file" ]; do sleep 0.05; done'
    concurrency: { when_busy: reject }
    respond: { busy: { body: Puppet already running } }
  progress: { method: get, command: "printf 'one\\\\rtwo\\\\nhalf'; exit 4" }
`;

let listener: Listener;
before(async () => {
	listener = await startListener({ routes });
});

/** Sends, waits for the run, and gives what the command printed. */
async function printed(path: string, options: RequestOptions): Promise<string> {
	const answer = await listener.request(`${path}${path.includes('?') ? '&' : '?'}async=false`, options);
	assert.equal(answer.status, 200, answer.text);
	return answer.json.output.text;
}

function problem(answer: Answer, status: number): string {
	assert.equal(answer.status, status, answer.text);
	assert.match(String(answer.headers['content-type']), /^application\/problem\+json/);
	assert.equal(answer.json.status, status);
	assert.equal(typeof answer.json.title, 'string');
	assert.match(answer.json.code, /^ERR_[A-Z_]+$/);
	return answer.json.detail;
}

describe('methods and paths', () => {
	for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
		test(`${method} runs a route that takes it`, async () => {
			assert.equal(await printed('/show?role=web', { method }), 'web||');
		});
	}

	test('PW-H6, RK-H9, XC-4: HEAD answers 200 without a body where GET would be taken, and runs nothing', async () => {
		const before = await listener.runCount();
		const answer = await listener.request('/got', { method: 'HEAD' });
		assert.equal(answer.status, 200);
		assert.equal(answer.text, '');
		assert.equal(await listener.runCount(), before);
	});

	test('HEAD of a route that takes no GET is answered 405', async () => {
		assert.equal((await listener.request('/posted', { method: 'HEAD' })).status, 405);
	});

	test('OPTIONS says what the path takes, and runs nothing', async () => {
		const before = await listener.runCount();
		const answer = await listener.request('/got', { method: 'OPTIONS' });
		assert.equal(answer.status, 204);
		assert.equal(answer.headers.allow, 'GET, HEAD, OPTIONS');
		assert.equal(answer.headers['access-control-allow-origin'], undefined);
		assert.equal((await listener.request('/nowhere', { method: 'OPTIONS' })).status, 404);
		assert.equal(await listener.runCount(), before);
	});

	test('RK-H8, RK-H10, PW-H5, TW-H9, FX-H4: another method is answered 405 with what is allowed', async () => {
		for (const method of ['GET', 'PUT', 'DELETE', 'PROPFIND']) {
			const answer = await listener.request('/posted', { method });
			assert.match(problem(answer, 405), /takes POST, OPTIONS and not/);
			assert.equal(answer.headers.allow, 'POST, OPTIONS');
		}
	});

	test('TW-H7, PW-H5, FX-H3: an unknown path is answered 404', async () => {
		assert.equal(problem(await listener.get('/nowhere'), 404), 'there is no route /nowhere');
	});

	test('RK-H7: one trailing slash is accepted', async () => {
		assert.equal((await listener.get('/nested/path/')).status, 202);
		assert.equal((await listener.get('/nested/path//')).status, 404);
	});

	test('a path of a proxy (absolute form) counts as its path', async () => {
		const answer = await raw(
			listener.port,
			'GET http://127.0.0.1/got HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n',
		);
		assert.match(answer, /^HTTP\/1\.1 202 /);
	});

	test('XC-5: header names are matched whatever their case', async () => {
		const body = '{"role":"web"}';
		const answer = await raw(
			listener.port,
			`POST /show?async=false HTTP/1.1\r\nhOST: 127.0.0.1\r\nCONTENT-TYPE: application/json\r\ncontent-LENGTH: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
		);
		assert.match(answer, /"text":"web\|\|"/);
	});
});

describe('bodies', () => {
	const json = '{"role":"web","version":"2.1","any":"grün ✓"}';
	const expected = 'web|2.1|grün ✓';
	const type = (name: string) => ({ 'content-type': name });
	const form = 'application/x-www-form-urlencoded';

	const understood: readonly [title: string, body: string | Buffer, headers: http.OutgoingHttpHeaders][] = [
		['JSON', json, type('application/json')],
		['RK-H6: JSON with a charset', json, type('application/json; charset=utf-8')],
		['JSON of a type of its own', json, type('application/cloudevents+json')],
		['JSON with the type in capitals', json, type('Application/JSON')],
		['JSON behind a byte order mark', `\ufeff${json}`, type('application/json')],
		['XC-2: JSON under a form type, as `curl -d` sends it', json, type(form)],
		['JSON under a form type behind a byte order mark and white space', `\ufeff\r\n ${json}`, type(form)],
		['JSON without a type', json, {}],
		['a form', 'role=web&version=2.1&any=gr%C3%BCn+%E2%9C%93', type(form)],
		['a form with unencoded UTF-8', 'role=web&version=2.1&any=grün ✓', type(form)],
		['gzip', zlib.gzipSync(json), { ...type('application/json'), 'content-encoding': 'gzip' }],
		['deflate', zlib.deflateSync(json), { ...type('application/json'), 'content-encoding': 'deflate' }],
		['brotli', zlib.brotliCompressSync(json), { ...type('application/json'), 'content-encoding': 'br' }],
		[
			'a compressed form',
			zlib.gzipSync('role=web&version=2.1&any=grün ✓'),
			{ ...type(form), 'content-encoding': 'gzip' },
		],
		['chunks', json, { ...type('application/json'), 'transfer-encoding': 'chunked' }],
		[
			'multipart',
			'--b\r\nContent-Disposition: form-data; name="role"\r\n\r\nweb\r\n' +
				'--b\r\nContent-Disposition: form-data; name="version"\r\nContent-Type: text/plain\r\n\r\n2.1\r\n' +
				'--b\r\nContent-Disposition: form-data; name="any"\r\n\r\ngrün ✓\r\n--b--\r\n',
			type('multipart/form-data; boundary=b'),
		],
	];
	for (const [title, body, headers] of understood) {
		test(`${title} is understood`, async () => {
			assert.equal(await printed('/show', { method: 'POST', body, headers }), expected);
		});
	}

	test('XC-3: JSON in the body of a GET and of a DELETE is understood', async () => {
		for (const method of ['GET', 'DELETE']) {
			assert.equal(await printed('/show', { method, body: { role: 'web' } }), 'web||');
		}
	});

	test('PW-H7: a POST without a body and without Content-Length is accepted', async () => {
		const answer = await raw(
			listener.port,
			'POST /posted HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n',
		);
		assert.match(answer, /^HTTP\/1\.1 202 /);
	});

	test('an empty body is no body, whatever its type says', async () => {
		for (const name of ['application/json', form, 'multipart/form-data', 'text/plain', 'image/png']) {
			assert.equal((await listener.post('/posted', '', type(name))).status, 202, name);
			const chunked = { ...type(name), 'transfer-encoding': 'chunked' };
			assert.equal((await listener.post('/posted', '', chunked)).status, 202, `${name} chunked`);
		}
	});

	test('brackets and dots in names of a form mean nothing', async () => {
		assert.equal(
			await printed('/show', { method: 'POST', body: 'role[x]=1&role.y=2&role=web', headers: type(form) }),
			'web||',
		);
	});

	test('a field that is named like something every object has is a field', async () => {
		const answer = await listener.post('/show?async=false', 'constructor=x&toString=y&role=web', type(form));
		assert.equal(answer.json.output.text, 'web||');
	});

	test('the query wins over the body, and the path over both', async () => {
		assert.equal(await printed('/show?role=query', { method: 'POST', body: { role: 'body' } }), 'query||');
		assert.equal(await printed('/of/path?role=query', { method: 'GET', body: { role: 'body' } }), 'path\n');
	});

	test('with stdin: body the command reads the exact bytes, whatever their type', async () => {
		const bytes = Buffer.from([0, 255, 10, 13, 128, 195]);
		for (const name of ['application/octet-stream', 'text/plain', 'image/png', form, undefined]) {
			const answer = await listener.post('/copy?async=false', bytes, name === undefined ? {} : type(name));
			assert.equal(answer.status, 200, answer.text);
			const copy = await fetch(`${listener.url}/-/runs/${answer.json.id}/output`, {
				headers: { accept: 'application/octet-stream' },
			});
			assert.deepEqual(Buffer.from(await copy.arrayBuffer()), bytes, name);
		}
	});

	test('with stdin: body what only looks like JSON or a file upload is taken all the same', async () => {
		assert.equal(
			await printed('/copy', { method: 'POST', body: '[section]\nkey=1\n', headers: type(form) }),
			'[section]\nkey=1\n',
		);
		const upload = '--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\ndata\r\n--b--\r\n';
		assert.equal(
			await printed('/copy', {
				method: 'POST',
				body: upload,
				headers: type('multipart/form-data; boundary=b'),
			}),
			upload,
		);
	});

	test('with stdin: body a compressed body is read decompressed', async () => {
		const headers = { ...type('text/plain'), 'content-encoding': 'gzip' };
		assert.equal(await printed('/copy', { method: 'POST', body: zlib.gzipSync('plain'), headers }), 'plain');
	});

	test('with stdin: body parameters are taken from JSON and forms as well', async () => {
		const answer = await listener.post('/copy?async=false', { role: 'web' });
		assert.deepEqual(answer.json.parameters, { role: 'web' });
		assert.equal(answer.json.output.text, '{"role":"web"}');
	});

	test('with stdin: body a form in another charset gives its bytes and no parameters', async () => {
		const body = Buffer.from('role=w\xfcb', 'latin1');
		const answer = await listener.post('/copy?async=false', body, type(`${form}; charset=iso-8859-1`));
		assert.deepEqual(answer.json.parameters, {});
		assert.equal(answer.json.output.size, body.length);
		assert.deepEqual((await listener.post('/copy?async=false', body, type(form))).json.parameters, {});
	});

	test('with stdin: parameters the command reads the checked parameters as JSON', async () => {
		const text = await printed('/parameters', { method: 'POST', body: { role: 'web', other: 'x' } });
		assert.deepEqual(JSON.parse(text), { role: 'web' });
	});
});

describe('waiting', () => {
	test('RK-V1: nobody waits unless it was asked for: 202 with the place of the run', async () => {
		const answer = await listener.get('/got');
		assert.equal(answer.status, 202);
		const [run] = answer.json.runs;
		assert.deepEqual(answer.json, {
			runs: [{ id: run.id, route: 'got', state: 'queued', url: `/-/runs/${run.id}` }],
		});
		assert.equal(answer.headers.location, run.url);
		assert.equal(answer.headers['cache-control'], 'no-store');
		assert.match(run.id, /^[0-9a-z]{26}$/);
	});

	test('PW-H1, PW-H2: ?async=false waits and answers 200 with exit code and output', async () => {
		const answer = await listener.get('/of/web?async=false');
		assert.equal(answer.status, 200);
		const { state, reason, exitCode, output, route, parameters } = answer.json;
		assert.deepEqual(
			{ state, reason, exitCode, text: output.text, size: output.size, route, parameters },
			{
				state: 'succeeded',
				reason: 'exit',
				exitCode: 0,
				text: 'web\n',
				size: 4,
				route: 'of/:role',
				parameters: { role: 'web' },
			},
		);
	});

	test('a run that failed is answered 500 with exit code and output', async () => {
		const answer = await listener.get('/fails?async=false');
		assert.equal(answer.status, 500);
		assert.equal(answer.json.state, 'failed');
		assert.equal(answer.json.exitCode, 3);
		assert.equal(answer.json.output.text, 'before\n');
		assert.match(answer.json.message, /exited with 3/);
	});

	test('a run that took too long is answered 504', async () => {
		const answer = await listener.get('/late?async=false');
		assert.equal(answer.status, 504);
		assert.equal(answer.json.reason, 'timeout');
	});

	test('a route can say that callers wait, and a caller that it does not', async () => {
		assert.equal((await listener.get('/waits')).json.output.text, 'waited\n');
		assert.equal((await listener.get('/waits?async=true')).status, 202);
		const answer = await listener.get('/waits', { prefer: 'respond-async' });
		assert.equal(answer.status, 202);
		assert.equal(answer.headers['preference-applied'], 'respond-async');
	});

	test('a wait that ends before the run is answered 202, and the run goes on', async () => {
		const file = `${listener.dir}/briefly`;
		const answer = await listener.get(`/briefly?file=${file}`);
		assert.equal(answer.status, 202);
		await listener.get(`/-/runs/${answer.json.runs[0].id}`);
		await letGo(file);
		assert.equal((await listener.ended(answer.json.runs[0].id)).state, 'succeeded');
	});

	test('Prefer: wait=N waits for so many seconds', async () => {
		const quick = await listener.get('/of/web', { prefer: 'wait=20' });
		assert.equal(quick.status, 200);
		assert.equal(quick.headers['preference-applied'], 'wait=20');
		const file = `${listener.dir}/prefer`;
		const answer = await listener.get(`/slow?file=${file}`, { prefer: 'respond-async, wait=0' });
		assert.equal(answer.status, 202);
		await letGo(file);
	});

	test('Prefer: wait=N is granted for at most an hour, and nonsense is ignored', async () => {
		assert.equal(
			(await listener.get('/got', { prefer: 'wait=999999' })).headers['preference-applied'],
			'wait=3600',
		);
		assert.equal((await listener.get('/got', { prefer: 'wait=soon, handling=lenient' })).status, 202);
		assert.equal((await listener.get('/got?async=true', { prefer: 'wait=5' })).status, 202);
	});

	test('TW-H3, TW-H8: any other value of async is answered 400 with what there is, and runs nothing', async () => {
		const before = await listener.runCount('got');
		for (const query of ['async=0', 'async=no', 'async', 'async=', 'async=False', 'async=false&async=true']) {
			assert.match(
				problem(await listener.get(`/got?${query}`), 400),
				/"async" in the query is true .* or false/,
			);
		}
		assert.equal(await listener.runCount('got'), before);
	});

	test('when a waiting caller goes away, the run goes on', async () => {
		const file = `${listener.dir}/gone`;
		const caller = new RawConnection(listener.port).write(
			`GET /slow?async=false&file=${file} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`,
		);
		const { id } = await until('the run', async () =>
			(await listener.get('/-/runs?route=slow&state=running')).json.runs.find(
				(run: { parameters: { file: string } }) => run.parameters.file === file,
			),
		);
		caller.socket.destroy();
		await letGo(file);
		assert.equal((await listener.ended(id)).state, 'succeeded');
	});

	test('TW-H4: where a busy route rejects, the second caller gets 409 with the reason', async () => {
		const file = `${listener.dir}/busy`;
		const first = await listener.get(`/busy?file=${file}`);
		assert.equal(first.status, 202);
		assert.match(problem(await listener.get(`/busy?file=${file}`), 409), /route "busy" is busy/);
		await letGo(file);
		await listener.ended(first.json.runs[0].id);
		assert.equal((await listener.get(`/busy?file=${file}`)).status, 202);
	});
});

describe('exact answers', () => {
	test('TW-H1, TW-H2, TW-H5: respond replaces the standard answers', async () => {
		const accepted = await listener.get('/twitch');
		assert.deepEqual([accepted.status, accepted.text], [202, 'Triggered puppet run']);
		assert.match(String(accepted.headers['content-type']), /^text\/plain/);
		assert.match(String(accepted.headers.location), /^\/-\/runs\//);

		const succeeded = await listener.get('/twitch?async=false', { accept: 'text/plain' });
		assert.deepEqual([succeeded.status, succeeded.text], [200, 'Puppet run complete']);
		assert.equal(succeeded.headers['x-site'], 'one');

		const failed = await listener.get('/twitch?async=false&code=1');
		assert.deepEqual([failed.status, failed.text], [502, 'Error running puppet']);
	});

	test('TW-H4: also the one of a busy route', async () => {
		const file = `${listener.dir}/twitch`;
		await listener.get(`/twitch/busy?file=${file}`);
		const busy = await listener.get(`/twitch/busy?file=${file}`);
		assert.deepEqual([busy.status, busy.text], [409, 'Puppet already running']);
		await letGo(file);
	});
});

describe('streams', () => {
	test('text/plain gives the bare output as it comes', async () => {
		const file = `${listener.dir}/text`;
		const caller = new RawConnection(listener.port).write(
			`GET /slow?async=false&file=${file} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/plain\r\nConnection: close\r\n\r\n`,
		);
		await until('the first line', () => caller.received.includes('first\n'));
		assert.doesNotMatch(caller.received, /last/);
		await letGo(file);
		const all = await caller.end();
		assert.match(all, /^HTTP\/1\.1 200 OK\r\n/);
		assert.match(all, /location: \/-\/runs\//i);
		assert.match(all, /last\n/);
		assert.doesNotMatch(all, /Run /);
	});

	test('text/plain says at its end that the run failed, on a line of its own', async () => {
		const answer = await listener.get('/progress?async=false', { accept: 'text/plain' });
		assert.match(answer.text, /^one\rtwo\nhalf\nRun failed: .*exited with 4\n$/);
	});

	test('text/plain says that the run goes on when the wait is over', async () => {
		const file = `${listener.dir}/goes-on`;
		const answer = await listener.get(`/briefly?file=${file}`, { accept: 'text/plain' });
		assert.match(answer.text, /^Run goes on: \/-\/runs\/[0-9a-z]{26}\n$/);
		await letGo(file);
	});

	test('an event stream gives each line of output as an event, and the run last', async () => {
		const answer = await listener.get('/progress?async=false', { accept: 'text/event-stream' });
		assert.equal(answer.status, 200);
		assert.match(String(answer.headers['content-type']), /^text\/event-stream/);
		const events = answer.text.split('\n\n').filter((event) => event !== '' && !event.startsWith(':'));
		assert.equal(events[0], 'event: output\nid: 8\ndata: one\ndata: two');
		assert.equal(events[1], 'event: output\nid: 12\ndata: half');
		const [, run] = /^event: run\nid: 12\ndata: (.*)$/.exec(events[2] ?? '') ?? [];
		assert.equal(JSON.parse(run ?? '').exitCode, 4);
		assert.equal(events.length, 3);
	});

	test('a browser that reconnects to an event stream does not run the route again', async () => {
		const before = await listener.runCount('progress');
		const answer = await listener.get('/progress?async=false', {
			accept: 'text/event-stream',
			'last-event-id': '12',
		});
		assert.equal(answer.status, 204);
		assert.equal(await listener.runCount('progress'), before);
	});

	test('without waiting, text/plain gets one line with the place of the run', async () => {
		const answer = await listener.get('/got', { accept: 'text/plain' });
		assert.equal(answer.status, 202);
		assert.match(answer.text, /^Run accepted: \/-\/runs\/[0-9a-z]{26}\n$/);
	});
});

describe('errors', () => {
	test('are plain text for whoever prefers that', async () => {
		const answer = await listener.get('/nowhere', { accept: 'text/plain' });
		assert.equal(answer.status, 404);
		assert.equal(answer.text, 'there is no route /nowhere\n');
		assert.match(String(answer.headers['content-type']), /^text\/plain/);
	});

	test('are problem documents for everybody else', async () => {
		for (const accept of [
			'*/*',
			'application/json',
			'application/problem+json, text/plain;q=0.5',
			'image/png',
		]) {
			problem(await listener.get('/nowhere', { accept }), 404);
		}
	});

	test('name the delivery, which the log names too', async () => {
		const { delivery } = (await listener.get('/nowhere?secret=hidden')).json;
		const line = await listener.logged('the delivery', (l) => l.delivery === delivery);
		assert.equal(line.message, 'delivery');
		assert.equal(line.status, 404);
		assert.equal(line.path, '/nowhere');
		assert.equal(line.client, '127.0.0.1');
	});

	test('RK-B3: the log shows no query, no header and no body', async () => {
		await listener.post(
			'/show?role=nowhere-query',
			{ version: 'nowhere-body', other: 'nowhere-other' },
			{ 'x-secret': 'nowhere-header' },
		);
		await listener.post('/show', '{"version": "nowhere-broken', { 'content-type': 'application/json' });
		await listener.logged('the delivery', (l) => l.message === 'delivery' && l.status === 400);
		const deliveries = listener.log().filter((line) => line.message === 'delivery');
		assert.doesNotMatch(JSON.stringify(deliveries), /nowhere-/);
	});
});

describe('web pages and proxies', () => {
	const refused: readonly [title: string, headers: http.OutgoingHttpHeaders][] = [
		['PW-B2: a page of another site', { 'sec-fetch-site': 'cross-site', origin: 'https://evil.example' }],
		['a page of another host of the same site', { 'sec-fetch-site': 'same-site' }],
		['an older browser on a page of another site', { origin: 'https://evil.example' }],
		['a sandboxed page', { origin: 'null' }],
		['PW-B2: a prefetched link', { 'sec-fetch-site': 'none', 'sec-purpose': 'prefetch' }],
	];
	for (const [title, headers] of refused) {
		test(`${title} runs nothing`, async () => {
			const before = await listener.runCount('got');
			problem(await listener.get('/got', headers), 403);
			assert.equal(await listener.runCount('got'), before);
		});
	}

	test('an address typed into a browser runs the route', async () => {
		assert.equal((await listener.get('/got', { 'sec-fetch-site': 'none' })).status, 202);
	});

	test('a route that says nothing about auth runs for programs of this host only', async () => {
		assert.match(
			problem(await listener.get('/got', { 'x-forwarded-for': '192.0.2.1' }), 403),
			/came through a proxy/,
		);
		assert.match(problem(await listener.get('/got', { host: 'rebound.example' }), 403), /localhost/);
		for (const host of ['localhost', `localhost:${listener.port}`, '127.0.0.1', '[::1]:6969', '10.1.2.3']) {
			assert.equal((await listener.get('/got', { host })).status, 202, host);
		}
	});

	test('a route that says "auth: none" runs for whoever comes by a proxy, but for no page of another site', async () => {
		const open = await startListener({
			routes: 'routes:\n  got: { method: get, auth: none, command: "true" }\n',
		});
		assert.equal(
			(await open.get('/got', { 'x-forwarded-for': '192.0.2.1', host: 'hooks.example' })).status,
			202,
		);
		assert.equal((await open.get('/got', { 'sec-fetch-site': 'cross-site' })).status, 403);
		assert.equal(
			(await open.get('/got', { origin: 'https://hooks.example', host: 'hooks.example' })).status,
			202,
		);
	});
});

/** Lets a command end that waits for the file. */
async function letGo(file: string): Promise<void> {
	const { writeFile } = await import('node:fs/promises');
	await writeFile(file, '');
}
