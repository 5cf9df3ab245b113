/**
 * The owner of runs: takes them, has them performed within the limits, and settles them, each step written down before it
 * counts. Only here does a run change its state.
 *
 *   accept → queued → claimed → performed by the runner → settled
 *
 * At start, runs that an earlier listener left running are queued again, once what it left behind has been ended.
 */

import { EventEmitter } from 'node:events';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Busy, Conflict, NotFound, ShuttingDown, StoreUnavailable } from '../errors.ts';
import type { Log } from '../log.ts';
import {
	type Acceptance,
	type DeliveryKey,
	type KeptOutput,
	mostKeptInput,
	type RunFilter,
	type Store,
} from '../stores/store.ts';
import { LineLog } from './line-log.ts';
import { LockFiles } from './lock-files.ts';
import type { Outputs } from './output.ts';
import {
	type ClaimedRun,
	hasEnded,
	idMaker,
	type NewRun,
	type Outcome,
	type Run,
	retryDelay,
} from './run.ts';
import type { PerformedRun, Runner } from './runner.ts';

/** What happens to runs, for whoever wants to know. */
export interface QueueEvents {
	queued: [run: Run];
	started: [run: Run];
	/** So many bytes of output can be read. */
	output: [id: string, size: number];
	ended: [run: Run];
}

export interface QueueOptions {
	readonly store: Store;
	readonly outputs: Outputs;
	readonly runner: Runner;
	readonly log: Log;
	/** Runs performed at once at most. Default: 16, or four for each processor: most commands wait for something, and one that hangs must not hold up the others. */
	readonly limit?: number;
}

/** Milliseconds until what the store could not write is tried again. */
const retryAfter = 1_000;
/** Milliseconds between two looks at lock files that runs wait for. */
const lookAtLocksEvery = 1_000;
/** How often what started a run's program may die over it before the run is given up: such a command probably kills them itself. */
const mostDeaths = 3;

const noLocks: { readonly free: readonly string[]; readonly locked: readonly string[] } = {
	free: [],
	locked: [],
};

/** A run that is being performed, or whose end is being written down. */
interface UnderWay {
	readonly run: Run;
	/** Its output on the way into the log, once there is a file of it. */
	logging: { readonly lines: Promise<LineLog>; readonly stop: AbortController } | undefined;
	/** Somebody wants it ended. */
	cancelled: boolean;
	/** The runner has reported its end, or that it is lost. */
	performed: boolean;
}

export class Queue {
	readonly #store: Store;
	readonly #outputs: Outputs;
	readonly #runner: Runner;
	readonly #log: Log;
	readonly #limit: number;
	readonly #newId = idMaker();
	readonly #events = new EventEmitter<QueueEvents>();
	readonly #underWay = new Map<string, UnderWay>();
	readonly #waiting = new Map<string, Set<(run: Run) => void>>();
	/** How often a run was lost, by its id. */
	readonly #deaths = new Map<string, number>();
	/** Ends on their way into the store or the log. */
	readonly #closing = new Set<Promise<void>>();
	#performing = 0;
	/** Runs in the queue, and those on their way into it that no claim was made for. With none there is nothing to look for. */
	#queued = 0;
	/** Ends so far. Each may have made room for a run that a claim on its way did not find ready. */
	#ends = 0;
	/** Places that claims on their way may fill. */
	#claiming = 0;
	/** A run may have been left in the queue because those places were not free. */
	#refused = false;
	/** A look for everything that can be started is on its way. */
	#claimingRest = false;
	#started = false;
	/** The next look at runs whose next attempt is due. */
	#due: NodeJS.Timeout | undefined;
	readonly #lockFiles = new LockFiles();
	/** What was last told of a run that waits for a lock file, by the file. */
	#toldLocks = new Map<string, string>();
	/** The next look at lock files. */
	#lockLook: NodeJS.Timeout | undefined;
	#lookingAtLocks = false;
	#draining = false;
	#stopping = false;
	/** Called whenever something under way has ended. */
	#look: () => void = () => {};

