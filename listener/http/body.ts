/**
 * A request's body: the exact bytes, taken within limits of size and time, and what they mean. Reading never says what is
 * wrong with the meaning; that is told only when somebody asks for it, after the sender was verified over the bytes.
 */

import { isUtf8 } from 'node:buffer';
import { type IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import Koa, { type Context } from 'koa';
import bodyParser from 'koa-bodyparser';
import type { Body, Delivery } from '../delivery.ts';
import { BadRequest, BodyTooLarge, RequestTimeout, UnsupportedMediaType, WebhookError } from '../errors.ts';
import { parseMultipart, parsePairs } from './forms.ts';

/** Within which a body has to arrive. */
export interface BodyLimits {
	/** Bytes, as received and also once decompressed. */
	readonly size: number;
	/** Milliseconds from the end of the header to the last byte. */
	readonly time: number;
}

/** What the Content-Type says. `untyped`: there is none. `other`: bytes that hold no parameters. */
type Kind = 'none' | 'json' | 'form' | 'multipart' | 'untyped' | 'other';

const nothing = Buffer.alloc(0);

/**
 * Bytes. What is larger, or may be once it is decompressed, is parsed when somebody asks what it means, and so for verified senders
 * alone: 20 MB of JSON keep everybody waiting for a second. So much takes less than a millisecond.
 */
const mostParsedEarly = 64 * 1024;

/** Senders that have no body to send say so by neither header; `Content-Length: 0` says it as well. */
function hasBody(request: IncomingMessage): boolean {
	const length = request.headers['content-length'];
	return request.headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0');
}

function mediaType(header: string): string {
	const end = header.indexOf(';');
	return (end < 0 ? header : header.slice(0, end)).trim().toLowerCase();
}

function kindOf(request: IncomingMessage): Kind {
	if (!hasBody(request)) return 'none';
	const header = request.headers['content-type'];
	if (!header) return 'untyped';
	const type = mediaType(header);
	if (type === 'application/json' || type.endsWith('+json')) return 'json';
	if (type === 'application/x-www-form-urlencoded') return 'form';
	if (type === 'multipart/form-data') return 'multipart';
	return 'other';
}

/** Reads the bodies of deliveries. Holds koa-bodyparser's settings, so make one and use it for all. */
export class BodyReader {
	#limit: number | undefined;
	#parser = bodyParser();

	/**
	 * Takes the body off the connection.
	 * @throws BodyTooLarge · RequestTimeout · Disconnected when the sender went away
	 */
	async read(ctx: Context, limits: BodyLimits): Promise<ArrivedBody> {
		const { req, res, request } = ctx;
		const kind = kindOf(req);
		if (kind === 'none') return new ArrivedBody(kind, nothing, req.headers, limits.size, nothingRead);
		const length = Number(req.headers['content-length'] ?? Number.POSITIVE_INFINITY);
		if (length > limits.size && length < Number.POSITIVE_INFINITY) throw tooLarge(limits.size);
		// Only now: a sender that waits for this has then not sent what we would refuse unread.
		if (req.headers.expect !== undefined) res.writeContinue();

		const bytes = takeBytes(req, limits);
		if (length > mostParsedEarly || req.headers['content-encoding'] !== undefined) {
			const raw = await bytes;
			const { method = '', headers } = req;
			return new ArrivedBody(kind, raw, headers, limits.size, () =>
				this.#reading(arrivingNow({ method, headers, body: raw }), kind, limits.size),
			);
		}
		// No await since takeBytes: both readers have to see the first byte.
		const reading = this.#reading(ctx, kind, limits.size);
		const raw = await bytes;
		await reading;
		// A caller may wait for hours, and what it sent is not to be kept as long.
		request.body = request.rawBody = undefined;
		return new ArrivedBody(kind, raw, req.headers, limits.size, () => reading);
	}

	async #reading(ctx: Context, kind: Kind, limit: number): Promise<Reading> {
		const failure = await this.#parse(ctx, kind, limit);
		const { body, rawBody } = ctx.request;
		return { value: body as Body, text: rawBody as string | undefined, failure };
	}

	/** Lets koa-bodyparser read what it knows. Gives what it has to say against it, instead of throwing that. */
	#parse(ctx: Context, kind: Kind, limit: number): Promise<unknown> | undefined {
		if (kind === 'multipart' || kind === 'other') return undefined;
		if (limit !== this.#limit) {
			this.#limit = limit;
			this.#parser = parserFor(limit);
		}
		return this.#parser(ctx, proceed).then(
			() => undefined,
			(failure: unknown) => {
				// A decompressor that gave up has stopped the request; the rest of the exact bytes is still wanted.
				ctx.req.unpipe();
				ctx.req.resume();
				return failure;
			},
		);
	}
}

