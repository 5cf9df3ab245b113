/** The listener's own endpoints, below `/-/` and `/metrics`: whether it is well, what its routes are, which runs there are, what they said. */

import { Router } from '@koa/router';
import type Koa from 'koa';
import type { Context, Next } from 'koa';
import { type Access, isOpen } from '../auth/auth.ts';
import { checkLocal } from '../auth/local.ts';
import type { LiveConfig } from '../config/config.ts';
import type { Client, Delivery } from '../delivery.ts';
import { BadParameters, ConfigError, MethodNotAllowed, NotFound, ShuttingDown } from '../errors.ts';
import type { Metrics } from '../metrics.ts';
import { type Route, usualFailures } from '../routes/route.ts';
import type { Outputs } from '../runs/output.ts';
import type { Queue } from '../runs/queue.ts';
import { hasEnded, type Run, type RunState, runStates } from '../runs/run.ts';
import type { RunFilter } from '../stores/store.ts';
import type { TriggerState, Triggers } from '../triggers/trigger.ts';
import {
	answer,
	answerAccepted,
	answerEmpty,
	answerJson,
	answerProblem,
	preferredForm,
	runJson,
	runUrl,
} from './answers.ts';
import { type Fields, parseQuery } from './forms.ts';
import { clientOf } from './listening.ts';
import { Rates } from './rates.ts';
import { asTextBytes, bytesOf, plainTextType, sendEvents, sendStream, textForm } from './streams.ts';
import { endOfWaiting } from './waiting.ts';

/** Runs or triggers on a page unless `limit` says otherwise; 200 is the most, so that a page stays below a megabyte or so. */
const pageSize = 50;
const largestPage = 200;

/** True for paths that are ours; every other one is the user's. */
export function isOwnPath(path: string): boolean {
	return path.startsWith('/-/') || path === '/-' || path === '/metrics';
}

export interface AdminParts {
	readonly config: LiveConfig;
	readonly queue: Queue;
	readonly outputs: Outputs;
	readonly triggers: Triggers;
	readonly metrics: Metrics;
	/** Aborted when the listener is about to stop: who still follows is let go. */
	readonly stopping: AbortSignal;
	/** True once no more deliveries are taken. */
	isDraining(): boolean;
}

