/**
 * The soak: one real listener under everything at once, for minutes: deliveries, callers who wait, cancels, changed and faulty
 * files, floods of output with followers who leave, retries, strangers, connections that break off, and history that is pruned.
 *
 *     npm run soak -- [--minutes N] [--dir DIR] [--listener FILE] [--only KIND,…]
 *
 * After a first stretch everything is let come to rest, and again at the end: by then nothing may have grown, or be left behind.
 * Exit status: 0; 1 when something did, or a request was answered otherwise than it should be; 2 for wrong arguments.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { freePort, ownMemory, Processes, type Program, tree } from './processes.ts';
import { OURS } from './sides.ts';

const REST_WITHIN_MS = 30_000;
/** How long it takes to be at rest: runs that are not kept any more go within some seconds. */
const REST_MS = 4_000;
const TOKEN = 'what the soak calls with';

/** routes.yaml. The number only makes one text differ from the next; an odd one also changes limits. */
function routes(port: number, number: number): string {
	const odd = number % 2 === 1;
	return `# ${number}
listen: { address: 127.0.0.1, port: ${port} }
log: { level: ${odd ? 'info' : 'warn'} }
auth: { soak: { bearer: "${TOKEN}" } }
defaults: { keep: ${odd ? 40 : 60}, kill_after: 2s }
routes:
  quick: { params: { n: {} }, command: 'echo "hello $n"', concurrency: { limit: 4 } }
  list: { command: [/bin/true], wait: true, concurrency: { limit: ${odd ? 3 : 4} } }
  reads: { command: cat, stdin: body, wait: true, concurrency: { limit: 2 } }
  long: { command: 'sleep 60 & sleep 60', concurrency: { limit: 2 } }
  flood: { command: 'head -c 30000000 /dev/zero', keep: 4 }
  lines: { command: 'seq 1 20000', keep: 10 }
  fails: { command: 'exit 3', retry: { attempts: 3, delay: 100ms, backoff: 1 } }
  late: { command: 'sleep 10', timeout: 200ms, concurrency: { limit: 2 } }
  together: { command: 'sleep 0.2', concurrency: { when_busy: coalesce } }
  guarded: { auth: [soak], command: 'true' }
${odd ? `  here/${number}: { command: 'true' }\n` : ''}`;
}

/** What the listener holds, and what it has done. */
type Sample = {
	/** Processes: the listener, and all that it has started. */
	processes: number;
	/** Open files of the listener. */
	files: number;
	/** Handles of its event loop: sockets, pipes, timers that count. */
	handles: number;
	/** Memory of their own of all processes, MB. */
	memory: number;
	/** What is in use of Node's heap, MB, garbage included that has not been collected. */
	heap: number;
	/** What Node keeps of the system's memory for that, MB. */
	total: number;
	/** Buffers, MB. */
	buffers: number;
	/** Files in the state directory, without those of SQLite itself. */
	kept: number;
	/** Their size and that of SQLite's files, MB. */
	state: number;
};

/** Seconds after which a listener under load has the size it keeps: Node lets its heap grow step by step. */
const GROWN_AFTER = 60;

/**
 * By how much each may be larger at the end than after the first stretch, and why by that. `early` holds when that stretch is too
 * short for the listener to have its size.
 */
const BOUNDS: Record<keyof Sample, { more: number; early?: number; why: string }> = {
	processes: { more: 4, why: 'shells are made as many as were ever needed at a time' },
	files: { more: 16, why: 'three for each shell, and one or two that were just about to be closed' },
	handles: { more: 8, why: 'one for each shell, and connections of the soak itself' },
	memory: {
		more: 80,
		early: 200,
		why: "Node's heap has garbage in it, more or less; a leak of 100 bytes a delivery adds more than this in some minutes",
	},
	heap: { more: 10, why: 'the least of many looks, right after garbage was collected' },
	total: { more: 40, early: 150, why: 'garbage, as for memory' },
	buffers: { more: 10, early: 20, why: 'the least of many looks, as for heap' },
	kept: {
		more: 30,
		early: 60,
		why: 'as many runs are kept as routes.yaml says, but not all have output that is in a file; early, 60 of reads are to come',
	},
	state: {
		more: 40,
		why: "the history's file grows to its largest and is filled again; output of four floods",
	},
};

