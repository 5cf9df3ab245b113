/**
 * The embedded store: one SQLite file in the state directory, held by one listener at a time.
 *
 * All changes asked for while the disk is busy, or within one turn of the event loop, go into one transaction and are made
 * durable by one flush; then their promises resolve, in order. SQLite writes, and the thread pool flushes: a flush takes
 * from 0.1 ms to tens of milliseconds, in which the event loop must go on serving.
 *
 * A queued run is `waiting` (its group is full), or it holds one of its group's places and is `locked` (somebody may hold the
 * lock file that it names) or `ready` (it waits for a runner only).
 * One that failed and is to be started again is kept for `later` until its time comes.
 * So claiming looks at ready runs alone, however many wait behind a busy group. How many places of a group are taken and how
 * many wait is counted in memory, told from the file at open, and put right when a transaction fails.
 */

import fs from 'node:fs';
import path from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { promisify } from 'node:util';
import { Conflict, StateError, StoreUnavailable } from '../errors.ts';
import {
	type ClaimedRun,
	longestDelay,
	type NewRun,
	type Outcome,
	type Run,
	shownParameters,
	type WhenBusy,
} from '../runs/run.ts';
import {
	allCodes,
	code,
	endedCodes,
	ending,
	newRun,
	prepare,
	type Row,
	schema,
	schemaVersion,
	stateNames,
	type TriggerRow,
	toRun,
	toTrigger,
} from './sqlite-tables.ts';
import {
	type Acceptance,
	type DeliveryKey,
	type Input,
	type Kept,
	type KeptOutput,
	type LockedRun,
	mostKeptInput,
	type Pruned,
	type RunFilter,
	type Store,
	type Trigger,
} from './store.ts';

/** How full a group is: `taken` places (ready and running runs), and runs that wait for one. */
interface Group {
	taken: number;
	waiting: number;
}

/** A change that waits for its transaction. */
interface Change {
	apply(): unknown;
	resolve(value: unknown): void;
	reject(error: unknown): void;
}

/**
 * Pages in the write-ahead log before they are moved into the file, 4 KiB each. Moving blocks the event loop for about a
 * millisecond per 1,000 pages; more pages would make a pause of it, fewer would write pages that change often again and again.
 */
const checkpointPages = 1000;

const fdatasync = promisify(fs.fdatasync);

export interface StoreOptions {
	/** Milliseconds since 1970. */
	readonly now?: () => number;
}

export class SqliteStore implements Store {
	readonly #db: DatabaseSync;
	readonly #sql: ReturnType<typeof prepare>;
	readonly #now: () => number;
	/** Descriptors for flushing only. */
	readonly #fileFd: number;
	readonly #logFd: number;

	readonly #groups: Map<string, Group>;
	/** `later` are among those queued. */
	#counts: { queued: number; running: number; later: number };
	/** No run that is kept for later is due before; milliseconds since 1970. */
	#dueAt = 0;
	/** The latest time by which runs were looked at for being due; before it only when the clock was set back since. */
	#lookedAt = Number.NEGATIVE_INFINITY;
	#nextSeq: number;
	/** Groups as they were before the present transaction touched them. */
	readonly #before = new Map<string, Group>();

	/** False as long as no run has named a lock file that is open, or has been since the store was opened. */
	#lockFilesNamed: boolean;

	/** Open runs whose input is too long to be kept after their end. */
	readonly #longInputs = new Set<number>();

	/** By how many the present transaction changes the number of ended runs, by route. */
	readonly #endings = new Map<string, number>();

	/** What the present transaction has accepted: claimed at once, as runs mostly are, it need not be read back. */
	readonly #fresh = new Map<number, NewRun>();

	#commits = 0;

	/** True when the log may have what is to be forgotten; at first what a listener before this one had no time for. */
	#forget = true;

	#waiting: Change[] = [];
	#writing: Promise<void> | undefined;
	#closed = false;

