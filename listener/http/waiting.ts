/** How long a caller waits: for its run's end what the route says, unless the caller says otherwise; and for nothing once it left. */

import type { Context } from 'koa';
import { BadRequest } from '../errors.ts';
import type { Route } from '../routes/route.ts';

/**
 * Milliseconds that `Prefer: wait=N` may ask for at most. Each waiting caller holds a connection, and whoever asks for more
 * than an hour does better to ask for the run later.
 */
const longestWait = 3_600_000;

/**
 * How long to wait: milliseconds, 0 for not at all, Infinity for as long as it takes. `?async=` is the strongest, then
 * `Prefer` (RFC 7240), then the route's `wait`. `?async=false` together with `Prefer: wait=N` waits N seconds.
 * Sets `Preference-Applied` when a preference decided.
 * @throws BadRequest when `async` is neither true nor false
 */
export function waitOf(ctx: Context, query: Readonly<Record<string, unknown>>, route: Route): number {
	const { async } = query;
	if (async !== undefined && async !== 'true' && async !== 'false') {
		throw new BadRequest('"async" in the query is true (answer at once) or false (wait for the end), once');
	}
	if (async === 'true') return 0;
	const { prefer } = ctx.req.headers;
	const preferred = prefer === undefined ? undefined : preferredWait(ctx, String(prefer), async !== 'false');
	if (preferred !== undefined) return preferred;
	const wait = async === 'false' ? true : route.wait;
	return wait === true ? Number.POSITIVE_INFINITY : Number(wait);
}

/** What a `Prefer` header asks for; undefined when that is nothing we know, which the RFC wants ignored. */
function preferredWait(ctx: Context, prefer: string, mayRespondAtOnce: boolean): number | undefined {
	const seconds = /(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:[,;]|$)/i.exec(prefer)?.[1];
	if (seconds !== undefined) {
		const ms = Math.min(Number(seconds) * 1000, longestWait);
		ctx.append('Preference-Applied', `wait=${ms / 1000}`);
		return ms;
	}
	if (!mayRespondAtOnce || !/(?:^|,)\s*respond-async\s*(?:[,;]|$)/i.test(prefer)) return undefined;
	ctx.set('Preference-Applied', 'respond-async');
	return 0;
}

/** Given as the reason, since without one Node makes an exception with its stack each time. */
const over = 'nobody waits any more';

/**
 * Aborts when there is no more waiting: the caller went away, the listener is about to stop, or the time is over.
 * @param ms how long at most; may be Infinity
 */
export function endOfWaiting(ctx: Context, stopping: AbortSignal, ms: number): AbortSignal {
	const leave = new AbortController();
	// Not AbortSignal.timeout, which would keep all of this for an hour after an answer that took a second.
	const timer = Number.isFinite(ms) ? setTimeout(() => leave.abort(over), ms) : undefined;
	const left = () => {
		clearTimeout(timer);
		stopping.removeEventListener('abort', left);
		leave.abort(over);
	};
	if (ctx.res.destroyed || stopping.aborted) left();
	else {
		ctx.res.once('close', left);
		// Not AbortSignal.any, which costs more than the rest of waiting.
		stopping.addEventListener('abort', left);
	}
	return leave.signal;
}
