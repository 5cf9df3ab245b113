/** Callers that are slow, many, or in no hurry: the others are answered all the same, and soon. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Answer, type Listener, send, startListener, until } from './helpers/listener.ts';

/**
 * Milliseconds within which a caller is answered. A second is what is promised; a machine that has other tests to do besides
 * may be three times as slow.
 */
const soon = 3000;

const token = 'limits-t0ken';
const authorization = { authorization: `Bearer ${token}` };

const routes = (listen: string, more = '') => `
listen: { address: [127.0.0.1, 127.0.0.2], port: 0, ${listen} }
auth: { ci: { bearer: ${token} } }
defaults: { rate: { failures: 1000000/s } }
routes:
  open: { command: ":", concurrency: { when_busy: coalesce } }
  guarded: { auth: ci, command: ":", concurrency: { when_busy: coalesce } }
${more}`;

/** Connections from which nothing more comes unless it is written. */
class Crowd {
	readonly port: number;
	readonly sockets: net.Socket[] = [];
	/** Those that the other side has closed. */
	closed = 0;
	received = '';

	constructor(port: number) {
		this.port = port;
	}

	/** Opens so many more, some at a time, as the kernel keeps only so many waiting. */
	async open(count: number, first = ''): Promise<void> {
		for (let left = count; left > 0; left -= 200) {
			await Promise.all(Array.from({ length: Math.min(200, left) }, () => this.#one(first)));
		}
	}

	async #one(first: string): Promise<void> {
		const socket = net.connect(this.port, '127.0.0.1');
		this.sockets.push(socket);
		socket.on('error', () => {});
		socket.setEncoding('latin1').on('data', (text: string) => (this.received += text));
		socket.on('close', () => this.closed++);
		await new Promise((resolve) => socket.once('connect', resolve).once('close', resolve));
		if (first !== '') socket.write(first);
	}

	write(bytes: string): void {
		for (const socket of this.sockets) if (socket.writable) socket.write(bytes);
	}

	leave(): void {
		for (const socket of this.sockets) socket.destroy();
	}
}

/** Sends, and expects the answer soon. */
async function prompt(listener: Listener, where: string, status: number, headers = {}): Promise<Answer> {
	const begun = performance.now();
	const answer = await listener.request(where, { method: where.startsWith('/-/') ? 'GET' : 'POST', headers });
	const ms = performance.now() - begun;
	assert.equal(answer.status, status, answer.text);
	assert.ok(ms < soon, `${where} was answered after ${Math.round(ms)} ms`);
	return answer;
}

async function othersAreServed(listener: Listener): Promise<void> {
	for (let round = 0; round < 5; round++) {
		await prompt(listener, '/open', 202);
		await prompt(listener, '/guarded', 202, authorization);
		await prompt(listener, '/guarded', 401);
		await prompt(listener, '/-/healthy', 200);
	}
}

function memoryOf({ process: { pid } }: Listener): number {
	return Number(/^VmRSS:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) * 1024;
}

const half = 'POST /guarded HTTP/1.1\r\nHost: 127.0.0.1\r\n';

describe('RK-B5, RK-V9, TW-B9, FX-B13, PG-B10: others are answered soon', () => {
	test('beside 500 callers that send a header byte by byte, who get 408 when their time is over', async () => {
		const listener = await startListener({ routes: routes('header_timeout: 3s') });
		const crowd = new Crowd(listener.port);
		await crowd.open(500, `${half}X-`);
		const drip = setInterval(() => crowd.write('a'), 300);
		await othersAreServed(listener);
		await until('all to be refused', () => crowd.closed === 500);
		clearInterval(drip);
		assert.equal([...crowd.received.matchAll(/^HTTP\/1\.1 408 /gm)].length, 500);
		await othersAreServed(listener);
	});

	test('beside 500 callers that send a body byte by byte, who get 408 when their time is over', async () => {
		const listener = await startListener({ routes: routes('body_timeout: 3s') });
		const crowd = new Crowd(listener.port);
		await crowd.open(500, `${half}Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{`);
		const drip = setInterval(() => crowd.write(' '), 300);
		await othersAreServed(listener);
		await until('all to be refused', () => crowd.closed === 500);
		clearInterval(drip);
		assert.equal([...crowd.received.matchAll(/^HTTP\/1\.1 408 /gm)].length, 500);
		await othersAreServed(listener);
	});

	test('beside 500 callers that do not take their answers', async () => {
		const listener = await startListener({ routes: routes('body_timeout: 3s') });
		const crowd = new Crowd(listener.port);
		await crowd.open(500);
		for (const socket of crowd.sockets) socket.pause();
		crowd.write('GET /-/routes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'.repeat(20));
		await othersAreServed(listener);
		crowd.leave();
		await othersAreServed(listener);
	});

	test('beside 5,000 connections that are idle, which cost little', async () => {
		const listener = await startListener({ routes: routes('') });
		await othersAreServed(listener);
		const before = memoryOf(listener);
		const crowd = new Crowd(listener.port);
		// Half of them have asked something once.
		await crowd.open(2500);
		await crowd.open(2500, 'GET /-/healthy HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n');
		await until('the answers', () => [...crowd.received.matchAll(/^HTTP\/1\.1 200 /gm)].length === 2500);
		await othersAreServed(listener);
		assert.equal(crowd.closed, 0);
		const each = (memoryOf(listener) - before) / 5000;
		assert.ok(each < 100 * 1024, `a connection costs ${Math.round(each / 1024)} KB`);
		crowd.leave();
		await othersAreServed(listener);
	});

	test('beside large bodies of callers that are not known, as these are not parsed', async () => {
		const listener = await startListener({ routes: routes('') });
		const { pid } = listener.process;
		const ticks = () => {
			const fields = fs.readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
			return Number(fields[11]) + Number(fields[12]);
		};
		const body = Buffer.from(`[${'{"a":"b"},'.repeat(2_000_000)}1]`);
		const cost = async (status: number, headers: Record<string, string>) => {
			const before = ticks();
			for (let round = 0; round < 3; round++) {
				const answer = await listener.post('/guarded', body, {
					'content-type': 'application/json',
					...headers,
				});
				assert.equal(answer.status, status, answer.text);
			}
			return ticks() - before;
		};
		await cost(401, {});
		const [unknown, known] = [await cost(401, {}), await cost(202, authorization)];
		assert.ok(unknown < known / 2, `${unknown} of ${known} ticks`);
		await othersAreServed(listener);
	});

	test('beside runs that take long, and callers that wait for them', async () => {
		const more = `  slow: { params: { file: { pattern: ".*" } }, concurrency: { limit: 4 }, command: 'until test -e "$file"; do sleep 0.1; done' }\n`;
		const listener = await startListener({ routes: routes('', more) });
		const file = path.join(listener.dir, 'go');
		const body = { file };
		const waiting = Array.from({ length: 20 }, () => listener.post('/slow?async=false', body));
		await until(
			'them to run',
			async () => (await listener.get('/-/runs?state=running')).json.runs.length === 4,
		);
		await othersAreServed(listener);
		const begun = performance.now();
		assert.equal((await listener.post('/slow', body)).status, 202);
		assert.ok(performance.now() - begun < soon);
		fs.writeFileSync(file, '');
		for (const { status } of await Promise.all(waiting)) assert.equal(status, 200);
	});
});

/** The soft limit of open files that the listener gets, and this process has. */
const openFiles = Number(execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }));

