/**
 * A step is one thing a run does. A kind is a file in this folder that gives `plan` (checked parameters in, plain data out,
 * stored with the run) and `perform` (does it inside a runner); the schema of what users write is in schema.ts.
 */

/** A step with all values filled in. Plain data: stored as JSON with the run. */
export interface PlannedStep {
	/** The kind's name, such as `command`. */
	readonly kind: string;
}

/** How one step ended; the first that is not ok ends the run. Mirrors a run's outcome. */
export interface StepResult {
	readonly ok: boolean;
	readonly reason: 'exit' | 'signal' | 'timeout' | 'spawn' | 'caller';
	readonly exitCode: number | null;
	readonly signal: string | null;
	/** For people, such as `exited with 3`; empty when ok. */
	readonly message: string;
}

/** Why a run is being stopped before its end. */
export type StopReason = 'timeout' | 'caller';

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
}

/** What a runner gives to a step while it is performed. */
export interface StepContext {
	/** Bytes that came with the run for standard input; null for none. */
	readonly stdin: Buffer | null;
	/** Aborted when the run is to stop; `reason` is a StopReason. The step ends what it does and returns. */
	readonly stop: AbortSignal;
	/** Keeps output of the step itself. Programs' output is kept by `run`. */
	write(bytes: Buffer): void;
	/** Runs a program in a process group of its own, keeps what it prints, and ends the group when the run is to stop. Never rejects. */
	run(program: Program): Promise<StepResult>;
}

/** A kind of step. `Planned` is what it stores. */
export interface StepKind<Planned extends PlannedStep> {
	readonly kind: Planned['kind'];
	perform(step: Planned, context: StepContext): Promise<StepResult>;
}
