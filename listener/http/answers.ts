/** What callers get: runs as JSON, and errors as problem documents (RFC 9457). The one place that decides what an error tells. */

import { STATUS_CODES } from 'node:http';
import type { Context } from 'koa';
import { WebhookError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Answer, Route } from '../routes/route.ts';
import { type Run, shownParameters } from '../runs/run.ts';

/** Bodies end with a line end, for whoever reads them in a terminal. */
const json = 'application/json';
const text = 'text/plain; charset=utf-8';

/**
 * Seconds after which a sender that got 503 may try again: a restart takes about one, and an operator who has to make room
 * on a disk is not helped by a rush.
 */
const retryAfter = '5';

/** Sends a body that is complete. An answer is about one moment, so nobody may keep it (a kept GET would run nothing). */
export function answer(ctx: Context, status: number, type: string, body: string): void {
	ctx.status = status;
	ctx.set('Content-Type', type);
	ctx.set('Cache-Control', 'no-store');
	ctx.body = body;
}

export function answerJson(ctx: Context, status: number, value: unknown): void {
	answer(ctx, status, json, `${JSON.stringify(value)}\n`);
}

export function answerText(ctx: Context, status: number, line: string): void {
	answer(ctx, status, text, `${line}\n`);
}

/** Sends a status and no body. */
export function answerEmpty(ctx: Context, status: number): void {
	ctx.set('Cache-Control', 'no-store');
	// In this order, since Koa takes a body that is null for a 204.
	ctx.body = null;
	ctx.status = status;
}

/** The forms of an answer that a caller can choose by `Accept`. */
export type Form = 'json' | 'text' | 'events';

/** What the caller prefers; JSON when it does not care, or wants what there is not. */
export function preferredForm(ctx: Context): Form {
	const { accept } = ctx.req.headers;
	if (accept === undefined || accept === '*/*' || accept === json) return 'json';
	switch (ctx.accepts('application/json', 'text/plain', 'text/event-stream')) {
		case 'text/plain':
			return 'text';
		case 'text/event-stream':
			return 'events';
		default:
			return 'json';
	}
}

/** Where a run is told of. */
export function runUrl(id: string): string {
	return `/-/runs/${id}`;
}

/**
 * A run as `/-/runs/<id>` tells it. Times are ISO 8601 in UTC; `output.size` counts all bytes written, also those not kept, and
 * is null until the run has ended.
 */
export function runJson(run: Run) {
	const url = runUrl(run.id);
	return {
		id: run.id,
		route: run.route,
		group: run.group,
		delivery: run.delivery,
		state: run.state,
		reason: run.outcome?.reason ?? null,
		exitCode: run.outcome?.exitCode ?? null,
		signal: run.outcome?.signal ?? null,
		message: run.outcome?.message ?? '',
		attempt: run.attempt,
		waitsFor: run.waitsFor,
		nextAttemptAt: isoTime(run.nextAttemptAt),
		parameters: shownParameters(run),
		acceptedAt: isoTime(run.acceptedAt),
		startedAt: isoTime(run.startedAt),
		endedAt: isoTime(run.endedAt),
		output: { size: run.endedAt === null ? null : run.outputSize, url: `${url}/output` },
		url,
	};
}

function isoTime(ms: number | null): string | null {
	return ms === null ? null : new Date(ms).toISOString();
}

/** 202: the runs are written down, and do their work when their turn comes. @param exact what the route says instead */
export function answerAccepted(ctx: Context, exact: Answer | undefined, runs: readonly Run[]): void {
	if (exact === undefined && preferredForm(ctx) === 'text') {
		answerText(ctx, 202, runs.map(({ id }) => `Run accepted: ${runUrl(id)}`).join('\n'));
		return;
	}
	const told = runs.map(({ id, route, state }) => ({ id, route, state, url: runUrl(id) }));
	answerExactly(ctx, exact, 202, json, `${JSON.stringify({ runs: told })}\n`);
}

