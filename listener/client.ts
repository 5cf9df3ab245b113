/**
 * A client of one listener's endpoints below `/-/`: finds where it listens by its own routes.yaml, asks, and says in an
 * operator's words why there is no answer.
 */

import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import type { Got, RequestError } from 'got';
import { type Listen, loadListen } from './config/config.ts';
import { ConfigError, ListenerRefused, ListenerUnreachable } from './errors.ts';
import { visible } from './terminal.ts';

/** Where a listener listens that is told nothing else. */
export const usualUrl = 'http://127.0.0.1:6969';

/** Milliseconds for a connection within the host, and for an answer; a listener that takes longer is stopped or stuck. */
const timeouts = { connect: 5000, response: 30_000 };
/** What an operator says about the place. */
export interface PlaceOptions {
	readonly config?: string;
	readonly url?: string;
	/** The file with the token that `admin.auth` asks for. */
	readonly tokenFile?: string;
}

/** How a listener is reached. */
export interface Place {
	/** As messages name it: `127.0.0.1:6969`, `unix:/run/x.sock`. */
	readonly shown: string;
	/** Without a path. */
	readonly url: string;
	readonly socketPath?: string;
	/** The PEM file of the certificate that it has; without one, those that the system trusts. */
	readonly certificate?: string;
	/** That of the certificate's private key, where callers have to show a certificate: the listener's own is one of its CA. */
	readonly key?: string;
}

/**
 * Where the listener is: where `url` says, else where the routes.yaml says that `config` names or the host has.
 * @throws ListenerUnreachable when that file does not tell
 */
export async function placeOf({ url, config }: PlaceOptions, defaultConfig: string): Promise<Place> {
	if (url !== undefined) return placeAt(url);
	if (config === undefined && !fs.existsSync(defaultConfig)) return placeAt(usualUrl);
	const file = config ?? defaultConfig;
	const otherwise = `name the listener itself, such as --url ${usualUrl}`;
	try {
		const listen = await loadListen(file);
		if (listen.tls?.cert === '') {
			throw new ListenerUnreachable(
				`${file}: listen.tls names a certificate that Puppet's settings do not tell (\`puppet-webhook check\` says why); ${otherwise}`,
			);
		}
		const place = placeIn(listen);
		if (place !== undefined) return place;
		throw new ListenerUnreachable(
			`${file}: listen.port is 0, so the port is known only by the listener's log ("listening"); ${otherwise}`,
		);
	} catch (error) {
		if (!(error instanceof ConfigError)) throw error;
		throw new ListenerUnreachable(
			`where the listener is cannot be read from its file; mend it, run this as the listener's user, or ${otherwise}\n${error.message}`,
		);
	}
}

/**
 * The token for the listener's endpoints: of the file, else of the environment; undefined when there is neither.
 * @throws ListenerUnreachable when the file cannot be read, or no token is in it
 */
export function tokenOf({ tokenFile }: PlaceOptions, environment: string | undefined): string | undefined {
	if (tokenFile === undefined) return environment || undefined;
	let token: string;
	try {
		token = fs.readFileSync(tokenFile, 'utf8').trim();
	} catch (error) {
		throw new ListenerUnreachable(
			`the token file ${tokenFile} cannot be read (${(error as NodeJS.ErrnoException).code})`,
		);
	}
	if (/^[\x21-\x7e]+$/.test(token)) return token;
	throw new ListenerUnreachable(`the token file ${tokenFile} has to hold one token, and nothing else`);
}

function placeAt(given: string): Place {
	if (given.startsWith('unix:')) {
		return { shown: given, url: 'http://localhost', socketPath: given.slice('unix:'.length) };
	}
	const { host, origin } = new URL(given);
	return { shown: host, url: origin };
}

/** The best of the addresses: one that the endpoints answer on, then one that any user of the host can reach. */
function placeIn({ address: addresses, port, tls, client_certs }: Listen): Place | undefined {
	const scheme = tls ? 'https' : 'http';
	const certificate = tls
		? { certificate: tls.cert, ...(client_certs === 'required' ? { key: tls.key } : {}) }
		: {};
	const rank = (address: string) =>
		/^(127\.|::1$)/.test(address)
			? 0
			: /^(::|0\.0\.0\.0)$/.test(address)
				? 1
				: address.startsWith('unix:')
					? 2
					: 3;
	const usable = addresses.filter((address) => port !== 0 || address.startsWith('unix:'));
	const [address] = usable.toSorted((a, b) => rank(a) - rank(b));
	if (address === undefined) return undefined;
	if (address.startsWith('unix:')) {
		return { ...placeAt(address), url: `${scheme}://localhost`, ...certificate };
	}
	const host = address === '::' ? '::1' : address === '0.0.0.0' ? '127.0.0.1' : address;
	const shown = `${host.includes(':') ? `[${host}]` : host}:${port}`;
	return { shown, url: `${scheme}://${shown}`, ...certificate };
}

/**
 * Connections to a place. The certificate that the listener's file names is the one expected, whatever its name and whoever
 * signed it: it is known to be the right one, while 127.0.0.1 stands in no certificate.
 */
function agentFor({
	url,
	socketPath,
	certificate,
	key,
}: Place): { http: http.Agent } | { https: https.Agent } {
	// Handed on to each connection, as @types/node does not know.
	const socket: http.AgentOptions & { socketPath?: string } = socketPath === undefined ? {} : { socketPath };
	if (url.startsWith('http:')) return { http: new http.Agent(socket) };
	if (certificate === undefined) return { https: new https.Agent(socket) };
	const pem = readPem(certificate, 'certificate');
	const { raw } = new X509Certificate(pem);
	return {
		https: new https.Agent({
			...socket,
			ca: pem,
			...(key === undefined ? {} : { cert: pem, key: readPem(key, 'key') }),
			allowPartialTrustChain: true,
			checkServerIdentity: (_, peer) =>
				raw.equals(peer.raw) ? undefined : new Error(`its certificate is not that in ${certificate}`),
		}),
	};
}