/** Lets the application answer requests to the listener's own paths, which are all that may get this far. */
export function serveEndpoints(
	app: Koa,
	{ config, queue, outputs, triggers, metrics, stopping, isDraining }: AdminParts,
): void {
	const router = new Router();

	router.get('/-/healthy', (ctx) => answerJson(ctx, 200, { status: 'healthy' }));

	router.get('/-/ready', (ctx) => {
		if (isDraining()) throw new ShuttingDown('the listener is shutting down');
		answerJson(ctx, 200, { status: 'ready' });
	});

	router.post('/-/reload', async (ctx) => {
		try {
			const { files, routes } = await config.reload();
			answerJson(ctx, 200, { files, routes: routes.routes.length });
		} catch (error) {
			if (!(error instanceof ConfigError)) throw error;
			const { code, message, faults } = error;
			answerProblem(ctx, { status: 422, code, message, extension: { faults } });
		}
	});

	router.get('/metrics', async (ctx) => answer(ctx, 200, metrics.contentType, await metrics.text()));

	router.get('/-/routes', (ctx) =>
		answerJson(ctx, 200, { routes: config.current.routes.routes.map(routeJson) }),
	);

	router.get('/-/runs', async (ctx) => {
		const filter = runFilter(parseQuery(ctx.querystring));
		const runs = await queue.list(filter);
		const next = runs.length < filter.limit ? null : nextPage(filter, runs.at(-1));
		answerJson(ctx, 200, { runs: runs.map(runJson), next });
	});

	router.get('/-/runs/:id', async (ctx) =>
		answerJson(ctx, 200, runJson(await runNamed(ctx.params.id ?? ''))),
	);

	router.post('/-/runs/:id/cancel', async (ctx) => {
		const { id } = await runNamed(ctx.params.id ?? '');
		answerJson(ctx, 200, runJson(await queue.cancel(id)));
	});

	router.post('/-/runs/:id/rerun', async (ctx) => {
		const run = await queue.rerun(ctx.params.id ?? '');
		ctx.set('Location', runUrl(run.id));
		answerAccepted(ctx, undefined, [run]);
	});

	router.get('/-/runs/:id/output', async (ctx) => {
		const run = await runNamed(ctx.params.id ?? '');
		const { form, from, follow, again, text } = outputRequest(ctx);
		if (ctx.method === 'HEAD') return answerEmpty(ctx, 200);
		// An EventSource sends its request again when its stream has ended. 204 is the word to stop.
		if (again && hasEnded(run.state) && from >= run.outputSize) return answerEmpty(ctx, 204);

		const signal = endOfWaiting(ctx, stopping, Number.POSITIVE_INFINITY);
		const parts = follow ? outputs.follow(run.id, from, signal) : outputs.read(run.id, from);
		if (form === 'events') return sendEvents(ctx, parts, () => runNamed(run.id), text);
		if (form === 'bytes') return sendStream(ctx, 'application/octet-stream', bytesOf(parts));
		return sendStream(ctx, plainTextType, asTextBytes(parts, text));
	});

	router.get('/-/triggers', async (ctx) => {
		const { after, limit } = triggerPage(parseQuery(ctx.querystring));
		const found = await triggers.list(after, limit);
		const last = found.length < limit ? undefined : found.at(-1);
		const next = last && `/-/triggers?${new URLSearchParams({ limit: String(limit), after: last.name })}`;
		answerJson(ctx, 200, { triggers: found.map(triggerJson), next: next ?? null });
	});

	router.get('/-/triggers/:name', async (ctx) =>
		answerJson(ctx, 200, triggerJson(await triggers.get(ctx.params.name ?? ''))),
	);

	router.post('/-/triggers/:name', async (ctx) =>
		answerJson(ctx, 200, triggerJson(await triggers.count(ctx.params.name ?? ''))),
	);

	async function runNamed(id: string): Promise<Run> {
		const run = await queue.get(id);
		if (run === undefined) throw new NotFound('there is no such run');
		return run;
	}

	app.use(guard(config));
	app.use(refuseOthers);
	app.use(router.allowedMethods());
	app.use(router.routes());
}

/** Whoever probes a listener, such as a load balancer, is on another host, and learns what connecting tells as well. */
const probes: readonly string[] = ['/-/healthy', '/-/ready'];

/** Lets those pass who may use the endpoints. What one asks for does not matter, so that it does not tell what there is. */
function guard(config: LiveConfig): (ctx: Context, next: Next) => Promise<void> {
	const rates = new Rates();
	const endpoints = { name: '/-/', rates: { client: null, route: null, failures: usualFailures } };
	return async (ctx, next) => {
		if (probes.includes(ctx.path)) return next();
		const { admin, listen } = config.current;
		const { headers } = ctx.req;
		const client = listen.proxies.clientOf(clientOf(ctx.req), headers);
		const access = ctx.path === '/metrics' ? admin.metrics : admin.endpoints;
		if (access === null) {
			checkLocal(
				{ headers, client },
				'/metrics and the endpoints under /-/ answer programs of this host only',
			);
		} else {
			rates.arrived(endpoints, client.ip);
			await rates.verify(requestOf(ctx, client), access, endpoints);
		}
		return next();
	};
}

/** The request as checks see it: without a body, which none of those that may be said for endpoints looks at. */
function requestOf({ req, method, path }: Context, client: Client): Delivery {
	const nothing = Buffer.alloc(0);
	return {
		id: '',
		receivedAt: Date.now(),
		method,
		path,
		query: {},
		headers: req.headers,
		body: nothing,
		client,
	};
}

/** Turns the router's bare statuses into errors that say what there is. */
async function refuseOthers(ctx: Context, next: Next): Promise<void> {
	await next();
	if (ctx.status === 405 || ctx.status === 501) {
		const allowed = ctx.response.get('Allow').split(', ').filter(Boolean);
		if (allowed.length > 0) {
			throw new MethodNotAllowed(`${ctx.path} takes ${allowed.join(', ')} and not ${ctx.method}`, allowed);
		}
	} else if (ctx.status !== 404 || ctx.body !== undefined) return;
	throw new NotFound(`there is no endpoint ${ctx.path}`);
}

