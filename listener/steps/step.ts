/**
 * A step is one thing a run does. A kind is a file in this folder that gives: the schema of what users write, `plan` (checked
 * parameters in, plain data out, stored with the run) and `perform` (does it inside a runner, telling its output as it comes).
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

/** What a runner gives to a step while it is performed. */
export interface StepContext {
	/** The whole environment for programs: the allow-list, the parameters and the WEBHOOK_ variables. */
	readonly environment: Readonly<Record<string, string>>;
	/** Bytes for standard input; null for none (`/dev/null`). */
	readonly stdin: Buffer | null;
	/** Milliseconds from TERM to KILL. */
	readonly killAfter: number;
	/** Aborted when the run is to stop; `reason` is a StopReason. The step ends what it started and returns. */
	readonly stop: AbortSignal;
	/** Keeps output. False asks the step to stop reading until `drained` resolves (back-pressure). */
	write(chunk: Buffer): boolean;
	drained(): Promise<void>;
	/** Tells the process group that was started, so that it can be found after a crash. */
	started(pid: number): void;
}

/** A kind of step: a file in this folder. `Planned` is what it stores. */
export interface StepKind<Planned extends PlannedStep> {
	readonly kind: Planned['kind'];
	perform(step: Planned, context: StepContext): Promise<StepResult>;
}