function readPem(file: string, what: string): Buffer {
	try {
		return fs.readFileSync(file);
	} catch (error) {
		throw new ListenerUnreachable(
			`the listener's ${what} ${file} cannot be read (${(error as NodeJS.ErrnoException).code}); run this as root, or as the listener's user`,
		);
	}
}

interface OutputWanted {
	/** The offset to begin at; 0 by default. */
	readonly from?: number;
	readonly follow?: boolean;
	/** As text, made readable by the listener, in place of the exact bytes. */
	readonly asText?: boolean;
	readonly signal?: AbortSignal;
}

/** Asks one listener. */
export class Client {
	readonly #place: Place;
	readonly #got: Got;
	readonly #requestError: typeof RequestError;

	private constructor(place: Place, token: string | undefined, got: Got, requestError: typeof RequestError) {
		this.#place = place;
		this.#requestError = requestError;
		this.#got = got.extend({
			agent: agentFor(place),
			headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
			// The listener may only be late, and what was asked for must not happen twice.
			retry: { limit: 0 },
			throwHttpErrors: false,
			followRedirect: false,
			timeout: timeouts,
		});
	}

	/** @param token for who may use the endpoints only with one */
	static async open(place: Place, token: string | undefined): Promise<Client> {
		// Loading it takes some 40 ms, by which `serve` would start later for nothing.
		const { default: got, RequestError } = await import('got');
		return new Client(place, token, got, RequestError);
	}

	/** @throws ListenerUnreachable ListenerRefused */
	async ask<Told>(path: string, method: 'GET' | 'POST' = 'GET'): Promise<Told> {
		const { statusCode, body } = await this.#got(new URL(path, this.#place.url), {
			method,
			headers: { accept: 'application/json' },
		}).catch((error) => this.#unreachable(error));
		return this.#read(statusCode, body) as Told;
	}

	/**
	 * Output of a run: what there is, or, to `follow`, all until the run has ended or the listener stops.
	 * @throws ListenerUnreachable ListenerRefused
	 */
	async *output(
		id: string,
		{ from = 0, follow = false, asText = false, signal }: OutputWanted,
	): AsyncGenerator<Buffer, void, undefined> {
		const stream = this.#got.stream(
			new URL(`/-/runs/${id}/output?from=${from}&follow=${follow}`, this.#place.url),
			{
				headers: { accept: asText ? 'text/plain' : 'application/octet-stream' },
				// Nothing may come for hours.
				timeout: { connect: timeouts.connect },
				...(signal ? { signal } : {}),
			},
		);
		try {
			const [{ statusCode }] = await once(stream, 'response');
			if (statusCode === 200) return yield* stream;
			let body = '';
			for await (const chunk of stream) body += chunk;
			this.#read(statusCode, body);
		} catch (error) {
			this.#unreachable(error);
		} finally {
			stream.destroy();
		}
	}

	#read(status: number, body: string): unknown {
		let told: { detail?: unknown } | null = null;
		try {
			told = JSON.parse(body);
		} catch {}
		if (
			told === null ||
			typeof told !== 'object' ||
			(status >= 400 && told.detail === undefined && status !== 500)
		) {
			throw new ListenerUnreachable(
				`what answers on ${this.#place.shown} is no puppet-webhook (status ${status}); is that its port? --url names another`,
			);
		}
		if (status < 400) return told;
		const remedies: Readonly<Record<number, string>> = {
			401: '; give the token that admin.auth in routes.yaml asks for, by --token-file or PUPPET_WEBHOOK_TOKEN',
			403: '; see listen.address and admin.auth in routes.yaml, and call it directly, by --url if need be',
		};
		const remedy = remedies[status] ?? '';
		throw new ListenerRefused(
			`the listener answered ${status}: ${visible(String(told.detail ?? 'its log says why'))}${remedy}`,
		);
	}

	#unreachable(error: unknown): never {
		if (!(error instanceof this.#requestError)) throw error;
		const { shown } = this.#place;
		const status =
			'is the listener running? `systemctl status puppet-webhook` tells; if it listens elsewhere, --url or --config says where';
		const reasons: Readonly<Record<string, string>> = {
			ECONNREFUSED: `nothing listens on ${shown}: ${status}`,
			ENOENT: `there is no socket ${shown}: ${status}`,
			EACCES: `${shown} is open to its owner and group only: run this as root, or as a member of that group`,
			ENOTFOUND: `${shown}: this host does not know the name`,
			ETIMEDOUT: `the listener on ${shown} does not answer: is it stopped, or stuck? \`systemctl status puppet-webhook\` tells`,
			EPROTO: `what answers on ${shown} speaks no TLS: write http:// instead of https://`,
			HPE_INVALID_CONSTANT: `what answers on ${shown} speaks no HTTP: does it want https:// instead of http://?`,
			ECONNRESET: `the connection to ${shown} was cut before the answer: does it want https:// instead of http://, or is the listener just stopping?`,
		};
		const wrapped = error.code === 'ERR_SSL_WRONG_VERSION_NUMBER' ? 'EPROTO' : error.code;
		throw new ListenerUnreachable(
			reasons[wrapped] ?? `the listener on ${shown} cannot be asked: ${error.message}`,
			{ cause: error },
		);
	}
}
