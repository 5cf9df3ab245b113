/** Deliveries: requests to routes. `receive` is the product in one function; each step in it is a file or function named so. */

import type { Context } from 'koa';
import type { VerifiedDelivery } from '../auth/auth.ts';
import type { LiveConfig } from '../config/config.ts';
import type { Body, Client, Delivery } from '../delivery.ts';
import { BadRequest, Busy, NotFound } from '../errors.ts';
import type { DeliveryOutcome } from '../metrics.ts';
import { decide, read, runOf, scopeOf, type Wanted } from '../routes/decision.ts';
import type { Parameters } from '../routes/parameters.ts';
import type { Route } from '../routes/route.ts';
import type { Outputs } from '../runs/output.ts';
import type { Queue } from '../runs/queue.ts';
import { hasEnded, idMaker, type NewRun, type Run } from '../runs/run.ts';
import type { Acceptance, DeliveryKey } from '../stores/store.ts';
import {
	answer,
	answerAccepted,
	answerEmpty,
	answerEnded,
	answerExactly,
	answerIgnored,
	preferredForm,
	problemJson,
	problemType,
	runUrl,
} from './answers.ts';
import { type ArrivedBody, BodyReader, contentFor } from './body.ts';
import { confirm } from './confirmation.ts';
import { parseQuery } from './forms.ts';
import { Rates } from './rates.ts';
import { asTextWithEnd, lastText, plainTextType, sendEvents, sendStream, textForm } from './streams.ts';
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
	/** Who calls, as the connection or a trusted proxy tells. */
	readonly client: Client;
	route?: string;
	/** Who was found to call, by auth or source. */
	caller?: string;
	runs?: readonly string[];
	/** There once it is known not to be refused. */
	outcome?: DeliveryOutcome;
	/** Why it was refused, in words that hold nothing of the request. */
	reason?: string;
}

type Query = Delivery['query'];