	constructor({ store, outputs, runner, log, limit }: QueueOptions) {
		this.#store = store;
		this.#outputs = outputs;
		this.#runner = runner;
		this.#log = log;
		this.#limit = limit ?? Math.max(16, 4 * os.availableParallelism());
		// Every follower may listen.
		this.#events.setMaxListeners(0);
		runner.report({
			output: (id, attempt, size) => this.#grown(id, attempt, size),
			ended: (id, attempt, performed) => this.#performed(id, attempt, performed),
			lost: (run) => this.#lost(run),
		});
	}

	/** Takes up what an earlier listener left, and begins. @throws StoreUnavailable */
	async start(): Promise<void> {
		const recovered = await this.#store.recover();
		// A crash during an earlier start may have left processes of runs that are queued by now.
		const recorded = await Promise.all(this.#runner.recorded.map((id) => this.#store.get(id)));
		const open = recorded.filter((run) => run !== undefined && !hasEnded(run.state)) as Run[];
		await this.#runner.clear([...recovered, ...open]);
		for (const run of recovered) {
			const { id, route, attempt } = run;
			if (run.state === 'queued') {
				this.#log.warn('run was interrupted and is started again', { run: id, route, attempt });
				continue;
			}
			const output = await this.#outputs.leftOver(run);
			const ended = await this.#store.settle(run, lost('the listener ended while it ran'), output);
			if (ended !== undefined) this.#logEnd(ended);
		}
		this.#started = true;
		this.#queued = (await this.#store.counts()).queued;
		this.#claim(this.#limit);
		await this.#lookWhenDue();
		await this.#lookAtLocks();
	}

	/**
	 * Takes runs, all or none, and once only from a delivery that is repeated. Resolves when they are on disk.
	 * @throws ShuttingDown StoreUnavailable Conflict (the delivery was taken, and no run of it is kept any more)
	 */
	async accept(offers: readonly NewRun[], delivery?: DeliveryKey): Promise<readonly Acceptance[]> {
		const named = new Set(offers.flatMap(({ plan }) => plan.lockfile ?? []));
		const { free, locked } = named.size === 0 ? noLocks : await this.#locks(named);
		if (this.#draining)
			throw new ShuttingDown('the listener is stopping; try again in a moment', {
				headers: { 'Retry-After': '5' },
			});
		const accepting = this.#store.accept(offers, delivery, locked);
		// In the same turn, so that both are one transaction.
		const unclaimed = offers.length - this.#claim(offers.length, free);
		this.#queued += unclaimed;
		try {
			const acceptances = await accepting;
			for (const acceptance of acceptances) {
				if (acceptance.kind !== 'accepted') continue;
				this.#queued++;
				this.#events.emit('queued', acceptance.run);
			}
			return acceptances;
		} finally {
			this.#queued -= unclaimed;
			if (named.size > 0) this.#lookAtLocksSoon();
		}
	}

	/** Resolves when the run has ended; when `signal` aborts first, with the run as it stands. @throws NotFound */
	async ended(id: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<Run> {
		const ended = new Promise<Run | undefined>((resolve) => {
			const waiting = this.#waiting.get(id) ?? new Set();
			this.#waiting.set(id, waiting);
			const done = (run?: Run) => {
				signal?.removeEventListener('abort', left);
				waiting.delete(done);
				if (waiting.size === 0 && this.#waiting.get(id) === waiting) this.#waiting.delete(id);
				resolve(run);
			};
			const left = () => done();
			waiting.add(done);
			signal?.addEventListener('abort', left);
			if (signal?.aborted) left();
			// It may have ended before we listened.
			else if (!this.#underWay.has(id))
				this.#store.get(id).then((run) => {
					if (run === undefined || hasEnded(run.state)) done(run);
				}, left);
		});
		return (await ended) ?? (await this.#get(id));
	}

	get(id: string): Promise<Run | undefined> {
		return this.#store.get(id);
	}

	list(filter: RunFilter): Promise<readonly Run[]> {
		return this.#store.list(filter);
	}

	/** Runs queued and running now. */
	counts(): Promise<{ readonly queued: number; readonly running: number }> {
		return this.#store.counts();
	}

	/**
	 * Cancels a run: a queued one at once, of a running one the command is told to end.
	 * @returns the run as it stands then
	 * @throws NotFound Conflict (it has ended) StoreUnavailable
	 */
	async cancel(id: string): Promise<Run> {
		for (;;) {
			const underWay = this.#underWay.get(id);
			if (underWay !== undefined && !underWay.performed) {
				underWay.cancelled = true;
				this.#runner.cancel(id, underWay.run.attempt);
				return this.#get(id);
			}
			const run = await this.#get(id);
			if (hasEnded(run.state)) throw new Conflict(`the run has ended already (${run.state})`);
			if (await this.#store.cancelQueued(id, cancelled('the run was cancelled before it began'))) {
				this.#queued--;
				const ended = await this.#get(id);
				this.#outputs.ended(id);
				this.#tellEnded(ended);
				this.#logEnd(ended);
				this.#claimNext();
				void this.#lookAtLocks().catch(() => {});
				return ended;
			}
			// It is on its way from one state to the next.
			await sleep(1);
		}
	}

	/**
	 * Takes a run that does once more what another does or did, as it was decided then: group, parameters, steps, input.
	 * @returns the new run, or the one that it joined
	 * @throws NotFound Conflict (its input, or what was secret, is not kept) Busy ShuttingDown StoreUnavailable
	 */
	async rerun(id: string): Promise<Run> {
		const earlier = await this.#get(id);
		if (earlier.plan.secretParameters !== undefined && hasEnded(earlier.state)) {
			const names = earlier.plan.secretParameters.join(', ');
			const what =
				names === '' ? 'a secret in its input, which is' : `secret parameters (${names}), whose values are`;
			throw new Conflict(`the run had ${what} not kept; send the request again instead`);
		}
		const input = await this.#store.input(id);
		if (input === undefined) throw new NotFound('there is no such run');
		if (!input.kept) {
			throw new Conflict(
				`the run's input is not kept, as it was longer than ${mostKeptInput / 1024} KiB; send the request again instead`,
			);
		}
		const [acceptance] = await this.accept([
			{ ...asOffered(earlier), id: this.#newId(), stdin: input.bytes, acceptedAt: Date.now() },
		]);
		if (acceptance === undefined || acceptance.kind === 'busy') throw busy(acceptance ?? earlier);
		this.#log.info('run is run again', { run: acceptance.run.id, route: earlier.route, again: id });
		return acceptance.run;
	}

	/** Takes no more runs and starts none. Resolves when those under way have ended, or after `ms` milliseconds: true when all have. */
	async drain(ms: number): Promise<boolean> {
		this.#draining = true;
		clearTimeout(this.#due);
		clearTimeout(this.#lockLook);
		return new Promise((resolve) => {
			const done = (all: boolean) => {
				clearTimeout(late);
				this.#look = () => {};
				resolve(all);
			};
			const late = setTimeout(() => done(false), ms);
			this.#look = () => {
				if (this.#underWay.size + this.#claiming === 0) done(true);
			};
			this.#look();
		});
	}

	/** Ends what still runs and leaves it queued for the next start. */
	async stop(): Promise<void> {
		this.#draining = true;
		this.#stopping = true;
		clearTimeout(this.#due);
		clearTimeout(this.#lockLook);
		await this.#runner.stop();
		for (const underWay of [...this.#underWay.values()]) {
			if (!underWay.performed) this.#close(underWay, this.#leave(underWay));
		}
		while (this.#closing.size > 0) await Promise.all(this.#closing);
	}

	/** Calls `listener` for every event of that name. @returns a function that ends this */
	on<Name extends keyof QueueEvents>(
		name: Name,
		listener: (...values: QueueEvents[Name]) => void,
	): () => void {
		const events = this.#events as EventEmitter;
		events.on(name, listener);
		return () => events.off(name, listener);
	}

	async #get(id: string): Promise<Run> {
		const run = await this.#store.get(id);
		if (run === undefined) throw new NotFound('there is no such run');
		return run;
	}

	/**
	 * Starts up to so many runs, as far as there are places for them. Gives how many it asked the store for.
	 * @param unlocked lock files that nobody holds
	 * @param back called when it is known what has come of it
	 */
	#claim(wanted: number, unlocked: readonly string[] = [], back = () => {}): number {
		const possible = this.#started && !this.#draining;
		const asked = possible
			? Math.max(0, Math.min(wanted, this.#limit - this.#performing - this.#claiming))
			: 0;
		if (asked < wanted && this.#claiming > 0) this.#refused = true;
		if (asked === 0) {
			back();
			return 0;
		}
		const ends = this.#ends;
		this.#claiming += asked;
		const free = unlocked.filter((file) => this.#lockFiles.take(file));
		this.#store.claim(asked, free).then(
			(runs) => {
				this.#claiming -= asked;
				this.#queued -= runs.length;
				back();
				for (const file of free) {
					if (!runs.some(({ plan }) => plan.lockfile === file)) this.#lockFiles.leave(file, false);
				}
				for (const run of runs) this.#begin(run);
				// One was there for the one that was expected. If there were several, there may be more; and places that were not
				// filled are those that somebody may have been refused, or that a run may have by now for which there was no room then.
				if (runs.length === asked ? asked > 1 : this.#refused || ends !== this.#ends) this.#claimRest();
				this.#look();
			},
			(error) => {
				this.#claiming -= asked;
				back();
				for (const file of free) this.#lockFiles.leave(file, false);
				if (!(error instanceof StoreUnavailable)) throw error;
				setTimeout(() => this.#claimRest(), retryAfter);
			},
		);
		return asked;
	}

	/**
	 * Starts whatever can be started, once another such look is back: two at a time would hold places that the other looks for,
	 * and have each other look again for ever.
	 */
	#claimRest(): void {
		if (this.#claimingRest) {
			this.#refused = true;
			return;
		}
		this.#refused = false;
		if (this.#queued === 0) return;
		this.#claimingRest = true;
		this.#claim(this.#limit, [], () => {
			this.#claimingRest = false;
		});
	}

	/** A run has ended: starts the next. */
	#claimNext(): void {
		this.#ends++;
		// Two, because the end of one may let more than one begin.
		if (this.#queued > 0) this.#claim(2);
	}

	/** Tells apart lock files that somebody holds now and others. */
	async #locks(files: ReadonlySet<string>): Promise<typeof noLocks> {
		const free: string[] = [];
		const locked: string[] = [];
		for (const file of files) ((await this.#lockFiles.busy(file)) === undefined ? free : locked).push(file);
		return { free, locked };
	}

	#lookAtLocksSoon(): void {
		this.#lockLook ??= setTimeout(() => void this.#lookAtLocks().catch(() => {}), lookAtLocksEvery);
	}

	/** Starts runs that wait for a lock file which nobody holds any more, and goes on looking as long as there is reason to. */
	async #lookAtLocks(): Promise<void> {
		if (this.#draining || this.#lookingAtLocks) return;
		clearTimeout(this.#lockLook);
		this.#lockLook = undefined;
		this.#lookingAtLocks = true;
		try {
			const waiting = await this.#store.locked();
			const told = this.#toldLocks;
			this.#toldLocks = new Map();
			const free: string[] = [];
			for (const { id, route, lockfile } of waiting) {
				const why = await this.#lockFiles.busy(lockfile);
				if (why === undefined) free.push(lockfile);
				else {
					this.#toldLocks.set(lockfile, `${id} ${why}`);
					if (told.get(lockfile) === `${id} ${why}`) continue;
					this.#log.info('run waits for a lock file', { run: id, route, lockfile, why });
				}
			}
			if (free.length > 0) this.#claim(free.length, free);
			const others = this.#lockFiles.inUse.filter(
				(file) => !waiting.some(({ lockfile }) => lockfile === file),
			);
			for (const file of others) await this.#lockFiles.busy(file);
			if (waiting.length + this.#lockFiles.inUse.length > 0) this.#lookAtLocksSoon();
		} finally {
			this.#lookingAtLocks = false;
		}
	}

	#begin({ stdin, ...run }: ClaimedRun): void {
		const { id, route, attempt } = run;
		this.#performing++;
		this.#underWay.set(id, { run, logging: undefined, cancelled: false, performed: false });
		this.#outputs.started(id, attempt);
		this.#runner.perform(run, stdin);
		this.#log.debug('run started', { run: id, route, attempt });
		this.#events.emit('started', run);
	}

	#grown(id: string, attempt: number, size: number): void {
		const underWay = this.#underWay.get(id);
		if (underWay?.run.attempt !== attempt) return;
		this.#outputs.grown(id, attempt, size);
		// Reading output is work, also when nobody is to see it.
		if (this.#log.shows('info', underWay.run.route)) underWay.logging ??= this.#logOutput(underWay.run);
		this.#events.emit('output', id, size);
	}

	#logOutput(run: Run): UnderWay['logging'] {
		const stop = new AbortController();
		const log = async () => {
			const lines = new LineLog(this.#log, run);
			for await (const part of this.#outputs.follow(run.id, 0, stop.signal)) {
				lines.write(part.bytes);
				if (lines.full) break;
			}
			return lines;
		};
		return { lines: log(), stop };
	}

	/** The runner has performed a run: its end is written down, and its place given to the next in the same transaction. */
	#performed(id: string, attempt: number, { outcome, final, output }: PerformedRun): void {
		const underWay = this.#underWay.get(id);
		if (underWay?.run.attempt !== attempt || underWay.performed) return;
		const again = outcome.state === 'failed' && !final && !underWay.cancelled;
		const delay = again ? retryDelay(underWay.run) : undefined;
		const closing =
			delay === undefined
				? this.#settle(underWay, outcome, output)
				: this.#postpone(underWay, outcome, output, delay);
		this.#close(underWay, closing);
		this.#claimNext();
	}

	/** What had started the run's program died. */
	#lost({ id, attempt }: Run): void {
		const underWay = this.#underWay.get(id);
		if (underWay?.run.attempt !== attempt || underWay.performed) return;
		const deaths = (this.#deaths.get(id) ?? 0) + 1;
		this.#deaths.set(id, deaths);
		if (underWay.run.plan.onCrash === 'fail' && !underWay.cancelled) {
			const outcome = lost('what had started its program was killed');
			this.#close(underWay, this.#settle(underWay, outcome, this.#outputs.soFar(id)));
		} else if (deaths < mostDeaths) this.#close(underWay, this.#leave(underWay));
		else {
			const outcome = lost(
				`the run was given up: what had started its program was killed ${deaths} times, so it seems to do so itself`,
			);
			this.#close(underWay, this.#settle(underWay, outcome, this.#outputs.soFar(id)));
		}
		this.#claimNext();
	}

	#close(underWay: UnderWay, closing: Promise<void>): void {
		underWay.performed = true;
		this.#performing--;
		this.#closing.add(closing);
		void closing.then(() => {
			this.#closing.delete(closing);
			// A run of its group may have got its place, and waits for a lock file only.
			if (!this.#draining) void this.#lookAtLocks().catch(() => {});
		});
	}

	async #settle(underWay: UnderWay, outcome: Outcome, output: KeptOutput): Promise<void> {
		const { run } = underWay;
		this.#unlock(run, outcome.state === 'succeeded');
		const settled = await this.#written(run, () => this.#store.settle(run, outcome, output));
		this.#forget(underWay);
		if (!settled) return;
		this.#deaths.delete(run.id);
		this.#tellEnded(settled);
		await this.#endLines(underWay, output);
		this.#logEnd(settled);
	}

	/** Lets a run that failed wait for its next attempt. */
	async #postpone(underWay: UnderWay, outcome: Outcome, output: KeptOutput, delay: number): Promise<void> {
		const { run } = underWay;
		this.#unlock(run, false);
		this.#queued++;
		const postponed = await this.#written(run, () => this.#store.retry(run, delay));
		underWay.logging?.stop.abort();
		this.#forget(underWay);
		if (postponed === undefined) return;
		this.#deaths.delete(run.id);
		await this.#endLines(underWay, output);
		const { id, route, attempt, plan } = run;
		this.#log.warn('run failed and is started again later', {
			run: id,
			route,
			attempt,
			attempts: plan.retry?.attempts,
			why: outcome.message,
			again: `${delay / 1000}s`,
		});
		await this.#lookWhenDue();
	}

	/** Logs what a run has printed and was not logged while it did. */
	async #endLines({ run, logging }: UnderWay, output: KeptOutput): Promise<void> {
		let lines = await logging?.lines;
		if (lines === undefined && output.short !== null && output.size > 0) {
			lines = new LineLog(this.#log, run);
			lines.write(this.#outputs.hidden(output.short));
		}
		lines?.end();
	}

	/** Sees to it that runs are claimed when the next of those that failed is due. */
	async #lookWhenDue(): Promise<void> {
		const ms = await this.#store.nextRetry();
		clearTimeout(this.#due);
		if (ms === undefined || this.#draining) return;
		this.#due = setTimeout(() => {
			this.#claim(this.#limit);
			// Not at once: the claim is on its way.
			this.#due = setTimeout(() => void this.#lookWhenDue().catch(() => {}), retryAfter);
		}, ms);
	}

	/** Lets go of a run that was ended without having ended by itself. */
	#leave(underWay: UnderWay): Promise<void> {
		const { id, plan } = underWay.run;
		const ended = (outcome: Outcome) => this.#settle(underWay, outcome, this.#outputs.soFar(id));
		if (underWay.cancelled) return ended(cancelled('the run was cancelled'));
		if (plan.onCrash === 'fail') return ended(lost('the listener was stopped while it ran'));
		return this.#putBack(underWay);
	}

	async #putBack(underWay: UnderWay): Promise<void> {
		const { run } = underWay;
		this.#unlock(run, false);
		this.#queued++;
		await this.#written(run, () => this.#store.putBack(run));
		underWay.logging?.stop.abort();
		this.#forget(underWay);
		this.#claimNext();
	}

	/** Repeats a change until the store has taken it; what a run has become must not be lost because the disk is full for a while. */
	async #written<T>(run: Run, change: () => Promise<T>): Promise<T | undefined> {
		for (let told = false; ; told = true) {
			try {
				return await change();
			} catch (error) {
				if (!(error instanceof StoreUnavailable)) throw error;
				if (!told)
					this.#log.error('what became of a run cannot be written down; trying until it can', {
						run: run.id,
						route: run.route,
						error: error.message,
					});
				// The next start finds it running and runs it again.
				if (this.#stopping) return undefined;
				await sleep(retryAfter);
			}
		}
	}

	#unlock({ plan: { lockfile } }: Run, well: boolean): void {
		if (lockfile !== undefined) this.#lockFiles.leave(lockfile, well);
	}

	#forget(underWay: UnderWay): void {
		const { id } = underWay.run;
		// A run that was put back may have begun again by now.
		if (this.#underWay.get(id) === underWay) {
			this.#underWay.delete(id);
			this.#outputs.ended(id);
		}
		this.#look();
	}

	#tellEnded(run: Run): void {
		const waiting = this.#waiting.get(run.id);
		for (const done of [...(waiting ?? [])]) done(run);
		this.#events.emit('ended', run);
	}

