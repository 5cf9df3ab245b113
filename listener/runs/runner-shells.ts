/**
 * Shells that are already there when a program is to be started, inside a runner. Forking a shell that holds nothing costs a
 * fraction of what it costs Node to fork itself, and the runner does not stand still meanwhile (docs/performance.md).
 *
 * Each shell does one program at a time: it is told a line of script, forks a subshell with a process group of its own, says
 * its pid, waits, and says how it ended. What is printed goes into the shell's named pipe.
 *
 * It is job control that gives each program its process group, and dash has that only on a terminal. So a shell begins on one
 * that script(1) makes, which is taken away again before the first program: no program ever has a terminal.
 *
 * What does not fit (no script(1), a shell that behaves otherwise, values that are not harmless, standard input) is not taken,
 * and is started as any program is.
 */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { promisify } from 'node:util';
import { shellMark } from './runner-groups.ts';
import { type Keep, PipeReader } from './runner-pipes.ts';

/** How a program ended; one of the two is null. */
export interface Ending {
	readonly exitCode: number | null;
	readonly signal: NodeJS.Signals | null;
}

/** A program as a shell starts it. */
export interface ShellProgram {
	/** The program and its arguments. */
	readonly argv: readonly string[];
	/** null: the runner's own. */
	readonly cwd: string | null;
	/** Variables beyond the environment that every program gets. */
	readonly variables: Readonly<Record<string, string>>;
}

/** A program that a shell was told to start. */
export interface ShellRun {
	/** Its pid, and its process group's. 0 when the shell ended before it said one. */
	readonly pid: Promise<number>;
	/** Resolves when it has ended. */
	readonly exited: Promise<Ending>;
	/** Resolves when its output has been kept; not before `exited`. */
	readonly kept: Promise<void>;
}

/** Characters of a line of script at most. Longer ones are rare, and a shell reads a line again with every character. */
const longestLine = 64 * 1024;
/**
 * Milliseconds after which output is read as it comes. Most programs have ended by then, and what they printed is read in one
 * go from the pipe, which holds 64 KiB.
 */
const attachAfter = 5;
/** Milliseconds to the next try when that was not possible. What is printed meanwhile waits in the pipe. */
const attachAgain = 100;

/**
 * A value that may stand between single quotes in a line of script: printable ASCII without the quote itself. Nothing else is
 * ever put there, so quoting knows no escapes, and no value can become script.
 */
const harmless = /^[\x20-\x26\x28-\x7e]*$/;
const variableName = /^[A-Za-z_][A-Za-z0-9_]*$/;

/**
 * Text that a subshell may evaluate by itself: simple commands that are builtins, of plain words and variables. Other text
 * gets a shell of its own, since it could tell the difference (`$$`, `$0`, traps, the shell's messages).
 */
const word = String.raw`(?:[A-Za-z0-9_.:,@%/+=-]|"(?:[A-Za-z0-9_ .:,@%/+=-]|\$[a-z_][A-Za-z0-9_]*)*")+`;
const simple = `(?:exit(?: +[0-9]+)?|(?:true|false|:|echo)(?: +${word})*)`;
const builtinsOnly = new RegExp(String.raw`^ *${simple}(?: *(?:;|&&|\|\|) *${simple})* *$`);

const signalNames = new Map(
	Object.entries(os.constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]),
);

function quote(value: string): string {
	if (!harmless.test(value)) throw new Error('a value that is not harmless was to be part of a script');
	return `'${value}'`;
}

