/**
 * A step is one thing a run does. Steps are performed in order, and the first that is not ok ends the run. What a kind of
 * step has to give is in kind.ts (`plan`: checked parameters in, plain data out, stored with the run) and here (`perform`:
 * does it, in the runner).
 */

/** A step with all parameters filled in. Plain data: stored as JSON with the run. */
export interface PlannedStep {
	/** The kind's name, such as `command`. */
	readonly kind: string;
	/** Milliseconds that the step may take; absent: as long as the run. */
	readonly timeout?: number;
	/** What the step needs and no plan may hold; whoever performs the run adds it. */
	readonly secrets?: readonly SecretPlace[];
}

/** Where in routes.yaml a secret stands. */
export interface SecretPlace {
	/** Such as `routes.deploy.steps.1.http.headers.authorization`. */
	readonly place: string;
	/** A digest of what it was meant for. When something else stands around that place by now, it is not given away. */
	readonly use: string;
}

/** How one step ended; the first that is not ok ends the run. Mirrors a run's outcome. */
export interface StepResult {
	readonly ok: boolean;
	readonly reason: 'exit' | 'signal' | 'timeout' | 'spawn' | 'caller';
	readonly exitCode: number | null;
	readonly signal: string | null;
	/** For people, such as `exited with 3`; empty when ok. */
	readonly message: string;
	/** There is nothing left to do: of the steps with it none follows, and they have succeeded. */
	readonly enough?: true;
}

/** Why a run is being stopped before its end. */
export type StopReason = 'timeout' | 'caller';

/** How a step ended that is no program, and did what it was to do. */
export const done: StepResult = { ok: true, reason: 'exit', exitCode: null, signal: null, message: '' };

/** How a step ended that is no program. */
export function failure(reason: StepResult['reason'], message: string): StepResult {
	return { ok: false, reason, exitCode: null, signal: null, message };
}

/** How a step ended that was told to stop. */
export function stopped(reason: StopReason): StepResult {
	return failure(reason, reason === 'timeout' ? 'was stopped at the time limit' : 'was cancelled');
}

/** A program to be run, found in PATH when its name has no slash. */
export interface Program {
	/** The program and its arguments, passed on exactly. */
	readonly argv: readonly string[];
	/** null: the listener's own working directory. */
	readonly cwd: string | null;
	/** Variables beside the allow-list. The run's parameters and the WEBHOOK_ variables come after them and win. */
	readonly env: Readonly<Record<string, string>>;
	/** Bytes for its standard input; null for none (`/dev/null`). */
	readonly stdin: Buffer | null;
	/** Is given what it prints, in place of the run's output. The bytes are good until it returns. */
	readonly printed?: (bytes: Buffer) => void;
}

/** What the runner gives to a step while it is performed. */
export interface StepContext {
	/** Bytes that came with the run for standard input; null for none. */
	readonly stdin: Buffer | null;
	/** The parameters and the WEBHOOK_ variables. */
	readonly values: Readonly<Record<string, string>>;
	/** How many times the run was started, this time included. */
	readonly attempt: number;
	/** Aborted when the step is to stop; `reason` is a StopReason. The step ends what it does and returns. */
	readonly stop: AbortSignal;
	/** Keeps output of the step itself. Programs' output is kept by `run`. */
	write(bytes: Buffer): void;
	/** Keeps a line of its own about what the step does. */
	say(line: string): void;
	/** Runs a program in a process group of its own, keeps what it prints, and ends the group when the step is to stop. Never rejects. */
	run(program: Program): Promise<StepResult>;
	/** Counts a trigger up by one. Resolves with its count when that is on disk; rejects with why it could not be counted. */
	count(trigger: string): Promise<number>;
	/** What stands at one of the step's places of secrets; undefined when routes.yaml does not have it any more. */
	secret(place: string): string | undefined;
}

/** A kind of step, as the runner performs it. `Planned` is what it stores. */
export interface StepKind<Planned extends PlannedStep> {
	readonly kind: Planned['kind'];
	/** What the step does, for its heading in the output; nothing of it may be secret. Empty: its kind says enough. */
	title(step: Planned, context: StepContext): string;
	perform(step: Planned, context: StepContext): Promise<StepResult>;
}