	/**
	 * Opens the store of a state directory, making both when they are missing.
	 * @throws StateError when the directory cannot be written, another listener holds it, or the file is not ours to read
	 */
	static open(directory: string, options: StoreOptions = {}): SqliteStore {
		const file = path.join(directory, 'runs.db');
		const holder = path.join(directory, 'listener.pid');
		let db: DatabaseSync | undefined;
		try {
			// What commands print and receive is nobody else's business.
			const made = fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
			if (made !== undefined) flushNames(path.dirname(made), directory);
			db = new DatabaseSync(file, { timeout: 0 });
			const store = new SqliteStore(db, file, options);
			fs.writeFileSync(holder, `${process.pid}\n`);
			return store;
		} catch (error) {
			if (db?.isOpen) db.close();
			throw openError(error, directory, holder);
		}
	}

	private constructor(db: DatabaseSync, file: string, { now = Date.now }: StoreOptions) {
		this.#db = db;
		this.#now = now;
		// EXCLUSIVE keeps the lock from the first write until the process ends, however it ends, so a second listener is
		// refused. NORMAL writes the log without flushing it: #flushed does that, outside the event loop.
		db.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL');
		// What is deleted, or moved by a change of its row, is overwritten: it may have been secret. FAST would leave whole pages,
		// which long values have for themselves.
		db.exec('PRAGMA secure_delete = ON');
		db.exec('PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY');
		db.exec('BEGIN IMMEDIATE');
		const { user_version: version } = db.prepare('PRAGMA user_version').get() as { user_version: number };
		if (version > schemaVersion)
			throw new StateError(
				`${file} was written by a newer version of puppet-webhook (layout ${version}, this one knows ${schemaVersion}); ` +
					'install that version again, or give another --state directory',
			);
		if (version > 0 && version < schemaVersion)
			throw new StateError(
				`${file} was written by a version from before the first release (layout ${version}), which cannot be taken over; ` +
					'move the directory away, or give another --state directory',
			);
		if (version === 0) db.exec(schema);
		// A write, so that the lock is taken and the log exists even when there was nothing to lay out.
		else db.exec(`PRAGMA user_version = ${schemaVersion}`);
		db.exec('COMMIT');

		this.#sql = prepare(db);
		this.#groups = new Map();
		this.#counts = { queued: 0, running: 0, later: 0 };
		for (const row of db
			.prepare(
				`SELECT grp, state, count(*) AS n FROM runs WHERE state <= ${code.running} GROUP BY grp, state`,
			)
			.iterate()) {
			const { grp, state, n } = row as { grp: string; state: number; n: number };
			this.#counts[state === code.running ? 'running' : 'queued'] += n;
			if (state === code.later) {
				this.#counts.later += n;
				continue;
			}
			const group = this.#groups.get(grp) ?? { taken: 0, waiting: 0 };
			this.#groups.set(grp, group);
			group[state === code.waiting ? 'waiting' : 'taken'] += n;
		}
		this.#lockFilesNamed =
			db
				.prepare(`SELECT 1 FROM runs WHERE state <= ${code.running} AND lockfile IS NOT NULL LIMIT 1`)
				.get() !== undefined;
		const long = db.prepare(
			`SELECT seq FROM runs JOIN inputs USING (seq) WHERE state <= ${code.running} AND length(bytes) > ?`,
		);
		for (const { seq } of long.iterate(mostKeptInput)) this.#longInputs.add(seq as number);
		this.#nextSeq = (
			db.prepare('SELECT coalesce(max(seq), 0) + 1 AS next FROM runs').get() as { next: number }
		).next;

		this.#fileFd = fs.openSync(file, 'r+');
		this.#logFd = fs.openSync(`${file}-wal`, 'r+');
		for (const fd of [this.#fileFd, this.#logFd]) fs.fsyncSync(fd);
		flushNames(path.dirname(file), file);
	}

	accept(
		runs: readonly NewRun[],
		delivery?: DeliveryKey,
		locked: readonly string[] = [],
	): Promise<readonly Acceptance[]> {
		return this.#change(() => {
			if (delivery === undefined) return runs.map((run) => this.#accept(run, locked));
			return this.#acceptOnce(runs, delivery, locked);
		});
	}

