/**
 * `local`: programs of this host may call, reached directly. A loopback peer alone does not prove that: it may be a proxy
 * that passes on the requests of others, or a browser on this host whose page was given a name that means 127.0.0.1.
 */

import net from 'node:net';
import os from 'node:os';
import { Forbidden } from '../errors.ts';
import { type Caller, checkOpen } from './open.ts';

/** What proxies add to requests that they pass on. */
const proxyHeaders = [
	'forwarded',
	'via',
	'x-forwarded-for',
	'x-forwarded-host',
	'x-forwarded-proto',
	'x-forwarded-server',
	'x-real-ip',
	'x-client-ip',
	'x-cluster-client-ip',
	'x-envoy-external-address',
	'cf-connecting-ip',
	'true-client-ip',
];

/**
 * @param what is guarded, as the refusal begins: "the endpoints under /-/ are …"
 * @throws Forbidden for everybody but a program of this host
 */
export function checkLocal(caller: Caller, what: string): void {
	const { client, headers } = caller;
	if (!client.loopback) throw new Forbidden(`${what}; the caller's address is another`);
	const proxied = proxyHeaders.find((name) => headers[name] !== undefined);
	if (proxied !== undefined) {
		throw new Forbidden(`${what}; the request came through a proxy, as its header "${proxied}" tells`);
	}
	// DNS rebinding: a page from evil.example may read what its own name answers, and its owner decides that this is 127.0.0.1.
	// The browser still sends the name.
	if (headers.host !== undefined && !isOwnName(String(headers.host))) {
		throw new Forbidden(`${what}; call it as localhost, by address, or by this host's name`);
	}
	checkOpen(caller);
}

/** True for a Host header that no stranger's DNS can have brought about. */
export function isOwnName(host: string): boolean {
	const name = host.replace(/:\d*$/, '').toLowerCase();
	if (name === 'localhost' || name.endsWith('.localhost')) return true;
	if (net.isIP(name.replace(/^\[|\]$/g, '')) !== 0) return true;
	return name === os.hostname().toLowerCase();
}
