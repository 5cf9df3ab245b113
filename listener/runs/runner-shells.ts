/**
 * Shells that are already there when a program is to be started. Forking a shell that holds nothing costs a fraction of what it
 * costs Node to fork itself, and the listener does not stand still meanwhile (docs/performance.md).
 *
 * Each shell does one program at a time: it is told a line of script through a named pipe, forks a subshell with a process group
 * of its own, waits, and says through another how it ended. What is printed goes into the shell's third pipe.
 *
 * It is job control that gives each program its process group, and dash has that only on a terminal. So a shell begins on one
 * that script(1) makes, which is taken away again before the first program: no program ever has a terminal.
 *
 * The shells are made by a shell, the maker, the one process that the listener forks for all of this. When the listener dies,
 * the maker ends what the shells still run.
 *
 * What does not fit (no script(1), a shell that behaves otherwise, values that are not harmless, standard input) is not taken,
 * and is started as any program is.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Writable } from 'node:stream';
import { endShells, shellMark } from './runner-groups.ts';
import { type Keep, PipeReader } from './runner-pipes.ts';

/** What had started a program died, and nobody can tell how the program ended. */
export type Lost = 'lost';

/** How a program ended; one of the two is null. */
export interface Ending {
	readonly exitCode: number | null;
	readonly signal: NodeJS.Signals | null;
}

/** A program as a shell starts it. */
export interface ShellProgram {
	/** The program and its arguments. */
	readonly argv: readonly string[];
	/** null: the listener's own. */
	readonly cwd: string | null;
	/** Variables beyond the environment that every program gets. */
	readonly variables: Readonly<Record<string, string>>;
}

/** Is told the pid of a program that did not end at once. */
export type Stays = (pid: number) => void;

/** A program that a shell was told to start. */
export interface ShellRun {
	/** Its pid, and its process group's; 0 when it has not begun yet, or has ended. */
	pid(): number;
	/** Resolves when it has ended. */
	readonly exited: Promise<Ending | Lost>;
	/** Resolves when its output has been kept; not before `exited`. */
	readonly kept: Promise<void>;
}

/** Bytes of a line of script at most: half of what the pipe holds, so that it is written at once and as a whole. */
const longestLine = 32 * 1024;
/** Shells that may fail to begin in a row before no more are tried: somebody may have ended one or two. */
const mostFailures = 3;
/** Milliseconds that a shell may take to begin; one that does not in that time never will. */
const beginWithin = 5_000;
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
	readonly ended: (ending: Ending | Lost) => void;
	/** Of the program, once it was looked for; 0 before. */
	pid: number;
	signalled: boolean;
}

/** Where a shell's named pipes are. */
interface Pipes {
	/** What it is told. */
	readonly script: string;
	/** What it says. */
	readonly words: string;
	/** What its programs print. */
	readonly output: string;
}

/** One shell and its pipes. */
class Shell {
	readonly #pipe: string;
	/** Held open so that a program can open the pipe for writing, and to look into it at a program's end. */
	readonly #fd: number;
	readonly #script: number;
	readonly #buffer: Buffer;
	/** Only a shell's own words begin with it. */
	readonly #mark = randomUUID();
	#pid = 0;
	#unread = '';
	#told: Told | undefined;
	#reading = false;
	#closed = false;
	/** Called with its pid when it has begun. */
	#begun: (pid: number) => void = () => {};
	/** Called when the shell can take a program again. */
	onIdle: () => void = () => {};
	/** Called when the shell has ended. */
	onGone: () => void = () => {};

