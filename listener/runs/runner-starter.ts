/**
 * The listener's side of the starter: a small process of ours that starts the programs for which no shell will do. It is
 * begun when the first such program comes, and again when it died.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { getCompileCacheDir } from 'node:module';
import type net from 'node:net';
import path from 'node:path';
import type { Log } from '../log.ts';
import { Channel, type FromStarter, type ToStarter } from './channel.ts';
import type { Ending, Lost } from './runner-shells.ts';

/** A program as the starter starts it. */
export interface StarterProgram {
	readonly argv: readonly string[];
	/** null: the listener's own. */
	readonly cwd: string | null;
	/** All of its environment. */
	readonly env: Readonly<Record<string, string>>;
	/** Path of the named pipe for its output, open for reading already. */
	readonly pipe: string;
	/** Bytes for its standard input; null for none. */
	readonly stdin: Buffer | null;
}

/** What became of a program that was to be started: it runs, or the system refused, or the starter died over it. */
export type Started =
	| { readonly pid: number; readonly exited: Promise<Ending | Lost> }
	| { readonly refused: Refusal }
	| Lost;

/** The system's own code and words. */
export interface Refusal {
	readonly code?: string | undefined;
	readonly message: string;
}

export interface StarterOptions {
	/** What the process itself gets as its environment. */
	readonly environment: Readonly<Record<string, string>>;
	/** Where its compiled code may be kept. */
	readonly cache: string;
	readonly log: Log;
}

/**
 * Keeps the part of the heap where new things are made at 2 MB. Under load V8 would let it grow to a hundred, which would make
 * every start of a program slower.
 */
const smallHeap = ['--max-semi-space-size=2'];

/** Who waits for an answer, and then for an end. */
interface Asked {
	readonly answered: (answer: FromStarter | Lost) => void;
	readonly ended: (ending: Ending | Lost) => void;
}

interface Process {
	readonly channel: Channel<FromStarter, ToStarter>;
	/** By number, what it was asked for and has not said the last word about. */
	readonly asked: Map<number, Asked>;
	/** Resolves when it has ended. */
	readonly gone: Promise<void>;
}

export class Starter {
	readonly #options: StarterOptions;
	#process: Process | undefined;
	#number = 0;

	constructor(options: StarterOptions) {
		this.#options = options;
	}

	/** Starts a program. Never rejects. */
	async start({ argv, cwd, env, pipe, stdin }: StarterProgram): Promise<Started> {
		const number = this.#number++;
		const message = { kind: 'start', number, argv, cwd, env, pipe, stdin: stdin !== null } as const;
		let ended: Asked['ended'] = () => {};
		const exited = new Promise<Ending | Lost>((resolve) => {
			ended = resolve;
		});
		const answer = await this.#ask(message, stdin, ended);
		if (answer === 'lost') return answer;
		return answer.kind === 'started' ? { pid: answer.pid, exited } : { refused: answer as Refusal };
	}

	/** Makes named pipes. Gives why they are not there. */
	async makePipes(paths: readonly string[]): Promise<Refusal | Lost | undefined> {
		const answer = await this.#ask({ kind: 'pipes', number: this.#number++, paths }, null, () => {});
		if (answer === 'lost') return answer;
		return answer.kind === 'refused' ? answer : undefined;
	}

	/** Ends the process. What it still runs is ended first. */
	async close(): Promise<void> {
		const process = this.#process;
		if (process === undefined) return;
		process.channel.send({ kind: 'leave' });
		await process.gone;
	}

	#ask(
		message: Exclude<ToStarter, { kind: 'leave' }>,
		bytes: Buffer | null,
		ended: Asked['ended'],
	): Promise<FromStarter | Lost> {
		this.#process ??= this.#begin();
		const { asked, channel } = this.#process;
		return new Promise((answered) => {
			asked.set(message.number, { answered, ended });
			channel.send(message, bytes ?? undefined);
		});
	}

	#begin(): Process {
		const { environment, cache, log } = this.#options;
		const file = path.join(
			import.meta.dirname,
			`runner-starter-process${path.extname(import.meta.filename)}`,
		);
		const child: ChildProcess = spawn(process.execPath, [...smallHeap, file], {
			// Without the cache a process that is still TypeScript carries the compiler, twice its own size, through every fork.
			env: { ...environment, NODE_COMPILE_CACHE: getCompileCacheDir() ?? cache },
			// Its socket is the fourth; what it says in an emergency goes where ours goes.
			stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
		});
		const asked: Process['asked'] = new Map();
		const channel = new Channel<FromStarter, ToStarter>(child.stdio[3] as net.Socket, (message) =>
			receive(asked, message),
		);
		const gone = new Promise<void>((resolve) => {
			const ended = (why: string) => {
				if (this.#process?.asked === asked) this.#process = undefined;
				if (asked.size > 0) log.error('the starter of programs died', { pid: child.pid, why });
				for (const one of asked.values()) {
					one.answered('lost');
					one.ended('lost');
				}
				asked.clear();
				resolve();
			};
			child.once('close', (code, signal) => ended(String(signal ?? code)));
			// The error of a failed start is followed by no exit.
			child.once('error', (error) => ended(error.message));
		});
		log.debug('starter of programs begun', { pid: child.pid });
		return { channel, asked, gone };
	}
}

function receive(asked: Process['asked'], message: FromStarter): void {
	const one = asked.get(message.number);
	if (message.kind !== 'started') asked.delete(message.number);
	if (message.kind === 'ended') one?.ended(message);
	else one?.answered(message);
}