	claim(limit: number, free: readonly string[] = []): Promise<readonly ClaimedRun[]> {
		return this.#change(() => {
			const now = this.#now();
			this.#followClock(now);
			if (this.#counts.later > 0 && (now >= this.#dueAt || now < this.#dueAt - longestDelay))
				this.#admitDue(now);
			const claimed: ClaimedRun[] = [];
			const unlocked = free
				.flatMap((file) => (this.#sql.firstLocked.get(file) as { seq: number } | undefined) ?? [])
				.sort((a, b) => a.seq - b.seq);
			// One at a time: Node makes an array of rows so slowly that this is the quicker way for a few.
			while (claimed.length < limit) {
				const ready = this.#sql.firstReady.get() as { seq: number } | undefined;
				const [next] = unlocked;
				const row = next !== undefined && (ready?.seq ?? next.seq) >= next.seq ? unlocked.shift() : ready;
				if (row === undefined) break;
				this.#sql.claim.run(now, row.seq);
				claimed.push(this.#claimed(row.seq, now));
			}
			this.#counts.queued -= claimed.length;
			this.#counts.running += claimed.length;
			return claimed;
		});
	}

	settle(run: Run, outcome: Outcome, output: KeptOutput): Promise<Run | undefined> {
		return this.#change(() => {
			if (!this.#isPresent(run)) return undefined;
			const endedAt = Math.max(this.#now(), run.startedAt ?? 0);
			this.#sql.settle.run(...ending(outcome, endedAt), output.size, run.seq);
			if (output.short !== null && output.short.length > 0) this.#sql.putOutput.run(run.seq, output.short);
			this.#counts.running--;
			this.#addEnded(run.route, 1);
			this.#dropLongInput(run.seq);
			this.#dropSecrets(run);
			const group = this.#group(run.group);
			group.taken--;
			this.#admit(run.group, group);
			const parameters = shownParameters(run);
			return { ...run, parameters, state: outcome.state, endedAt, outcome, outputSize: output.size };
		});
	}

	putBack(run: Run): Promise<boolean> {
		return this.#change(() => {
			// It keeps its place in the group, so nobody overtakes it.
			if (!this.#isPresent(run)) return false;
			this.#sql.admit.run(run.seq);
			this.#counts.running--;
			this.#counts.queued++;
			return true;
		});
	}

	retry(run: Run, delay: number): Promise<Run | undefined> {
		return this.#change(() => {
			if (!this.#isPresent(run)) return undefined;
			const nextAttemptAt = this.#now() + delay;
			this.#sql.postpone.run(nextAttemptAt, run.seq);
			this.#counts.running--;
			this.#counts.queued++;
			this.#counts.later++;
			this.#dueAt = Math.min(this.#dueAt, nextAttemptAt);
			this.#lookedAt = Math.max(this.#lookedAt, nextAttemptAt - delay);
			const group = this.#group(run.group);
			group.taken--;
			this.#admit(run.group, group);
			return { ...run, state: 'queued', waitsFor: 'retry', nextAttemptAt };
		});
	}

	async nextRetry(): Promise<number | undefined> {
		if (this.#counts.later === 0) return undefined;
		const { next } = this.#read(() => this.#sql.nextDue.get()) as { next: number };
		const ms = next - Math.max(this.#now(), this.#lookedAt);
		return ms > longestDelay ? 0 : Math.max(0, ms);
	}

	cancelQueued(id: string, outcome: Outcome): Promise<boolean> {
		return this.#change(() => {
			const row = this.#sql.byId.get(id) as unknown as Row | undefined;
			if (row === undefined || row.state > code.ready) return false;
			this.#sql.settle.run(...ending(outcome, Math.max(this.#now(), row.started_at ?? 0)), 0, row.seq);
			this.#counts.queued--;
			this.#addEnded(row.route, 1);
			this.#dropLongInput(row.seq);
			this.#dropSecrets(toRun(row));
			if (row.state === code.later) {
				this.#counts.later--;
				return true;
			}
			const group = this.#group(row.grp);
			group[row.state === code.waiting ? 'waiting' : 'taken']--;
			this.#admit(row.grp, group);
			return true;
		});
	}

