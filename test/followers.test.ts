/**
 * Thousands who follow one run: each gets every byte in order, nobody waits for a slower one, and the listener holds what is
 * sent once and not once for each of them.
 */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { type Listener, startListener, until } from './helpers/listener.ts';

const megabyte = 1e6;

/** Output of so many lines, which are equally long. */
function linesTo(last: number): string {
	return Array.from(
		{ length: last },
		(_, i) => `line ${String(i + 1).padStart(7, '0')} of what everybody follows\n`,
	).join('');
}

/** Prints `linesTo(slices * each)`, a slice of `each` lines as soon as there is a file for it in `go`. */
const secret = 'the-hidden-wörd';
const routes = `
auth: { hidden: { bearer: ${secret} } }
routes:
  tell:
    params: { slices: { type: integer }, each: { type: integer } }
    max_output: 100 MiB
    command: |
      slice=0
      while [ $slice -lt $slices ]; do
        until [ -e "go/$slice" ]; do sleep 0.02; done
        seq -f 'line %07.0f of what everybody follows' $((slice * each + 1)) $(((slice + 1) * each))
        slice=$((slice + 1))
      done
  torn:
    params: { slices: { type: integer }, each: { type: integer } }
    max_output: 100 MiB
    command: |
      slice=0
      while [ $slice -lt $slices ]; do
        until [ -e "go/$slice" ]; do sleep 0.02; done
        tail -c +$((slice * each + 1)) text | head -c $each
        slice=$((slice + 1))
      done
  again:
    retry: { attempts: 2, delay: 10ms }
    command: |
      until [ -e go/0 ]; do sleep 0.02; done
      echo "some output"
      until [ -e go/1 ]; do sleep 0.02; done
      [ -e tried ] || { touch tried; exit 1; }
      echo "some more"
  flood: { command: 'head -c 30000000 /dev/zero' }
  other: { command: 'true' }
`;

/** The same lines as an event stream tells them. */
function eventsOf(text: string): string {
	let offset = 0;
	return text
		.split('\n')
		.slice(0, -1)
		.map((line) => {
			offset += Buffer.byteLength(line) + 1;
			return `event: output\nid: ${offset}\ndata: ${line}\n\n`;
		})
		.join('');
}

/** One who follows a run and compares what comes with what is to come, so that it need not be kept. */
class Follower {
	/** Bytes received that were as expected. */
	received = 0;
	/** What came that was not expected. */
	fault: string | undefined;
	/** What came behind all that was expected. */
	rest = '';
	ended = false;
	readonly #expected: Buffer;
	readonly #request: http.ClientRequest;
	#response: http.IncomingMessage | undefined;

