/**
 * What the listener counts, for Prometheus. Fed by the queue's events, by the configuration, and by the HTTP side once for each
 * delivery; asked for at `/metrics`. Nothing a caller sends becomes a label: routes are those of the file.
 */

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { LiveConfig } from './config/config.ts';
import type { Queue } from './runs/queue.ts';
import type { Run } from './runs/run.ts';

/**
 * What became of a delivery. `accepted`, `joined`, `busy` and `repeated`: as the store decided · `ignored`: it was taken and nothing was
 * to run, as for HEAD · `refused`: all else, with the status that says why.
 */
export type DeliveryOutcome = 'accepted' | 'joined' | 'busy' | 'repeated' | 'ignored' | 'refused';

/**
 * Routes that have series of their own, the first ones of the file. Each may have some 50, and writing those of 100 takes up to
 * ten milliseconds, in which nobody else is answered.
 */
const mostRoutes = 100;
/** The label of the routes beyond these, all together. */
const otherRoutes = '(others)';
/** The label of what belongs to no route of the file: unknown paths, and runs of routes that were taken out of it. */
const noRoute = '-';

/** Seconds, from commands that do next to nothing to Puppet runs and long deployments. */
const buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600];

export interface MetricsParts {
	readonly queue: Queue;
	readonly config: LiveConfig;
	/** The listener's own. */
	readonly version: string;
}

export class Metrics {
	readonly #registry = new Registry();
	readonly #histograms: Histograms;
	readonly #series = new Map<string, RouteSeries>();
	/** Every route of the file. */
	#known: ReadonlySet<string> = new Set();
	/** Those of them that have series of their own. */
	#named: ReadonlySet<string> = new Set();
	#asked = false;

