/** What a manifest says is what is sent, byte for byte: real `puppet apply` against a server that keeps what it receives. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { puppetApply, puppetTest, type Received, standIn } from '../helpers/puppet.ts';

function only(received: readonly Received[], url: string): Received {
	const found = received.filter((one) => one.url === url);
	assert.equal(found.length, 1, `${url} was called ${found.length} times`);
	return found[0]!;
}

puppetTest('a manifest says what is sent', async (t) => {
	const server = await standIn();
	const ran = await puppetApply(`
		Http { fqdn => '127.0.0.1', port => ${server.port} }

		http { 'kick': ensure => get }
		http { 'deploy':
			ensure => post,
			port   => '${server.port}',
			data   => {
				'role'   => 'web',
				'count'  => 3,
				'ratio'  => 2.5,
				'live'   => true,
				'none'   => undef,
				'nested' => { 'facts' => [1, { 'deep' => 'ü"\\'$x' }] },
			},
		}
		http { 'query?x=1&y=a%20b': ensure => post, data => { 'a' => 1 } }
		http { 'bare': ensure => post }
		http { 'raw': data => "a=1&b=2", header => 'application/x-www-form-urlencoded' }
		http { 'headers': header => { 'X-Token' => 't', 'Accept' => 'text/plain' } }
		http { 'body on get': ensure => get, route => 'search', data => ['a', 1] }
		http { 'put': ensure => put, data => 'p', header => 'text/plain' }
		http { 'patch': ensure => patch, data => {} }
		http { 'delete': ensure => delete }
		http { 'head': ensure => head }
	`);
	assert.equal(ran.code, 2, ran.stderr);
	assert.equal(server.received.length, 11);

	await t.test('PW-T1: get is a GET of the route, which is the title, without a body', () => {
		const { method, headers, body } = only(server.received, '/kick');
		assert.deepEqual(
			[method, headers.host, body, headers['content-type']],
			['GET', `127.0.0.1:${server.port}`, '', undefined],
		);
		assert.match(String(headers['user-agent']), /^Puppet\//);
	});

	await t.test('PW-T2, PW-T8: post sends data as JSON, nested values and whole numbers as they are', () => {
		const { method, headers, body } = only(server.received, '/deploy');
		assert.deepEqual([method, headers['content-type']], ['POST', 'application/json']);
		assert.equal(
			body,
			'{"role":"web","count":3,"ratio":2.5,"live":true,"none":null,"nested":{"facts":[1,{"deep":"ü\\"\'$x"}]}}',
		);
	});

	await t.test('PW-T14: the query string survives a POST', () => {
		assert.equal(only(server.received, '/query?x=1&y=a%20b').body, '{"a":1}');
	});

	await t.test('PW-T13: without data there is no body and no content type', () => {
		const { method, headers, body } = only(server.received, '/bare');
		assert.deepEqual(
			[method, headers['content-length'], headers['content-type'], headers['transfer-encoding'], body],
			['POST', '0', undefined, undefined, ''],
		);
	});

	await t.test('PW-T6: header sets the content type of a text, or any headers', () => {
		const raw = only(server.received, '/raw');
		assert.deepEqual(
			[raw.method, raw.headers['content-type'], raw.body],
			['POST', 'application/x-www-form-urlencoded', 'a=1&b=2'],
		);
		const { headers } = only(server.received, '/headers');
		assert.deepEqual([headers['x-token'], headers.accept], ['t', 'text/plain']);
	});

	await t.test('PW-T7: the other methods are sent as they are called', () => {
		const methods = ['/search', '/put', '/patch', '/delete', '/head'].map((url) => {
			const { method, body } = only(server.received, url);
			return `${method} ${body}`.trim();
		});
		assert.deepEqual(methods, ['GET ["a",1]', 'PUT p', 'PATCH {}', 'DELETE', 'HEAD']);
	});

	await t.test('the report says what was sent and what was answered', () => {
		assert.match(
			ran.stdout,
			new RegExp(`Http\\[deploy\\]/ensure: sent POST http://127.0.0.1:${server.port}/deploy: 200 OK`),
		);
	});
});

puppetTest(
	'an answer that is no success fails the resource with the reason and skips its dependents',
	async (t) => {
		const problem = { 'content-type': 'application/problem+json' };
		const server = await standIn(({ url, method }) => {
			switch (url) {
				case '/422':
					return { status: 422, headers: problem, body: '{"detail":"parameter \\"role\\" is missing"}' };
				case '/500':
					return { status: 500, body: 'first line\nsecond line\n' };
				case '/moved':
					return { status: 307, headers: { location: '/target' } };
				case '/target':
					return { status: method === 'POST' ? 202 : 405 };
				case '/circle':
					return { status: 302, headers: { location: '/circle' } };
				case '/elsewhere':
					return { status: 302, headers: { location: 'http://localhost/' } };
				case '/303':
					return { status: 303, headers: { location: '/target' } };
				case '/later':
					return {
						status: 503,
						headers: { 'retry-after': '1800', ...problem },
						body: '{"detail":"shutting down"}',
					};
				case '/hang':
					return undefined;
				default:
					return { status: Number(url.slice(1)) };
			}
		});
		const started = Date.now();
		const ran = await puppetApply(`
		Http { fqdn => '127.0.0.1', port => ${server.port} }

		http { '422': } -> notify { 'after 422': }
		http { '500': }
		http { 'moved': data => { 'a' => 1 } }
		http { 'circle': }
		http { 'elsewhere': }
		http { '303': }
		http { 'later': }
		http { 'hang': timeout => 0.5 }
		http { 'missing is fine': route => '404', returns => [200, '404-410'] }
		http { '201': returns => 202 }
		http { 'nobody there': route => 'kick', port => 1 }
	`);
		assert.equal(ran.code, 6, ran.stderr);
		const why = (title: string) =>
			ran.stderr.match(new RegExp(`Http\\[${title}\\]/ensure: .*? failed: (.*)`))?.[1];
		const at = `http://127.0.0.1:${server.port}`;

		await t.test(
			'PW-B3: a status of 4xx or 5xx, with the detail of a problem document or the first line',
			() => {
				assert.equal(
					why('422'),
					`GET ${at}/422: 422 Unprocessable Entity instead of 200-299: parameter "role" is missing`,
				);
				assert.equal(why('500'), `GET ${at}/500: 500 Internal Server Error instead of 200-299: first line`);
				assert.match(ran.stderr, /Notify\[after 422\]: Skipping because of failed dependencies/);
			},
		);

		await t.test('a status that returns does not list', () => {
			assert.equal(why('201'), `GET ${at}/201: 201 Created instead of 202`);
			assert.match(ran.stdout, /Http\[missing is fine\]\/ensure: sent GET .*: 404 Not Found/);
		});

		await t.test('PW-T12: a redirect that does not end well; one that does keeps method and body', () => {
			assert.match(ran.stdout, /Http\[moved\]\/ensure: sent POST .*: 202 Accepted/);
			assert.deepEqual(
				server.received.filter(({ url }) => url === '/target').map(({ method, body }) => [method, body]),
				[['POST', '{"a":1}']],
			);
			assert.equal(why('circle'), `GET ${at}/circle: more than 20 redirects`);
			assert.match(
				String(why('elsewhere')),
				/it redirects to http:\/\/localhost\/, which leaves http:\/\/127\.0\.0\.1/,
			);
			assert.equal(why('303'), `GET ${at}/303: 303 See Other instead of 200-299`);
		});

		await t.test('PW-T11: a listener that is down', () => {
			assert.match(
				String(why('nobody there')),
				/^GET http:\/\/127\.0\.0\.1:1\/kick: failed after .*: .*Connection refused/,
			);
		});

		await t.test('PW-T18: an answer that does not come in time', () => {
			assert.equal(why('hang'), `GET ${at}/hang: no answer within 0.5 seconds (timeout)`);
		});

		await t.test(
			'a listener that asks to come back later, without the Puppet run sleeping until then',
			() => {
				assert.equal(
					why('later'),
					`GET ${at}/later: 503 Service Unavailable instead of 200-299: shutting down: it asks to try again after 1800 seconds`,
				);
				assert.ok(Date.now() - started < 60_000);
			},
		);
	},
);

/** Every file below a directory, with its text. */
function filesBelow(dir: string): { file: string; text: string }[] {
	return fs
		.readdirSync(dir, { recursive: true, withFileTypes: true })
		.filter((entry) => entry.isFile())
		.map((entry) => path.join(entry.parentPath, entry.name))
		.map((file) => ({ file, text: fs.readFileSync(file, 'latin1') }));
}

