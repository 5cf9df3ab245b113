/** Sending a request of a step, and what becomes of the answer. */

import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import tls from 'node:tls';
import { done, failure, type StepContext, type StepResult, stopped } from './step.ts';

export const requestMethods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'] as const;
export type RequestMethod = (typeof requestMethods)[number];

/** From the first to the last status. */
export type StatusRange = readonly [number, number];

/** A request with everything in it. */
export interface Request {
	readonly method: RequestMethod;
	readonly url: URL;
	readonly headers: Readonly<Record<string, string>>;
	readonly body: string | undefined;
	/** Statuses that are ok. */
	readonly status: readonly StatusRange[];
	/** Milliseconds until the whole answer has to be there. */
	readonly limit: number;
	/** Whether a redirect within the same server is followed. */
	readonly followRedirects: boolean;
	/** A PEM file with the CA certificates that are trusted; null: those of the system. */
	readonly ca: string | null;
}

/** Bytes of an answer that are kept: enough for any message, and far less than a run's output holds. */
const keptOfAnswer = 64 * 1024;
const mostRedirects = 5;

/** Sends requests; holds what one has loaded and the next needs as well. */
export class Requests {
	/** What the system trusts. Putting it together takes some 100 ms. */
	#system: tls.SecureContext | undefined;

	/** Sends a request once and keeps its answer as output. Never rejects. */
	async send(request: Request, context: StepContext): Promise<StepResult> {
		const { url, method, headers, body, limit, followRedirects } = request;
		let agent: Agents;
		try {
			agent = this.#agents(request);
		} catch (error) {
			return failure('spawn', `was not sent: ${request.ca} cannot be used (${(error as Error).message})`);
		}
		const { default: got, TimeoutError } = await import('got');
		if (context.stop.aborted) return stopped(context.stop.reason);
		const stream = got.stream(url, {
			method,
			headers: { 'user-agent': 'puppet-webhook', ...headers },
			...(body === undefined ? {} : { body }),
			agent,
			timeout: { request: limit },
			signal: context.stop,
			retry: { limit: 0 },
			throwHttpErrors: false,
			maxRedirects: mostRedirects,
			followRedirect: ({ url: from, headers: { location } }) =>
				followRedirects && staysAt(from, location ?? ''),
		});
		let status = 0;
		stream.on('response', (response: http.IncomingMessage) => {
			status = response.statusCode ?? 0;
		});
		try {
			await keep(stream, context);
		} catch (error) {
			if (context.stop.aborted) return stopped(context.stop.reason);
			if (error instanceof TimeoutError)
				return failure('timeout', `had no answer from ${url.host} within ${limit / 1000} s`);
			return failure('exit', `had no answer from ${url.host}: ${whyNone(error as NodeJS.ErrnoException)}`);
		} finally {
			stream.destroy();
			agent.http.destroy();
			agent.https?.destroy();
		}
		return resultOf(status, request);
	}

	/** Connections for one request: one that an earlier request left open may be closed in the moment it is used again. */
	#agents({ url, ca, followRedirects }: Request): Agents {
		const plain = new http.Agent({ keepAlive: false });
		if (url.protocol === 'http:' && !followRedirects) return { http: plain };
		if (ca !== null)
			return { http: plain, https: new https.Agent({ keepAlive: false, ca: fs.readFileSync(ca) }) };
		// Node brings certificates of its own, and leaves out those that this host has been given.
		this.#system ??= tls.createSecureContext({
			ca: [...tls.getCACertificates('default'), ...tls.getCACertificates('system')],
		});
		const options: https.AgentOptions & tls.SecureContextOptions & { secureContext: tls.SecureContext } = {
			keepAlive: false,
			secureContext: this.#system,
		};
		return { http: plain, https: new https.Agent(options) };
	}
}

interface Agents {
	readonly http: http.Agent;
	readonly https?: https.Agent;
}

async function keep(answer: AsyncIterable<Uint8Array>, context: StepContext): Promise<void> {
	let left = keptOfAnswer;
	for await (const chunk of answer) {
		const bytes = Buffer.from(chunk).subarray(0, left);
		left -= bytes.length;
		context.write(bytes);
		if (bytes.length === chunk.length) continue;
		context.say(`(no more than ${keptOfAnswer / 1024} KiB of an answer are kept)`);
		return;
	}
}

function resultOf(status: number, { url, status: expected, followRedirects }: Request): StepResult {
	if (expected.some(([first, last]) => status >= first && status <= last)) return done;
	const ranges = expected.map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`));
	const redirect = followRedirects
		? '; it leads to another server, where it is not followed'
		: '; "follow_redirects: true" would follow it';
	const hint = status >= 300 && status < 400 ? redirect : '';
	return failure('exit', `was answered ${status} by ${url.host}, expected was ${ranges.join(', ')}${hint}`);
}

/** Whether a redirect leads to the same server, where headers and body may go as well. */
function staysAt(from: string, location: string): boolean {
	if (!URL.canParse(location, from)) return false;
	const [old, next] = [new URL(from), new URL(location, from)];
	if (old.origin === next.origin) return true;
	// From the usual port for plain HTTP to the usual one for HTTPS.
	const upgraded = old.protocol === 'http:' && next.protocol === 'https:';
	return upgraded && old.hostname === next.hostname && old.port === '' && next.port === '';
}

const reasons: Readonly<Record<string, string>> = {
	ECONNREFUSED: 'nothing listens there',
	ECONNRESET: 'it cut the connection',
	ENOTFOUND: 'this host does not know the name',
	EAI_AGAIN: 'its name cannot be looked up at the moment',
	EHOSTUNREACH: 'it cannot be reached',
	ENETUNREACH: 'its network cannot be reached',
	ETIMEDOUT: 'it does not take the connection',
	CERT_HAS_EXPIRED: 'its certificate has expired',
	ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name',
};

function whyNone({ code = '', message }: NodeJS.ErrnoException): string {
	if (/SELF_SIGNED|UNABLE_TO_(VERIFY|GET_ISSUER)/.test(code))
		return `its certificate is of no CA that is trusted here; name the CA's file under "ca"`;
	return (
		reasons[code] ??
		(code === 'EPROTO' || code.startsWith('ERR_SSL') ? 'it speaks no TLS that is understood here' : message)
	);
}
