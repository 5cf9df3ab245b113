/**
 * A real listener for a test: its own process, its own directory, a free port. Tests see it as callers and operators do:
 * by HTTP, by its log, by its exit status. Whatever a test file leaves behind (process, port, socket) fails that file.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

export const root = path.resolve(import.meta.dirname, '../..');
const main = path.join(root, 'listener/main.ts');
/** Hundreds of listeners are started, and compiled code that is kept saves each half of its start. */
const environment = { NODE_COMPILE_CACHE: path.join(root, 'node_modules/.cache/compiled'), ...process.env };

/** How long a test waits for a state before it fails; generous, since the machine may be busy. */
const patience = 30_000;

/** Polls until `probe` gives something; a test waits for a state with it, never for a time. */
export async function until<T>(what: string, probe: () => T | Promise<T>): Promise<NonNullable<T>> {
	const end = Date.now() + patience;
	for (;;) {
		const value = await probe();
		if (value) return value as NonNullable<T>;
		if (Date.now() > end) throw new Error(`waited ${patience / 1000} s in vain: ${what}`);
		await sleep(10);
	}
}

export interface LogLine {
	readonly level: string;
	readonly message: string;
	readonly [field: string]: unknown;
}

export interface Answer {
	readonly status: number;
	readonly headers: http.IncomingHttpHeaders;
	readonly text: string;
	/** The body as JSON; throws when it is none. */
	// biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
	readonly json: any;
}

export interface RequestOptions {
	readonly method?: string;
	readonly headers?: http.OutgoingHttpHeaders;
	/** An object is sent as JSON with its content type. */
	readonly body?: string | Buffer | object;
}

/** Sends one request as it is (no normalising of the path) and reads the whole answer. */
export function send(
	target: { port: number; host?: string } | { socketPath: string },
	requestPath: string,
	{ method = 'GET', headers = {}, body }: RequestOptions = {},
): Promise<Answer> {
	const json = body !== undefined && typeof body !== 'string' && !Buffer.isBuffer(body);
	const bytes = json ? JSON.stringify(body) : (body as string | Buffer | undefined);
	const allHeaders: http.OutgoingHttpHeaders = {
		...(json ? { 'content-type': 'application/json' } : {}),
		...headers,
	};
	if (bytes !== undefined && allHeaders['transfer-encoding'] === undefined) {
		allHeaders['content-length'] ??= Buffer.byteLength(bytes);
	}
	return new Promise((resolve, reject) => {
		const request = http.request(
			{ host: '127.0.0.1', ...target, path: requestPath, method, headers: allHeaders, agent: false },
			(response) => {
				const chunks: Buffer[] = [];
				response.on('data', (chunk) => chunks.push(chunk));
				response.on('error', reject);
				response.on('end', () => {
					const text = Buffer.concat(chunks).toString();
					resolve({
						status: response.statusCode ?? 0,
						headers: response.headers,
						text,
						get json() {
							return JSON.parse(text);
						},
					});
				});
			},
		);
		request.on('error', reject);
		request.end(bytes);
	});
}

export interface StartOptions {
	/** The text of routes.yaml; `listen` and `log` are added (loopback, a free port, JSON) unless it has its own. */
	readonly routes?: string;
	/** Further files, written into the listener's directory beside routes.yaml. */
	readonly files?: Readonly<Record<string, string>>;
	/** An existing directory, to start on the state and files of an earlier listener. */
	readonly dir?: string;
	readonly args?: readonly string[];
	readonly env?: Readonly<Record<string, string>>;
}

const leftovers: (() => Promise<void>)[] = [];
after(async () => {
	for (const clean of leftovers) await clean();
});

/** A directory that goes away with the test file. */
export function temporaryDirectory(name = 'puppet-webhook-test-'): string {
	const dir = fs.mkdtempSync(path.join(os.tmpdir(), name));
	leftovers.push(async () => fs.rmSync(dir, { recursive: true, force: true, maxRetries: 3 }));
	return dir;
}

/** Processes whose TMPDIR lies in `dir`: the listener, its runners, and every command they started (and its children). */
export function processesOf(dir: string): { pid: number; command: string }[] {
	const found: { pid: number; command: string }[] = [];
	for (const entry of fs.readdirSync('/proc')) {
		if (!/^\d+$/.test(entry)) continue;
		try {
			if (!fs.readFileSync(`/proc/${entry}/environ`, 'latin1').split('\0').includes(`TMPDIR=${dir}/tmp`))
				continue;
			if (/^State:\s+Z/m.test(fs.readFileSync(`/proc/${entry}/status`, 'latin1'))) continue;
			found.push({
				pid: Number(entry),
				command: fs.readFileSync(`/proc/${entry}/cmdline`, 'latin1').replaceAll('\0', ' ').trim(),
			});
		} catch {
			// It ended while we looked, or it is not ours to read.
		}
	}
	return found;
}

/** Starts `puppet-webhook` with any arguments and reads it to its end. For commands that end by themselves. */
export async function command(
	args: readonly string[],
	{ cwd = root, env = {} }: { cwd?: string; env?: Readonly<Record<string, string>> } = {},
): Promise<{ code: number | null; signal: NodeJS.Signals | null; stdout: string; stderr: string }> {
	const child = spawn(process.execPath, [main, ...args], {
		cwd,
		env: { ...environment, ...env },
		stdio: ['ignore', 'pipe', 'pipe'],
	});
	let stdout = '';
	let stderr = '';
	child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
	child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
	const [code, signal] = await once(child, 'close');
	return { code, signal, stdout, stderr };
}

