/** The processes a benchmark starts: started apart from the terminal, watched, measured as trees, ended by pid. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';

/** Characters of a program's complaint that an error repeats. */
const MOST_SHOWN = 600;

export type Program = {
	pid: number;
	/** Resolves when the process has ended, with how. */
	ended: Promise<string>;
	/** The last 15 lines it printed. */
	printed(): string;
	/** Ends it and all that it started, at once. */
	kill(): Promise<void>;
};

export class Processes {
	#dir: string;
	#started = new Map<number, ChildProcess>();
	#died: string[] = [];
	#count = 0;

	/** @param dir where what the programs print is kept */
	constructor(dir: string) {
		this.#dir = dir;
	}

	/** Starts a program that goes on until it is killed. Throws when it cannot be started. */
	async start(command: string, args: string[]): Promise<Program> {
		const log = join(this.#dir, `program-${++this.#count}.log`);
		const file = openSync(log, 'a');
		// A session of its own keeps a terminal's Ctrl-C away from it: it is ended here, with all it has started.
		const TMPDIR = join(this.#dir, `program-${this.#count}`);
		mkdirSync(TMPDIR);
		const child = spawn(command, args, {
			...{ detached: true, stdio: ['ignore', file, file], cwd: this.#dir },
			env: { ...process.env, TMPDIR },
		});
		closeSync(file);
		const pid = await this.#watch(child, command);
		const ended = new Promise<string>((resolve) => {
			child.once('exit', (code, signal) => {
				const how = signal ?? `exit ${code}`;
				// Whatever is ended here is ended by this signal.
				if (signal !== 'SIGKILL')
					this.#died.push(`${command} ended (${how}); it printed:\n${lastLines(log)}`);
				resolve(how);
			});
		});
		const kill = async () => {
			if (this.#started.has(pid)) killTree(pid);
			await ended;
		};
		return { pid, ended, printed: () => lastLines(log), kill };
	}

	/** Runs a program to its end and returns what it printed. Rejects when it does not exit with 0. */
	async run(command: string, args: string[], input = ''): Promise<string> {
		const child = spawn(command, args, { detached: true, stdio: 'pipe', cwd: this.#dir });
		let output = '';
		let errors = '';
		child.stdout.setEncoding('utf8').on('data', (text: string) => {
			output += text;
		});
		child.stderr.setEncoding('utf8').on('data', (text: string) => {
			errors += text;
		});
		const closed = new Promise<string>((resolve) => {
			child.once('close', (code, signal) => resolve(signal ?? `exit ${code}`));
		});
		await this.#watch(child, command);
		child.stdin.on('error', () => {
			// It ended without reading: its exit status says why.
		});
		child.stdin.end(input);
		const end = await closed;
		if (end !== 'exit 0') {
			const complaint = (errors.trim() || output.trim()).slice(0, MOST_SHOWN);
			throw new Error(`${command} ${args.join(' ')}: ${end}: ${complaint}`);
		}
		return output;
	}

	/** Tells of each program that ended though nobody ended it, once. */
	deaths(): string[] {
		return this.#died.splice(0);
	}

	/** Ends whatever is still running, at once. */
	killAll(): void {
		for (const pid of this.#started.keys()) killTree(pid);
	}

	async #watch(child: ChildProcess, command: string): Promise<number> {
		await new Promise<void>((resolve, reject) => {
			child.once('spawn', resolve);
			child.once('error', (error) => reject(new Error(`${command} cannot be started: ${error.message}`)));
		});
		const pid = child.pid!;
		this.#started.set(pid, child);
		child.once('exit', () => this.#started.delete(pid));
		return pid;
	}
}

/** The end of what a program printed: enough for an uncaught error with its message and stack. */
function lastLines(log: string): string {
	return readFileSync(log, 'utf8').trimEnd().split('\n').slice(-15).join('\n');
}

/** Kills a process and its descendants, parents first so that none is started anew. */
function killTree(root: number): void {
	for (const pid of tree(root)) {
		try {
			process.kill(pid, 'SIGKILL');
		} catch {
			// It has ended meanwhile.
		}
	}
}

/**
 * A process and all that it has started, parents before children: its descendants, and those that have its TMPDIR, by which they
 * are known though whoever started them has ended since.
 */
export function tree(root: number): number[] {
	const children = new Map<number, number[]>();
	const own = temporaryDirectory(root);
	const strays: number[] = [];
	for (const name of readdirSync('/proc')) {
		if (!/^\d+$/.test(name)) continue;
		if (own !== undefined && own !== process.env.TMPDIR && temporaryDirectory(name) === own)
			strays.push(Number(name));
		// The name in parentheses may itself contain spaces and parentheses; after the last one come state and parent.
		const parent = Number(readProc(name, 'stat').split(') ').at(-1)?.split(' ')[1]);
		children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
	}
	const pids = [root];
	for (const pid of pids) pids.push(...(children.get(pid) ?? []));
	return [...new Set([...pids, ...strays])];
}

function temporaryDirectory(pid: number | string): string | undefined {
	return /(?:^|\0)TMPDIR=([^\0]*)/.exec(readProc(pid, 'environ'))?.[1];
}

/**
 * Resident memory of a process and all its descendants, in MB (10^6 bytes), as if nothing else ran on the machine:
 * memory of their own, shared among them by parts, and each page of a file (program, library) that any of them has
 * mapped once. PSS would make a listener look smaller because this benchmark runs the same `node` file, and a sum of
 * RSS would count that file once for each process.
 */
export function treeMemory(root: number): number {
	let own = 0;
	const files = new Map<string, number>();
	for (const pid of tree(root)) {
		own += kilobytes(readProc(pid, 'smaps_rollup'), 'Pss_Anon');
		for (const mapping of readProc(pid, 'smaps').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
			const [, , offset, device, inode] = mapping.split(/\s+/, 5);
			if (inode === undefined || inode === '0') continue;
			const pages = kilobytes(mapping, 'Rss') - kilobytes(mapping, 'Anonymous');
			const key = `${device} ${inode} ${offset}`;
			files.set(key, Math.max(files.get(key) ?? 0, pages));
		}
	}
	for (const pages of files.values()) own += pages;
	return (own * 1024) / 1e6;
}

/** Memory of their own of a process and all its descendants, in MB: what may grow. Quick enough to be asked for often. */
export function ownMemory(root: number): number {
	let own = 0;
	for (const pid of tree(root)) own += kilobytes(readProc(pid, 'smaps_rollup'), 'Pss_Anon');
	return (own * 1024) / 1e6;
}

function kilobytes(text: string, name: string): number {
	return Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(text)?.[1] ?? 0);
}

/** A file of a process, or '' when the process has ended. */
function readProc(pid: number | string, file: string): string {
	try {
		return readFileSync(`/proc/${pid}/${file}`, 'utf8');
	} catch {
		return '';
	}
}

/** A TCP port of 127.0.0.1 that nobody listens on. */
export async function freePort(): Promise<number> {
	const server = createServer();
	await new Promise<void>((resolve, reject) => {
		server.once('error', reject);
		server.listen(0, '127.0.0.1', resolve);
	});
	const address = server.address();
	await new Promise<void>((resolve) => server.close(() => resolve()));
	if (address === null || typeof address === 'string') throw new Error('no port could be had on 127.0.0.1');
	return address.port;
}
