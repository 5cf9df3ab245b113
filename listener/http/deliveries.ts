/** Deliveries: requests to routes. `receive` is the product in one function; each step in it is a file or function named so. */

import type { Context } from 'koa';
import { type VerifiedDelivery, verify } from '../auth/auth.ts';
import type { LiveConfig } from '../config/config.ts';
import type { Delivery, Event } from '../delivery.ts';
import { Busy, NotFound } from '../errors.ts';
import type { DeliveryOutcome } from '../metrics.ts';
import { type Parameters, resolveParameters } from '../routes/parameters.ts';
import type { Route } from '../routes/route.ts';
import type { Outputs } from '../runs/output.ts';
import type { Queue } from '../runs/queue.ts';
import { hasEnded, idMaker, type NewRun, type Run } from '../runs/run.ts';
import {
	answerAccepted,
	answerEmpty,
	answerEnded,
	answerExactly,
	preferredForm,
	problemJson,
	problemType,
	runUrl,
} from './answers.ts';
import { type ArrivedBody, BodyReader } from './body.ts';
import { parseQuery } from './forms.ts';
import { clientOf } from './listening.ts';
import { asTextWithEnd, lastText, plainTextType, sendEvents, sendStream } from './streams.ts';
import { endOfWaiting, waitOf } from './waiting.ts';

/** A request on its way through; what is found out about it ends up in the log and the metrics. */
export interface Entry {
	/** The delivery's id. */
	readonly id: string;
	/** Milliseconds since 1970. */
	readonly receivedAt: number;
	/** Without query, still percent-encoded. */
	readonly path: string;
	/** Without the question mark. */
	readonly query: string;
	route?: string;
	runs?: readonly string[];
	/** There once it is known not to be refused. */
	outcome?: DeliveryOutcome;
	/** Why it was refused, in words that hold nothing of the request. */
	reason?: string;
}

type Query = Delivery['query'];

/** A call that no source gave a meaning. */
const call: Event = { kind: 'call' };

export class Deliveries {
	readonly #config: LiveConfig;
	readonly #queue: Queue;
	readonly #outputs: Outputs;
	/** Aborted when the listener is about to stop: who still waits is answered with what there is. */
	readonly #stopping: AbortSignal;
	readonly #bodies = new BodyReader();
	readonly #newRunId = idMaker();

	constructor(config: LiveConfig, queue: Queue, outputs: Outputs, stopping: AbortSignal) {
		this.#config = config;
		this.#queue = queue;
		this.#outputs = outputs;
		this.#stopping = stopping;
	}

	/** Takes a delivery and answers it, or throws the error that is its answer. */
	async receive(ctx: Context, entry: Entry): Promise<void> {
		const { routes, listen } = this.#config.current;
		if (ctx.method === 'OPTIONS') {
			answerOptions(ctx, entry.path, routes.allowed(entry.path));
			entry.outcome = 'ignored';
			return;
		}
		const { route, segments } = routes.match(runsNothing(ctx) ? 'GET' : ctx.method, entry.path);
		entry.route = route.name;

		const query = parseQuery(entry.query);
		const body = await this.#bodies.read(ctx, { size: listen.max_body, time: listen.body_timeout });
		const verified = verify(deliveryOf(ctx, entry, query, body), route.auth);
		// An EventSource takes 204 as the word to stop.
		if (runsNothing(ctx)) {
			entry.outcome = 'ignored';
			return answerEmpty(ctx, ctx.method === 'HEAD' ? 200 : 204);
		}

		const wait = waitOf(ctx, query, route);
		const parsed = await body.parsed(route.stdin === 'body');
		const parameters = resolveParameters(route.rules, { path: segments, query, body: parsed });
		const stdin = await stdinFor(route, parameters, body);
		const offer = this.#newRun(verified, call, route, parameters, stdin);

		const [acceptance] = await this.#queue.accept([offer]);
		entry.outcome = acceptance?.kind ?? 'busy';
		if (acceptance === undefined || acceptance.kind === 'busy') return answerBusy(ctx, route, offer);
		const { run } = acceptance;
		entry.runs = [run.id];
		ctx.set('Location', runUrl(run.id));
		return wait === 0
			? answerAccepted(ctx, route.respond.accepted, run)
			: this.#answerLater(ctx, route, run, wait);
	}

	#newRun(
		{ delivery }: VerifiedDelivery,
		event: Event,
		route: Route,
		parameters: Parameters,
		stdin: Buffer | null,
	): NewRun {
		return {
			id: this.#newRunId(),
			route: route.name,
			group: route.group(parameters),
			limit: route.limit,
			whenBusy: route.whenBusy,
			delivery: delivery.id,
			event: event.kind,
			client: delivery.client.ip,
			parameters: parameters.values,
			plan: route.plan(parameters),
			stdin,
			acceptedAt: delivery.receivedAt,
		};
	}

	/** Answers when the run has ended, or with what comes until then. The run goes on whether or not somebody still listens. */
	async #answerLater(ctx: Context, route: Route, run: Run, wait: number): Promise<void> {
		const signal = endOfWaiting(ctx, this.#stopping, wait);
		const form = preferredForm(ctx);
		const exact = route.respond.succeeded !== undefined || route.respond.failed !== undefined;
		if (form === 'json' || (form === 'text' && exact)) {
			const ended = await this.#queue.ended(run.id, { signal });
			if (!hasEnded(ended.state)) answerAccepted(ctx, route.respond.accepted, ended);
			else answerEnded(ctx, route, ended, await lastText(this.#outputs, ended));
			return;
		}
		const parts = this.#outputs.follow(run.id, 0, signal);
		const end = async () => (await this.#queue.get(run.id)) ?? run;
		if (form === 'text') await sendStream(ctx, plainTextType, asTextWithEnd(parts, end));
		else await sendEvents(ctx, parts, end);
	}
}

function deliveryOf(ctx: Context, entry: Entry, query: Query, body: ArrivedBody): Delivery {
	return {
		id: entry.id,
		receivedAt: entry.receivedAt,
		method: ctx.method,
		path: entry.path,
		query,
		headers: ctx.req.headers,
		body: body.raw,
		client: clientOf(ctx.req),
	};
}

/**
 * True for HEAD, which asks whether a GET would be taken, and for a browser's EventSource that reconnects: it repeats its GET
 * when the stream has ended, and would run the route again and again.
 */
function runsNothing(ctx: Context): boolean {
	return ctx.method === 'HEAD' || (ctx.method === 'GET' && ctx.req.headers['last-event-id'] !== undefined);
}

function answerOptions(ctx: Context, path: string, allowed: readonly string[]): void {
	if (allowed.length === 0) throw new NotFound(`there is no route ${path}`);
	ctx.set('Allow', allowed.join(', '));
	answerEmpty(ctx, 204);
}

async function stdinFor(route: Route, parameters: Parameters, body: ArrivedBody): Promise<Buffer | null> {
	switch (route.stdin) {
		case 'none':
			return null;
		case 'body':
			return body.content();
		case 'parameters':
			return Buffer.from(`${JSON.stringify(parameters.values)}\n`);
	}
}

function answerBusy(ctx: Context, route: Route, { group, delivery }: NewRun): void {
	const busy = new Busy(
		`route "${route.name}" is busy: as many runs of its group "${group}" as may be are under way; try again later`,
	);
	if (route.respond.busy === undefined) throw busy;
	answerExactly(ctx, route.respond.busy, busy.status, problemType, problemJson(busy, delivery));
}
