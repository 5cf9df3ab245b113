/**
 * Shells that are already there when a command is to start. Forking a shell that has nothing in memory costs a fraction of
 * what it costs Node to fork itself, and it does not hold up the runner (figures: docs/performance.md).
 *
 * Each shell sits behind two pipes and does one command at a time: it is told a line of script, forks a subshell for it with
 * a process group of its own, says its pid, waits, and says how it ended. Output comes through a FIFO that only the command
 * and what it started hold open; so the end of the FIFO tells for certain that nobody can write to it any more, and late
 * output of one command cannot be taken for the next one's.
 *
 * Job control gives each command its process group. Some shells (dash) switch it on only where they see a terminal, so a
 * shell is started on a terminal made by script(1), which is taken away again before the first command: no command has one.
 *
 * Whatever does not fit (no script(1), a shell that behaves otherwise, values that are not harmless) is not taken here, and
 * the caller starts it as any program is started.
 */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { promisify } from 'node:util';

/** How a program ended; one of the two is null. */
export interface Ending {
	readonly exitCode: number | null;
	readonly signal: NodeJS.Signals | null;
}

/** A program as a shell starts it. */
export interface ShellStart {
	/** The program and its arguments. */
	readonly argv: readonly string[];
	readonly cwd: string | null;
	/** What it sees beyond the environment that all programs share. */
	readonly variables: Readonly<Record<string, string>>;
}

/** A program that a shell has started. */
export interface ShellStarted {
	/** The program, and leader of its process group; 0 when the shell ended before it could say. */
	readonly pid: Promise<number>;
	/** Resolves when the program has ended. */
	readonly exited: Promise<Ending>;
	/** Resolves after that, when its output is kept, as far as the grace allows. */
	readonly output: Promise<void>;
}

/** Keeps output. The bytes are overwritten afterwards. */
type Keep = (bytes: Buffer) => void;

/** Linux takes 128 KiB in one argument; a line is well below, and larger commands are rare. */
const longestLine = 64 * 1024;
/** What a pipe holds on Linux, so one read empties it. */
const pipeSize = 64 * 1024;
/** Most commands end within this time, and their output waits in the FIFO. For those that go on, reading begins. In ms. */
const attachAfter = 5;
/** How long the FIFO may stay open after the process has ended before the run counts as ended all the same. In ms. */
const outputGrace = 200;

/**
 * A value that may stand between single quotes in a line of script: printable ASCII without the quote itself. Nothing else
 * is ever put there, so quoting needs no escapes and no value can become script. Others take the way without a shell.
 */
const harmless = /^[\x20-\x26\x28-\x7e]*$/;
const variableName = /^[A-Za-z_][A-Za-z0-9_]*$/;

/**
 * Text that the waiting shell can do by itself: simple commands that are builtins everywhere, with plain words and
 * variables. Everything else gets a shell of its own, since it may tell the difference (`$$`, traps, messages).
 */
const word = String.raw`(?:[A-Za-z0-9_.:,@%/+=-]|"(?:[A-Za-z0-9_ .:,@%/+=-]|\$[a-z_][A-Za-z0-9_]*)*")+`;
const simple = String.raw`(?:true|false|:|echo|exit(?: [0-9]+)?)(?: +${word})*`;
const builtinsOnly = new RegExp(`^ *${simple}(?: *(?:;|&&|\\|\\|) *${simple})* *$`);

function quote(value: string): string {
	if (!harmless.test(value)) throw new Error('a value that is not harmless was to be quoted for a shell');
	return `'${value}'`;
}

/** The text of routes.yaml, which is script by intent, as one word. */
function quoteText(text: string): string {
	return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

const signalNames = new Map(
	Object.entries(os.constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]),
);

/** Reading the FIFO; `finished` resolves at its end, when nobody can write to it any more. */
interface Reading {
	readonly finished: Promise<void>;
	/** Resolves when the sink has taken what was read so far. */
	delivered(): Promise<void>;
	close(): void;
	/** Goes on reading, for nobody. */
	abandon(): void;
}

