/**
 * A runner: the small process that performs runs. It is told which by the listener, enforces their time limits, keeps their
 * output, and tells how they ended. It decides nothing about queueing and knows no store.
 *
 * Starting a program copies the page tables of the process that does it and stands it still meanwhile; so that is done here,
 * in a process that is kept small, and never where callers are answered. When the listener dies, a runner ends what it has
 * started and leaves.
 */

import fs from 'node:fs';
import { flushCompileCache } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import type { StopReason } from '../steps/step.ts';
import { Channel, type FromRunner, type ToRunner } from './channel.ts';
import { OutputWriter } from './output.ts';
import type { Outcome } from './run.ts';
import { Programs } from './runner-program.ts';
import { Performer } from './runner-steps.ts';

type Hello = Extract<ToRunner, { kind: 'hello' }>;
type RunMessage = Extract<ToRunner, { kind: 'run' }>;

/** The socket that the listener made; 0 to 2 are the usual ones. */
const socketFd = 3;

/** A run that this process has been given. */
interface Given {
	readonly message: RunMessage;
	readonly stdin: Buffer | null;
	readonly stop: AbortController;
}

class RunnerProcess {
	readonly #channel: Channel<ToRunner, FromRunner>;
	readonly #given = new Map<string, Given>();
	/** Those that are to be started yet. */
	readonly #starting: Given[] = [];
	readonly #performer = new Performer();
	/** Triggers that the listener was told to count up, by the number of the request. */
	readonly #counting = new Map<number, { resolve(count: number): void; reject(error: Error): void }>();
	#counts = 0;
	#programs: Programs | undefined;
	#outputs = '';
	#leaving = false;

	constructor(socket: net.Socket) {
		this.#channel = new Channel(socket, (message, bytes) => this.#receive(message, bytes));
		socket.on('close', () => {
			for (const { reject } of this.#counting.values()) reject(new Error('the listener is gone'));
			this.#leave();
		});
	}

	#receive(message: ToRunner, bytes: Buffer): void {
		if (message.kind === 'hello') this.#begin(message);
		else if (message.kind === 'run') this.#take(message, message.stdin ? bytes : null);
		else if (message.kind === 'counted') this.#counted(message);
		else if (message.kind === 'cancel')
			this.#given.get(runKey(message))?.stop.abort('caller' satisfies StopReason);
		else this.#leave();
	}

	#begin({ environment, outputs, own }: Hello): void {
		fs.mkdirSync(own, { recursive: true, mode: 0o700 });
		this.#outputs = outputs;
		this.#programs = new Programs(environment, own);
		this.#programs.prepare();
		// Otherwise it is written at the end only, and not when that end comes by KILL.
		flushCompileCache();
	}

	#take(message: RunMessage, stdin: Buffer | null): void {
		const given = { message, stdin, stop: new AbortController() };
		this.#given.set(runKey(message), given);
		// One program a turn: starting one takes about a millisecond, and those that end meanwhile want to be heard.
		if (this.#starting.push(given) === 1) setImmediate(() => this.#startNext());
	}

	#startNext(): void {
		const given = this.#starting.shift();
		if (this.#starting.length > 0) setImmediate(() => this.#startNext());
		if (given !== undefined) void this.#perform(given, this.#programs!);
	}

	async #perform({ message, stdin, stop }: Given, programs: Programs): Promise<void> {
		const { id, attempt, plan, values } = message;
		const file = path.join(this.#outputs, id);
		const output = new OutputWriter(
			file,
			plan.maxOutput,
			(size) => this.#channel.send({ kind: 'output', id, attempt, size }),
			plan.secretParameters?.flatMap((name) => values[name] ?? []),
		);
		const { outcome, final, cut } = await this.#performer.perform({
			...{ id, attempt, plan, values, stdin },
			secrets: message.secrets ?? {},
			stop: stop.signal,
			write: (bytes) => output.write(bytes),
			run: (program, run) => programs.run(program, run),
			count: (trigger) => this.#count(id, attempt, trigger),
		});
		const { size, short, trouble } = await output.end();
		// The file of an attempt that was cut short.
		if (attempt > 1 && short !== null) fs.rmSync(file, { force: true });
		this.#given.delete(runKey(message));
		const told = trouble === undefined ? outcome : withTrouble(outcome, trouble);
		// A run that was stopped because we leave has not ended: it is to be run again.
		if (!this.#leaving || !cut) {
			this.#channel.send(
				{ kind: 'ended', id, attempt, outcome: told, final, size, short: short !== null },
				short ?? undefined,
			);
		}
		this.#leaveWhenDone();
	}

	#count(id: string, attempt: number, trigger: string): Promise<number> {
		return new Promise((resolve, reject) => {
			const request = this.#counts++;
			this.#counting.set(request, { resolve, reject });
			this.#channel.send({ kind: 'count', id, attempt, request, trigger });
		});
	}

	#counted({ request, count, trouble }: Extract<ToRunner, { kind: 'counted' }>): void {
		const counting = this.#counting.get(request);
		this.#counting.delete(request);
		if (count === null) counting?.reject(new Error(trouble));
		else counting?.resolve(count);
	}

	#leave(): void {
		this.#leaving = true;
		for (const { stop } of this.#given.values()) stop.abort('caller' satisfies StopReason);
		this.#leaveWhenDone();
	}

	#leaveWhenDone(): void {
		if (!this.#leaving || this.#given.size > 0) return;
		// Without the shells and the socket nothing keeps this process.
		this.#programs?.close();
		this.#channel.end();
	}
}

function runKey({ id, attempt }: { readonly id: string; readonly attempt: number }): string {
	return `${id} ${attempt}`;
}

function withTrouble(outcome: Outcome, trouble: string): Outcome {
	const message = `not all of its output could be kept: ${trouble}`;
	return { ...outcome, message: outcome.message === '' ? message : `${outcome.message}; ${message}` };
}

// The listener decides when we leave. A terminal sends its Ctrl-C, and systemd its TERM, to us as well as to it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});

new RunnerProcess(new net.Socket({ fd: socketFd }));
