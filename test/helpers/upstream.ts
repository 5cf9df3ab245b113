/** A server that steps send requests to: it keeps what it is asked, and answers as the test says. */

import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { after } from 'node:test';

export interface Asked {
	readonly method: string;
	/** Path and query, as they were sent. */
	readonly url: string;
	readonly headers: http.IncomingHttpHeaders;
	readonly body: string;
}

export interface Upstream {
	/** `http://127.0.0.1:port` */
	readonly url: string;
	readonly asked: readonly Asked[];
	/** What was asked below a path. */
	at(prefix: string): readonly Asked[];
}

const servers: http.Server[] = [];
after(() => {
	for (const server of servers) {
		server.closeAllConnections();
		server.close();
	}
});

type Answering = (asked: Asked, response: http.ServerResponse) => void;

/** @param answering by default 200 and no body @param tls files that `certificate` made */
export async function startUpstream(
	answering: Answering = (_, response) => response.end(),
	tls?: { readonly cert: string; readonly key: string },
): Promise<Upstream> {
	const asked: Asked[] = [];
	const listener: http.RequestListener = (request, response) => {
		let body = '';
		request.setEncoding('utf8').on('data', (text) => (body += text));
		request.on('end', () => {
			const { method = '', url = '', headers } = request;
			asked.push({ method, url, headers, body });
			answering(asked.at(-1)!, response);
		});
	};
	const server =
		tls === undefined
			? http.createServer(listener)
			: https.createServer({ cert: fs.readFileSync(tls.cert), key: fs.readFileSync(tls.key) }, listener);
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	servers.push(server);
	const { port } = server.address() as AddressInfo;
	return {
		url: `http${tls === undefined ? '' : 's'}://127.0.0.1:${port}`,
		asked,
		at: (prefix) => asked.filter(({ url }) => url.startsWith(prefix)),
	};
}

/** A certificate for 127.0.0.1 that signs itself. */
export function certificate(dir: string): { cert: string; key: string } {
	const files = { cert: path.join(dir, 'upstream.pem'), key: path.join(dir, 'upstream.key') };
	execFileSync(
		'openssl',
		[
			...[
				'req',
				'-x509',
				'-newkey',
				'ec',
				'-pkeyopt',
				'ec_paramgen_curve:prime256v1',
				'-nodes',
				'-days',
				'2',
			],
			...['-subj', '/CN=upstream', '-addext', 'subjectAltName=IP:127.0.0.1'],
			...['-keyout', files.key, '-out', files.cert],
		],
		{ stdio: 'ignore' },
	);
	return files;
}