	recover(): Promise<readonly Run[]> {
		return this.#change(() => {
			const queued = this.#sql.recover.all() as unknown as Row[];
			this.#counts.queued += queued.length;
			this.#counts.running -= queued.length;
			const rows = [...queued, ...(this.#sql.allRunning.all() as unknown as Row[])];
			return rows.sort((a, b) => a.seq - b.seq).map(toRun);
		});
	}

	async get(id: string): Promise<Run | undefined> {
		const row = this.#read(() => this.#sql.byId.get(id)) as unknown as Row | undefined;
		return row && toRun(row);
	}

	async locked(): Promise<readonly LockedRun[]> {
		if (!this.#lockFilesNamed) return [];
		return this.#read(() => this.#sql.locked.all() as unknown as LockedRun[]);
	}

	async list({ route, state, before = Number.MAX_SAFE_INTEGER, limit }: RunFilter): Promise<readonly Run[]> {
		return this.#read(() => {
			if (route === undefined && state === undefined)
				return (this.#sql.newest.all(before, limit) as unknown as Row[]).map(toRun);
			// Each state has its own stretch of an index: the newest of each are found without passing over the others.
			const seqs = allCodes
				.filter((each) => state === undefined || stateNames[each] === state)
				.flatMap((each) =>
					route === undefined
						? this.#sql.newestOf[each]!.all(before, limit)
						: this.#sql.newestOfRoute[each]!.all(route, before, limit),
				)
				.map((row) => row.seq as number);
			seqs.sort((a, b) => b - a);
			return seqs.slice(0, limit).map((seq) => toRun(this.#sql.bySeq.get(seq) as unknown as Row));
		});
	}

	async shortOutput(id: string): Promise<Buffer | null | undefined> {
		return this.#read(() => {
			const row = this.#sql.byId.get(id) as unknown as Row | undefined;
			if (row === undefined) return undefined;
			if (row.state < code.succeeded) return null;
			return row.output_size === 0 ? Buffer.alloc(0) : this.#bytes(this.#sql.output, row.seq);
		});
	}

	async input(id: string): Promise<Input | undefined> {
		return this.#read(() => {
			const row = this.#sql.byId.get(id) as unknown as Row | undefined;
			if (row === undefined) return undefined;
			const gone = (this.#sql.input.get(row.seq) as { bytes: unknown } | undefined)?.bytes === null;
			return gone ? { kept: false } : { kept: true, bytes: this.#bytes(this.#sql.input, row.seq) };
		});
	}

	async counts(): Promise<{ readonly queued: number; readonly running: number }> {
		const { queued, running } = this.#counts;
		return { queued, running };
	}

	async routesAfter(name: string, limit: number): Promise<readonly string[]> {
		return this.#read(() => this.#sql.routesAfter.all(name, limit).map(({ route }) => route as string));
	}

