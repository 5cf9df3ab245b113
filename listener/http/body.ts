/**
 * A request's body: the exact bytes, taken within limits of size and time, and what they mean. Reading never says what is
 * wrong with the meaning; that is told only when somebody asks for it, after the sender was verified over the bytes.
 */

import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import type { Context } from 'koa';
import bodyParser from 'koa-bodyparser';
import type { Body } from '../delivery.ts';
import { BadRequest, BodyTooLarge, RequestTimeout, UnsupportedMediaType } from '../errors.ts';
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
	#limit = -1;
	#parse: ReturnType<typeof bodyParser> = bodyParser();

	/**
	 * Takes the body off the connection.
	 * @throws BodyTooLarge · RequestTimeout · Disconnected when the sender went away
	 */
	async read(ctx: Context, limits: BodyLimits): Promise<ArrivedBody> {
		const kind = kindOf(ctx.req);
		if (kind === 'none') return new ArrivedBody(kind, nothing, ctx, undefined, limits);
		if (Number(ctx.req.headers['content-length']) > limits.size) throw tooLarge(limits.size);
		// Only now: a sender that waits for this has then not sent what we would refuse unread.
		if (ctx.req.headers.expect !== undefined) ctx.res.writeContinue();

		const bytes = takeBytes(ctx.req, limits);
		// No await since takeBytes: both readers have to see the first byte.
		const parsed =
			kind === 'multipart' || kind === 'other'
				? undefined
				: this.#parser(limits.size)(ctx, proceed).then(
						() => undefined,
						(error: unknown) => {
							// A decompressor that gave up has stopped the request; the rest of the exact bytes is still wanted.
							ctx.req.unpipe();
							ctx.req.resume();
							return error;
						},
					);
		const raw = await bytes;
		return new ArrivedBody(kind, raw, ctx, await parsed, limits);
	}

	#parser(limit: number): ReturnType<typeof bodyParser> {
		if (limit !== this.#limit) {
			this.#limit = limit;
			const options = {
				jsonLimit: String(limit),
				formLimit: String(limit),
				detectJSON: (ctx: Context) => kindOf(ctx.req) !== 'form',
				// Handed on to co-body, which asks it instead of the package qs what a form's text holds.
				qs: { parse: parseForm },
			};
			this.#parse = bodyParser(options);
		}
		return this.#parse;
	}
}

const proceed = () => Promise.resolve();

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

/** A body that has arrived: `raw` is fit for signatures; the rest reads it. */
export class ArrivedBody {
	/** The exact bytes received, before any decompression. */
	readonly raw: Buffer;
	readonly #kind: Kind;
	readonly #ctx: Context;
	/** What koa-bodyparser had to say against it, kept until somebody asks. */
	readonly #failure: unknown;
	readonly #limits: BodyLimits;

	constructor(kind: Kind, raw: Buffer, ctx: Context, failure: unknown, limits: BodyLimits) {
		this.#kind = raw.length === 0 ? 'none' : kind;
		this.raw = raw;
		this.#ctx = ctx;
		this.#failure = failure;
		this.#limits = limits;
	}

	/**
	 * The parsed body: what JSON holds, or a form's fields by name (a field given more than once is a list of its values).
	 * @param asBytes true when the command reads the bytes: then a body that need not hold parameters does not have to
	 * @throws BadRequest · BodyTooLarge · UnsupportedMediaType
	 */
	async parsed(asBytes: boolean): Promise<Body> {
		const kind = this.#kind;
		if (kind === 'none') return undefined;
		// What curl sends by default (form) says little about the bytes that were meant; JSON is said on purpose.
		if (asBytes && kind !== 'json') return this.#optional();
		if (kind === 'other') {
			throw new UnsupportedMediaType(
				`a body of type "${mediaType(this.#header)}" is not understood; send application/json, application/x-www-form-urlencoded or multipart/form-data`,
			);
		}
		this.#checkCharset();
		if (kind === 'multipart') return parseMultipart(await this.content(), this.#header);
		await this.#checkText();
		if (this.#failure !== undefined) throw this.#complaint();
		// koa-bodyparser is stricter than we are in reading the header, and then takes the body for none of its own.
		if (this.#ctx.request.rawBody === undefined) throw new BadRequest('the header Content-Type is malformed');
		return this.#ctx.request.body as Body;
	}

	/** The bytes once decompressed, as a command reads them. @throws BadRequest · BodyTooLarge · UnsupportedMediaType */
	content(): Promise<Buffer> | Buffer {
		const encoding = this.#ctx.req.headers['content-encoding'] ?? 'identity';
		return encoding === 'identity' ? this.raw : decompress(this.raw, encoding, this.#limits.size);
	}

	get #header(): string {
		return this.#ctx.req.headers['content-type'] ?? '';
	}

	/** The parameters in it, if it is something that holds any. */
	async #optional(): Promise<Body> {
		const readable = this.#kind === 'form' || this.#kind === 'untyped';
		return readable && this.#failure === undefined ? (this.#ctx.request.body as Body) : undefined;
	}

	#checkCharset(): void {
		const charset = /;\s*charset\s*=\s*"?([^";\s]+)/i.exec(this.#header)?.[1]?.toLowerCase();
		if (charset === undefined || charset === 'utf-8' || charset === 'utf8' || charset === 'us-ascii') return;
		throw new UnsupportedMediaType(`a body in charset "${charset}" is not understood; send it in UTF-8`);
	}

	/** koa-bodyparser puts U+FFFD where bytes are no UTF-8, and a changed value must not reach a command. */
	async #checkText(): Promise<void> {
		const compressed = this.#ctx.req.headers['content-encoding'] !== undefined;
		if (compressed && !String(this.#ctx.request.rawBody).includes('\uFFFD')) return;
		if (!isUtf8(await this.content())) throw notUtf8();
	}

	/** Our word for what koa-bodyparser found. Its own may quote the body, and carries it as a property. */
	#complaint(): Error {
		const failure = this.#failure as Error & { status?: number; body?: string };
		if (failure instanceof BadRequest) return failure;
		if (failure.status === 413) return tooLarge(this.#limits.size);
		if (failure.status === 415) return unknownEncoding(this.#ctx.req.headers['content-encoding']);
		if (failure.body === undefined) return brokenEncoding();
		return notJson(failure, failure.body, this.#kind);
	}
}

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

function unknownEncoding(encoding: string | undefined): UnsupportedMediaType {
	return new UnsupportedMediaType(
		`a body with Content-Encoding "${encoding}" is not understood; send it as gzip, deflate, br or uncompressed`,
	);
}

function notUtf8(): BadRequest {
	return new BadRequest('the body is not UTF-8 text');
}

function beginsLikeJson(text: string): boolean {
	const first = text.trimStart()[0];
	return first === '{' || first === '[';
}

/** What a form's content type holds: `curl -d '{…}'` sends JSON under it, and no form encoder leaves a brace as it is. */
function parseForm(text: string): Body {
	return beginsLikeJson(text) ? parseJson(text) : parsePairs(text, 'the form');
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