/** What the author of routes.yaml wrote as script, as one word. */
function quoteScript(text: string): string {
	return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

/** The script by which a subshell becomes the program; undefined when a shell should not start it. */
function scriptFor(
	{ argv, cwd, variables }: ShellProgram,
	environment: Readonly<Record<string, string>>,
): string | undefined {
	const [file = '', ...args] = argv;
	const isScript = file === '/bin/sh' && args.length === 2 && args[0] === '-c';
	const script = isScript ? args[1]! : '';
	const values = isScript ? [] : argv;
	let length = script.length + (cwd?.length ?? 0);
	for (const value of values) length += value.length;
	let exported = '';
	for (const [name, value] of Object.entries(variables)) {
		if (!variableName.test(name) || !harmless.test(value)) return undefined;
		exported += ` ${name}=${quote(value)}`;
	}
	if (length + exported.length > longestLine) return undefined;
	if (!values.every((value) => harmless.test(value)) || !harmless.test(cwd ?? '')) return undefined;
	// When something is missing, the system's own answer to a start is the better one to pass on.
	if (cwd !== null && !fs.statSync(cwd, { throwIfNoEntry: false })?.isDirectory()) return undefined;
	if (!isScript && !canStart(file, cwd, variables.PATH ?? environment.PATH ?? '')) return undefined;

	// The shell exports PWD by itself, and cd OLDPWD as well, which a program started otherwise would not see.
	const place = `${cwd === null ? '' : `cd ${quote(cwd)} && `}unset -v PWD OLDPWD || exit; `;
	const prepared = exported === '' ? place : `${place}export${exported}; `;
	if (!isScript) return `${prepared}exec ${values.map(quote).join(' ')}`;
	return prepared + (builtinsOnly.test(script) ? script : `exec /bin/sh -c ${quoteScript(script)}`);
}

/** True for an executable file that is a program, or a script whose interpreter is there. */
function canStart(file: string, cwd: string | null, PATH: string): boolean {
	// An option to exec, as far as a shell is concerned.
	if (file.startsWith('-')) return false;
	if (file.includes('/')) return isProgram(path.resolve(cwd ?? '.', file));
	for (const directory of PATH.split(':')) {
		const candidate = path.resolve(cwd ?? '.', directory, file);
		if (fs.existsSync(candidate)) return isProgram(candidate);
	}
	return false;
}

function isProgram(file: string): boolean {
	let fd: number | undefined;
	try {
		fs.accessSync(file, fs.constants.X_OK);
		fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
		// Linux looks for the interpreter's name in the first 256 bytes (execve(2)).
		const head = Buffer.alloc(256);
		const text = head.toString('latin1', 0, fs.readSync(fd, head, 0, head.length, 0));
		if (text.startsWith('\x7fELF')) return true;
		const interpreter = /^#![ \t]*(\/[^ \t\n]+)/.exec(text)?.[1];
		return interpreter !== undefined && fs.existsSync(interpreter);
	} catch {
		return false;
	} finally {
		if (fd !== undefined) fs.closeSync(fd);
	}
}

/** What a shell has been told to do and has not yet said the end of. */
interface Told {
	readonly said: (pid: number) => void;
	readonly ended: (ending: Ending) => void;
	pid: number;
	signalled: boolean;
}

/** One shell and its pipe. */
class Shell {
	readonly #process: ChildProcess;
	readonly #script: Writable;
	readonly #pipe: string;
	/** Held open so that a program can open the pipe for writing, and to look into it at a program's end. */
	readonly #fd: number;
	readonly #buffer: Buffer;
	/** Only a shell's own words begin with it. */
	readonly #mark = randomUUID();
	#unread = '';
	#told: Told | undefined;
	#reading = false;
	/** Called when the shell can take a program again. */
	onIdle: () => void = () => {};
	/** Called when the shell has ended. */
	onGone: () => void = () => {};

	constructor(process: ChildProcess, pipe: string, buffer: Buffer) {
		this.#process = process;
		this.#pipe = pipe;
		this.#buffer = buffer;
		this.#fd = fs.openSync(pipe, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
		this.#script = process.stdio[3] as Writable;
		// A shell that was killed takes no script; its end is noticed where it speaks.
		this.#script.on('error', () => {});
		const words = process.stdio[4] as Readable;
		words.setEncoding('latin1').on('data', (text: string) => this.#listen(text));
		words.on('close', () => this.#end());
	}

	/** Switches job control on, takes the terminal away and tries it out. Rejects when this shell does not do what we need. */
	async prepare(shellVariable: string | undefined): Promise<void> {
		const restored = shellVariable === undefined ? 'unset SHELL' : `SHELL=${quote(shellVariable)}`;
		// HUP comes when the terminal goes. Programs do not inherit a trap that does something; to ignore it they would.
		this.#script.write(
			`trap : HUP; set -m; ${restored}; unset ${shellMark}; exec >/dev/null 2>&1; echo "pid $$" >&4; echo "${this.#mark} 0" >&4\n`,
		);
		const { pid: said, exited } = this.#tell();
		await exited;
		const hungUp = new Promise((resolve) => this.#process.once('exit', resolve));
		this.#process.kill('SIGKILL');
		await hungUp;
		this.#script.write('trap - HUP\n');
		const trial = this.start('exit 143', () => {});
		const [pid, { exitCode }] = await Promise.all([trial.pid, trial.exited, trial.kept]);
		if (pid === 0 || pid === (await said) || exitCode !== 143)
			throw new Error('this shell has no job control');
	}

	/** Starts what the script becomes. Only for a shell that is idle. */
	start(script: string, keep: Keep): ShellRun {
		this.#script.write(
			`( ${script} ) </dev/null >${quote(this.#pipe)} 2>&1 4>&- & echo "pid $!" >&4; wait $!; ` +
				// `jobs` takes what has ended off the shell's list, which would grow for ever otherwise; and it alone can tell an
				// end by a signal from an exit status above 128.
				`set -- $?; if [ $1 -gt 128 ]; then jobs -l >&4; else jobs; fi; echo "${this.#mark} $1" >&4\n`,
		);
		const { pid, exited } = this.#tell();
		return { pid, exited, kept: this.#read(exited, keep) };
	}

	/** Lets it end when what it does has ended. */
	close(): void {
		this.#script.end();
	}

	#tell(): { pid: Promise<number>; exited: Promise<Ending> } {
		let said: (pid: number) => void = () => {};
		let ended: (ending: Ending) => void = () => {};
		const pid = new Promise<number>((resolve) => {
			said = resolve;
		});
		const exited = new Promise<Ending>((resolve) => {
			ended = resolve;
		});
		this.#told = { said, ended, pid: 0, signalled: false };
		return { pid, exited };
	}

	#listen(text: string): void {
		const lines = (this.#unread + text).split('\n');
		this.#unread = lines.pop() ?? '';
		for (const line of lines) {
			const told = this.#told;
			if (told === undefined) continue;
			const [first, second] = line.split(' ');
			if (first === this.#mark) {
				this.#told = undefined;
				const status = Number(second);
				const signal = told.signalled ? signalNames.get(status - 128) : undefined;
				told.ended(signal === undefined ? { exitCode: status, signal: null } : { exitCode: null, signal });
			} else if (first === 'pid' && told.pid === 0) {
				told.pid = Number(second);
				told.said(told.pid);
			} else if (line.startsWith('[')) {
				// An exit: `[1] + 77 Done(143)   (…)` in dash, `[1]+    77 Exit 143   (…)` in bash. A signal: `Terminated` and so on.
				told.signalled = !/^\[\d+\] ?[+-]? *\d+ (?:Done|Exit)/.test(line);
			}
		}
	}

	/** Resolves when the output has been kept. */
	async #read(exited: Promise<Ending>, keep: Keep): Promise<void> {
		this.#reading = true;
		let reader: PipeReader | undefined;
		let over = false;
		const attach = () => {
			const attached = this.#attach(keep);
			if (attached === undefined) {
				timer = setTimeout(attach, attachAgain);
				return;
			}
			reader = attached;
			// The pipe may be at its end because the program has not opened it yet, or has closed its output already.
			void attached.closed.then(() => {
				reader = undefined;
				if (!over) timer = setTimeout(attach, attachAfter);
			});
		};
		let timer = setTimeout(attach, attachAfter);
		await exited;
		over = true;
		clearTimeout(timer);
		if (this.#drain(keep)) {
			reader?.close();
			await reader?.closed;
			this.#idle();
			return;
		}
		const last = reader ?? this.#attach(keep);
		// Not used again: somebody can write to its pipe, and we cannot tell until when.
		if (last === undefined) return this.close();
		// The system tells a pipe's end only to who had it open before; it may have come just before we opened it.
		if (this.#drain(keep)) last.close();
		void last.closed.then(() => this.#idle());
		await last.end();
	}

	#idle(): void {
		this.#reading = false;
		this.onIdle();
	}

	/** Undefined when this process has no file descriptor left. */
	#attach(keep: Keep): PipeReader | undefined {
		try {
			const fd = fs.openSync(this.#pipe, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
			return new PipeReader(fd, this.#buffer, keep);
		} catch {
			return undefined;
		}
	}

	/** Reads what is in the pipe. True at its end, false while somebody can still write. */
	#drain(keep: Keep): boolean {
		for (;;) {
			let length: number;
			try {
				length = fs.readSync(this.#fd, this.#buffer);
			} catch (error) {
				if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false;
				throw error;
			}
			if (length === 0) return true;
			keep(this.#buffer.subarray(0, length));
		}
	}

	/** Somebody ended the shell. Nobody can say any more how its program ends, so that is ended as well. */
	#end(): void {
		const told = this.#told;
		this.#told = undefined;
		this.onGone();
		this.onIdle = () => fs.closeSync(this.#fd);
		if (!this.#reading) fs.closeSync(this.#fd);
		if (told === undefined) return;
		if (told.pid > 0) {
			try {
				process.kill(-told.pid, 'SIGKILL');
			} catch {
				// It has ended already.
			}
		}
		told.said(0);
		told.ended({ exitCode: null, signal: 'SIGKILL' });
	}
}

/** The shells of a runner, as many as programs are started at a time. */
export class Shells {
	readonly #directory: string;
	readonly #environment: Readonly<Record<string, string>>;
	readonly #idle: Shell[] = [];
	/** Those that are ready, idle or not. */
	readonly #ready = new Set<Shell>();
	readonly #buffer: Buffer;
	#made = 0;
	#beginning = 0;
	/** False once this host has shown that it cannot do it. */
	#possible: boolean;

	/**
	 * @param directory where the pipes are made; the runner's own
	 * @param environment what every program gets
	 * @param buffer what output is read into
	 */
	constructor(directory: string, environment: Readonly<Record<string, string>>, buffer: Buffer) {
		this.#directory = directory;
		this.#environment = environment;
		this.#buffer = buffer;
		this.#possible =
			process.platform === 'linux' &&
			harmless.test(directory) &&
			Object.values(environment).every((value) => harmless.test(value));
	}

	/** Begins a shell, so that there is one for the next program. Never rejects. */
	async prepare(): Promise<void> {
		if (!this.#possible || this.#beginning > 0) return;
		this.#beginning++;
		try {
			await this.#begin();
		} catch {
			this.#possible = false;
		} finally {
			this.#beginning--;
		}
	}

	/** Starts a program; undefined when that has to be done without a shell, or none is free. */
	start(program: ShellProgram, keep: Keep): ShellRun | undefined {
		if (!this.#possible) return undefined;
		const script = scriptFor(program, this.#environment);
		if (script === undefined) return undefined;
		const shell = this.#idle.pop();
		// As many as are needed at a time; a run that finds none does not wait for it.
		if (this.#idle.length === 0) void this.prepare();
		return shell?.start(script, keep);
	}

	/** Ends the shells as they become idle. */
	close(): void {
		this.#possible = false;
		for (const shell of this.#ready) shell.close();
	}

	async #begin(): Promise<void> {
		const pipe = path.join(this.#directory, `shell-${this.#made++}`);
		const env = { ...this.#environment };
		await promisify(execFile)('mkfifo', ['-m', '600', pipe], { env });
		// script(1) has its command run by $SHELL, which may be anything.
		const child = spawn('script', ['-q', '-c', 'exec /bin/sh -s <&3 3<&-', '/dev/null'], {
			env: { ...env, SHELL: '/bin/sh', [shellMark]: path.basename(this.#directory) },
			stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
			detached: true,
		});
		const missing = new Promise<never>((_, reject) => child.on('error', reject));
		const shell = new Shell(child, pipe, this.#buffer);
		await Promise.race([shell.prepare(this.#environment.SHELL), missing]);
		if (!this.#possible) return shell.close();
		shell.onIdle = () => this.#idle.push(shell);
		shell.onGone = () => {
			this.#ready.delete(shell);
			const place = this.#idle.indexOf(shell);
			if (place >= 0) this.#idle.splice(place, 1);
		};
		this.#ready.add(shell);
		this.#idle.push(shell);
	}
}