/** 200: the sender is verified, and nothing is run. */
export function answerIgnored(ctx: Context, exact: Answer | undefined, reasons: readonly string[]): void {
	if (exact === undefined && preferredForm(ctx) === 'text')
		answerText(ctx, 200, `Ignored: ${reasons.join('; ')}`);
	else answerExactly(ctx, exact, 200, json, `${JSON.stringify({ ignored: reasons })}\n`);
}

/** What is told of the output in the answer to a caller who waited. */
export interface OutputText {
	/** The output's end, as text. */
	readonly text: string;
	/** The offset at which `text` begins; 0 when nothing is missing before it. */
	readonly from: number;
}

/**
 * 200, 500 or 504: the caller waited, and the runs have ended. One run is told as it is, several (of a delivery with several
 * events) as a list; the worst of them decides the status.
 * @param outputs of each run
 */
export function answerEnded(
	ctx: Context,
	route: Route,
	runs: readonly Run[],
	outputs: readonly OutputText[],
): void {
	const failed = runs.filter(({ state }) => state !== 'succeeded');
	const status =
		failed.length === 0 ? 200 : failed.every(({ outcome }) => outcome?.reason === 'timeout') ? 504 : 500;
	const told = runs.map((run, index) => {
		const json = runJson(run);
		return { ...json, output: { ...json.output, ...outputs[index] } };
	});
	const exact = failed.length === 0 ? route.respond.succeeded : route.respond.failed;
	const body = told.length === 1 ? told[0] : { runs: told };
	answerExactly(ctx, exact, status, json, `${JSON.stringify(body)}\n`);
}

/** Sends what the route's `respond` says, and the standard answer where it says nothing. */
export function answerExactly(
	ctx: Context,
	exact: Answer | undefined,
	status: number,
	type: string,
	body: string,
): void {
	if (exact === undefined || exact.body === null) answer(ctx, exact?.status ?? status, type, body);
	else answer(ctx, exact.status ?? status, text, exact.body);
	if (exact !== undefined) ctx.set(exact.headers);
}

/**
 * Answers with an error. What callers may not read goes to the log instead; they get the delivery's id, to name it by.
 * @param delivery its id
 */
export function answerError(ctx: Context, error: unknown, delivery: string, log: Log): void {
	if (!(error instanceof WebhookError && error.expose)) {
		const stack = error instanceof Error ? error.stack : String(error);
		log.error('a request failed by a fault of the listener', { delivery, error: stack });
		answerProblem(ctx, { status: 500 }, delivery);
		return;
	}
	ctx.set(error.headers);
	if (error.status === 503 || error.status === 429) {
		// Puppet's own client (7.23 at least) sleeps as long as this says and then dies of it, while it takes these well without it.
		if (ctx.get('User-Agent').startsWith('Puppet/')) ctx.remove('Retry-After');
		else if (error.headers['Retry-After'] === undefined) ctx.set('Retry-After', retryAfter);
	}
	answerProblem(ctx, error, delivery);
}

export const problemType = 'application/problem+json';

/** What a problem document is made of; a WebhookError has it all. */
export interface Problem {
	readonly status: number;
	readonly code?: string;
	readonly message?: string;
	readonly extension?: Readonly<Record<string, unknown>>;
}

/** By `about:blank` the title is the status's own, as RFC 9457 has it; what tells causes apart is `code`. */
export function problemJson({ status, code, message, extension }: Problem, delivery?: string): string {
	const title = STATUS_CODES[status];
	return `${JSON.stringify({ type: 'about:blank', title, status, detail: message, code, ...extension, delivery })}\n`;
}

/** Sends a problem document, or its detail alone to whoever prefers plain text. */
export function answerProblem(ctx: Context, problem: Problem, delivery?: string): void {
	const { status, message } = problem;
	if (prefersText(ctx)) answerText(ctx, status, message ?? `${STATUS_CODES[status]} (${delivery})`);
	else answer(ctx, status, problemType, problemJson(problem, delivery));
}

function prefersText(ctx: Context): boolean {
	const { accept } = ctx.req.headers;
	if (accept === undefined || accept === '*/*' || accept === json) return false;
	return ctx.accepts(problemType, json, 'text/plain') === 'text/plain';
}