class Soak {
	readonly dir: string;
	readonly state: string;
	readonly file: string;
	/** What was done, by kind. */
	readonly done = new Map<string, number>();
	/** What went otherwise than it should, by kind, with how often and one example. */
	readonly faults = new Map<string, { count: number; example: string }>();
	readonly #port: number;
	readonly #program: Program;
	/** Where to connect to; connections that stay open, as senders have them. */
	readonly #agent = new Agent({ keepAlive: true, maxSockets: 64, timeout: 10_000 });
	#written = 0;
	#only: readonly string[] = [];
	#resting = false;
	/** Activities that have begun and not ended. */
	#underWay = 0;
	#stopped = false;

	private constructor(dir: string, port: number, program: Program) {
		this.dir = dir;
		this.state = join(dir, 'state');
		this.file = join(dir, 'routes.yaml');
		this.#port = port;
		this.#program = program;
	}

	static async start(processes: Processes, dir: string, listener: string): Promise<Soak> {
		const port = await freePort();
		writeFileSync(join(dir, 'routes.yaml'), routes(port, 0));
		const args = ['serve', '--config', join(dir, 'routes.yaml'), '--state', join(dir, 'state')];
		const soak = new Soak(dir, port, await processes.start(process.execPath, [listener, ...args]));
		for (const deadline = Date.now() + REST_WITHIN_MS; ; await sleep(50)) {
			if ((await soak.#ask('GET', '/-/healthy', {}).catch(() => undefined))?.status === 200) return soak;
			if (Date.now() > deadline)
				throw new Error(`the listener does not serve; it printed: ${soak.#program.printed()}`);
		}
	}

	/**
	 * Does everything at once until told to stop; each kind goes on by itself, so that none waits for another.
	 * @param only kinds; all when there are none
	 */
	activities(only: readonly string[]): Promise<unknown> {
		this.#only = only;
		return Promise.all([
			...Array.from({ length: 4 }, () => this.#again('deliveries', 2, () => this.#deliver())),
			...Array.from({ length: 2 }, () => this.#again('waited', 5, () => this.#post('/list', 200))),
			this.#again('input read', 20, () => this.#post('/reads', 200, 'x'.repeat(50_000))),
			...Array.from({ length: 2 }, () => this.#again('cancelled', 60, () => this.#cancel())),
			this.#again('floods followed', 200, () => this.#flood()),
			this.#again('lines followed', 50, () => this.#lines()),
			this.#again('retried', 150, () => this.#post('/fails', 202)),
			this.#again('over time', 150, () => this.#post('/late', 202)),
			this.#again('joined', 20, () => this.#post('/together', 202)),
			this.#again('strangers', 20, () => this.#strange()),
			this.#again('guarded', 20, () =>
				this.#post('/guarded', [202, 429], '', { authorization: `Bearer ${TOKEN}` }),
			),
			...Array.from({ length: 2 }, () => this.#again('connections broken off', 5, () => this.#breakOff())),
			this.#again('history read', 50, () => this.#history()),
			this.#again('files changed', 1000, () => this.#change()),
		]);
	}

	/** Has all activities pause until `goOn`; resolves when the listener has nothing to do any more, and what it holds is counted. */
	async rest(): Promise<Sample> {
		this.#resting = true;
		const deadline = Date.now() + REST_WITHIN_MS;
		for (;;) {
			const metrics = await this.#metrics();
			const runs = metrics('puppet_webhook_runs_queued') + metrics('puppet_webhook_runs_running');
			if (runs + this.#underWay === 0) break;
			if (Date.now() > deadline) {
				this.#fault(
					'rest',
					'there were still runs, or requests without an answer, 30 s after the last delivery',
				);
				break;
			}
			await sleep(100);
		}
		this.#agent.destroy();
		await sleep(REST_MS);
		return this.sample();
	}

	goOn(): void {
		this.#resting = false;
	}

	async sample(): Promise<Sample> {
		const { pid } = this.#program;
		const metrics = await this.#metrics();
		let kept = 0;
		let bytes = 0;
		for (const entry of readdirSync(this.state, { recursive: true, withFileTypes: true })) {
			if (!entry.isFile()) continue;
			if (!entry.name.startsWith('runs.db')) kept++;
			bytes += statSync(join(entry.parentPath, entry.name), { throwIfNoEntry: false })?.size ?? 0;
		}
		return {
			processes: tree(pid).length,
			files: readdirSync(`/proc/${pid}/fd`).length,
			handles: metrics('nodejs_active_handles'),
			memory: ownMemory(pid),
			heap: metrics('nodejs_heap_size_used_bytes') / 1e6,
			total: metrics('nodejs_heap_size_total_bytes') / 1e6,
			buffers: metrics('nodejs_external_memory_bytes') / 1e6,
			kept,
			state: bytes / 1e6,
		};
	}

	/** Ends the listener as an operator does, and looks for what it leaves behind. */
	async stop(): Promise<void> {
		this.#stopped = true;
		const before = tree(this.#program.pid);
		process.kill(this.#program.pid, 'SIGTERM');
		const late = sleep(REST_WITHIN_MS, 'no end within 30 s', { ref: false });
		const how = await Promise.race([this.#program.ended, late]);
		if (how !== 'exit 0')
			this.#fault('stop', `the listener was told to end: ${how}; ${this.#program.printed()}`);
		await sleep(500);
		for (const pid of before) {
			const left = commandOf(pid);
			if (left !== undefined) this.#fault('processes left', `${pid} ${left}`);
		}
		const runners = readdirSync(join(this.state, 'runners'));
		if (runners.length > 0) this.#fault('files left', `state/runners/${runners}`);
		const db = new DatabaseSync(join(this.state, 'runs.db'));
		const check = Object.values(db.prepare('PRAGMA integrity_check').get() ?? {})[0];
		if (check !== 'ok') this.#fault('history', String(check));
		const files = new Set(readdirSync(join(this.state, 'output')));
		for (const { id } of db.prepare('SELECT id FROM runs').iterate()) files.delete(String(id));
		if (files.size > 0)
			this.#fault('files left', `${files.size} files of output belong to no run that is kept`);
		db.close();
	}

	/** Does something again and again, with a pause in between. */
	async #again(kind: string, pause: number, act: () => Promise<void>): Promise<void> {
		if (this.#only.length > 0 && !this.#only.includes(kind)) return;
		for (; !this.#stopped; await sleep(pause)) {
			if (this.#resting) continue;
			this.#underWay++;
			try {
				await act();
				this.done.set(kind, (this.done.get(kind) ?? 0) + 1);
			} catch (error) {
				if (!this.#stopped) this.#fault(kind, (error as Error).message);
			}
			this.#underWay--;
		}
	}

	#fault(kind: string, example: string): void {
		const fault = this.faults.get(kind) ?? { count: 0, example };
		fault.count++;
		this.faults.set(kind, fault);
	}

	async #ask(
		method: string,
		path: string,
		{
			body = '',
			headers = {},
			most = Number.POSITIVE_INFINITY,
		}: { body?: string; headers?: Record<string, string>; most?: number },
	): Promise<{ status: number; text: string; length: number }> {
		const { promise, resolve, reject } = Promise.withResolvers<{
			status: number;
			text: string;
			length: number;
		}>();
		const length = String(Buffer.byteLength(body));
		const asked = request(
			{
				...{ host: '127.0.0.1', port: this.#port, path, method, agent: this.#agent },
				headers: {
					...(method === 'POST' ? { 'content-type': 'application/json', 'content-length': length } : {}),
					...headers,
				},
			},
			(response) => {
				let text = '';
				let length = 0;
				const end = () => resolve({ status: response.statusCode ?? 0, text, length });
				response.on('data', (bytes: Buffer) => {
					length += bytes.length;
					if (text.length < 10_000) text += bytes.toString('latin1');
					if (length < most) return;
					end();
					response.destroy();
				});
				response.on('end', end).on('error', reject);
			},
		);
		asked.setTimeout(REST_WITHIN_MS, () =>
			asked.destroy(new Error(`${method} ${path}: no answer within 30 s`)),
		);
		asked.on('error', reject);
		asked.end(body);
		return promise;
	}

	/** Sends a delivery; gives the id of its run. */
	async #post(path: string, expected: number | number[], body = '', headers = {}): Promise<void> {
		await this.#posted(path, expected, body, headers);
	}

	async #posted(
		path: string,
		expected: number | number[],
		body = '',
		headers: Record<string, string> = {},
	): Promise<string> {
		const type = path === '/reads' ? { 'content-type': 'text/plain' } : {};
		const { status, text } = await this.#ask('POST', path, { body, headers: { ...type, ...headers } });
		if (![expected].flat().includes(status)) throw new Error(`POST ${path}: ${status} ${text.slice(0, 200)}`);
		return /"id":"(\w{26})"/.exec(text)?.[1] ?? '';
	}

	async #deliver(): Promise<void> {
		await this.#post('/quick', 202, JSON.stringify({ n: String(this.#written) }));
	}

	async #cancel(): Promise<void> {
		const id = await this.#posted('/long', 202);
		const { status, text } = await this.#ask('POST', `/-/runs/${id}/cancel`, {});
		// Of many that wait the history may have dropped the one that has just been cancelled.
		if (status !== 200) throw new Error(`cancel: ${status} ${text}`);
	}

	/** Follows a flood twice at once: one reads all, one leaves after a megabyte. */
	async #flood(): Promise<void> {
		const id = await this.#posted('/flood', 202);
		const path = `/-/runs/${id}/output?follow=true`;
		const [all] = await Promise.all([
			this.#ask('GET', path, { headers: { accept: 'application/octet-stream' } }),
			this.#ask('GET', path, { headers: { accept: 'text/event-stream' }, most: 1e6 }),
		]);
		if (all.status !== 200 || all.length === 0)
			throw new Error(`output of a flood: ${all.status}, ${all.length} bytes`);
	}

	async #lines(): Promise<void> {
		const id = await this.#posted('/lines', 202);
		const headers = { accept: 'text/plain' };
		const { status, length } = await this.#ask('GET', `/-/runs/${id}/output?follow=true`, { headers });
		if (status !== 200 || length !== 108_894) throw new Error(`20,000 lines: ${status}, ${length} bytes`);
	}

	async #strange(): Promise<void> {
		await this.#post('/guarded', [401, 429], '', { authorization: 'Bearer something else' });
		await this.#post('/nowhere', 404);
	}

	/** A connection that breaks off: before it says anything, within the header, or within the body. */
	async #breakOff(): Promise<void> {
		const socket = connect(this.#port, '127.0.0.1');
		socket.on('error', () => {});
		await new Promise<void>((resolve) => socket.once('connect', resolve).once('close', () => resolve()));
		const head = 'POST /quick HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n';
		const pieces = [
			'',
			head,
			`${head}Content-Length: 100\r\n\r\n{"n":`,
			'GET /-/runs HTTP/1.1\r\nHost: a\r\n\r\n',
		];
		socket.write(pieces[Math.floor(Math.random() * pieces.length)]!);
		await sleep(Math.random() * 10);
		socket.destroy();
	}

	async #history(): Promise<void> {
		for (const path of ['/-/runs?limit=50', '/-/runs?limit=20&route=quick&state=succeeded', '/-/routes']) {
			const { status, text } = await this.#ask('GET', path, {});
			if (status !== 200) throw new Error(`${path}: ${status} ${text.slice(0, 200)}`);
		}
	}

	/** Writes routes.yaml anew; one in five times it is faulty, and the older one goes on serving. */
	async #change(): Promise<void> {
		const number = ++this.#written;
		writeFileSync(this.file, number % 5 === 0 ? 'routes: { broken' : routes(this.#port, number));
		if (number % 2 === 1) return;
		const { status } = await this.#ask('POST', '/-/reload', {});
		if (status !== (number % 5 === 0 ? 422 : 200)) throw new Error(`reload: ${status}`);
	}

	/** What /metrics tells, each the sum over its labels. */
	async #metrics(): Promise<(name: string) => number> {
		const { status, text } = await this.#read('/metrics');
		if (status !== 200) throw new Error(`/metrics: ${status}`);
		const lines = text.split('\n');
		return (name) => {
			const found = lines.filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
			if (found.length === 0 && name !== 'nodejs_active_handles')
				throw new Error(`/metrics does not tell ${name}`);
			return found.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
		};
	}

	/** Reads an answer of any length, on a connection of its own. */
	async #read(path: string): Promise<{ status: number; text: string }> {
		const response = await fetch(`http://127.0.0.1:${this.#port}${path}`, {
			headers: { connection: 'close' },
		});
		return { status: response.status, text: await response.text() };
	}
}

/** The command line of a process; undefined when it has ended. */
function commandOf(pid: number): string | undefined {
	try {
		if (/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'))) return undefined;
		return readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ').trim();
	} catch {
		return undefined;
	}
}

const COLUMNS: (keyof Sample)[] = [
	'processes',
	'files',
	'handles',
	'memory',
	'heap',
	'total',
	'buffers',
	'kept',
	'state',
];
const SHOWN = 10;

function line(first: string, cells: (string | number)[]): string {
	const shown = cells.map((cell) => (typeof cell === 'number' ? cell.toFixed(cell % 1 === 0 ? 0 : 1) : cell));
	return [first.padEnd(SHOWN + 6), ...shown.map((cell) => cell.padStart(SHOWN))].join(' ');
}

/** Samples while the activities go on, and shows them; gives the least of what holds garbage otherwise. */
async function watch(soak: Soak, seconds: number, began: number): Promise<Pick<Sample, 'heap' | 'buffers'>> {
	const deadline = performance.now() + seconds * 1000;
	const least = { heap: Number.POSITIVE_INFINITY, buffers: Number.POSITIVE_INFINITY };
	for (let shown = 0; performance.now() < deadline; await sleep(250)) {
		const sample = await soak.sample();
		least.heap = Math.min(least.heap, sample.heap);
		least.buffers = Math.min(least.buffers, sample.buffers);
		if (performance.now() - shown < 5000) continue;
		shown = performance.now();
		const all = [...soak.done.values()].reduce((a, b) => a + b, 0);
		console.log(
			line(`${Math.round((shown - began) / 1000)} s`, [...COLUMNS.map((name) => sample[name]), all]),
		);
	}
	return least;
}

type Wanted = {
	seconds: number;
	/** The program, main.ts or what is built of it. */
	listener: string;
	/** Kinds of activities, to find which one makes something grow; all when there are none. */
	only: readonly string[];
};

/** Soaks a listener. Gives what is wrong; empty when nothing is. */
async function run(
	processes: Processes,
	dir: string,
	{ seconds, listener, only }: Wanted,
): Promise<string[]> {
	const soak = await Soak.start(processes, dir, listener);
	const began = performance.now();
	console.log(
		line('', [
			...COLUMNS.map((name) =>
				['memory', 'heap', 'total', 'buffers', 'state'].includes(name) ? `${name} MB` : name,
			),
			'done',
		]),
	);
	const first = Math.min(GROWN_AFTER, seconds / 3);
	const activities = soak.activities(only);
	const leastFirst = await watch(soak, first, began);
	const before = { ...(await soak.rest()), ...leastFirst };
	console.log(
		line(
			'at rest',
			COLUMNS.map((name) => before[name]),
		),
	);
	soak.goOn();
	await watch(soak, seconds - 2 * first, began);
	const leastLast = await watch(soak, first, began);
	const after = { ...(await soak.rest()), ...leastLast };
	console.log(
		line(
			'at rest',
			COLUMNS.map((name) => after[name]),
		),
	);
	const deaths = processes.deaths();
	await soak.stop();
	await activities;

	console.log(`\n${[...soak.done].map(([kind, count]) => `${kind}: ${count}`).join(' · ')}`);
	const grown = COLUMNS.flatMap((name) => {
		const { more, early = more, why } = BOUNDS[name];
		const bound = first < GROWN_AFTER ? early : more;
		if (after[name] <= before[name] + bound) return [];
		const [was, is] = [before[name].toFixed(1), after[name].toFixed(1)];
		return `${name}: ${was} after the first ${Math.round(first)} s, ${is} at the end; at most ${bound} more (${why})`;
	});
	const faults = [...soak.faults].map(
		([kind, { count, example }]) => `${kind}: ${count} ×, such as: ${example}`,
	);
	return [...grown, ...faults, ...deaths];
}

async function main(parent: string, wanted: Wanted): Promise<number> {
	const dir = mkdtempSync(join(parent, 'puppet-webhook-soak-'));
	const processes = new Processes(dir);
	process.once('exit', () => {
		processes.killAll();
		rmSync(dir, { recursive: true, force: true, maxRetries: 3, retryDelay: 50 });
	});
	process.once('SIGINT', () => process.exit(130));
	process.once('SIGTERM', () => process.exit(143));
	const faults = await run(processes, dir, wanted);
	console.log(faults.length === 0 ? 'sound' : faults.map((fault) => `FAILED ${fault}`).join('\n'));
	return faults.length === 0 ? 0 : 1;
}

try {
	const { values } = parseArgs({
		options: {
			minutes: { type: 'string', default: '3' },
			dir: { type: 'string', default: '/var/tmp' },
			listener: { type: 'string', default: OURS },
			only: { type: 'string', default: '' },
			help: { type: 'boolean', default: false },
		},
	});
	const minutes = Number(values.minutes);
	if (!(minutes > 0)) throw new Error(`--minutes ${values.minutes} is no number above 0`);
	if (values.help)
		console.log(
			'usage: npm run soak -- [--minutes N] [--dir DIR] [--listener FILE] [--only KIND,…]\n\nDefault: 3 minutes, state in /var/tmp, the listener as npm start runs it, all kinds of activities.',
		);
	else
		process.exitCode = await main(resolve(values.dir), {
			seconds: minutes * 60,
			listener: resolve(values.listener),
			only: values.only.split(',').filter(Boolean),
		});
} catch (error) {
	console.error(`soak: ${(error as Error).message}`);
	process.exit(2);
}
