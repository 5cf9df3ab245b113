/**
 * Every error this program raises on purpose. A class is a cause; `code` is stable and fit for scripts; the message says
 * what, which one, and what to do. Whether the caller of a route may read the message is decided here and nowhere else.
 */

/** One thing wrong with the configuration, with the place to look at and the likely mend. */
export interface Fault {
	readonly file: string;
	/** 1-based; 0 when the fault belongs to the file as a whole. */
	readonly line: number;
	/** 1-based; 0 when the fault belongs to the file as a whole. */
	readonly column: number;
	/** The key's way from the top of the file, such as `routes.deploy.command`; empty for the file as a whole. */
	readonly key: string;
	/** What is wrong and what to do, such as `route "deploy": unknown key "comand", did you mean "command"?` */
	readonly message: string;
}

/** A fault as operators read it: `routes.yaml:14:5: route "deploy": unknown key …` */
export function faultLine(fault: Fault): string {
	return fault.line > 0
		? `${fault.file}:${fault.line}:${fault.column}: ${fault.message}`
		: `${fault.file}: ${fault.message}`;
}

/** What a problem document (RFC 9457) carries beside title and detail: for example the parameters that are wrong. */
export type ProblemExtension = Readonly<Record<string, unknown>>;

interface Details {
	readonly cause?: unknown;
	readonly headers?: Readonly<Record<string, string>>;
	readonly extension?: ProblemExtension;
	/** What the log is told in place of the message, when callers are not to know it. */
	readonly why?: string;
}

/** The base of all below. `status` is the HTTP status when the error reaches a caller; 500 for those that should not. */
export abstract class WebhookError extends Error {
	abstract readonly code: string;
	readonly status: number = 500;
	/** True when a caller may read the message; otherwise it gets the bare status text and the log gets the message. */
	readonly expose: boolean = false;
	/** Headers that belong to the answer, such as `Allow` or `WWW-Authenticate`. */
	readonly headers: Readonly<Record<string, string>>;
	readonly extension: ProblemExtension;
	/** The cause as the log tells it; the message, unless callers are told less. */
	readonly why: string;

	constructor(message: string, details: Details = {}) {
		super(message, details.cause === undefined ? undefined : { cause: details.cause });
		this.name = new.target.name;
		this.headers = details.headers ?? {};
		this.extension = details.extension ?? {};
		this.why = details.why ?? message;
	}
}

/** The configuration is refused as a whole; `faults` holds everything that is wrong, never only the first. */
export class ConfigError extends WebhookError {
	readonly code = 'ERR_CONFIG';
	readonly faults: readonly Fault[];

	constructor(faults: readonly Fault[]) {
		super(faults.map(faultLine).join('\n'));
		this.faults = faults;
	}
}

/** The listener cannot serve where it was told to: port taken, address not of this host, certificate unreadable. */
export class ListenError extends WebhookError {
	readonly code = 'ERR_LISTEN';
}

/** The state directory cannot be used: not writable, held by another listener, or written by a newer version. */
export class StateError extends WebhookError {
	readonly code = 'ERR_STATE';
}

/** Writing a run down failed (disk full, directory read-only), so nothing was promised: the sender should try again. */
export class StoreUnavailable extends WebhookError {
	readonly code = 'ERR_STORE_UNAVAILABLE';
	override readonly status = 503;
	override readonly expose = true;
}

/** No more deliveries are taken because the listener is about to stop. */
export class ShuttingDown extends WebhookError {
	readonly code = 'ERR_SHUTTING_DOWN';
	override readonly status = 503;
	override readonly expose = true;
}

/** The path names no route (or endpoint, or run). */
export class NotFound extends WebhookError {
	readonly code = 'ERR_NOT_FOUND';
	override readonly status = 404;
	override readonly expose = true;
}

/** The path is a route, but not for this method; `Allow` lists those it takes. */
export class MethodNotAllowed extends WebhookError {
	readonly code = 'ERR_METHOD_NOT_ALLOWED';
	override readonly status = 405;
	override readonly expose = true;

	constructor(message: string, allowed: readonly string[]) {
		super(message, { headers: { Allow: allowed.join(', ') } });
	}
}

/** Who calls is not known: a token, signature or certificate is missing or wrong. Says neither which nor how. */
export class Unauthorized extends WebhookError {
	readonly code = 'ERR_UNAUTHORIZED';
	override readonly status = 401;
	override readonly expose = true;
}

/** The caller is known or needs not be, and still may not do this. */
export class Forbidden extends WebhookError {
	readonly code = 'ERR_FORBIDDEN';
	override readonly status = 403;
	override readonly expose = true;
}

/** The request itself cannot be read: broken JSON, broken compression, a path that is no text. */
export class BadRequest extends WebhookError {
	readonly code = 'ERR_BAD_REQUEST';
	override readonly status = 400;
	override readonly expose = true;
}

/** The body or its headers did not arrive in the time allowed. */
export class RequestTimeout extends WebhookError {
	readonly code = 'ERR_REQUEST_TIMEOUT';
	override readonly status = 408;
	override readonly expose = true;
}

/** The body is larger than `listen.max_body`. */
export class BodyTooLarge extends WebhookError {
	readonly code = 'ERR_BODY_TOO_LARGE';
	override readonly status = 413;
	override readonly expose = true;
}

/** The body's content type is none that the listener can read. */
export class UnsupportedMediaType extends WebhookError {
	readonly code = 'ERR_UNSUPPORTED_MEDIA_TYPE';
	override readonly status = 415;
	override readonly expose = true;
}

/** One parameter that is missing or not admitted, and why. Never carries the value. */
export interface ParameterProblem {
	readonly parameter: string;
	readonly reason: string;
}

/** The caller has made more deliveries than the route's `rate` admits; `Retry-After` says when to come again. */
export class TooManyRequests extends WebhookError {
	readonly code = 'ERR_TOO_MANY_REQUESTS';
	override readonly status = 429;
	override readonly expose = true;
}

/** Somebody else's server, whose answer was needed, gave none or a refusal. */
export class BadGateway extends WebhookError {
	readonly code = 'ERR_BAD_GATEWAY';
	override readonly status = 502;
	override readonly expose = true;
}

/** Parameters are missing or not admitted; every one is named. */
export class BadParameters extends WebhookError {
	readonly code = 'ERR_BAD_PARAMETERS';
	override readonly status = 422;
	override readonly expose = true;

	constructor(problems: readonly ParameterProblem[]) {
		super(problems.map((p) => `parameter "${p.parameter}" ${p.reason}`).join('; '), {
			extension: { parameters: problems },
		});
	}
}

/** The route's group is busy and the route says `when_busy: reject`. */
export class Busy extends WebhookError {
	readonly code = 'ERR_BUSY';
	override readonly status = 409;
	override readonly expose = true;
}

/** The run cannot do what was asked of it in its present state, such as cancelling one that has ended. */
export class Conflict extends WebhookError {
	readonly code = 'ERR_CONFLICT';
	override readonly status = 409;
	override readonly expose = true;
}

/** An operator's command got no answer from the listener: none listens there, it may not be asked, or it is something else. */
export class ListenerUnreachable extends WebhookError {
	readonly code = 'ERR_LISTENER_UNREACHABLE';
}

/** The listener answered an operator's command, and would not do it. */
export class ListenerRefused extends WebhookError {
	readonly code = 'ERR_LISTENER_REFUSED';
}

/** What an operator's command has to say cannot be written to its standard output: the disk behind it is full, for example. */
export class OutputLost extends WebhookError {
	readonly code = 'ERR_OUTPUT_LOST';
}