function parserFor(limit: number): ReturnType<typeof bodyParser> {
	const options = {
		jsonLimit: String(limit),
		formLimit: String(limit),
		detectJSON: (ctx: Context) => kindOf(ctx.req) !== 'form',
		// Handed on to co-body, which asks it instead of the package qs what a form's text holds.
		qs: { parse: parseForm },
	};
	return bodyParser(options);
}

const proceed = () => Promise.resolve();

/** What a body means to a route: to its source, or as parameters. @throws BadRequest · BodyTooLarge · UnsupportedMediaType */
export function contentFor(
	{ source, stdin }: { readonly source: unknown; readonly stdin: string },
	body: ArrivedBody,
): Promise<Body> {
	return source === null ? body.parsed(stdin === 'body') : body.payload();
}

/** Reads a body that was kept, as if it arrived now. @param size bytes, as for one that arrives @throws BodyTooLarge */
export async function readKept(
	{ method, headers, body }: Pick<Delivery, 'method' | 'headers' | 'body'>,
	size: number,
): Promise<ArrivedBody> {
	return new BodyReader().read(arrivingNow({ method, headers, body }), { size, time: 60_000 });
}

/** A body that has arrived already, as one that is about to. */
function arrivingNow({ method, headers, body }: Pick<Delivery, 'method' | 'headers' | 'body'>): Context {
	const request = new IncomingMessage(new Socket());
	request.method = method;
	// How it was cut out of a connection then does not matter any more.
	const { 'transfer-encoding': _framing, expect: _expect, ...others } = headers;
	Object.assign(request.headers, others, { 'content-length': String(body.length) });
	request.push(body);
	request.push(null);
	return new Koa().createContext(request, new ServerResponse(request));
}

/** The sender closed the connection before its body was complete; there is nobody to answer. */
export class Disconnected extends Error {}

function tooLarge(limit: number): BodyTooLarge {
	return new BodyTooLarge(`the body is larger than ${limit} bytes, the listener's limit (listen.max_body)`);
}

/** Collects the bytes exactly as received, beside any other reader of the request. */
function takeBytes(request: IncomingMessage, limits: BodyLimits): Promise<Buffer> {
	return new Promise((resolve, reject) => {
		const chunks: Buffer[] = [];
		let size = 0;
		const timer = setTimeout(() => {
			finish();
			const seconds = limits.time / 1000;
			reject(new RequestTimeout(`the body did not arrive within ${seconds} s (listen.body_timeout)`));
		}, limits.time);
		const onData = (chunk: Buffer) => {
			size += chunk.length;
			if (size > limits.size) {
				finish();
				reject(tooLarge(limits.size));
			} else chunks.push(chunk);
		};
		const onEnd = () => {
			finish();
			resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size));
		};
		const onClose = () => {
			finish();
			reject(new Disconnected('the sender went away before its body was complete'));
		};
		const finish = () => {
			clearTimeout(timer);
			request.off('data', onData).off('end', onEnd).off('close', onClose).off('error', onClose);
		};
		request.on('data', onData).on('end', onEnd).on('close', onClose).on('error', onClose);
	});
}

