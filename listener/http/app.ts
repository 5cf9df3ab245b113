/** The HTTP side of the listener: one Koa application behind every address, and its beginning and end. */

import Koa, { type Context } from 'koa';
import type { LiveConfig } from '../config/config.ts';
import type { Client } from '../delivery.ts';
import { RequestTimeout, WebhookError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Outputs } from '../runs/output.ts';
import type { Queue } from '../runs/queue.ts';
import { idMaker } from '../runs/run.ts';
import type { Triggers } from '../triggers/trigger.ts';
import { isOwnPath, serveEndpoints } from './admin.ts';
import { answerError } from './answers.ts';
import { Disconnected } from './body.ts';
import { Deliveries, type Entry } from './deliveries.ts';
import { clientOf, Listening, type ListeningAddress } from './listening.ts';

export interface ServerParts {
	readonly config: LiveConfig;
	readonly queue: Queue;
	readonly outputs: Outputs;
	readonly triggers: Triggers;
	readonly metrics: Metrics;
	readonly log: Log;
	/** File descriptors of sockets that are bound already, as systemd hands them over. */
	readonly sockets?: readonly number[];
}

export interface Server {
	/** Opens every address of `listen`. @throws ListenError, and then none is open */
	listen(): Promise<readonly ListeningAddress[]>;
	/**
	 * Refuses deliveries with 503 and lets what runs, and who waits for it, come to an end. Endpoints go on answering.
	 * @param ms how long at most
	 */
	drain(ms: number): Promise<void>;
	/** Answers who still waits with what there is, and closes. Safe to call at any time, and twice. */
	close(): Promise<void>;
}

/** Milliseconds at the end after which who still waits is answered with what there is; a run that just ended needs less. */
const grace = 500;

/** Milliseconds at the end after which connections are cut: by then answers are written, and only have to be taken. */
const farewell = 3000;

/** Puts the HTTP side together; nothing is open before `listen`. */
export function createServer({
	config,
	queue,
	outputs,
	triggers,
	metrics,
	log,
	sockets,
}: ServerParts): Server {
	const stopping = new AbortController();
	const newId = idMaker();
	let draining = false;
	const deliveries = new Deliveries(config, queue, outputs, stopping.signal);

	const app = new Koa();
	app.use(async (ctx, next) => {
		const { proxies } = config.current.listen;
		const entry = entryOf(ctx, newId(), proxies.clientOf(clientOf(ctx.req), ctx.req.headers));
		const own = isOwnPath(entry.path);
		try {
			await (own ? next() : deliveries.receive(ctx, entry));
		} catch (error) {
			answerFailure(ctx, error, entry, log);
		}
		if (draining) ctx.set('Connection', 'close');
		// The rest of a body that was refused is thrown away, so that its sender gets to reading the answer.
		if (!ctx.req.complete) ctx.req.resume();
		if (own) return logEndpoint(ctx, entry, log);
		logDelivery(ctx, entry, log);
		metrics.delivery(entry.route, entry.outcome ?? 'refused', statusOf(ctx));
	});
	const isDraining = () => draining;
	serveEndpoints(app, { config, queue, outputs, triggers, metrics, stopping: stopping.signal, isDraining });
	// What goes wrong once an answer has begun: its reader went away, mostly.
	app.on('error', (error: Error) => log.debug('an answer was cut off', { error: error.message }));

	let listening: Listening | undefined;
	return {
		async listen() {
			const { listen } = config.current;
			listening = new Listening(listen, app.callback(), log, sockets);
			return listening.open();
		},
		async drain(ms) {
			draining = true;
			await queue.drain(ms);
		},
		async close() {
			draining = true;
			const late = setTimeout(() => stopping.abort(), grace);
			await listening?.close(farewell);
			clearTimeout(late);
			stopping.abort();
		},
	};
}

/** Takes the request line apart. A proxy's absolute form (`GET http://host/path`) counts as its path. */
function entryOf(ctx: Context, id: string, client: Client): Entry {
	const url = ctx.url.startsWith('/') ? ctx.url : ctx.url.replace(/^https?:\/\/[^/?]*/i, '');
	const mark = url.indexOf('?');
	return {
		id,
		receivedAt: Date.now(),
		path: mark < 0 ? url : url.slice(0, mark),
		query: mark < 0 ? '' : url.slice(mark + 1),
		client,
	};
}

function answerFailure(ctx: Context, error: unknown, entry: Entry, log: Log): void {
	if (error instanceof Disconnected || ctx.headerSent) {
		ctx.respond = false;
		ctx.res.destroy();
		entry.reason = (error as Error).message;
		if (error instanceof Disconnected) return;
		log.error('an answer broke off by a fault of the listener', {
			delivery: entry.id,
			error: (error as Error).stack,
		});
		return;
	}
	// Its body is still on the way, for who knows how long.
	if (error instanceof RequestTimeout) ctx.set('Connection', 'close');
	if (error instanceof WebhookError && error.expose) entry.reason = error.why;
	answerError(ctx, error, entry.id, log);
}

/** What was answered; undefined when nobody was there any more to be answered. */
function statusOf(ctx: Context): number | undefined {
	const left = ctx.respond === false || ctx.req.socket.destroyed;
	return left && !ctx.headerSent ? undefined : ctx.res.statusCode;
}

/**
 * A path, or a sentence with one, without what a secret path is made of (`{{fingerprint}}`), or was before the secret was
 * changed: who reads the log must not be able to call the route.
 */
function withoutFingerprints(text: string): string {
	return text.replace(/[0-9a-f]{64,}/gi, (digits) => `${digits.slice(0, 8)}…`);
}

/** One line a delivery. The path is cut, as it is the caller's to fill; neither query, header nor body is shown. */
function logDelivery(ctx: Context, entry: Entry, log: Log): void {
	log.info('delivery', {
		delivery: entry.id,
		route: entry.route,
		method: ctx.method,
		path: withoutFingerprints(entry.path).slice(0, 200),
		status: statusOf(ctx),
		ms: Date.now() - entry.receivedAt,
		client: entry.client.ip,
		caller: entry.caller,
		runs: entry.runs,
		reason: entry.reason === undefined ? undefined : withoutFingerprints(entry.reason),
	});
}

/** Whoever polls the endpoints does so often, so this is for whoever looks for it. */
function logEndpoint(ctx: Context, entry: Entry, log: Log): void {
	log.debug('endpoint', {
		method: ctx.method,
		path: entry.path.slice(0, 200),
		status: statusOf(ctx),
		ms: Date.now() - entry.receivedAt,
		client: entry.client.ip,
		reason: entry.reason,
	});
}