export class Deliveries {
	readonly #config: LiveConfig;
	readonly #queue: Queue;
	readonly #outputs: Outputs;
	/** Aborted when the listener is about to stop: who still waits is answered with what there is. */
	readonly #stopping: AbortSignal;
	readonly #bodies = new BodyReader();
	readonly #rates = new Rates();
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
			const allowed = routes.allowed(entry.path);
			answerOptions(ctx, entry.path, allowed);
			if (allowed.includes('POST')) answerHandshake(ctx, routes.match('POST', entry.path).route);
			entry.outcome = 'ignored';
			return;
		}
		const { route, segments } = routes.match(runsNothing(ctx) ? 'GET' : ctx.method, entry.path);
		entry.route = route.name;
		this.#rates.arrived(route, entry.client.ip);

		const query = parseQuery(entry.query);
		const body = await this.#bodies.read(ctx, { size: listen.max_body, time: listen.body_timeout });
		const verified = await this.#rates.verify(deliveryOf(ctx, entry, query, body), route.access, route);
		if (verified.who !== '') entry.caller = verified.who;
		// An EventSource takes 204 as the word to stop.
		if (runsNothing(ctx)) {
			entry.outcome = 'ignored';
			return answerEmpty(ctx, ctx.method === 'HEAD' ? 200 : 204);
		}

		this.#rates.verified(route);

		const wait = waitOf(ctx, query, route);
		const content = await contentFor(route, body);
		const reading = read(verified, route, content);
		if (reading.kind === 'answer') {
			entry.outcome = 'ignored';
			return answer(ctx, reading.status, reading.type, reading.body);
		}
		if (reading.kind === 'confirm') {
			await confirm(reading.url);
			entry.outcome = 'ignored';
			return answerEmpty(ctx, 200);
		}
		if (reading.kind === 'ignored') return this.#ignore(ctx, entry, route, [reading.reason]);

		const scope = scopeOf(verified, segments, reading.body ?? content);
		const decisions = reading.events.map((event) => decide(route, scope(event)));
		const offers: NewRun[] = [];
		for (const decision of decisions) {
			if (decision.kind === 'run') offers.push(await this.#newRun(verified, route, decision, body));
		}
		if (offers.length === 0) {
			const ignored = decisions.flatMap((decision) => (decision.kind === 'ignored' ? decision : []));
			const why = ignored.map((decision) => decision.why);
			return this.#ignore(ctx, entry, route, [...new Set(ignored.map(({ reason }) => reason))], why);
		}

		const acceptances = await this.#queue.accept(offers, deliveryKey(verified, route, content));
		entry.outcome = outcomeOf(acceptances);
		const runs = acceptances.flatMap((acceptance) => (acceptance.kind === 'busy' ? [] : acceptance.run));
		if (runs.length === 0) return answerBusy(ctx, route, offers[0]!, acceptances);
		entry.runs = runs.map(({ id }) => id);
		if (runs.length === 1) ctx.set('Location', runUrl(runs[0]!.id));
		return wait === 0
			? answerAccepted(ctx, route.respond.accepted, runs)
			: this.#answerLater(ctx, route, runs, wait);
	}

	/** Verified, and nothing to run: senders take anything but 2xx for a failure, and some stop sending after a few. */
	#ignore(ctx: Context, entry: Entry, route: Route, reasons: readonly string[], why = reasons): void {
		entry.outcome = 'ignored';
		entry.reason = why.join('; ');
		answerIgnored(ctx, route.respond.ignored, reasons);
	}

	async #newRun(
		verified: VerifiedDelivery,
		route: Route,
		decision: Wanted,
		body: ArrivedBody,
	): Promise<NewRun> {
		const stdin = await stdinFor(route, decision.parameters, body);
		return runOf(verified, route, decision, { id: this.#newRunId(), stdin });
	}

	/** Answers when the runs have ended, or with what comes until then. They go on whether or not somebody still listens. */
	async #answerLater(ctx: Context, route: Route, runs: readonly Run[], wait: number): Promise<void> {
		const signal = endOfWaiting(ctx, this.#stopping, wait);
		const form = preferredForm(ctx);
		const text = textForm(ctx);
		const exact = route.respond.succeeded !== undefined || route.respond.failed !== undefined;
		const [only] = runs;
		if (form === 'json' || runs.length > 1 || only === undefined || (form === 'text' && exact)) {
			const ended = await Promise.all(runs.map(({ id }) => this.#queue.ended(id, { signal })));
			if (ended.every(({ state }) => hasEnded(state))) {
				const outputs = await Promise.all(ended.map((run) => lastText(this.#outputs, run, text)));
				answerEnded(ctx, route, ended, outputs);
			} else answerAccepted(ctx, route.respond.accepted, ended);
			return;
		}
		const parts = this.#outputs.follow(only.id, 0, signal);
		const end = async () => (await this.#queue.get(only.id)) ?? only;
		if (form === 'text') await sendStream(ctx, plainTextType, asTextWithEnd(parts, end, text));
		else await sendEvents(ctx, parts, end, text);
	}
}

/** Milliseconds for which a delivery is known again by its `Idempotency-Key`: senders that try again do so within hours. */
const rememberKey = 24 * 3_600_000;

/**
 * By what the same delivery is known when its sender repeats it: the id that its source gives it, or for plain calls the
 * header `Idempotency-Key`. Undefined when it has none.
 * @throws BadRequest when the header holds no such key
 */
function deliveryKey(
	{ delivery }: VerifiedDelivery,
	{ name, source }: Route,
	content: Body,
): DeliveryKey | undefined {
	if (source !== null) {
		const key = source.deliveryId(delivery, content);
		return key === null ? undefined : { route: name, key, remember: source.remember };
	}
	const key = delivery.headers['idempotency-key'];
	if (key === undefined) return undefined;
	if (!/^[!-~]{1,255}$/.test(String(key)))
		throw new BadRequest('"Idempotency-Key" has to be 1 to 255 visible ASCII characters, without blanks');
	return { route: name, key: String(key), remember: rememberKey };
}

/** What the log and the metrics call a delivery of several events: by the one that made the most of it. */
function outcomeOf(acceptances: readonly Acceptance[]): DeliveryOutcome {
	const kinds = acceptances.map(({ kind }) => kind);
	return kinds.includes('accepted') ? 'accepted' : (kinds.find((kind) => kind !== 'busy') ?? 'busy');
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
		client: entry.client,
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

/**
 * Tells a sender of CloudEvents that its deliveries are wanted here, when the route's source knows it. The address that it may
 * name for a later answer (WebHook-Request-Callback) is not called: anybody can name any.
 */
function answerHandshake(ctx: Context, { source }: Route): void {
	const origin = ctx.get('WebHook-Request-Origin');
	if (source?.origins?.includes(origin.toLowerCase()) !== true) return;
	answerEmpty(ctx, 200);
	ctx.set('WebHook-Allowed-Origin', origin);
	const rate = ctx.get('WebHook-Request-Rate');
	if (/^\d{1,9}$/.test(rate)) ctx.set('WebHook-Allowed-Rate', rate);
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

function answerBusy(
	ctx: Context,
	route: Route,
	{ group, delivery }: NewRun,
	[acceptance]: readonly Acceptance[],
): void {
	const lockfile = acceptance?.kind === 'busy' ? acceptance.lockfile : undefined;
	const why =
		lockfile === undefined
			? `as many runs of its group "${group}" as may be are under way`
			: `another process holds its lock file ${lockfile}`;
	const busy = new Busy(`route "${route.name}" is busy: ${why}; try again later`);
	if (route.respond.busy === undefined) throw busy;
	answerExactly(ctx, route.respond.busy, busy.status, problemType, problemJson(busy, delivery));
}