	constructor(listener: Listener, run: string, accept: string, expected: Buffer, from = 0) {
		this.#expected = expected;
		this.#request = http.get({
			host: '127.0.0.1',
			port: listener.port,
			path: `/-/runs/${run}/output?follow=true&from=${from}`,
			headers: { accept },
			agent: false,
		});
		this.#request.on('error', (error) => {
			this.fault ??= error.message;
		});
	}

	/** Resolves when the listener has answered. */
	async answered(): Promise<void> {
		const [response] = (await once(this.#request, 'response')) as [http.IncomingMessage];
		this.#response = response;
		response.on('data', (bytes: Buffer) => this.#take(bytes));
		response.on('error', (error) => {
			this.fault ??= error.message;
		});
		response.on('end', () => {
			this.ended = true;
		});
	}

	/** True when all that was to come has come. */
	get complete(): boolean {
		return this.received === this.#expected.length;
	}

	pause(): void {
		this.#response?.pause();
	}

	resume(): void {
		this.#response?.resume();
	}

	leave(): void {
		this.#request.destroy();
	}

	#take(came: Buffer): void {
		// Signs of life, which come when nothing else does, in one piece.
		const bytes = came.includes(':\n\n')
			? Buffer.from(came.toString('latin1').replaceAll(':\n\n', ''), 'latin1')
			: came;
		const known = Math.min(bytes.length, this.#expected.length - this.received);
		if (this.#expected.compare(bytes, 0, known, this.received, this.received + known) !== 0)
			this.fault ??= `other bytes than expected from ${this.received} on`;
		this.received += known;
		this.rest += bytes.toString('utf8', known);
	}
}

/** Memory of the listener's own, in bytes. */
function ownMemory(listener: Listener): number {
	const rollup = fs.readFileSync(`/proc/${listener.process.pid}/smaps_rollup`, 'utf8');
	return Number(/^Pss_Anon: +(\d+) kB/m.exec(rollup)?.[1]) * 1024;
}

/** Starts the run that is followed. Gives what lets its slices be printed. */
async function startTelling(listener: Listener, slices: number, each: number, route = 'tell') {
	const go = path.join(listener.dir, 'go');
	fs.rmSync(go, { recursive: true, force: true });
	fs.mkdirSync(go);
	const answer = await listener.post(`/${route}`, { slices, each });
	const id: string = answer.json.runs[0].id;
	return { id, tell: (slice: number) => fs.writeFileSync(path.join(go, String(slice)), '') };
}

/** Sends deliveries one after another until told to stop, then says how long the slowest took, in milliseconds. */
const caller = `
	const http = require('node:http');
	const { parentPort, workerData } = require('node:worker_threads');
	const agent = new http.Agent({ keepAlive: true });
	let slowest = 0;
	let stopped = false;
	parentPort.once('message', () => { stopped = true; });
	function call() {
		if (stopped) {
			agent.destroy();
			return parentPort.postMessage(slowest);
		}
		const began = performance.now();
		http.request({ ...workerData, method: 'POST', agent }, (response) => {
			if (response.statusCode !== 202) throw new Error('answered ' + response.statusCode);
			response.resume().on('end', () => {
				slowest = Math.max(slowest, performance.now() - began);
				setTimeout(call, 5);
			});
		}).end();
	}
	call();
`;

/** Has deliveries sent from a thread of its own, since this one has two thousand followers to read. */
function callOthers(listener: Listener): () => Promise<number> {
	const workerData = { host: '127.0.0.1', port: listener.port, path: '/other' };
	const thread = new Worker(caller, { eval: true, workerData });
	const slowest = once(thread, 'message');
	return async () => {
		thread.postMessage('stop');
		return (await slowest)[0];
	};
}

async function follow(
	listener: Listener,
	run: string,
	count: number,
	accept: string,
	expected: string,
): Promise<Follower[]> {
	const bytes = Buffer.from(expected);
	const all: Follower[] = [];
	// Fewer than wait to be accepted at a time: beyond that the kernel has them try again a second later.
	while (all.length < count) {
		const some = Array.from(
			{ length: Math.min(100, count - all.length) },
			() => new Follower(listener, run, accept, bytes),
		);
		await Promise.all(some.map((follower) => follower.answered()));
		all.push(...some);
	}
	return all;
}

describe('followers of one run', () => {
	let started: Listener | undefined;
	const listening = async () => {
		started ??= await startListener({ routes });
		return started;
	};
	after(() => started?.stop());

	test('two thousand get every byte in order, and deliveries are answered meanwhile', async () => {
		const listener = await listening();
		const slices = 10;
		const each = 100;
		const text = linesTo(slices * each);
		const { id, tell } = await startTelling(listener, slices, each);
		const plain = await follow(listener, id, 1000, 'text/plain', text);
		const events = await follow(listener, id, 1000, 'text/event-stream', eventsOf(text));
		const all = [...plain, ...events];

		const called = callOthers(listener);
		for (let slice = 0; slice < slices; slice++) {
			tell(slice);
			// All at the same place, before there is more: so each slice is told to all of them.
			const least = (text.length / slices) * (slice + 1);
			await until(`slice ${slice} to reach all`, () =>
				all.every(({ received, fault }) => fault !== undefined || received >= least),
			);
		}
		await until('all streams to end', () => all.every(({ ended, fault }) => ended || fault !== undefined));
		const slowest = await called();

		assert.deepEqual(
			all.filter(({ fault }) => fault !== undefined).map(({ fault }) => fault),
			[],
		);
		for (const { received, rest } of plain) {
			assert.equal(received, text.length);
			assert.equal(rest, '');
		}
		for (const { received, rest } of events) {
			assert.equal(received, eventsOf(text).length);
			assert.match(rest, /^event: run\nid: \d+\ndata: \{.*"state":"succeeded".*\}\n\n$/);
		}
		assert.ok(slowest < 1000, `a delivery was answered after ${Math.round(slowest)} ms`);
	});

	test('readers that stop reading hold up nobody and no memory, and miss nothing when they go on', async () => {
		const listener = await listening();
		const slices = 10;
		const each = 50_000;
		const text = linesTo(slices * each);
		const { id, tell } = await startTelling(listener, slices, each);
		const stopped = [
			...(await follow(listener, id, 100, 'text/plain', text)),
			...(await follow(listener, id, 100, 'text/event-stream', eventsOf(text))),
		];
		for (const follower of stopped) follower.pause();
		const reading = await follow(listener, id, 5, 'text/plain', text);
		const before = ownMemory(listener);
		let most = before;

		for (let slice = 0; slice < slices; slice++) {
			tell(slice);
			const least = (text.length / slices) * (slice + 1);
			await until(`slice ${slice} to reach those that read`, () => {
				most = Math.max(most, ownMemory(listener));
				return reading.every(({ received, fault }) => fault !== undefined || received >= least);
			});
		}
		await until('those that read to be done', () => reading.every(({ ended }) => ended));
		const held = most - before;
		// What each was sent last and did not take; the output is of 20 MB, a copy for each would be 4 GB.
		assert.ok(
			held < 100 * megabyte,
			`${stopped.length} readers that do not read made the listener larger by ${Math.round(held / megabyte)} MB`,
		);
		assert.ok(stopped.every(({ ended }) => !ended));

		const [first, last] = [stopped[0]!, stopped.at(-1)!];
		first.resume();
		last.resume();
		await until('two that had stopped to be done', () => first.ended && last.ended);
		assert.equal(first.received, text.length);
		assert.equal(last.received, eventsOf(text).length);
		for (const follower of stopped) {
			assert.equal(follower.fault, undefined);
			follower.leave();
		}
	});

	test('whoever comes later, or begins within, gets what the others get, with what is torn made whole and secrets hidden', async () => {
		const listener = await listening();
		const lines = Array.from({ length: 40_000 }, (_, i) => `${i} für alle: ${secret} ✓\n`).join('');
		const text = lines.replaceAll(secret, '*'.repeat(Buffer.byteLength(secret)));
		const slices = 30;
		const each = Math.ceil(Buffer.byteLength(lines) / slices);
		fs.writeFileSync(path.join(listener.dir, 'text'), lines);
		const { id, tell } = await startTelling(listener, slices, each, 'torn');
		const bytes = Buffer.from(text);
		const all: Follower[] = [];
		for (let slice = 0; slice < slices; slice++) {
			const from = Math.floor((bytes.length * slice) / slices / 2) + slice;
			const some = [
				new Follower(listener, id, 'text/plain', bytes),
				new Follower(listener, id, 'text/event-stream', Buffer.from(eventsOf(text))),
				new Follower(listener, id, 'application/octet-stream', bytes.subarray(from), from),
			];
			await Promise.all(some.map((follower) => follower.answered()));
			all.push(...some);
			// One reads nothing until there is more than what is shared.
			if (slice === 1) some[0]?.pause();
			tell(slice);
			if (slice === slices - 2) all[3]?.resume();
		}
		await until('all streams to end', () => all.every(({ ended, fault }) => ended || fault !== undefined));
		for (const [index, follower] of all.entries()) {
			assert.equal(follower.fault, undefined, `follower ${index}`);
			assert.ok(follower.complete, `follower ${index} received ${follower.received} bytes`);
		}
	});

	test('a stream ends also when the output was overwritten faster than it was read', async () => {
		const listener = await listening();
		for (let flood = 0; flood < 5; flood++) {
			const { id } = await startTelling(listener, 0, 0, 'flood');
			const zeros = Buffer.alloc(30_000_000);
			const follower = new Follower(listener, id, 'application/octet-stream', zeros);
			await follower.answered();
			await until('the stream to end', () => follower.ended || follower.fault !== undefined);
			assert.equal(follower.fault, undefined);
			// At least what is kept in the end.
			assert.ok(follower.received >= 10 * 1024 * 1024, `${follower.received} bytes`);
		}
	});

	test('all of them see the output begin again when the run is started again', async () => {
		const listener = await listening();
		const { id, tell } = await startTelling(listener, 0, 0, 'again');
		const text = 'some output\nsome output\nsome more\n';
		const all = await follow(listener, id, 20, 'text/plain', text);
		tell(0);
		await until('the first attempt', () => all.every(({ received }) => received >= 12));
		all.push(...(await follow(listener, id, 5, 'text/plain', text)));
		tell(1);
		await until('all streams to end', () => all.every(({ ended, fault }) => ended || fault !== undefined));
		for (const follower of all) {
			assert.equal(follower.fault, undefined);
			assert.ok(follower.complete, `${follower.received} bytes`);
		}
	});
});