	countTrigger(name: string): Promise<Trigger> {
		return this.#change(() => {
			const countedAt = this.#now();
			const { count } = this.#sql.countTrigger.get(name, countedAt) as { count: number };
			return { name, count, countedAt };
		});
	}

	async trigger(name: string): Promise<Trigger | undefined> {
		const row = this.#read(() => this.#sql.trigger.get(name)) as unknown as TriggerRow | undefined;
		return row && toTrigger(row);
	}

	async triggersAfter(name: string, limit: number): Promise<readonly Trigger[]> {
		const rows = this.#read(() => this.#sql.triggersAfter.all(name, limit)) as unknown as TriggerRow[];
		return rows.map(toTrigger);
	}

	async prune(route: string, kept: Kept, limit: number): Promise<Pruned> {
		// Mostly there is nothing to do, and no reason for a transaction.
		if (this.#read(() => this.#surplus(route, kept, 1)).length === 0) return nothingPruned;
		return this.#change(() => {
			const gone = this.#surplus(route, kept, limit);
			const inFiles = gone.filter(({ seq, output_size: size }) => {
				this.#sql.dropRun.run(seq);
				this.#sql.dropInput.run(seq);
				const short = this.#sql.dropOutput.run(seq).changes > 0;
				return size > 0 && !short;
			});
			this.#addEnded(route, -gone.length);
			return { ids: gone.map(({ id }) => id), inFiles: inFiles.map(({ id }) => id) };
		});
	}

	async close(): Promise<void> {
		if (this.#closed) return;
		this.#closed = true;
		while (this.#writing) await this.#writing;
		this.#db.close();
		// Not before: closing any descriptor of a file drops the locks this process holds on it.
		fs.closeSync(this.#logFd);
		fs.closeSync(this.#fileFd);
	}

	/** Accepts what a delivery has not brought before. */
	#acceptOnce(
		runs: readonly NewRun[],
		{ route, key, remember }: DeliveryKey,
		locked: readonly string[],
	): Acceptance[] {
		const now = this.#now();
		const before = this.#delivery(route, key, now);
		if (before !== undefined && before.length !== runs.length) {
			return remaining(before.flatMap((id) => this.#repeated(id)));
		}
		const acceptances: Acceptance[] = [];
		const taken = runs.map((run, index) => {
			const id = before?.[index];
			const found = id == null ? [this.#accept(run, locked)] : this.#repeated(id);
			acceptances.push(...found);
			return found[0] === undefined ? id : found[0].kind === 'busy' ? null : found[0].run.id;
		});
		if (acceptances.some(({ kind }) => kind === 'accepted' || kind === 'joined')) {
			this.#sql.putDelivery.run(route, key, JSON.stringify(taken), remember, now + remember);
			// More than comes in, so that they do not add up; and few, so that nobody waits for it.
			this.#sql.forgetDeliveries.run(now, 2);
		}
		return runs.length === 0 ? [] : remaining(acceptances);
	}

	/** The runs of a delivery that is remembered. */
	#delivery(route: string, key: string, now: number): (string | null)[] | undefined {
		const row = this.#sql.delivery.get(route, key) as
			| { runs: string; remember: number; until: number }
			| undefined;
		// What is remembered for longer than it was to be is from before the clock was set back.
		const known = row !== undefined && row.until > now && row.until <= now + 2 * row.remember;
		return known ? JSON.parse(row.runs) : undefined;
	}

	/** A run of a delivery that came before; empty for one that was refused or has been removed. */
	#repeated(id: string | null): { kind: 'repeated'; run: Run }[] {
		const row = id === null ? undefined : (this.#sql.byId.get(id) as unknown as Row | undefined);
		return row === undefined ? [] : [{ kind: 'repeated', run: toRun(row) }];
	}

	#accept(run: NewRun, lockedFiles: readonly string[]): Acceptance {
		const group = this.#group(run.group);
		const full = group.waiting > 0 || group.taken >= run.limit;
		const { lockfile } = run.plan;
		if (lockfile !== undefined) this.#lockFilesNamed = true;
		if (run.whenBusy === 'reject') {
			if (full) return { kind: 'busy', group: run.group };
			if (lockfile !== undefined && (lockedFiles.includes(lockfile) || this.#sql.firstLocked.get(lockfile)))
				return { kind: 'busy', group: run.group, lockfile };
		}
		if (run.whenBusy === 'coalesce' && group.waiting + group.taken > 0) {
			const joined = this.#sql.joinable.get(run.group, run.route) as unknown as { seq: number } | undefined;
			if (joined) return { kind: 'joined', run: this.#join(joined.seq, run) };
		}
		const waits = full && run.whenBusy !== 'parallel';
		const state = waits ? code.waiting : placed(lockfile);
		const seq = this.#nextSeq++;
		this.#sql.insert.run(
			seq,
			run.id,
			state,
			run.route,
			run.group,
			run.limit,
			run.whenBusy,
			lockfile ?? null,
			run.acceptedAt,
			run.delivery,
			run.event,
			run.client,
			run.certname,
			JSON.stringify(run.parameters),
			JSON.stringify(run.plan),
		);
		if (run.stdin !== null) this.#putInput(seq, run.stdin);
		group[waits ? 'waiting' : 'taken']++;
		this.#counts.queued++;
		this.#fresh.set(seq, run);
		return { kind: 'accepted', run: newRun(run, seq, state) };
	}

	/** A run as it is right after it was claimed. */
	#claimed(seq: number, now: number): ClaimedRun {
		const fresh = this.#fresh.get(seq);
		if (fresh !== undefined)
			return {
				...newRun(fresh, seq, code.running),
				state: 'running',
				attempt: 1,
				startedAt: now,
				stdin: fresh.stdin,
			};
		const run = toRun(this.#sql.bySeq.get(seq) as unknown as Row);
		return { ...run, stdin: this.#bytes(this.#sql.input, seq) };
	}

	/** Lets a queued run do the work of a newer one. */
	#join(seq: number, run: NewRun): Run {
		this.#fresh.delete(seq);
		const { delivery, event, client, certname, parameters, plan } = run;
		const row = this.#sql.join.get(
			delivery,
			event,
			client,
			certname,
			JSON.stringify(parameters),
			JSON.stringify(plan),
			plan.lockfile ?? null,
			placed(plan.lockfile),
			seq,
		);
		if (run.stdin === null) this.#sql.dropInput.run(seq);
		else this.#putInput(seq, run.stdin);
		return toRun(row as unknown as Row);
	}

	#putInput(seq: number, bytes: Buffer): void {
		this.#sql.putInput.run(seq, bytes);
		if (bytes.length > mostKeptInput) this.#longInputs.add(seq);
	}

	/** A run ends. When its transaction fails, what is left is looked for at the next open. */
	#dropLongInput(seq: number): void {
		if (this.#longInputs.has(seq)) this.#sql.clearInput.run(seq, mostKeptInput);
	}

	/** A run ends: what was secret in it is needed no more. Standard input may hold it too. */
	#dropSecrets(run: Run): void {
		if (run.plan.secretParameters === undefined) return;
		this.#sql.setParameters.run(JSON.stringify(shownParameters(run)), run.seq);
		this.#sql.clearInput.run(run.seq, -1);
		this.#forget = true;
	}

	#addEnded(route: string, runs: number): void {
		this.#endings.set(route, (this.#endings.get(route) ?? 0) + runs);
	}

	/** Up to `limit` ended runs of a route that are not to be kept, the oldest first. */
	#surplus(route: string, { runs, endedBefore }: Kept, limit: number): Surplus[] {
		const row = this.#sql.endedRuns.get(route) as unknown as { runs: number } | undefined;
		const over = (row?.runs ?? 0) + (this.#endings.get(route) ?? 0) - runs;
		const oldest = endedCodes.flatMap(
			(state) => this.#sql.oldestOfRoute[state]!.all(route, limit) as unknown as Surplus[],
		);
		oldest.sort((a, b) => a.seq - b.seq);
		return oldest.filter((run, i) => i < over || run.ended_at < endedBefore).slice(0, limit);
	}

	/** When the clock was set back, takes the times of next attempts back with it, so that none is waited for any longer. */
	#followClock(now: number): void {
		if (now < this.#lookedAt && this.#counts.later > 0) {
			this.#sql.bringForward.run(this.#lookedAt - now);
			this.#dueAt = 0;
		}
		this.#lookedAt = now;
	}

	/** Has runs whose time has come wait for their groups, at their old places. */
	#admitDue(now: number): void {
		// Further away than any delay is a time from before the clock was set back.
		const due = [
			this.#sql.due.all(0, now),
			this.#sql.due.all(now + longestDelay + 1, Number.MAX_SAFE_INTEGER),
		];
		const names = new Set<string>();
		for (const row of due.flat()) {
			const { seq, grp, when_busy } = row as { seq: number; grp: string; when_busy: WhenBusy };
			const parallel = when_busy === 'parallel';
			this.#sql.resume.run(seq);
			if (parallel) this.#sql.admit.run(seq);
			this.#counts.later--;
			this.#group(grp)[parallel ? 'taken' : 'waiting']++;
			names.add(grp);
		}
		for (const name of names) this.#admit(name, this.#group(name));
		this.#dueAt = (this.#sql.nextDue.get() as { next: number | null }).next ?? Number.POSITIVE_INFINITY;
	}

	/** Gives free places of a group to those who wait, oldest first. */
	#admit(name: string, group: Group): void {
		while (group.waiting > 0) {
			const next = this.#sql.firstWaiting.get(name) as unknown as { seq: number; places: number };
			if (group.taken >= next.places) return;
			this.#sql.admit.run(next.seq);
			group.waiting--;
			group.taken++;
		}
		if (group.taken === 0) this.#groups.delete(name);
	}

	/** True while the run is running, and in this attempt. */
	#isPresent({ seq, id, attempt }: Run): boolean {
		return this.#sql.running.get(seq, id, attempt) !== undefined;
	}

	/** A group to change within a transaction. */
	#group(name: string): Group {
		let group = this.#groups.get(name);
		if (!this.#before.has(name)) this.#before.set(name, { taken: 0, waiting: 0, ...group });
		if (group === undefined) {
			group = { taken: 0, waiting: 0 };
			this.#groups.set(name, group);
		}
		return group;
	}

	#bytes(statement: StatementSync, seq: number): Buffer | null {
		const row = statement.get(seq) as { bytes: Uint8Array } | undefined;
		return row === undefined
			? null
			: Buffer.from(row.bytes.buffer, row.bytes.byteOffset, row.bytes.byteLength);
	}

	#read<T>(reading: () => T): T {
		if (this.#closed) throw closedError();
		return reading();
	}

	#change<T>(apply: () => T): Promise<T> {
		if (this.#closed) return Promise.reject(closedError());
		return new Promise((resolve, reject) => {
			this.#waiting.push({ apply, resolve: resolve as (value: unknown) => void, reject });
			// The end of this turn: whatever else it brings goes into the same transaction.
			this.#writing ??= new Promise((done) => setImmediate(() => done(this.#write())));
		});
	}

	/** Writes until nothing waits. What is asked for during a flush makes up the next transaction. */
	async #write(): Promise<void> {
		while (this.#waiting.length > 0) {
			const changes = this.#waiting;
			this.#waiting = [];
			const done = this.#commit(changes);
			if (done.length === 0) continue;
			await this.#flushed();
			for (const { change, value } of done) change.resolve(value);
		}
		this.#writing = undefined;
	}

	/** Applies changes in one transaction. Gives those that are written; rejects the others. */
	#commit(changes: readonly Change[]): { change: Change; value: unknown }[] {
		const counts = this.#counts;
		const nextSeq = this.#nextSeq;
		this.#counts = { ...counts };
		try {
			this.#db.exec('BEGIN IMMEDIATE');
			const done = changes.map((change) => ({ change, value: change.apply() }));
			for (const [route, runs] of this.#endings) this.#sql.addEnded.run(route, runs);
			this.#db.exec('COMMIT');
			this.#before.clear();
			this.#fresh.clear();
			this.#endings.clear();
			return done;
		} catch (error) {
			// SQLite has rolled back by itself when the disk was full.
			if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
			for (const [name, group] of this.#before) {
				if (group.taken + group.waiting > 0) this.#groups.set(name, group);
				else this.#groups.delete(name);
			}
			this.#before.clear();
			this.#fresh.clear();
			this.#endings.clear();
			this.#counts = counts;
			this.#dueAt = 0;
			this.#nextSeq = nextSeq;
			const unavailable = unavailableError(error);
			if (unavailable === undefined && changes.length > 1)
				// One of them is at fault; the others must not suffer for it.
				return changes.flatMap((change) => this.#commit([change]));
			for (const change of changes) change.reject(unavailable ?? error);
			return [];
		}
	}

	/**
	 * Resolves when all that is committed would survive power loss. Moves the log into the file when it has grown, or has what is to
	 * be forgotten.
	 */
	async #flushed(): Promise<void> {
		// A failure is caught by nobody and ends the process, which is meant: after a failed flush the kernel forgets the pages
		// it could not write, so only what the next start reads from the disk can be trusted.
		await fdatasync(this.#logFd);
		const look = ++this.#commits % 16 === 0;
		const { log } = look ? (this.#sql.logSize.get() as unknown as { log: number }) : { log: 0 };
		if (log < checkpointPages && !this.#forget) return;
		// SQLite would flush the file while the event loop stands still. Told not to, it leaves that to us, which is safe as
		// long as nothing is written meanwhile: only the next write begins to overwrite the log.
		if (!this.#checkpoint('PASSIVE')) return;
		await fdatasync(this.#fileFd);
		// Nothing is left to move; now that the file is on disk, the log may be emptied.
		if (this.#forget && this.#checkpoint('TRUNCATE')) this.#forget = false;
	}

	/** False when the disk has no room for it: then the log stays, which is enough, and it is tried again. */
	#checkpoint(how: 'PASSIVE' | 'TRUNCATE'): boolean {
		this.#db.exec('PRAGMA synchronous = OFF');
		try {
			this.#db.exec(`PRAGMA wal_checkpoint(${how})`);
			return true;
		} catch (error) {
			if (unavailableError(error) === undefined) throw error;
			return false;
		} finally {
			this.#db.exec('PRAGMA synchronous = NORMAL');
		}
	}
}

/** Makes the names of what was just made survive power loss: those in `from`, and in each directory on the way down to `to`. */
function flushNames(from: string, to: string): void {
	for (let directory = path.dirname(to); ; directory = path.dirname(directory)) {
		const fd = fs.openSync(directory, 'r');
		fs.fsyncSync(fd);
		fs.closeSync(fd);
		if (path.relative(from, directory) === '') return;
	}
}

/** An ended run, as far as removing it needs to know it. */
interface Surplus {
	seq: number;
	id: string;
	ended_at: number;
	output_size: number;
}

const nothingPruned: Pruned = { ids: [], inFiles: [] };

/** What is left of a delivery that was taken before. @throws Conflict when that is nothing */
function remaining(acceptances: Acceptance[]): Acceptance[] {
	if (acceptances.length > 0) return acceptances;
	throw new Conflict(
		'this delivery was taken before, and its run is not kept any more; nothing was started. To have it run again, send it as a new one',
	);
}

/** The state of a run that has a place in its group. */
function placed(lockfile: string | undefined): number {
	return lockfile === undefined ? code.ready : code.locked;
}

/** SQLite's result codes that tell of the disk and not of a fault of ours, and what an operator calls them. */
const troubles: Readonly<Record<number, string>> = {
	5: 'held by another process',
	7: 'out of memory',
	8: 'read-only',
	10: 'input/output error',
	13: 'disk full',
	14: 'cannot be opened',
};

function resultCode(error: unknown): number | undefined {
	const extended = (error as { errcode?: unknown }).errcode;
	// The low byte is the class, the rest the detail.
	return typeof extended === 'number' ? extended & 0xff : undefined;
}

function unavailableError(error: unknown): StoreUnavailable | undefined {
	const trouble = troubles[resultCode(error) ?? -1];
	if (trouble === undefined) return undefined;
	return new StoreUnavailable(
		`the state directory takes nothing at the moment (${trouble}); nothing was started, try again later`,
		{
			cause: error,
			headers: { 'Retry-After': '30' },
		},
	);
}

function closedError(): StoreUnavailable {
	return new StoreUnavailable('the listener is stopping; nothing was started, try again later', {
		headers: { 'Retry-After': '5' },
	});
}

function openError(error: unknown, directory: string, holder: string): unknown {
	if (error instanceof StateError) return error;
	const { code: cause, message } = error as NodeJS.ErrnoException;
	const result = resultCode(error);
	const state = `state directory ${directory}`;
	if (result === 5) {
		const pid = fs.existsSync(holder) ? ` (process ${fs.readFileSync(holder, 'utf8').trim()})` : '';
		return new StateError(
			`${state} is held by another listener${pid}; stop that one, or give this one another --state`,
			{
				cause: error,
			},
		);
	}
	if (result === 11 || result === 26)
		return new StateError(
			`${state}: runs.db is damaged or not ours (${message}); move it away to start afresh, or restore it from a backup`,
			{ cause: error },
		);
	if (cause === 'ENOSPC' || result === 13)
		return new StateError(`${state}: the disk is full; make room and start again`, { cause: error });
	if (typeof cause === 'string' && (cause !== 'ERR_SQLITE_ERROR' || troubles[result ?? -1] !== undefined))
		return new StateError(
			`${state} cannot be written (${message}); make it writable for user ${process.getuid?.() ?? ''}, or give another --state`,
			{ cause: error },
		);
	return error;
}
