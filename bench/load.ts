/**
 * The load client: one process, raw keep-alive connections, one request in flight on each.
 *
 * Reads one {@link LoadPlan} as JSON from standard input, prints one {@link LoadResult} as JSON, and ends by itself:
 *
 *     echo '{"port":6969,"path":"/deploy","expect":202,"connections":32,"seconds":1}' | node bench/load.ts
 *
 * It is a process of its own so that its cost is visible and never inside a listener's or the benchmark's event loop.
 * Requests are bytes made once, and of a response only its status and its end are looked for: at several thousand
 * requests a second a general HTTP client would take more of the machine than what it measures.
 */
import { connect, type Socket } from 'node:net';
import { createHistogram, performance } from 'node:perf_hooks';
import { text } from 'node:stream/consumers';

export type LoadPlan = {
	/** Port on 127.0.0.1. */
	port: number;
	/** Path and query. */
	path: string;
	/** The only status that counts as a success. */
	expect: number;
	/** Connections, each with one request in flight. Default 1. */
	connections?: number;
	/** Default POST. */
	method?: string;
	/** Sent as application/json. Default none. */
	body?: string;
	/** Seconds for which requests are sent first that are not measured. Default 0. */
	warm?: number;
	/** The most requests to measure. Default: as many as the time allows. */
	count?: number;
	/** The longest time to measure, in seconds; what is then in flight is still waited for. Default 30. */
	seconds?: number;
};

export type LoadResult = {
	/** Requests answered as expected. Those of the warm-up count nowhere. */
	succeeded: number;
	/** When the first request was sent, of the warm-up if there is one: milliseconds of the Unix epoch. */
	began: number;
	/** From the first measured request to the last answer, in seconds. */
	seconds: number;
	perSecond: number;
	/** Latency of the measured successes, in milliseconds. */
	p50: number;
	p99: number;
	max: number;
	/** What else happened, by kind, with one example each; empty in a sound run. */
	failures: Record<string, { count: number; example: string }>;
	/** The part of one core that this process used while it measured. */
	cpu: number;
};

const UNANSWERED_AFTER_MS = 15_000;
const MOST_FAILURES = 100;
const EXAMPLE_BYTES = 300;
const HEAD_BYTES = 64 * 1024;
const NOTHING = Buffer.alloc(0);

/** Finds status and end of one response; keeps nothing of its body but the beginning, as an example for a report. */
class ResponseReader {
	status = 0;
	closes = false;
	example = '';
	#part: 'head' | 'body' | 'chunk size' | 'chunk end' | 'trailer' = 'head';
	#carry: Buffer = NOTHING;
	#chunked = false;
	#left = 0;