	/** @param config loaded already */
	constructor({ queue, config, version }: MetricsParts) {
		const registers = [this.#registry];
		this.#histograms = openHistograms(registers);
		this.#openCounters(registers);
		this.#take(config);
		config.on('changed', () => this.#take(config));
		this.#watchReloads(config);
		this.#watchQueue(queue);
		new Gauge({
			name: 'puppet_webhook_build_info',
			help: 'Always 1; the versions are its labels.',
			labelNames: ['version', 'node_version'],
			registers,
		}).set({ version, node_version: process.version }, 1);
	}

	/** The media type of `text`. */
	get contentType(): string {
		return this.#registry.contentType;
	}

	/** Everything in Prometheus's text format. @throws StoreUnavailable */
	text(): Promise<string> {
		// Watching the event loop and the garbage collector costs a little all the time, so only where somebody asks.
		if (!this.#asked) {
			collectDefaultMetrics({ register: this.#registry });
			// Gauges that are named like counters, which `promtool check metrics` refuses; others count the same by kind.
			for (const what of ['handles', 'requests', 'resources'])
				this.#registry.removeSingleMetric(`nodejs_active_${what}_total`);
		}
		this.#asked = true;
		return this.#registry.metrics();
	}

	/**
	 * Counts a delivery that was answered.
	 * @param route its name; undefined when no route takes it
	 * @param status the HTTP status; undefined when the caller had left
	 */
	delivery(route: string | undefined, outcome: DeliveryOutcome, status: number | undefined): void {
		const known = status === undefined ? 'gone' : `${Math.floor(status / 100)}xx`;
		this.#of(route).deliveries.add(outcome, known);
	}

	/** They are written from our own numbers whenever somebody asks: counting up in prom-client costs as much as all the rest. */
	#openCounters(registers: Registry[]): void {
		const series = this.#series;
		new Counter({
			name: 'puppet_webhook_deliveries_total',
			help: 'Deliveries answered, by route, what became of them, and class of the HTTP status (gone: the caller had left).',
			labelNames: ['route', 'outcome', 'status'],
			registers,
			collect() {
				this.reset();
				for (const [route, { deliveries }] of series) {
					for (const { first, second, count } of deliveries.all()) {
						this.inc({ route, outcome: first, status: second }, count);
					}
				}
			},
		});
		new Counter({
			name: 'puppet_webhook_runs_total',
			help: 'Runs that have ended, by route, state and reason.',
			labelNames: ['route', 'state', 'reason'],
			registers,
			collect() {
				this.reset();
				for (const [route, { runs }] of series) {
					for (const { first, second, count } of runs.all()) {
						this.inc({ route, state: first, reason: second }, count);
					}
				}
			},
		});
		new Counter({
			name: 'puppet_webhook_output_bytes_total',
			help: 'Bytes that ended runs have printed, also those that were not kept.',
			labelNames: ['route'],
			registers,
			collect() {
				this.reset();
				for (const [route, { output }] of series) this.inc({ route }, output);
			},
		});
	}

	#of(route: string | undefined): RouteSeries {
		let label = noRoute;
		if (route !== undefined) {
			if (this.#named.has(route)) label = route;
			else if (this.#known.has(route)) label = otherRoutes;
		}
		const found = this.#series.get(label) ?? new RouteSeries(label, this.#histograms);
		this.#series.set(label, found);
		return found;
	}

	/** Series of routes that are gone go too: kept, they would add up for as long as the listener runs. */
	#take(config: LiveConfig): void {
		const names = config.current.routes.routes.map(({ name }) => name);
		this.#known = new Set(names);
		this.#named = new Set(names.slice(0, mostRoutes));
		for (const [label, series] of this.#series) {
			if (label === noRoute || label === otherRoutes || this.#named.has(label)) continue;
			series.remove();
			this.#series.delete(label);
		}
		for (const name of this.#named) this.#of(name).begin();
	}

	#watchReloads(config: LiveConfig): void {
		const registers = [this.#registry];
		const reloads = new Counter({
			name: 'puppet_webhook_config_reloads_total',
			help: 'Times that changed files were taken up (success) or refused (failure); the first reading does not count.',
			labelNames: ['result'],
			registers,
		});
		const succeeded = new Gauge({
			name: 'puppet_webhook_config_last_reload_successful',
			help: '1 when the files were taken up as last read, 0 when they were refused and older ones serve.',
			registers,
		});
		const time = new Gauge({
			name: 'puppet_webhook_config_last_reload_success_timestamp_seconds',
			help: 'When the configuration that serves was read, in seconds since 1970.',
			registers,
		});
		succeeded.set(1);
		time.setToCurrentTime();
		for (const result of ['success', 'failure']) reloads.inc({ result }, 0);
		config.on('changed', () => {
			reloads.inc({ result: 'success' });
			succeeded.set(1);
			time.setToCurrentTime();
		});
		config.on('refused', () => {
			reloads.inc({ result: 'failure' });
			succeeded.set(0);
		});
	}

	#watchQueue(queue: Queue): void {
		for (const state of ['queued', 'running'] as const) {
			new Gauge({
				name: `puppet_webhook_runs_${state}`,
				help: `Runs that are ${state} now.`,
				registers: [this.#registry],
				async collect() {
					this.set((await queue.counts())[state]);
				},
			});
		}
		queue.on('started', (run) => {
			if (run.attempt === 1) this.#of(run.route).wait.observe(seconds(run.acceptedAt, run.startedAt));
		});
		queue.on('ended', (run) => this.#ended(run));
	}

	#ended({ route, state, outcome, startedAt, endedAt, outputSize }: Run): void {
		const series = this.#of(route);
		series.runs.add(state, outcome?.reason ?? '');
		// A run that was cancelled in the queue has not run.
		if (startedAt !== null) series.duration.observe(seconds(startedAt, endedAt));
		series.output += outputSize;
	}
}

/** Between two times in milliseconds; never below 0, whatever the clock was set to meanwhile. */
function seconds(from: number, to: number | null): number {
	return Math.max(0, (to ?? from) - from) / 1000;
}

interface Histograms {
	readonly wait: Histogram<'route'>;
	readonly duration: Histogram<'route'>;
}

function openHistograms(registers: Registry[]): Histograms {
	return {
		wait: new Histogram({
			name: 'puppet_webhook_run_wait_seconds',
			help: 'Time from the acceptance of a run to its first start.',
			labelNames: ['route'],
			buckets,
			registers,
		}),
		duration: new Histogram({
			name: 'puppet_webhook_run_duration_seconds',
			help: 'Time from the start of a run (the last one, if there were several) to its end.',
			labelNames: ['route'],
			buckets,
			registers,
		}),
	};
}

/** What is counted by two labels of few values each. */
class Tally {
	readonly #counts = new Map<string, { readonly first: string; readonly second: string; count: number }>();

	add(first: string, second: string, by = 1): void {
		const key = `${first} ${second}`;
		const found = this.#counts.get(key);
		if (found === undefined) this.#counts.set(key, { first, second, count: by });
		else found.count += by;
	}

	all(): Iterable<{ readonly first: string; readonly second: string; readonly count: number }> {
		return this.#counts.values();
	}
}

/** What is counted about one route. */
class RouteSeries {
	/** By outcome and class of status. */
	readonly deliveries = new Tally();
	/** By state and reason. */
	readonly runs = new Tally();
	/** Bytes. */
	output = 0;
	/** In seconds, as `duration` is. */
	readonly wait: Histogram.Internal<'route'>;
	readonly duration: Histogram.Internal<'route'>;
	readonly #route: string;
	readonly #histograms: Histograms;

	constructor(route: string, histograms: Histograms) {
		this.#route = route;
		this.#histograms = histograms;
		this.wait = histograms.wait.labels(route);
		this.duration = histograms.duration.labels(route);
	}

	/** Begins at 0 what alerts look at: of a series that begins at 1, Prometheus does not see that it has grown. */
	begin(): void {
		this.deliveries.add('accepted', '2xx', 0);
		this.runs.add('succeeded', 'exit', 0);
		for (const reason of ['exit', 'signal', 'timeout', 'spawn', 'lost']) this.runs.add('failed', reason, 0);
	}

	/** Takes out of the answer what does not go by itself. */
	remove(): void {
		for (const histogram of Object.values(this.#histograms)) histogram.remove(this.#route);
	}
}