	constructor({ script, words, output }: Pipes, buffer: Buffer) {
		this.#pipe = output;
		this.#buffer = buffer;
		const reading = fs.constants.O_RDONLY | fs.constants.O_NONBLOCK;
		this.#fd = fs.openSync(output, reading);
		// For both, since nobody has to wait then. The shell sees the end of its script when we close it, as we alone write.
		this.#script = fs.openSync(script, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
		const said = Buffer.allocUnsafe(1024);
		const socket = new net.Socket({
			fd: fs.openSync(words, reading),
			readable: true,
			writable: false,
			onread: {
				buffer: said,
				callback: (length) => {
					this.#listen(said.toString('latin1', 0, length));
					return true;
				},
			},
		});
		socket.on('error', () => {});
		socket.on('close', () => void this.#end());
	}

	/** Switches job control on. Resolves with the shell's pid; rejects when it does not begin. */
	begin(shellVariable: string | undefined): Promise<number> {
		const restored = shellVariable === undefined ? 'unset SHELL' : `SHELL=${quote(shellVariable)}`;
		return new Promise((resolve, reject) => {
			const late = setTimeout(() => reject(new Error('the shell does not begin')), beginWithin);
			this.#begun = (pid) => {
				clearTimeout(late);
				resolve(pid);
			};
			// HUP comes when the terminal goes. Programs do not inherit a trap that does something; to ignore it they would.
			this.#write(
				`trap : HUP; set -m; ${restored}; unset ${shellMark}; exec >/dev/null 2>&1; echo "pid $$" >&4\n`,
			);
		});
	}

	/** Tries it out, once its terminal is gone. Rejects when this shell does not do what we need. */
	async tryOut(): Promise<void> {
		this.#write('trap - HUP\n');
		const alone =
			'read -r pid name state parent group rest </proc/self/stat; [ "$pid" = "$group" ] && exit 143';
		const { exited, kept } = this.start(
			alone,
			() => {},
			() => {},
		);
		const [end] = await Promise.all([exited, kept]);
		if (end === 'lost' || end.exitCode !== 143 || !fs.existsSync(childrenOf(this.#pid)))
			throw new Error('this shell has no job control');
	}

	/** Starts what the script becomes. Only for a shell that is idle. */
	start(script: string, keep: Keep, stays: Stays): ShellRun {
		const exited = new Promise<Ending | Lost>((ended) => {
			if (this.#closed) ended('lost');
			else this.#told = { ended, pid: 0, signalled: false };
		});
		this.#write(
			`( ${script} ) </dev/null >${quote(this.#pipe)} 2>&1 4>&- & wait $!; ` +
				// `jobs` takes what has ended off the shell's list, which would grow for ever otherwise; and it alone can tell an
				// end by a signal from an exit status above 128.
				`set -- $?; if [ $1 -gt 128 ]; then jobs -l >&4; else jobs; fi; echo "${this.#mark} $1" >&4\n`,
		);
		return { pid: () => this.#child(), exited, kept: this.#read(exited, keep, stays) };
	}

	/** Lets it end when what it does has ended. */
	close(): void {
		if (this.#closed) return;
		this.#closed = true;
		fs.closeSync(this.#script);
	}

	/** The shell waits for one program, which is its only child; it need not say its pid, which nearly nobody asks for. */
	#child(): number {
		const told = this.#told;
		if (told === undefined || told.pid > 0) return told?.pid ?? 0;
		try {
			told.pid = Number.parseInt(fs.readFileSync(childrenOf(this.#pid), 'latin1'), 10) || 0;
		} catch {
			// The shell is gone.
		}
		return told.pid;
	}

	#write(script: string): void {
		// A shell that was killed takes no script; its end is noticed where it speaks.
		if (!this.#closed) fs.writeSync(this.#script, script);
	}

	#listen(text: string): void {
		const lines = (this.#unread + text).split('\n');
		this.#unread = lines.pop() ?? '';
		for (const line of lines) {
			const told = this.#told;
			const [first, second] = line.split(' ');
			if (first === 'pid' && this.#pid === 0) {
				this.#pid = Number(second);
				this.#begun(this.#pid);
			} else if (told === undefined) continue;
			else if (first === this.#mark) {
				this.#told = undefined;
				const status = Number(second);
				const signal = told.signalled ? signalNames.get(status - 128) : undefined;
				told.ended(signal === undefined ? { exitCode: status, signal: null } : { exitCode: null, signal });
			} else if (line.startsWith('[')) {
				// An exit: `[1] + 77 Done(143)   (…)` in dash, `[1]+    77 Exit 143   (…)` in bash. A signal: `Terminated` and so on.
				told.signalled = !/^\[\d+\] ?[+-]? *\d+ (?:Done|Exit)/.test(line);
			}
		}
	}

	/** Resolves when the output has been kept. */
	async #read(exited: Promise<unknown>, keep: Keep, stays: Stays): Promise<void> {
		this.#reading = true;
		let reader: PipeReader | undefined;
		let over = false;
		let known = false;
		const attach = () => {
			if (!known) {
				const pid = this.#child();
				known = pid > 0;
				if (known) stays(pid);
			}
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

	/** Somebody ended the shell, or it was closed. */
	async #end(): Promise<void> {
		const told = this.#told;
		this.#told = undefined;
		this.close();
		this.onGone();
		this.onIdle = () => fs.closeSync(this.#fd);
		if (!this.#reading) fs.closeSync(this.#fd);
		if (told === undefined) return;
		// What it has forked and is not a program yet, and will not be found later as what the run left behind.
		await endShells(new Set([path.basename(path.dirname(this.#pipe))]), this.#pid);
		told.ended('lost');
	}
}

/** Where Linux lists the children of a process. */
function childrenOf(pid: number): string {
	return `/proc/${pid}/task/${pid}/children`;
}

/** The shell that makes the others. */
class Maker {
	readonly #process: ChildProcess;
	readonly #script: Writable;
	#unread = '';
	/** Who waits for an answer, in order; each is a line. */
	readonly #asked: ((answer: string) => void)[] = [];
	/** Called when it has ended, or could not begin. */
	onGone: () => void = () => {};

	/** @param directory of the listener, by whose name its shells are known */
	constructor(environment: Readonly<Record<string, string>>, directory: string) {
		// Detached, as a terminal's Ctrl-C is for the listener.
		this.#process = spawn('/bin/sh', ['-s'], {
			env: { ...environment, [shellMark]: path.basename(directory) },
			stdio: ['pipe', 'pipe', 'ignore'],
			detached: true,
		});
		this.#script = this.#process.stdin!;
		this.#script.on('error', () => {});
		const words = this.#process.stdout!;
		words.setEncoding('latin1').on('data', (text: string) => this.#listen(text));
		const gone = () => {
			for (const answer of this.#asked.splice(0)) answer('');
			this.onGone();
		};
		this.#process.on('error', gone).on('close', gone);
		this.#script.write(atEnd);
	}

	/** Has something done that says one line. Gives the line; an empty one when the maker ended instead. */
	ask(script: string): Promise<string> {
		return new Promise((resolve) => {
			this.#asked.push(resolve);
			this.#script.write(`${script}\n`);
		});
	}

	/** Notes a shell whose program is to be ended when the listener dies. */
	note(shell: number): void {
		this.#script.write(`shells="$shells ${shell}"\n`);
	}

	/** Lets it end, and leave alone what runs. */
	close(): void {
		this.#script.end('shells=\n');
	}

	#listen(text: string): void {
		const lines = (this.#unread + text).split('\n');
		this.#unread = lines.pop() ?? '';
		for (const line of lines) this.#asked.shift()?.(line);
	}
}

/**
 * What the maker does at the end of its script, when the listener has died. A shell that is just being made ends with its
 * terminal; it would wait for ever for its script. Then it stops the shells, which might start one
 * program more that they were told of, and then wait for ever for somebody to read what it prints. What they have started gets
 * TERM, and KILL after 10 s, the usual `kill_after`; each run's own was known to the listener alone.
 */
const atEnd = `
making=
shells=
signal() {
	found=1
	for program in $programs; do kill -s $1 -- -$program && found=0; done
	return $found
}
over() {
	[ -n "$making" ] && kill -s KILL $making
	programs=
	for shell in $shells; do
		kill -s STOP $shell
		started=
		read -r started </proc/$shell/task/$shell/children
		programs="$programs $started"
	done
	for shell in $shells; do kill -s KILL $shell; done
	looks=50
	signal TERM
	while signal 0 && [ $looks -gt 0 ]; do sleep 0.2; looks=$((looks - 1)); done
	signal KILL
}
trap over EXIT
`;

/** The shells of a listener, as many as programs are started at a time. */
export class Shells {
	readonly #directory: string;
	readonly #environment: Readonly<Record<string, string>>;
	readonly #idle: Shell[] = [];
	/** Those that are ready, idle or not. */
	readonly #ready = new Set<Shell>();
	readonly #buffer: Buffer;
	#maker: Maker | undefined;
	#made = 0;
	#beginning = false;
	/** How many shells in a row could not be begun. */
	#failures = 0;
	/** False once this host has shown that it cannot do it. */
	#possible: boolean;

	/**
	 * @param directory where the pipes are made; nobody else's
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
		if (!this.#possible || this.#beginning) return;
		this.#beginning = true;
		try {
			await this.#begin();
			this.#failures = 0;
		} catch {
			if (++this.#failures === mostFailures) this.#possible = false;
		} finally {
			this.#beginning = false;
		}
	}

	/** Starts a program; undefined when that has to be done without a shell, or none is free. */
	start(program: ShellProgram, keep: Keep, stays: Stays): ShellRun | undefined {
		if (!this.#possible) return undefined;
		const script = scriptFor(program, this.#environment);
		if (script === undefined) return undefined;
		const shell = this.#idle.pop();
		// As many as are needed at a time; a run that finds none does not wait for it.
		if (this.#idle.length === 0) void this.prepare();
		return shell?.start(script, keep, stays);
	}

	/** Ends the shells as they become idle. */
	close(): void {
		this.#possible = false;
		for (const shell of this.#ready) shell.close();
		this.#maker?.close();
	}

	async #begin(): Promise<void> {
		this.#maker ??= this.#makerBegun();
		const maker = this.#maker;
		const number = this.#made++;
		const file = (name: string) => path.join(this.#directory, `${number}-${name}`);
		const pipes = { script: file('script'), words: file('words'), output: file('output') };
		const names = Object.values(pipes).map(quote).join(' ');
		const made = await maker.ask(
			`{ command -v script && mkfifo -m 600 ${names}; } >&2 && echo made || echo failed`,
		);
		if (made !== 'made') throw new Error('there is no script(1) or no mkfifo(1)');
		const shell = new Shell(pipes, this.#buffer);
		const begun = shell.begin(this.#environment.SHELL);
		// Handled below, where it is waited for together with others.
		begun.catch(() => {});
		// script(1) has its command run by $SHELL, which may be anything. What a shell starts with & ignores INT and QUIT, and so would
		// every program after it; a shell cannot take that back.
		const command = `exec env --default-signal=INT,QUIT /bin/sh -s <"${pipes.script}" 4>"${pipes.words}"`;
		await maker.ask(
			`SHELL=/bin/sh script -q -c ${quote(command)} /dev/null </dev/null >/dev/null 2>&1 & making=$!; echo made`,
		);
		maker.note(await begun);
		// Once script(1) has ended, the terminal is gone and the shell has been told.
		await maker.ask('kill -s KILL $making; wait $making; making=; echo gone');
		await shell.tryOut();
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

	#makerBegun(): Maker {
		const maker = new Maker(this.#environment, this.#directory);
		maker.onGone = () => {
			if (this.#maker === maker) this.#maker = undefined;
		};
		return maker;
	}
}
