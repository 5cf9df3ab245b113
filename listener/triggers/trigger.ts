/**
 * Triggers: named counts that outlast restarts. A step, an operator or another program counts one up; whoever waits for it sees
 * that the count has risen, however long it was away meanwhile. A trigger need not be declared: it is at 0 until it is first
 * counted up.
 */

import { BadParameters } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Store, Trigger } from '../stores/store.ts';
import { refusedTriggerName } from './name.ts';

/** What there is of a trigger that was never counted up. */
export type TriggerState = Omit<Trigger, 'countedAt'> & { readonly countedAt: number | null };

export class Triggers {
	readonly #store: Store;
	readonly #log: Log;

	constructor({ store, log }: { readonly store: Store; readonly log: Log }) {
		this.#store = store;
		this.#log = log;
	}

	/** Counts a trigger up by one; resolves when that is on disk. @throws BadParameters (its name) StoreUnavailable */
	async count(name: string): Promise<Trigger> {
		checkName(name);
		const trigger = await this.#store.countTrigger(name);
		this.#log.info('trigger counted up', { trigger: name, count: trigger.count });
		return trigger;
	}

	/** @throws BadParameters (its name) */
	async get(name: string): Promise<TriggerState> {
		checkName(name);
		return (await this.#store.trigger(name)) ?? { name, count: 0, countedAt: null };
	}

	/** Those that were counted up, in the order of their names: up to `limit` of those after a name. */
	list(after: string, limit: number): Promise<readonly Trigger[]> {
		return this.#store.triggersAfter(after, limit);
	}
}

function checkName(name: string): void {
	const reason = refusedTriggerName(name);
	if (reason !== undefined) throw new BadParameters([{ parameter: 'trigger', reason }]);
}