describe('connections', () => {
	test('of one address are 10,000 at most; further ones are closed at once, and told, and other addresses go on', {
		skip: openFiles < 12_000 ? `needs 12,000 open files, and has ${openFiles}` : false,
	}, async () => {
		const listener = await startListener({ routes: routes('') });
		const crowd = new Crowd(listener.port);
		await crowd.open(10_000);
		assert.equal(crowd.closed, 0);
		const late = new Crowd(listener.port);
		await late.open(50, 'GET /-/healthy HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n');
		await until('them to be closed', () => late.closed === 50);
		assert.equal(late.received, '');
		await listener.logged('the warning', ({ message }) => /closed, as too many are open/.test(message));
		assert.equal(listener.log().filter(({ message }) => /too many are open/.test(message)).length, 1);
		const other = await until('the other address', () =>
			listener.log().find(({ message, url }) => message === 'listening' && String(url).includes('127.0.0.2')),
		);
		const port = Number(new URL(String(other.url)).port);
		assert.equal((await send({ host: '127.0.0.2', port }, '/-/healthy')).status, 200);
		crowd.leave();
		await until('room', async () => {
			const answer = await listener.get('/-/healthy').catch(() => undefined);
			return answer?.status === 200;
		});
		await othersAreServed(listener);
	});

	test('that were accepted and never used are closed when the header is late', async () => {
		const listener = await startListener({ routes: routes('header_timeout: 500ms') });
		const crowd = new Crowd(listener.port);
		await crowd.open(100);
		await until('them to be closed', () => crowd.closed === 100);
	});

	test('that come and go leave nothing behind', async () => {
		const listener = await startListener({ routes: routes('') });
		const files = () => fs.readdirSync(`/proc/${listener.process.pid}/fd`).length;
		await othersAreServed(listener);
		const before = files();
		for (let round = 0; round < 5; round++) {
			const crowd = new Crowd(listener.port);
			await crowd.open(400, round % 2 === 0 ? half : `${half}Content-Length: 10\r\n\r\n{`);
			await sleep(10);
			crowd.leave();
		}
		await until('the files to be closed', () => files() <= before + 5);
		await othersAreServed(listener);
	});
});

describe('a limit of routes.yaml', () => {
	test('counts for what it names: header, body, and the time of each', async () => {
		const listener = await startListener({
			routes: routes('max_body: 2 KiB, header_timeout: 700ms, body_timeout: 700ms'),
		});
		const sized = (bytes: number) =>
			listener.post('/open', `{"a":"${'x'.repeat(bytes - 8)}"}`, { 'content-type': 'application/json' });
		assert.equal((await sized(2048)).status, 202);
		assert.equal((await sized(2049)).status, 413);
		const header = (bytes: number) => listener.post('/open', undefined, { 'x-a': 'x'.repeat(bytes) });
		assert.equal((await header(15_000)).status, 202);
		assert.equal((await header(17_000)).status, 431);
		for (const first of [half, `${half}Content-Length: 5\r\n\r\n{`]) {
			const crowd = new Crowd(listener.port);
			await crowd.open(1, first);
			await until('the refusal', () => crowd.closed === 1);
			assert.match(crowd.received, /^HTTP\/1\.1 408 /);
		}
	});

	test('counts for one route alone: the time of its runs, and how often it is called', async () => {
		const listener = await startListener({
			routes: routes(
				'',
				'  brief: { command: sleep 60, timeout: 300ms }\n  rare: { command: ":", rate: { client: 2/h } }\n',
			),
		});
		const answer = await listener.post('/brief?async=false');
		assert.equal(answer.status, 504);
		assert.equal(answer.json.reason, 'timeout');
		const statuses = [];
		for (let round = 0; round < 3; round++) statuses.push((await listener.post('/rare')).status);
		assert.deepEqual(statuses, [202, 202, 429]);
		await othersAreServed(listener);
	});
});