	#logEnd({ id, route, state, outcome, startedAt, endedAt }: Run): void {
		const { reason, exitCode, signal, message } = outcome!;
		const ms = endedAt! - (startedAt ?? endedAt!);
		const fields = { run: id, route, state, reason, exitCode: exitCode ?? undefined, ms };
		if (state === 'succeeded') this.#log.info('run finished', fields);
		else this.#log.warn('run finished', { ...fields, signal: signal ?? undefined, why: message });
	}
}

/** The group of a run, or the lock file that it names, is busy. */
function busy({ group, lockfile }: { readonly group: string; readonly lockfile?: string }): Busy {
	return new Busy(
		lockfile === undefined
			? `as many runs of the group "${group}" as may be are under way; try again later`
			: `another process holds the lock file ${lockfile}; try again later`,
	);
}

/** What was decided about a run when it was accepted. */
function asOffered(run: Run): Omit<NewRun, 'stdin'> {
	const { seq, state, waitsFor, attempt, startedAt, endedAt, outcome, outputSize, ...offered } = run;
	return offered;
}

function lost(message: string): Outcome {
	return { state: 'failed', reason: 'lost', exitCode: null, signal: null, message };
}

function cancelled(message: string): Outcome {
	return { state: 'cancelled', reason: 'caller', exitCode: null, signal: null, message };
}
