/** The listener's own endpoints below `/-/`: who may use them, and what they tell. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { allowedChanges, runReasons, runStates } from '../listener/runs/run.ts';
import { type Listener, root, startListener, until } from './helpers/listener.ts';
import { RawConnection } from './helpers/raw.ts';

const routes = `
routes:
  got: { method: get, description: Says nothing, command: "true" }
  deploy:
    params:
      environment: { required: true, enum: [qa, production] }
      role: { pattern: "[a-z]+", default: web, description: The role }
    wait: 2s
    command: [echo, "{{role}}"]
  fails: { method: get, command: "echo oh; exit 3" }
  slow: { method: get, params: { file: { pattern: ".*" } }, command: 'printf "grü"; sleep 0.2; printf "n ✓\\n"; while ! [ -e "$file" ]; do sleep 0.05; done; echo last' }
  binary: { method: get, command: 'printf "\\377\\000\\303\\274\\nend"' }
  large: { method: get, max_output: 2 KiB, command: 'i=0; while [ $i -lt 1000 ]; do echo "line $i"; i=$((i+1)); done' }
  sleeps: { method: get, timeout: 1m, kill_after: 1s, command: "echo begun; sleep 60" }
  queued: { method: get, concurrency: { group: sleeps }, command: "true" }
`;

let listener: Listener;
before(async () => {
	listener = await startListener({ routes });
});

async function ran(route: string): Promise<string> {
	return (await listener.get(`/${route}?async=false`)).json.id;
}

describe('who may use the endpoints', () => {
	const refused: readonly [title: string, headers: http.OutgoingHttpHeaders][] = [
		['a proxy passed on (X-Forwarded-For)', { 'x-forwarded-for': '127.0.0.1' }],
		['a proxy passed on (Forwarded)', { forwarded: 'for=127.0.0.1' }],
		['a proxy passed on (X-Real-IP)', { 'x-real-ip': '127.0.0.1' }],
		['a proxy passed on (Via)', { via: '1.1 proxy' }],
		['a name brought about that means 127.0.0.1', { host: 'rebound.example' }],
		['a web page sent', { origin: 'https://evil.example' }],
		['a link of a web page brought about', { 'sec-fetch-site': 'cross-site' }],
	];
	for (const [title, headers] of refused) {
		test(`a request that ${title} is answered 403, whatever it asks for`, async () => {
			for (const [method, url] of [
				['GET', '/-/runs'],
				['GET', '/-/nowhere'],
				['POST', '/-/reload'],
				['OPTIONS', '/-/runs'],
				['DELETE', '/-/runs'],
			] as const) {
				const answer = await listener.request(url, { method, headers });
				assert.equal(answer.status, 403, `${method} ${url}`);
				assert.equal(answer.json.code, 'ERR_FORBIDDEN');
			}
		});
	}

	test('a caller on another host is answered 403', async () => {
		const { default: os } = await import('node:os');
		const own = Object.values(os.networkInterfaces())
			.flatMap((all) => all ?? [])
			.find(({ internal, family }) => !internal && family === 'IPv4')?.address;
		const open = await startListener({
			routes: `listen: { address: 0.0.0.0, port: 0 }\ndefaults: { auth: none }\n${routes}`,
		});
		if (own === undefined) return;
		// A call to this host's own outer address comes from that address.
		const { send } = await import('./helpers/listener.ts');
		const answer = await send({ host: own, port: open.port }, '/-/runs');
		assert.equal(answer.status, 403);
		assert.match(answer.json.detail, /programs of this host only/);
		assert.equal((await send({ host: own, port: open.port }, '/got')).status, 202);
	});
});

describe('whether it is well', () => {
	test('healthy and ready answer 200', async () => {
		assert.deepEqual((await listener.get('/-/healthy')).json, { status: 'healthy' });
		assert.deepEqual((await listener.get('/-/ready')).json, { status: 'ready' });
		assert.equal((await listener.request('/-/healthy', { method: 'HEAD' })).status, 200);
	});

	test('an endpoint that there is not, or not for this method, is answered 404 or 405', async () => {
		assert.equal((await listener.get('/-/nowhere')).json.detail, 'there is no endpoint /-/nowhere');
		assert.equal((await listener.get('/-')).status, 404);
		assert.equal((await listener.get('/-/')).status, 404);
		const wrong = await listener.get('/-/reload');
		assert.equal(wrong.status, 405);
		assert.equal(wrong.headers.allow, 'POST');
		assert.equal((await listener.request('/-/nowhere', { method: 'PROPFIND' })).status, 404);
		const options = await listener.request('/-/runs', { method: 'OPTIONS' });
		assert.match(String(options.headers.allow), /GET/);
	});

	test('a run that there is not is answered 404', async () => {
		for (const url of ['/-/runs/none', '/-/runs/none/output', '/-/runs/%00', `/-/runs/${'0'.repeat(26)}`]) {
			assert.equal((await listener.get(url)).status, 404, url);
		}
		assert.equal((await listener.post('/-/runs/none/cancel')).status, 404);
	});

	test('polling is logged for those who look for it only', async () => {
		await listener.get('/-/healthy');
		const line = await listener.logged('it', (l) => l.message === 'endpoint' && l.path === '/-/healthy');
		assert.equal(line.level, 'debug');
	});
});

describe('reload', () => {
	test('takes up the files and says how many routes there are', async () => {
		const own = await startListener({ routes });
		fs.appendFileSync(own.config, '  added: { method: get, command: "true" }\n');
		const answer = await own.post('/-/reload');
		assert.equal(answer.status, 200);
		assert.equal(answer.json.routes, 9);
		assert.deepEqual(
			answer.json.files.map((file: string) => path.basename(file)),
			['routes.yaml'],
		);
		assert.equal((await own.get('/added')).status, 202);
	});

	test('is refused with every fault and its place, and the old routes go on', async () => {
		const own = await startListener({ routes });
		fs.writeFileSync(
			own.config,
			'listen: { port: 0 }\nroutes:\n  got: { method: get, comand: "true" }\n  x: { command: 5 }\n',
		);
		const answer = await own.post('/-/reload');
		assert.equal(answer.status, 422);
		assert.equal(answer.json.code, 'ERR_CONFIG');
		assert.ok(answer.json.faults.length >= 2);
		for (const fault of answer.json.faults) {
			assert.match(fault.file, /routes\.yaml$/);
			assert.ok(fault.line > 0 && fault.column > 0);
		}
		assert.ok(
			answer.json.faults.some(({ message }: { message: string }) => /did you mean "command"/.test(message)),
		);
		const text = await own.request('/-/reload', { method: 'POST', headers: { accept: 'text/plain' } });
		assert.match(text.text, /routes\.yaml:3:\d+: /);
		assert.equal((await own.get('/deploy', {})).status, 405);
		assert.equal((await own.get('/got')).status, 202);
	});

	test('takes up other limits for bodies', async () => {
		const listen = (most: string) => `listen: { port: 0, max_body: ${most} }\n`;
		const own = await startListener({ routes: listen('10 B') + routes });
		assert.equal((await own.post('/deploy', { environment: 'qa' })).status, 413);
		fs.writeFileSync(own.config, listen('1 KiB') + routes);
		assert.equal((await own.post('/-/reload')).status, 200);
		assert.equal((await own.post('/deploy', { environment: 'qa' })).status, 200);
	});

	test('drops no request', async () => {
		const own = await startListener({ routes });
		const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
		let going = true;
		const statuses = new Map<number | undefined, number>();
		const callers = Array.from({ length: 4 }, async () => {
			while (going) {
				const status = await new Promise<number | undefined>((resolve, reject) => {
					http
						.get(`${own.url}/got`, { agent }, (response) =>
							response.resume().on('end', () => resolve(response.statusCode)),
						)
						.on('error', reject);
				});
				statuses.set(status, (statuses.get(status) ?? 0) + 1);
			}
		});
		for (let i = 0; i < 10; i++) assert.equal((await own.post('/-/reload')).status, 200);
		going = false;
		await Promise.all(callers);
		agent.destroy();
		assert.deepEqual([...statuses.keys()], [202]);
	});
});

describe('routes', () => {
	test('are told with what callers need to know, and nothing of what they run', async () => {
		const answer = await listener.get('/-/routes');
		const deploy = answer.json.routes.find((route: { name: string }) => route.name === 'deploy');
		assert.deepEqual(deploy, {
			name: 'deploy',
			path: '/deploy',
			methods: ['POST'],
			description: '',
			auth: ['local'],
			wait: 2000,
			parameters: [
				{
					name: 'environment',
					description: '',
					required: true,
					secret: false,
					type: 'string',
					default: null,
					pattern: null,
					enum: ['qa', 'production'],
				},
				{
					name: 'role',
					description: 'The role',
					required: false,
					secret: false,
					type: 'string',
					default: 'web',
					pattern: '[a-z]+',
					enum: null,
				},
			],
		});
		assert.doesNotMatch(answer.text, /echo|printf/);
	});
});

describe('runs', () => {
	test('a run is told with its times, parameters and outcome', async () => {
		const id = await ran('fails');
		const run = (await listener.get(`/-/runs/${id}`)).json;
		for (const time of [run.acceptedAt, run.startedAt, run.endedAt]) {
			assert.equal(new Date(time).toISOString(), time);
		}
		assert.match(run.delivery, /^[0-9a-z]{26}$/);
		assert.deepEqual(
			{ ...run, acceptedAt: 0, startedAt: 0, endedAt: 0, delivery: 0, message: 0 },
			{
				id,
				route: 'fails',
				group: 'fails',
				delivery: 0,
				state: 'failed',
				reason: 'exit',
				exitCode: 3,
				signal: null,
				message: 0,
				attempt: 1,
				waitsFor: null,
				nextAttemptAt: null,
				parameters: {},
				acceptedAt: 0,
				startedAt: 0,
				endedAt: 0,
				output: { size: 3, url: `/-/runs/${id}/output` },
				url: `/-/runs/${id}`,
			},
		);
		assert.match(run.message, /exited with 3/);
	});

	test('are listed newest first, page by page, by route and state', async () => {
		const ids: string[] = [];
		for (let i = 0; i < 5; i++) ids.unshift(await ran('fails'));
		const listed: string[] = [];
		let next: string | null = '/-/runs?route=fails&state=failed&limit=2';
		for (let pages = 0; next !== null && pages < 20; pages++) {
			const page: { runs: { id: string; route: string; state: string }[]; next: string | null } = (
				await listener.get(next)
			).json;
			assert.ok(page.runs.every(({ route, state }) => route === 'fails' && state === 'failed'));
			listed.push(...page.runs.map(({ id }) => id));
			next = page.next;
		}
		assert.deepEqual(listed.slice(0, 5), ids);
		assert.equal(new Set(listed).size, listed.length);
		assert.deepEqual((await listener.get('/-/runs?route=nowhere')).json, { runs: [], next: null });
	});

	test('a filter that is wrong is named in a 422', async () => {
		for (const [query, name] of [
			['limit=0', 'limit'],
			['limit=201', 'limit'],
			['limit=x', 'limit'],
			['state=done', 'state'],
			['before=-1', 'before'],
			['route=a&route=b', 'route'],
		]) {
			const answer = await listener.get(`/-/runs?${query}`);
			assert.equal(answer.status, 422, query);
			assert.equal(answer.json.parameters[0].parameter, name);
		}
	});
});

describe('output', () => {
	const output = (id: string, query = '', headers: http.OutgoingHttpHeaders = {}) =>
		listener.get(`/-/runs/${id}/output${query}`, headers);

	test('is text, which nobody takes for a page', async () => {
		const answer = await output(await ran('fails'));
		assert.equal(answer.text, 'oh\n');
		assert.equal(answer.headers['content-type'], 'text/plain; charset=utf-8');
		assert.equal(answer.headers['x-content-type-options'], 'nosniff');
		assert.equal(answer.headers['cache-control'], 'no-store');
	});

	test('begins where it is asked to', async () => {
		const id = await ran('fails');
		assert.equal((await output(id, '?from=1')).text, 'h\n');
		assert.equal((await output(id, '?from=3')).text, '');
		assert.equal((await output(id, '?from=99')).text, '');
		for (const from of ['-1', 'x', '1.5', ''])
			assert.equal((await output(id, `?from=${from}`)).status, 422, from);
		assert.equal((await output(id, '?follow=yes')).status, 422);
	});

	test('is told byte for byte to who asks for bytes, and as text with what is no text replaced', async () => {
		const id = await ran('binary');
		const bytes = await fetch(`${listener.url}/-/runs/${id}/output`, {
			headers: { accept: 'application/octet-stream' },
		});
		assert.deepEqual(Buffer.from(await bytes.arrayBuffer()), Buffer.from('\xff\0\xc3\xbc\nend', 'latin1'));
		assert.equal((await output(id)).text, '\ufffd\0ü\nend');
	});

	test('of which a part was not kept says so where it is missing', async () => {
		const id = await ran('large');
		const { output: told } = (await listener.get(`/-/runs/${id}`)).json;
		assert.equal(told.size, 8890);
		const { text } = await output(id);
		assert.match(text, /^line 0\nline 1\n/);
		assert.match(text, /\nline 998\nline 999\n$/);
		assert.match(text, new RegExp(`\\n\\[… ${8890 - 2048} bytes were not kept …\\]\\n`));
	});

	test('is followed while it grows, and no character is torn', async () => {
		const file = path.join(listener.dir, 'follow');
		const { id } = (await listener.get(`/slow?file=${file}`)).json.runs[0];
		const text = new RawConnection(listener.port).write(
			`GET /-/runs/${id}/output?follow=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`,
		);
		const events = new RawConnection(listener.port).write(
			`GET /-/runs/${id}/output HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n`,
		);
		const whole = Buffer.from('grün ✓\n').toString('latin1');
		await until('the first line as an event', () =>
			events.received.includes(`event: output\nid: 10\ndata: ${whole}`),
		);
		fs.writeFileSync(file, '');
		const [asText, asEvents] = [await text.end(), await events.end()];
		assert.match(asText.replaceAll(/\r\n[0-9a-f]+\r\n/g, ''), new RegExp(`${whole}last\\n`));
		assert.doesNotMatch(asText, /\xef\xbf\xbd/);
		assert.match(asEvents, /event: output\nid: 15\ndata: last\n\n/);
		assert.match(asEvents, /event: run\nid: 15\ndata: \{.*"state":"succeeded"/);
	});

	test('an event stream goes on after the last event that arrived, and 204 ends it for good', async () => {
		const id = await ran('fails');
		const stream = { accept: 'text/event-stream' };
		assert.match(
			(await output(id, '', stream)).text,
			/^event: output\nid: 3\ndata: oh\n\nevent: run\nid: 3\n/,
		);
		assert.match(
			(await output(id, '', { ...stream, 'last-event-id': '1' })).text,
			/^event: output\nid: 3\ndata: h\n\n/,
		);
		assert.equal((await output(id, '', { ...stream, 'last-event-id': '3' })).status, 204);
	});

	test('HEAD of it tells that it is there', async () => {
		const answer = await listener.request(`/-/runs/${await ran('fails')}/output`, { method: 'HEAD' });
		assert.equal(answer.status, 200);
		assert.equal(answer.text, '');
	});
});

describe('cancel', () => {
	test('ends a running run and one that is queued, and says so to who waits', async () => {
		const running = (await listener.get('/sleeps')).json.runs[0].id;
		await until('it to run', async () => (await listener.run(running)).state === 'running');
		const queued = (await listener.get('/queued')).json.runs[0].id;
		const waiting = new RawConnection(listener.port).write(
			'GET /queued?async=false HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
		);

		assert.equal((await listener.post(`/-/runs/${queued}/cancel`)).json.state, 'cancelled');
		assert.equal((await listener.run(queued)).reason, 'caller');
		const last = await until('the waiting caller', async () => {
			const [run] = (await listener.get('/-/runs?route=queued&state=queued')).json.runs;
			return run;
		});
		assert.equal((await listener.post(`/-/runs/${last.id}/cancel`)).status, 200);
		assert.match(await waiting.end(), /^HTTP\/1\.1 500 [\s\S]*"state":"cancelled"/);

		assert.equal((await listener.post(`/-/runs/${running}/cancel`)).status, 200);
		const ended = await listener.ended(running);
		assert.deepEqual([ended.state, ended.reason], ['cancelled', 'caller']);
		const again = await listener.post(`/-/runs/${running}/cancel`);
		assert.equal(again.status, 409);
		assert.equal(again.json.code, 'ERR_CONFLICT');
	});
});

describe('docs/runs.md', () => {
	const page = fs.readFileSync(path.join(root, 'docs/runs.md'), 'utf8');
	/** The first cells of the table below a heading, and the second ones. */
	const table = (heading: string) =>
		(page.split(`### ${heading}\n`)[1] ?? '')
			.split('\n## ')[0]!
			.split('\n### ')[0]!
			.split('\n')
			.filter((line) => line.startsWith('| `'))
			.map((line) =>
				line
					.split('|')
					.map((cell) => cell.trim())
					.slice(1, 3),
			);
	const names = (cell = '') => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name);

	test('has the states and their changes as they are', () => {
		const rows = table('States').map(([state, next]) => [names(state)[0], names(next)]);
		assert.deepEqual(
			rows,
			runStates.map((state) => [state, [...allowedChanges[state]]]),
		);
	});

	test('has the reasons as they are', () => {
		assert.deepEqual(
			table('Reasons').map(([reason]) => names(reason)[0]),
			[...runReasons],
		);
	});
});