/** How a caller wants output. `again`: it is an EventSource that goes on where its stream broke off. */
function outputRequest(ctx: Context) {
	const query = parseQuery(ctx.querystring);
	const lastEvent = ctx.req.headers['last-event-id'];
	const again = lastEvent !== undefined;
	const from =
		read('from', again ? String(lastEvent) : query.from, wholeNumber(0), 'is no offset in bytes') ?? 0;
	const follow = read('follow', query.follow, flag, 'is neither true nor false') ?? false;
	const keepOrStrip = (value: string) => (value === 'strip' || value === 'keep' ? value : undefined);
	const ansi = read('ansi', query.ansi, keepOrStrip, 'is neither keep nor strip');
	const text = ansi === undefined ? textForm(ctx) : { bare: ansi === 'strip' };
	if (preferredForm(ctx) === 'events') return { form: 'events', from, follow: true, again, text } as const;
	const bytes = ctx.accepts('text/plain', 'application/octet-stream') === 'application/octet-stream';
	return { form: bytes ? 'bytes' : 'text', from, follow, again, text } as const;
}

/** A route as `/-/routes` tells it: what callers need to know, and nothing of what it runs. */
function routeJson(route: Route) {
	return {
		name: route.name,
		path: route.path,
		methods: route.methods,
		description: route.description,
		auth: authNames(route.access),
		wait: route.wait,
		parameters: [...route.rules.values()].map(
			({ name, description, required, type, default: value, pattern, enum: values, secret }) => ({
				name,
				description,
				required,
				type,
				default: secret ? null : value,
				pattern,
				enum: secret ? null : values,
				secret,
			}),
		),
	};
}

/** Names of what callers have to show, as routes.yaml has them; `none` when it is nothing, `local` for this host's programs only. */
function authNames(access: Access): string[] {
	const { any, source, open } = access;
	if (isOpen(access)) return [open ? 'none' : 'local'];
	return [...(source === null ? [] : [source.name]), ...any.map(({ name }) => name)];
}

function triggerJson({ name, count, countedAt }: TriggerState) {
	return {
		name,
		count,
		countedAt: countedAt === null ? null : new Date(countedAt).toISOString(),
		url: `/-/triggers/${encodeURIComponent(name)}`,
	};
}

function triggerPage({ after, limit }: Fields): { after: string; limit: number } {
	return {
		after: read('after', after, (text) => text, 'is given more than once') ?? '',
		limit: pageLimit(limit),
	};
}

/** One key of the query, read; what is wrong with it comes out as the answer. */
function read<Value>(
	name: string,
	given: Fields[string] | undefined,
	meaning: (text: string) => Value | undefined,
	reason: string,
) {
	if (given === undefined) return undefined;
	const value = typeof given === 'string' ? meaning(given) : undefined;
	if (value === undefined) throw new BadParameters([{ parameter: name, reason }]);
	return value;
}

function wholeNumber(least: number, most = Number.MAX_SAFE_INTEGER): (text: string) => number | undefined {
	return (text) => {
		const number = /^\d{1,15}$/.test(text) ? Number(text) : -1;
		return number >= least && number <= most ? number : undefined;
	};
}

const flag = (text: string): boolean | undefined =>
	text === 'true' ? true : text === 'false' ? false : undefined;

function runFilter({ route, state, before, limit }: Fields): RunFilter {
	const one = read('route', route, (text) => text, 'is given more than once');
	const known = (text: string): RunState | undefined => runStates.find((name) => name === text);
	const inState = read('state', state, known, `is none of ${runStates.join(', ')}`);
	const last = read('before', before, wholeNumber(1), 'is no place in the list; take it from "next"');
	return {
		...(one === undefined ? {} : { route: one }),
		...(inState === undefined ? {} : { state: inState }),
		...(last === undefined ? {} : { before: last }),
		limit: pageLimit(limit),
	};
}

function pageLimit(given: Fields[string] | undefined): number {
	const refusal = `is no whole number from 1 to ${largestPage}`;
	return read('limit', given, wholeNumber(1, largestPage), refusal) ?? pageSize;
}

/** The address of the runs that follow on the list. */
function nextPage({ route, state, limit }: RunFilter, last: Run | undefined): string {
	const query = new URLSearchParams({ limit: String(limit), before: String(last?.seq) });
	if (route !== undefined) query.set('route', route);
	if (state !== undefined) query.set('state', state);
	return `/-/runs?${query}`;
}