export class Listener {
	readonly dir: string;
	/** The path of routes.yaml. */
	readonly config: string;
	/** The state directory. */
	readonly state: string;
	readonly process: ChildProcess;
	/** Where it answers: `http://127.0.0.1:port`. */
	url = '';
	port = 0;
	stderr = '';
	readonly #lines: LogLine[] = [];
	readonly #exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
	#expectedEnd = false;

	constructor(dir: string, child: ChildProcess) {
		this.dir = dir;
		this.config = path.join(dir, 'routes.yaml');
		this.state = path.join(dir, 'state');
		this.process = child;
		let rest = '';
		child.stdout?.setEncoding('utf8').on('data', (text: string) => {
			const lines = (rest + text).split('\n');
			rest = lines.pop() ?? '';
			for (const line of lines) this.#lines.push(JSON.parse(line));
		});
		child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
		this.#exited = once(child, 'close').then(([code, signal]) => ({ code, signal }));
	}

	/** Every line logged so far. */
	log(): readonly LogLine[] {
		return this.#lines;
	}

	/** The first line that matches, as soon as there is one. */
	logged(what: string, matches: (line: LogLine) => boolean): Promise<LogLine> {
		return until(`log line: ${what}`, () => {
			const line = this.#lines.find(matches);
			if (line === undefined && this.process.exitCode !== null && !this.#expectedEnd) {
				throw new Error(
					`listener exited with ${this.process.exitCode}\n${this.stderr}${JSON.stringify(this.#lines, null, 1)}`,
				);
			}
			return line;
		});
	}

	request(requestPath: string, options?: RequestOptions): Promise<Answer> {
		return send({ port: this.port }, requestPath, options);
	}

	get(requestPath: string, headers?: http.OutgoingHttpHeaders): Promise<Answer> {
		return this.request(requestPath, headers === undefined ? {} : { headers });
	}

	post(
		requestPath: string,
		body?: string | Buffer | object,
		headers?: http.OutgoingHttpHeaders,
	): Promise<Answer> {
		return this.request(requestPath, {
			method: 'POST',
			...(body === undefined ? {} : { body }),
			...(headers === undefined ? {} : { headers }),
		});
	}

	/** A run as the listener tells it. */
	// biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
	async run(id: string): Promise<any> {
		return (await this.get(`/-/runs/${id}`)).json;
	}

	/** The run once it has ended. */
	// biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
	ended(id: string): Promise<any> {
		return until(`run ${id} to end`, async () => {
			const run = await this.run(id);
			return run.endedAt ? run : undefined;
		});
	}

	/** All of the run's output, as text. */
	async output(id: string): Promise<string> {
		return (await this.get(`/-/runs/${id}/output`, { accept: 'text/plain' })).text;
	}

	/** How many runs there have been, of a route or of all. */
	async runCount(route?: string): Promise<number> {
		const answer = await this.get(
			`/-/runs?limit=200${route === undefined ? '' : `&route=${encodeURIComponent(route)}`}`,
		);
		return answer.json.runs.length;
	}

	/** Waits until the process has ended by itself. */
	exited(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
		this.#expectedEnd = true;
		return this.#exited;
	}

	/** Sends a signal and waits for the end. */
	stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
		this.process.kill(signal);
		return this.exited();
	}

	/** Starts another listener on the same directory: same routes, same state. */
	again(options: Omit<StartOptions, 'dir' | 'routes'> = {}): Promise<Listener> {
		return startListener({ ...options, dir: this.dir });
	}
}

/** Starts a listener without waiting for it to serve; for those that are to refuse. */
export function spawnListener({
	routes,
	files = {},
	dir: given,
	args = [],
	env = {},
}: StartOptions): Listener {
	const dir = given ?? fs.mkdtempSync(path.join(os.tmpdir(), 'puppet-webhook-test-'));
	fs.mkdirSync(path.join(dir, 'tmp'), { recursive: true });
	for (const [name, text] of Object.entries(files)) {
		fs.mkdirSync(path.dirname(path.join(dir, name)), { recursive: true });
		fs.writeFileSync(path.join(dir, name), text);
	}
	if (routes !== undefined) {
		const listen = /^listen:/m.test(routes) ? '' : 'listen: { address: 127.0.0.1, port: 0 }\n';
		const log = /^log:/m.test(routes) ? '' : 'log: { format: json, level: debug }\n';
		fs.writeFileSync(path.join(dir, 'routes.yaml'), listen + log + routes);
	}
	const child = spawn(
		process.execPath,
		[main, 'serve', '--config', path.join(dir, 'routes.yaml'), '--state', path.join(dir, 'state'), ...args],
		{
			cwd: dir,
			env: { ...environment, TMPDIR: path.join(dir, 'tmp'), ...env },
			stdio: ['ignore', 'pipe', 'pipe'],
		},
	);
	if (given === undefined) {
		leftovers.push(async () => {
			const left = processesOf(dir);
			for (const { pid } of left) process.kill(pid, 'SIGKILL');
			fs.rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
			assert.deepEqual(left, [], 'the test left processes behind');
		});
	}
	const listener = new Listener(dir, child);
	leftovers.unshift(async () => {
		if (child.exitCode === null && child.signalCode === null) await listener.stop();
	});
	return listener;
}

/** Starts a listener and waits until it serves. */
export async function startListener(options: StartOptions): Promise<Listener> {
	const listener = spawnListener(options);
	const line = await listener.logged('listening', (l) => l.message === 'listening');
	listener.url = String(line.url);
	if (URL.canParse(listener.url)) listener.port = Number(new URL(listener.url).port);
	return listener;
}