/** What koa-bodyparser made of a body; `failure` is kept until somebody asks. */
interface Reading {
	readonly value?: Body;
	/** The decoded text; undefined when it did not read any. */
	readonly text?: string | undefined;
	readonly failure?: unknown;
}

const nothingRead = async (): Promise<Reading> => ({});

/** A body that has arrived: `raw` is fit for signatures; the rest reads it. */
export class ArrivedBody {
	/** The exact bytes received, before any decompression. */
	readonly raw: Buffer;
	readonly #kind: Kind;
	readonly #type: string;
	readonly #encoding: string;
	readonly #limit: number;
	/** Reads it when asked first, if that has not been done. */
	readonly #read: () => Promise<Reading>;
	#reading: Promise<Reading> | undefined;

	constructor(
		kind: Kind,
		raw: Buffer,
		headers: IncomingHttpHeaders,
		limit: number,
		read: () => Promise<Reading>,
	) {
		this.raw = raw;
		this.#kind = raw.length === 0 ? 'none' : kind;
		this.#type = headers['content-type'] ?? '';
		this.#encoding = headers['content-encoding'] ?? 'identity';
		this.#limit = limit;
		this.#read = read;
	}

	/**
	 * The parsed body: what JSON holds, or a form's fields by name (a field given more than once is a list of its values).
	 * @param asBytes true when the command reads the bytes: then a body that need not hold parameters does not have to
	 * @throws BadRequest · BodyTooLarge · UnsupportedMediaType
	 */
	async parsed(asBytes: boolean): Promise<Body> {
		if (this.#kind === 'none') return undefined;
		try {
			return await this.#values();
		} catch (error) {
			// A form is what curl calls anything that it sends, and says little about it; JSON is said on purpose.
			if (asBytes && this.#kind !== 'json' && error instanceof WebhookError) return undefined;
			throw error;
		}
	}

	/**
	 * What a source sent: JSON under whatever content type it says, or none (Amazon SNS says text/plain, Quay nothing); of a form
	 * the JSON in its field `payload`, or else its fields.
	 * @throws BadRequest · BodyTooLarge · UnsupportedMediaType
	 */
	async payload(): Promise<Body> {
		if (this.#kind === 'none') return undefined;
		if (this.#kind === 'form' || this.#kind === 'multipart') {
			const fields = await this.#values();
			const text = Array.isArray(fields) ? undefined : (fields as Readonly<Record<string, unknown>>).payload;
			return typeof text === 'string' && beginsLikeJson(text) ? jsonOf(text) : fields;
		}
		const content = await this.content();
		if (!isUtf8(content)) throw new BadRequest('the body is not UTF-8 text');
		const text = content.toString();
		if (!beginsLikeJson(text)) throw new BadRequest('the body is not a JSON object or list');
		return jsonOf(text);
	}

	/** The bytes once decompressed, as a command reads them. @throws BadRequest · BodyTooLarge · UnsupportedMediaType */
	content(): Promise<Buffer> | Buffer {
		return this.#encoding === 'identity' ? this.raw : decompress(this.raw, this.#encoding, this.#limit);
	}

	async #values(): Promise<Body> {
		if (this.#kind === 'other') {
			throw new UnsupportedMediaType(
				`a body of type "${mediaType(this.#type)}" is not understood; send application/json, application/x-www-form-urlencoded or multipart/form-data`,
			);
		}
		const charset = /;\s*charset\s*=\s*"?([^";\s]+)/i.exec(this.#type)?.[1]?.toLowerCase() ?? 'utf-8';
		if (!utf8Names.has(charset)) {
			throw new UnsupportedMediaType(`a body in charset "${charset}" is not understood; send it in UTF-8`);
		}
		if (this.#kind === 'multipart') return parseMultipart(await this.content(), this.#type);
		this.#reading ??= this.#read();
		const { failure, text, value } = await this.#reading;
		await this.#checkText(text);
		if (failure !== undefined) throw this.#complaint(failure as Error);
		// koa-bodyparser is stricter than we are in reading the header, and then takes the body for none of its own.
		if (text === undefined) throw new BadRequest('the header Content-Type is malformed');
		return value;
	}

	/** koa-bodyparser puts U+FFFD where bytes are no UTF-8, and a changed value must not reach a command. */
	async #checkText(text: string | undefined): Promise<void> {
		if (this.#encoding !== 'identity' && !text?.includes('\uFFFD')) return;
		if (!isUtf8(await this.content())) throw new BadRequest('the body is not UTF-8 text');
	}

	/** Our word for what koa-bodyparser found. Its own may quote the body, and carries it as a property. */
	#complaint(failure: Error & { status?: number; body?: string }): Error {
		if (failure instanceof BadRequest) return failure;
		if (failure.status === 413) return tooLarge(this.#limit);
		if (failure.status === 415) return unknownEncoding(this.#encoding);
		if (failure.body === undefined) return brokenEncoding();
		return notJson(failure, failure.body, this.#kind);
	}
}

/** Names of UTF-8, and of what is a part of it. */
const utf8Names = new Set(['utf-8', 'utf8', 'us-ascii', 'ascii']);

function notJson(failure: Error, text: string, kind: Kind): Error {
	if (failure.message.includes('prototype property')) {
		return new BadRequest('the body has a key "__proto__", which is refused');
	}
	if (!beginsLikeJson(text)) {
		return kind === 'untyped'
			? new UnsupportedMediaType('the body has no Content-Type and is not JSON; say what it is')
			: new BadRequest('the body is not a JSON object or list');
	}
	const position = /at position (\d+)/.exec(failure.message)?.[1];
	const where =
		position === undefined
			? 'it ends too early, or has a value that JSON does not know'
			: `the fault is at character ${Number(position) + 1}`;
	return new BadRequest(`the body is not valid JSON: ${where}`);
}

const unzip = promisify(zlib.unzip);
const unbrotli = promisify(zlib.brotliDecompress);

async function decompress(raw: Buffer, encoding: string, limit: number): Promise<Buffer> {
	try {
		if (encoding === 'gzip' || encoding === 'deflate') return await unzip(raw, { maxOutputLength: limit });
		if (encoding === 'br') return await unbrotli(raw, { maxOutputLength: limit });
	} catch (error) {
		throw (error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE'
			? tooLarge(limit)
			: brokenEncoding();
	}
	throw unknownEncoding(encoding);
}

function brokenEncoding(): BadRequest {
	return new BadRequest('the body cannot be decompressed: it is broken, or not what Content-Encoding says');
}

function unknownEncoding(encoding: string): UnsupportedMediaType {
	return new UnsupportedMediaType(
		`a body with Content-Encoding "${encoding}" is not understood; send it as gzip, deflate, br or uncompressed`,
	);
}

function beginsLikeJson(text: string): boolean {
	const first = text.trimStart()[0];
	return first === '{' || first === '[';
}

/** What a form's content type holds: `curl -d '{…}'` sends JSON under it, and no form encoder leaves a brace as it is. */
function parseForm(text: string): Body {
	return beginsLikeJson(text) ? parseJson(text) : parsePairs(text, 'the form');
}

/** @throws BadRequest */
function jsonOf(text: string): Body {
	try {
		return parseJson(text);
	} catch (error) {
		throw error instanceof BadRequest ? error : notJson(error as Error, text, 'json');
	}
}

function parseJson(text: string): Body {
	// The reviver is slow and runs only where the key may occur, spelled out or with an escape.
	const suspicious = text.includes('__proto__') || text.includes('\\u00');
	return JSON.parse(text, suspicious ? refusePrototype : undefined);
}

function refusePrototype(key: string, value: unknown): unknown {
	if (key === '__proto__') throw new BadRequest('the body has a key "__proto__", which is refused');
	return value;
}