/** One shell and its FIFO; does one command at a time. */
class Shell {
	readonly #process: ChildProcess;
	readonly #script: Writable;
	readonly #fifo: string;
	readonly #fd: number;
	readonly #mark = randomUUID();
	readonly #scratch: Buffer;
	#report = '';
	#current:
		| { said: (pid: number) => void; ended: (ending: Ending) => void; pid: number; signalled: boolean }
		| undefined;
	#gone = false;
	/** Called when the shell can take the next command, and when it has ended. */
	onIdle: () => void = () => {};
	onGone: () => void = () => {};

	constructor(process: ChildProcess, fifo: string, fd: number, scratch: Buffer) {
		this.#process = process;
		this.#script = process.stdio[3] as Writable;
		this.#fifo = fifo;
		this.#fd = fd;
		this.#scratch = scratch;
		const reports = process.stdio[4] as Readable;
		reports.setEncoding('latin1').on('data', (text: string) => this.#read(text));
		reports.on('close', () => this.#end());
		// Writing to a shell that was killed fails; its end is noticed on the other pipe.
		this.#script.on('error', () => {});
	}

	/** Gives it job control and takes the terminal away. Rejects when this shell cannot do what we need. */
	async prepare(environment: Readonly<Record<string, string>>): Promise<void> {
		const shell = environment.SHELL === undefined ? 'unset SHELL' : `SHELL=${quote(environment.SHELL)}`;
		// HUP comes when the terminal goes; a trap that does something is not handed on to commands, an ignored signal would be.
		this.#script.write(`trap : HUP; set -m; ${shell}; exec >/dev/null 2>&1; echo "pid $$" >&4\n`);
		const own = await new Promise<number>((resolve, reject) => {
			const ended = () => reject(new Error('the shell ended at once'));
			this.#current = { said: resolve, ended, pid: 0, signalled: false };
		});
		const hungUp = new Promise((resolve) => this.#process.once('exit', resolve));
		this.#process.kill('SIGKILL');
		await hungUp;
		this.#script.write('trap - HUP\n');
		const sink = { write: () => true, drained: async () => {} };
		const tried = this.start({ cwd: null, variables: {} }, 'exit 143', sink);
		const { exitCode } = await tried.ended;
		if ((await tried.pid) === own || exitCode !== 143) throw new Error('the shell has no job control');
	}

	/** Begins a command; `body` is the script that becomes it. Only for an idle shell. */
	start(command: Omit<ShellCommand, 'argv' | 'text'>, body: string, sink: OutputSink): Started {
		const exports = Object.entries(command.variables).map(([name, value]) => ` ${name}=${quote(value)}`);
		const environment = exports.length === 0 ? '' : `export${exports.join('')}; `;
		// cd exports PWD and OLDPWD, which a program started otherwise would not see.
		const place = command.cwd === null ? '' : `cd ${quote(command.cwd)} || exit 126; unset -v PWD OLDPWD; `;
		this.#script.write(
			`( ${place}${environment}${body} ) </dev/null >${quote(this.#fifo)} 2>&1 4>&- & echo "pid $!" >&4; wait $!; ` +
				// `jobs` takes the ended command off the shell's list, which would grow for ever otherwise; and only `jobs` can tell
				// an end by a signal from an exit status above 128.
				`set -- $?; if [ $1 -gt 128 ]; then jobs -l >&4; else jobs; fi; echo "${this.#mark} $1" >&4\n`,
		);
		let said: (pid: number) => void = () => {};
		const pid = new Promise<number>((resolve) => {
			said = resolve;
		});
		const ending = new Promise<Ending>((ended) => {
			this.#current = { said, ended, pid: 0, signalled: false };
		});
		return { pid, ended: this.#collect(sink, ending) };
	}

	/** Lets it end once its present command has. */
	close(): void {
		this.#script.end();
	}

	/** Reads the output while the command runs and after; resolves when both are over, or the grace is. */
	async #collect(sink: OutputSink, ending: Promise<Ending>): Promise<Ending> {
		let reading: Reading | undefined;
		let timer: NodeJS.Timeout;
		let over = false;
		const attach = () => {
			reading = this.#attach(sink);
			// The FIFO can be at its end because the command has not opened it yet, or has closed its output early.
			void reading.finished.then(() => {
				reading = undefined;
				if (!over) timer = setTimeout(attach, attachAfter);
			});
		};
		timer = setTimeout(attach, attachAfter);
		const how = await ending;
		over = true;
		clearTimeout(timer);
		// What was read already comes first.
		await reading?.delivered();
		if (reading === undefined && this.#drain(sink)) {
			this.#free();
			return how;
		}
		const last = reading ?? this.#attach(sink);
		// The system tells the end of a FIFO only to those who opened it before; so we look once more, now that it is open.
		if (this.#drain(sink)) last.close();
		let grace: NodeJS.Timeout | undefined;
		const finished = await Promise.race([
			last.finished.then(() => true),
			new Promise<boolean>((resolve) => {
				grace = setTimeout(resolve, outputGrace, false);
			}),
		]);
		clearTimeout(grace);
		if (finished) this.#free();
		else {
			last.abandon();
			void last.finished.then(() => this.#free());
		}
		return how;
	}

	/** Reads what the FIFO holds at once; true at its end, false while somebody can still write. */
	#drain(sink: OutputSink): boolean {
		for (;;) {
			let size: number;
			try {
				size = fs.readSync(this.#fd, this.#scratch, 0, pipeSize, null);
			} catch (error) {
				if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false;
				throw error;
			}
			if (size === 0) return true;
			sink.write(Buffer.from(this.#scratch.subarray(0, size)));
		}
	}

	/** Reads the FIFO as output comes, until its end. */
	#attach(sink: OutputSink): Reading {
		const socket = new net.Socket({
			fd: fs.openSync(this.#fifo, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK),
			readable: true,
			writable: false,
		});
		let abandoned = false;
		let delivered = Promise.resolve();
		socket.on('data', (chunk: Buffer) => {
			if (abandoned || sink.write(chunk)) return;
			socket.pause();
			delivered = sink.drained().then(() => void socket.resume());
		});
		socket.on('error', () => {});
		return {
			finished: new Promise((resolve) => {
				socket.once('close', () => resolve());
			}),
			delivered: () => delivered,
			close: () => void socket.destroy(),
			// What is left behind and still writes belongs to no run. It is read all the same, or it would die of SIGPIPE.
			abandon: () => {
				abandoned = true;
			},
		};
	}

	#read(text: string): void {
		const lines = (this.#report + text).split('\n');
		this.#report = lines.pop() ?? '';
		for (const line of lines) {
			const current = this.#current;
			if (current === undefined) continue;
			const [first, second] = line.split(' ');
			if (first === this.#mark) {
				this.#current = undefined;
				const status = Number(second);
				const signal = current.signalled ? signalNames.get(status - 128) : undefined;
				current.ended(signal === undefined ? { exitCode: status, signal: null } : { exitCode: null, signal });
			} else if (first === 'pid' && current.pid === 0) {
				current.pid = Number(second);
				current.said(current.pid);
			} else if (line.startsWith('[')) {
				// dash: `[1] + 77 Done(143)   …` · bash: `[1]+ 77 Exit 143   …` · by a signal both: `Terminated`, `Killed` …
				current.signalled = !/^\[\d+\] ?[+-]? *\d+ (Done|Exit)/.test(line);
			}
		}
	}

	#free(): void {
		if (!this.#gone) this.onIdle();
	}

	/** Somebody killed the shell. The command it had cannot be watched any more, so it is ended as well. */
	#end(): void {
		if (this.#gone) return;
		this.#gone = true;
		const current = this.#current;
		this.#current = undefined;
		if (current !== undefined) {
			try {
				if (current.pid > 0) process.kill(-current.pid, 'SIGKILL');
			} catch {
				// It has ended already.
			}
			current.ended({ exitCode: null, signal: 'SIGKILL' });
		}
		this.onGone();
		fs.closeSync(this.#fd);
	}
}

/** The shells of one runner, as many as commands run at once. */
export class Shells {
	readonly #directory: string;
	readonly #environment: Readonly<Record<string, string>>;
	readonly #most: number;
	readonly #idle: Shell[] = [];
	readonly #all = new Set<Shell>();
	readonly #scratch = Buffer.allocUnsafe(pipeSize);
	#made = 0;
	#opening = 0;
	#closed = false;

	constructor(directory: string, environment: Readonly<Record<string, string>>, most: number) {
		this.#directory = directory;
		this.#environment = environment;
		this.#most = most;
	}

	/**
	 * Gets the first shells ready.
	 * @param parent a directory that only we can write to; FIFOs are made in a new one inside
	 * @param environment what every command sees
	 * @param most how many shells there may be
	 * @returns undefined where this host cannot do it; commands are then started as any program is
	 */
	static async open(
		parent: string,
		environment: Readonly<Record<string, string>>,
		most: number,
	): Promise<Shells | undefined> {
		const plain = Object.values(environment).every((value) => harmless.test(value));
		if (process.platform !== 'linux' || !plain || !harmless.test(parent)) return undefined;
		const shells = new Shells(fs.mkdtempSync(path.join(parent, 'shells-')), environment, most);
		try {
			// One for the next command and one for the one after; more are made as they are needed.
			await Promise.all([shells.#add(), shells.#add()]);
			return shells;
		} catch {
			shells.close();
			return undefined;
		}
	}

	/** Starts a command; undefined when it has to be started without a shell of ours, or none is free at the moment. */
	start(command: ShellCommand, sink: OutputSink): Started | undefined {
		const body = bodyOf(command);
		if (body === undefined) return undefined;
		const shell = this.#idle.pop();
		if (this.#idle.length === 0 && this.#all.size + this.#opening < this.#most) {
			// A host on which this fails once too often is served as if it had no shells.
			this.#add().catch(() => {});
		}
		return shell?.start(command, body, sink);
	}

	/** Ends the shells; commands that run are not touched. */
	close(): void {
		this.#closed = true;
		for (const shell of this.#all) shell.close();
		fs.rmSync(this.#directory, { recursive: true, force: true });
	}

	async #add(): Promise<void> {
		this.#opening++;
		try {
			const fifo = path.join(this.#directory, String(++this.#made));
			await promisify(execFile)('mkfifo', ['-m', '600', fifo]);
			const fd = fs.openSync(fifo, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
			const child = spawn('script', ['-q', '-c', 'exec /bin/sh -s <&3 3<&-', '/dev/null'], {
				// script runs its command by $SHELL, which may be anything.
				env: { ...this.#environment, SHELL: '/bin/sh' },
				stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
				detached: true,
			});
			child.on('error', () => {});
			const shell = new Shell(child, fifo, fd, this.#scratch);
			shell.onGone = () => {
				this.#all.delete(shell);
				const place = this.#idle.indexOf(shell);
				if (place >= 0) this.#idle.splice(place, 1);
			};
			await shell.prepare(this.#environment);
			if (this.#closed) return shell.close();
			shell.onIdle = () => this.#idle.push(shell);
			this.#all.add(shell);
			this.#idle.push(shell);
		} finally {
			this.#opening--;
		}
	}
}

/** The script that becomes the command, or undefined when not all of it is harmless. */
function bodyOf({ argv, text, cwd, variables }: ShellCommand): string | undefined {
	let length = 0;
	for (const [name, value] of Object.entries(variables)) {
		if (!variableName.test(name) || !harmless.test(value)) return undefined;
		length += value.length;
	}
	if (cwd !== null && !harmless.test(cwd)) return undefined;
	const [program = '', ...rest] = argv;
	if (text !== null) {
		length += text.length;
		if (length > longestLine || !harmless.test(program)) return undefined;
		if (program === '/bin/sh' && builtinsOnly.test(text)) return text;
		return `exec ${quote(program)} -c ${quoteText(text)}`;
	}
	for (const item of argv) {
		if (!harmless.test(item)) return undefined;
		length += item.length;
	}
	if (length > longestLine || program.startsWith('-')) return undefined;
	return `exec ${quote(program)} ${rest.map(quote).join(' ')}`;
}
