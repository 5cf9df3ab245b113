/**
 * Who calls by way of a proxy. Each proxy adds the address that it was called from to what it was told, so what a header says is
 * worth something from the right on, as far as trusted proxies wrote it; what stands before that anybody can have written.
 */

import net from 'node:net';
import { type Client, type Delivery, headerOf, noCertificate } from '../delivery.ts';
import { Networks, plainAddress } from './addresses.ts';

/** The proxies that are believed. */
export class Proxies {
	readonly #networks: Networks;
	readonly #unix: boolean;

	/** @param written networks as `isNetwork` takes them, and `unix` for what comes by a unix socket */
	constructor(written: readonly string[]) {
		this.#networks = new Networks(written.filter((text) => text !== 'unix'));
		this.#unix = written.includes('unix');
	}

	/**
	 * The client of a request that came over a connection from `peer`: that itself, or who the trusted proxies say. Its address is
	 * `unknown` when they do not say it, and when X-Forwarded-For and Forwarded name different ones: a proxy writes one of these
	 * and may hand on the other as it came, and which one it is nobody has told us.
	 */
	clientOf(peer: Client, headers: Delivery['headers']): Client {
		if (!this.#isTrusted(peer.ip)) return peer;
		const told = [
			headers['x-forwarded-for'] === undefined ? [] : this.#nearest(listed(headers)),
			headers.forwarded === undefined ? [] : this.#nearest(forwarded(headers)),
		].flat();
		const [ip] = told;
		if (ip === undefined) return peer;
		// The connection's certificate is that of the proxy, and does not speak for those who call by it.
		return Object.freeze({
			ip: told.every((one) => one === ip) ? ip : 'unknown',
			loopback: false,
			...noCertificate,
		});
	}

	#isTrusted(ip: string): boolean {
		return ip === 'unix' ? this.#unix : this.#networks.has(ip);
	}

	/** The first from the right that is no trusted proxy; the farthest when all are. */
	#nearest(hops: readonly string[]): string {
		const from = hops.findLastIndex((hop) => !this.#isTrusted(hop));
		return hops[Math.max(from, 0)] ?? 'unknown';
	}
}

/** The addresses in X-Forwarded-For, the farthest first; `unknown` for what is none. */
function listed(headers: Delivery['headers']): string[] {
	return headerOf({ headers }, 'x-forwarded-for').split(',').map(addressIn);
}

/** The same of Forwarded (RFC 7239): `for=192.0.2.1;proto=https, for="[2001:db8::1]:4711"`. */
function forwarded(headers: Delivery['headers']): string[] {
	const elements = headerOf({ headers }, 'forwarded').match(/(?:[^",]|"(?:[^"\\]|\\.)*"?)+/g) ?? [''];
	return elements.map((element) => {
		const value = /(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)\s*(?:;|$)/i.exec(element)?.[1] ?? '';
		return addressIn(value.replace(/^"(.*)"$/s, '$1'));
	});
}

/** An address that may have a port after it. */
function addressIn(text: string): string {
	const trimmed = text.trim();
	const inner = /^\[([^\]]*)\](?::\d+)?$/.exec(trimmed)?.[1] ?? trimmed.replace(/^([\d.]+):\d+$/, '$1');
	const address = plainAddress(inner);
	return net.isIP(address) === 0 ? 'unknown' : address;
}
