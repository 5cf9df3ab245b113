/**
 * Keeps the history of runs as long as their routes want it: removes those that have ended beyond that, and their output.
 * It does so a few at a time, so that nobody who is served meanwhile waits for it.
 */

import { setImmediate } from 'node:timers/promises';
import { StoreUnavailable } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Pruned, Store } from '../stores/store.ts';
import type { Outputs } from './output.ts';
import type { Queue } from './queue.ts';
import type { Keep } from './run.ts';

export interface HistoryOptions {
	readonly store: Store;
	readonly outputs: Outputs;
	readonly queue: Queue;
	readonly log: Log;
	/** What a route wants now, by its name; also asked about routes that there are no more. */
	readonly keep: (route: string) => Keep;
}

/** Runs removed at once: about a millisecond of the event loop, also when their output is long. */
const slice = 10;
/** Milliseconds from the end of a run to the look at its route, for many that end meanwhile. */
const lookAfter = 1_000;
/** Milliseconds between two looks at every route, for runs that have grown too old. */
const lookEvery = 600_000;
/** Names of routes held at once. */
const routesAtOnce = 100;

export class History {
	readonly #options: HistoryOptions;
	readonly #stop = new AbortController();
	/** Routes of which runs have ended since they were looked at. */
	readonly #ended = new Set<string>();
	#soon: NodeJS.Timeout | undefined;
	#often: NodeJS.Timeout | undefined;
	#forget: () => void = () => {};
	/** One look after another. */
	#looking: Promise<void> = Promise.resolve();

	constructor(options: HistoryOptions) {
		this.#options = options;
	}

	/** Begins: removes what is left of runs that were removed before a crash, and whatever is too much or too old by now. */
	start(): void {
		const { outputs, log } = this.#options;
		this.#forget = this.#options.queue.on('ended', ({ route }) => {
			this.#ended.add(route);
			this.#soon ??= setTimeout(() => this.#lookSoon(), lookAfter);
		});
		this.#look(async () => {
			const removed = await outputs.sweep(this.#stop.signal);
			if (removed > 0) log.info('output of runs that are not kept any more was removed', { files: removed });
		});
		this.lookAtAll();
		this.#often = setInterval(() => this.lookAtAll(), lookEvery);
	}

	/** Looks at every route; after their `keep` may have changed. */
	lookAtAll(): void {
		this.#look(async () => {
			let routes: readonly string[];
			let last = '';
			do {
				routes = await this.#options.store.routesAfter(last, routesAtOnce);
				for (const route of routes) {
					await this.#prune(route);
					last = route;
				}
			} while (routes.length === routesAtOnce && !this.#stop.signal.aborted);
		});
	}

	/** Resolves when nothing is being removed any more. */
	async stop(): Promise<void> {
		this.#stop.abort();
		this.#forget();
		clearTimeout(this.#soon);
		clearInterval(this.#often);
		await this.#looking;
	}

	#lookSoon(): void {
		this.#soon = undefined;
		const routes = [...this.#ended];
		this.#ended.clear();
		this.#look(async () => {
			for (const route of routes) await this.#prune(route);
		});
	}

	#look(look: () => Promise<void>): void {
		this.#looking = this.#looking.then(look).catch((error) => {
			// The next look does what this one could not. That the disk is full, others say loud enough.
			if (error instanceof StoreUnavailable) return;
			this.#options.log.warn('runs that are not kept any more could not all be removed', {
				error: String(error),
			});
		});
	}

	async #prune(route: string): Promise<void> {
		const { store, outputs, keep } = this.#options;
		let pruned: Pruned;
		do {
			// Others have their turn between two slices.
			await setImmediate();
			if (this.#stop.signal.aborted) return;
			const { runs, age } = keep(route);
			pruned = await store.prune(route, { runs, endedBefore: Date.now() - age }, slice);
			await outputs.remove(pruned.inFiles);
		} while (pruned.ids.length === slice);
	}
}
