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
import { command } from '../steps/command.ts';
import type { PlannedStep, StepContext, StepKind, StepResult, StopReason } from '../steps/step.ts';
import { Channel, type FromRunner, type ToRunner } from './channel.ts';
import { OutputWriter } from './output.ts';
import type { Outcome, Plan } from './run.ts';
import { type ProgramRun, Programs } from './runner-program.ts';

// biome-ignore lint/suspicious/noExplicitAny: a plan's step is performed by the kind that planned it, which knows its own shape
const kinds: Readonly<Record<string, StepKind<any>>> = { command };

type Hello = Extract<ToRunner, { kind: 'hello' }>;
type RunMessage = Extract<ToRunner, { kind: 'run' }>;

/** The socket that the listener made; 0 to 2 are the usual ones. */
const socketFd = 3;
/** What setTimeout can wait at most, about 25 days; anything longer would be over at once. */
const longestTimer = 2 ** 31 - 1;

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
	#programs: Programs | undefined;
	#outputs = '';
	#leaving = false;

	constructor(socket: net.Socket) {
		this.#channel = new Channel(socket, (message, bytes) => this.#receive(message, bytes));
		socket.on('close', () => this.#leave());
	}

	#receive(message: ToRunner, bytes: Buffer): void {
		if (message.kind === 'hello') this.#begin(message);
		else if (message.kind === 'run') this.#take(message, message.stdin ? bytes : null);
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
		const late = setTimeout(
			() => stop.abort('timeout' satisfies StopReason),
			Math.min(plan.timeout, longestTimer),
		);
		const file = path.join(this.#outputs, id);
		const output = new OutputWriter(file, plan.maxOutput, (size) =>
			this.#channel.send({ kind: 'output', id, attempt, size }),
		);
		const write = (bytes: Buffer) => output.write(bytes);
		const run: ProgramRun = { id, values, killAfter: plan.killAfter, stop: stop.signal, write };
		const outcome = await performSteps(plan, {
			stdin,
			stop: stop.signal,
			write,
			run: (program) => programs.run(program, run),
		});
		clearTimeout(late);
		const { size, short, trouble } = await output.end();
		// The file of an attempt that was cut short.
		if (attempt > 1 && short !== null) fs.rmSync(file, { force: true });
		this.#given.delete(runKey(message));
		const told = trouble === undefined ? outcome : withTrouble(outcome, trouble);
		// A run that was stopped because we leave has not ended: it is to be run again.
		if (!this.#leaving || outcome.reason !== 'caller') {
			const ended = { kind: 'ended', id, attempt, outcome: told, size, short: short !== null } as const;
			this.#channel.send(ended, short ?? undefined);
		}
		this.#leaveWhenDone();
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

/** Performs steps in order until one is not ok. */
async function performSteps(plan: Plan, context: StepContext): Promise<Outcome> {
	let result: StepResult = { ok: true, reason: 'exit', exitCode: 0, signal: null, message: '' };
	for (const [index, step] of plan.steps.entries()) {
		result = await performStep(step, context);
		const where = plan.steps.length > 1 ? `step ${index + 1} (${step.kind})` : `the ${step.kind}`;
		if (!result.ok) return failed(result, `${where} ${result.message}`, plan);
	}
	return { state: 'succeeded', reason: 'exit', exitCode: result.exitCode, signal: null, message: '' };
}

async function performStep(step: PlannedStep, context: StepContext): Promise<StepResult> {
	const kind = kinds[step.kind];
	if (kind === undefined) return notPerformed('is of a kind that this version does not know');
	try {
		return await kind.perform(step, context);
	} catch (error) {
		return notPerformed(`failed: ${error}`);
	}
}

function notPerformed(message: string): StepResult {
	return { ok: false, reason: 'spawn', exitCode: null, signal: null, message };
}

function failed({ reason, exitCode, signal }: StepResult, what: string, { timeout }: Plan): Outcome {
	const message = reason === 'timeout' ? `${what} of ${timeout / 1000} s` : what;
	return { state: reason === 'caller' ? 'cancelled' : 'failed', reason, exitCode, signal, message };
}

function withTrouble(outcome: Outcome, trouble: string): Outcome {
	const message = `not all of its output could be kept: ${trouble}`;
	return { ...outcome, message: outcome.message === '' ? message : `${outcome.message}; ${message}` };
}

// The listener decides when we leave. A terminal sends its Ctrl-C, and systemd its TERM, to us as well as to it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});

new RunnerProcess(new net.Socket({ fd: socketFd }));