	/** Takes what came. Returns true when the response is complete; throws when it is not HTTP/1.1 as we know it. */
	take(data: Buffer): boolean {
		let rest = this.#carry.length > 0 ? Buffer.concat([this.#carry, data]) : data;
		this.#carry = NOTHING;
		for (;;) {
			if (this.#part === 'body') {
				const part = rest.subarray(0, this.#left);
				if (this.example.length < EXAMPLE_BYTES) this.example += part.toString('latin1', 0, EXAMPLE_BYTES);
				this.#left -= part.length;
				rest = rest.subarray(part.length);
				if (this.#left > 0) return false;
				if (!this.#chunked) return this.#complete(rest);
				this.#part = 'chunk end';
				continue;
			}
			const mark = this.#part === 'head' ? '\r\n\r\n' : '\r\n';
			const end = rest.indexOf(mark);
			if (end < 0) {
				if (rest.length > HEAD_BYTES) throw new Error(`no end of ${this.#part} in ${rest.length} bytes`);
				this.#carry = rest;
				return false;
			}
			const line = rest.toString('latin1', 0, end);
			rest = rest.subarray(end + mark.length);
			if (this.#part === 'head') {
				this.#readHead(line);
			} else if (this.#part === 'chunk size') {
				this.#left = Number.parseInt(line, 16);
				if (Number.isNaN(this.#left)) throw new Error(`not a chunk size: ${line.slice(0, 40)}`);
				this.#part = this.#left > 0 ? 'body' : 'trailer';
			} else if (this.#part === 'chunk end') {
				this.#part = 'chunk size';
			} else if (line === '') {
				return this.#complete(rest);
			}
		}
	}

	#readHead(head: string): void {
		const status = /^HTTP\/1\.1 (\d{3})/.exec(head)?.[1];
		if (!status) throw new Error(`not a response: ${head.slice(0, 40)}`);
		this.status = Number(status);
		if (this.status < 200) return;
		const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
		this.closes = /\r\nconnection: *close/i.test(head);
		this.#chunked = /\r\ntransfer-encoding: *chunked/i.test(head);
		if (this.#chunked) {
			this.#part = 'chunk size';
		} else if (length !== undefined || this.status === 204 || this.status === 304) {
			this.#left = Number(length ?? 0);
			this.#part = 'body';
		} else {
			throw new Error('a response without a length');
		}
	}

	#complete(rest: Buffer): true {
		if (rest.length > 0) throw new Error(`${rest.length} bytes after the response`);
		return true;
	}
}

function requestBytes(plan: LoadPlan): Buffer {
	const lines = [`${plan.method ?? 'POST'} ${plan.path} HTTP/1.1`, `Host: 127.0.0.1:${plan.port}`];
	if (plan.body !== undefined)
		lines.push('Content-Type: application/json', `Content-Length: ${Buffer.byteLength(plan.body)}`);
	else if (plan.method !== 'GET') lines.push('Content-Length: 0');
	return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${plan.body ?? ''}`);
}

/** Sends what the plan says and reports. Never rejects for what the listener does: that is in `failures`. */
async function load(plan: LoadPlan): Promise<LoadResult> {
	const request = requestBytes(plan);
	const connections = plan.connections ?? 1;
	const latencies = createHistogram({ lowest: 1, highest: 60_000_000, figures: 3 });
	const failures: LoadResult['failures'] = {};
	const sockets = new Set<Socket>();
	let failed = 0;
	let succeeded = 0;

	function fail(kind: string, example: string): void {
		failed++;
		failures[kind] ??= { count: 0, example };
		failures[kind].count++;
	}

	/** One phase: connections take requests from a common count until it or the time is used up. */
	async function phase(count: number, seconds: number): Promise<number> {
		const began = performance.now();
		const deadline = began + seconds * 1000;
		let left = count;
		let last = began;
		const more = () => left > 0 && failed < MOST_FAILURES && performance.now() < deadline;

		async function converse(): Promise<void> {
			while (more()) {
				const done = Promise.withResolvers<void>();
				const socket = connect({ host: '127.0.0.1', port: plan.port, noDelay: true });
				let reader = new ResponseReader();
				let sentAt = 0;
				let waiting = true;

				function send(): void {
					left--;
					reader = new ResponseReader();
					sentAt = performance.now();
					waiting = true;
					socket.write(request);
				}
				function take(data: Buffer): void {
					if (!reader.take(data)) return;
					last = performance.now();
					waiting = false;
					if (reader.status === plan.expect) {
						succeeded++;
						latencies.record(Math.max(1, Math.round((last - sentAt) * 1000)));
					} else {
						fail(`status ${reader.status}`, reader.example);
					}
					if (reader.closes || !more()) socket.destroy();
					else send();
				}

				sockets.add(socket);
				socket.once('connect', send);
				socket.on('data', (data) => {
					try {
						take(data);
					} catch (error) {
						socket.destroy(error as Error);
					}
				});
				socket.once('end', () => socket.destroy());
				socket.once('error', (error: NodeJS.ErrnoException) => {
					waiting = false;
					fail(error.code ?? error.message.slice(0, 40), error.message);
				});
				socket.once('close', () => {
					if (waiting) fail('closed', 'the connection was closed before the answer');
					sockets.delete(socket);
					done.resolve();
				});
				await done.promise;
			}
		}

		const guard = setTimeout(
			() => {
				for (const socket of sockets) socket.destroy(new Error('no answer within 15 s of the end'));
			},
			seconds * 1000 + UNANSWERED_AFTER_MS,
		);
		await Promise.all(Array.from({ length: connections }, converse));
		clearTimeout(guard);
		return (last - began) / 1000;
	}

	const seconds = plan.seconds ?? 30;
	const began = performance.timeOrigin + performance.now();
	if (plan.warm) await phase(Number.POSITIVE_INFINITY, plan.warm);
	const warm = succeeded;
	latencies.reset();
	const before = process.cpuUsage();
	const took = await phase(plan.count ?? Number.POSITIVE_INFINITY, seconds);
	const used = process.cpuUsage(before);

	return {
		succeeded: succeeded - warm,
		began,
		seconds: took,
		perSecond: took > 0 ? (succeeded - warm) / took : 0,
		p50: latencies.percentile(50) / 1000,
		p99: latencies.percentile(99) / 1000,
		max: latencies.max / 1000,
		failures,
		cpu: took > 0 ? (used.user + used.system) / 1e6 / took : 0,
	};
}

console.log(JSON.stringify(await load(JSON.parse(await text(process.stdin)) as LoadPlan)));
