/**
 * Where lines of the log go. A place takes lines at once and hands them over by and by; while it cannot (a full disk, a
 * syslog daemon that is away) they wait, in order and up to a limit. The log never waits for a place, nor fails with it.
 */

import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';

export interface Place {
	/** Takes a line, without a line end. */
	write(line: string): void;
	/**
	 * Hands over what waits, for some seconds at most. Lines written later are lost.
	 * @returns how many lines could not be handed over
	 */
	close(): Promise<number>;
}

/** Tells the log what is the matter with a place, for the other places to show. */
export type Tell = (
	level: 'error' | 'warn',
	message: string,
	fields?: Readonly<Record<string, unknown>>,
) => void;

/** An open way to a place. */
export interface Way {
	/**
	 * Hands over some of the lines, from the first on.
	 * @returns how many, at least 1
	 * @throws when the way is of no use any more; then none of these lines has been handed over for sure
	 */
	send(lines: readonly string[]): Promise<number>;
	/** Lets what was handed over through and closes; never fails. */
	close(): Promise<void>;
}

/** Characters of lines that wait at most; some minutes of a busy listener, and little beside its own memory. */
const mostWaiting = 8 * 1024 * 1024;
/** Characters that are handed over at once. */
const batchSize = 256 * 1024;
/** Milliseconds until a place that failed is tried again: the first time, and at most. The pause doubles in between. */
const firstPause = 250;
const longestPause = 10_000;
/** Milliseconds at the end for what waits; systemd and operators do not wait for ever. */
const farewell = 3_000;
/** Milliseconds between two attempts then. */
const hurry = 100;

/** Lines on their way to a place that may fail for a while. */
export class Backlog implements Place {
	readonly #name: string;
	readonly #open: () => Promise<Way>;
	readonly #tell: Tell;
	#lines: string[] = [];
	#size = 0;
	#way: Way | undefined;
	#working: Promise<void> | undefined;
	#pause = firstPause;
	/** Aborted when the pause is to end. */
	#resting = new AbortController();
	#failing = false;
	#lost = 0;
	/** `performance.now()` after which nothing is tried any more. */
	#end = Number.POSITIVE_INFINITY;

	/**
	 * @param name of the place, as people know it: a path or an address
	 * @param open opens a way there, again whenever the one before was of no use any more
	 */
	constructor(name: string, open: () => Promise<Way>, tell: Tell) {
		this.#name = name;
		this.#open = open;
		this.#tell = tell;
	}

	write(line: string): void {
		// One line always fits, however long.
		if (this.#size > 0 && this.#size + line.length > mostWaiting) {
			if (this.#lost++ === 0)
				this.#tell('error', `the log for ${this.#name} loses lines: too many wait for it`);
			return;
		}
		this.#lines.push(line);
		this.#size += line.length;
		this.#working ??= this.#work();
	}

	async close(): Promise<number> {
		this.#end = performance.now() + farewell;
		this.#resting.abort();
		// What hangs (a connection that is neither refused nor made) must not keep the listener from ending.
		await within(farewell, this.#working);
		await within(farewell, this.#way?.close());
		return this.#lost + this.#lines.length;
	}

	async #work(): Promise<void> {
		// What is logged in one turn of the event loop goes out together.
		await nextTurn();
		while (this.#lines.length > 0) {
			try {
				this.#way ??= await this.#open();
				this.#sent(await this.#way.send(this.#batch()));
			} catch (error) {
				await this.#way?.close();
				this.#way = undefined;
				if (performance.now() + hurry > this.#end) break;
				this.#failed(error);
				await this.#rest();
			}
		}
		this.#working = undefined;
	}

	#batch(): readonly string[] {
		let size = 0;
		const end = this.#lines.findIndex((line) => {
			size += line.length;
			return size > batchSize;
		});
		return end < 0 ? this.#lines : this.#lines.slice(0, Math.max(1, end));
	}

	#sent(count: number): void {
		for (const line of this.#lines.splice(0, count)) this.#size -= line.length;
		this.#pause = firstPause;
		const lost = this.#lost;
		const failing = this.#failing;
		this.#failing = false;
		this.#lost = 0;
		if (failing) this.#tell('warn', `the log reaches ${this.#name} again`, { lost });
		else if (lost > 0) this.#tell('warn', `the log for ${this.#name} has lost lines`, { lost });
	}

	#failed(error: unknown): void {
		if (this.#failing) return;
		this.#failing = true;
		const message = `the log cannot be written to ${this.#name}; its lines wait, and it is tried again until it can`;
		this.#tell('error', message, { error: (error as Error).message });
	}

	async #rest(): Promise<void> {
		const left = this.#end - performance.now();
		const pause = Number.isFinite(left) ? hurry : this.#pause;
		this.#pause = Math.min(this.#pause * 2, longestPause);
		this.#resting = new AbortController();
		await sleep(pause, undefined, { signal: this.#resting.signal }).catch(() => {});
	}
}

/** Resolves with the promise, or after so many milliseconds. */
export async function within(ms: number, promise: Promise<unknown> | undefined): Promise<void> {
	const done = new AbortController();
	await Promise.race([promise, sleep(ms, undefined, done).catch(() => {})]);
	done.abort();
}