puppetTest('PW-T15: Sensitive values are sent in clear and shown nowhere', async (t) => {
	const server = await standIn(({ url, body, headers }) => {
		if (url === '/echo') return { status: 500, body: `got ${body} and ${headers.authorization}` };
		if (url.startsWith('/hook')) return { status: 404, body: `no route at ${url}` };
		return { status: 200, body };
	});
	const manifest = `
		Http { fqdn => '127.0.0.1', port => ${server.port} }

		http { 'nested':
			data   => { 'user' => 'deployer', 'auth' => [{ 'token' => Sensitive('hushNested') }] },
			header => { 'Authorization' => Sensitive('Bearer hushHeader') },
		}
		http { 'whole hash': route => 'whole', data => Sensitive({ 'token' => 'hushWhole', 'pin' => 47118151623 }) }
		http { 'whole text': route => 'text', data => Sensitive('a=hushText'), header => 'text/plain' }
		http { 'echo':
			data   => { 'token' => Sensitive('hush"Echo') },
			header => { 'Authorization' => Sensitive('Bearer hushHeader') },
		}
		http { 'password': user => 'deployer', password => 'hushPassword', unless => 'hook/1', once => true }
		http { 'token': token => Sensitive('hushToken'), onlyif => { 'route' => 'x', 'body' => Sensitive('hushBody|') } }
		http { 'signed': data => { 'pin' => Sensitive('hushPin') }, hmac => 'hushHmac', once => true }
		http { 'in the url': fqdn => undef, port => undef, url => Sensitive('http://127.0.0.1:${server.port}/hook/hushUrl?x=1') }
		http { 'refused': fqdn => undef, port => undef, url => Sensitive('http://hushHost.invalid/hushPath'), timeout => 5, tries => 2, try_sleep => 0 }
		http { 'in the route': route => Sensitive('hook?token=hushRoute') }
		http { 'late':
			data   => { 'token' => Deferred('new', [Sensitive, 'hushLate']) },
			header => Deferred('new', [Sensitive, { 'X-Token' => 'hushLateHeader' }]),
		}
	`;
	const options = ['--debug', '--verbose', '--trace', '--http_debug', '--logdest', 'console'];

	for (const late of ['--preprocess_deferred', '--no-preprocess_deferred']) {
		server.received.length = 0;
		const ran = await puppetApply(manifest, { options: [...options, late] });
		assert.equal(ran.code, 6, ran.stderr);

		await t.test(`${late}: they arrive`, () => {
			assert.equal(
				only(server.received, '/nested').body,
				'{"user":"deployer","auth":[{"token":"hushNested"}]}',
			);
			assert.equal(only(server.received, '/nested').headers.authorization, 'Bearer hushHeader');
			assert.equal(only(server.received, '/whole').body, '{"token":"hushWhole","pin":47118151623}');
			assert.equal(only(server.received, '/text').body, 'a=hushText');
			assert.equal(only(server.received, '/hook?token=hushRoute').method, 'GET');
			assert.equal(only(server.received, '/hook/hushUrl?x=1').method, 'GET');
			assert.equal(only(server.received, '/token').headers.authorization, 'Bearer hushToken');
			assert.equal(
				only(server.received, '/password').headers.authorization,
				`Basic ${Buffer.from('deployer:hushPassword').toString('base64')}`,
			);
			assert.equal(only(server.received, '/late').body, '{"token":"hushLate"}');
			assert.equal(only(server.received, '/late').headers['x-token'], 'hushLateHeader');
		});

		await t.test(`${late}: no output, state, report or log has them`, () => {
			assert.match(ran.stderr, /got \{"token":"\[redacted\]"\} and \[redacted\]/);
			assert.match(
				ran.stderr,
				/GET http:\/\/[^ ]*\/\[redacted\]: 404 Not Found instead of 200-299: \[redacted\]/,
			);
			const shown = [
				{ file: 'output', text: ran.stdout + ran.stderr },
				...filesBelow(path.join(ran.dir, 'var')),
			];
			for (const name of ['last_run_report.yaml', 'webhook_http.json']) {
				assert.ok(shown.some(({ file }) => file.endsWith(name)));
			}
			for (const { file, text } of shown) {
				// The manifest itself is an argument that Puppet logs nowhere.
				assert.doesNotMatch(text, /hush|47118151623/, file);
			}
			assert.doesNotMatch(ran.stderr, /Unable to mark/);
		});
	}
});

puppetTest('PW-B10: the same route on two hosts, and twice on one, in one catalog', async () => {
	const [one, two] = [await standIn(), await standIn()];
	const ran = await puppetApply(`
		http { 'a': route => 'x', fqdn => '127.0.0.1', port => ${one.port} }
		http { 'b': route => 'x', fqdn => 'localhost', port => ${two.port} }
		http { 'c': route => 'x', fqdn => '127.0.0.1', port => ${one.port} }
	`);
	assert.equal(ran.code, 2, ran.stderr);
	assert.deepEqual(
		[one, two].map(({ received }) => received.map(({ url }) => url)),
		[['/x', '/x'], ['/x']],
	);
});

puppetTest('PW-T5: what the type does not know is refused before anything is sent', async () => {
	const server = await standIn();
	const ran = await puppetApply(`
		http { 'first': fqdn => '127.0.0.1', port => ${server.port} }
		http { 'kick': ensure => present, fqdn => '127.0.0.1', port => ${server.port} }
	`);
	assert.equal(ran.code, 1);
	assert.match(ran.stderr, /Invalid value "present". Valid values are get, post/);
	assert.equal(server.received.length, 0);
});
