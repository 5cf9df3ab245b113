/**
 * The log to a syslog daemon. Over the network as RFC 5424: a datagram a message (RFC 5426) or a connection with counted
 * messages (RFC 6587). To this host's own daemon as logger(1) sends it, in the older form that every program of the host uses:
 * of RFC 5424 on the local socket, rsyslog takes the version for the program's name.
 */

import dgram from 'node:dgram';
import dns from 'node:dns/promises';
import net from 'node:net';
import os from 'node:os';
import { openLogger } from './local.ts';
import { Backlog, type Tell, type Way } from './place.ts';

/** By number (RFC 5424, table 1): the place in the list is the code. */
export const facilities = [
	...['kern', 'user', 'mail', 'daemon', 'auth', 'syslog', 'lpr', 'news', 'uucp', 'cron', 'authpriv', 'ftp'],
	...['ntp', 'security', 'console', 'solaris-cron'],
	...['local0', 'local1', 'local2', 'local3', 'local4', 'local5', 'local6', 'local7'],
] as const;
export type Facility = (typeof facilities)[number];

/** Where the daemon is: a socket of this host (undefined: the usual one), or another host's port. */
export type SyslogAddress =
	| { readonly kind: 'local'; readonly socket: string | undefined }
	| { readonly kind: 'udp' | 'tcp'; readonly host: string; readonly port: number };

export interface SyslogSettings {
	readonly facility: Facility;
	readonly address: SyslogAddress;
	/** 1 to 48 visible ASCII characters. */
	readonly appName: string;
}

/** Reads `local`, `unix:/path`, `udp://host:514` or `tcp://host:601` (these ports are the defaults); undefined when it is none. */
export function parseSyslogAddress(text: string): SyslogAddress | undefined {
	if (text === 'local') return { kind: 'local', socket: undefined };
	const socket = /^unix:(\/.+)$/.exec(text)?.[1];
	if (socket !== undefined) return { kind: 'local', socket };
	const found = /^(udp|tcp):\/\/(?:\[([\da-f:.]+)\]|([\w.-]+))(?::(\d{1,5}))?$/i.exec(text);
	if (found === null) return undefined;
	const [, scheme = '', ipv6, name, given] = found;
	const kind = scheme.toLowerCase() === 'udp' ? 'udp' : 'tcp';
	const port = given === undefined ? (kind === 'udp' ? 514 : 601) : Number(given);
	if (port < 1 || port > 65535 || (ipv6 !== undefined && !net.isIPv6(ipv6))) return undefined;
	return { kind, host: ipv6 ?? name ?? '', port };
}

/** As `parseSyslogAddress` reads it. */
export function syslogName(address: SyslogAddress): string {
	if (address.kind === 'local') return address.socket === undefined ? 'local' : `unix:${address.socket}`;
	const host = net.isIPv6(address.host) ? `[${address.host}]` : address.host;
	return `${address.kind}://${host}:${address.port}`;
}

/** What a message is made of. */
export interface SyslogLine {
	readonly level: 'error' | 'warn' | 'info' | 'debug';
	/** ISO 8601. */
	readonly time: string;
	/** One line. */
	readonly text: string;
	/** What becomes structured data, by name. */
	readonly data: Readonly<Record<string, string>>;
}

const severities: Readonly<Record<SyslogLine['level'], number>> = { error: 3, warn: 4, info: 6, debug: 7 };

/**
 * Bytes of a message at most. A receiver of datagrams should take 2048 (RFC 5426, 3.2), larger ones are likely to be dropped
 * whole; over connections and on the local socket 8 KiB are what rsyslog takes unless told otherwise.
 */
const longest = { udp: 2048, tcp: 8192, local: 8192 } as const;

/** The enterprise number that RFC 5612 sets aside for those who have none. */
const structuredDataId = 'puppet-webhook@32473';

/** Makes messages for a daemon. */
export function syslogForm({ facility, address, appName }: SyslogSettings): (line: SyslogLine) => string {
	const base = facilities.indexOf(facility) * 8;
	const most = longest[address.kind];
	if (address.kind === 'local') {
		return ({ level, text }) => cut(`<${base + severities[level]}>${text}`, most);
	}
	const host =
		os
			.hostname()
			.replace(/[^\x21-\x7e]/g, '')
			.slice(0, 255) || '-';
	const sender = `${host} ${appName} ${process.pid} -`;
	return ({ level, time, text, data }) => {
		const pairs = Object.entries(data).map(
			([name, value]) => ` ${name}="${value.replace(/["\\\]]/g, '\\$&')}"`,
		);
		const structured = pairs.length === 0 ? '-' : `[${structuredDataId}${pairs.join('')}]`;
		return cut(`<${base + severities[level]}>1 ${time} ${sender} ${structured} ${text}`, most);
	};
}

/** Shortens a text to so many bytes, between two characters, and shows that it did. */
function cut(text: string, most: number): string {
	if (text.length * 3 <= most || Buffer.byteLength(text) <= most) return text;
	const bytes = Buffer.from(text);
	let end = most - Buffer.byteLength('…');
	// Bytes 10xxxxxx go on with a character.
	while (end > 0 && (bytes[end]! & 0xc0) === 0x80) end--;
	return `${bytes.toString('utf8', 0, end)}…`;
}

/** Takes messages as `syslogForm` makes them. */
export class SyslogPlace extends Backlog {
	constructor({ address, appName }: SyslogSettings, tell: Tell) {
		const open = (): Promise<Way> => {
			switch (address.kind) {
				case 'local':
					return openLogger(address.socket, appName, longest.local);
				case 'udp':
					return openDatagrams(address.host, address.port);
				case 'tcp':
					return openConnection(address.host, address.port);
			}
		};
		super(`syslog ${syslogName(address)}`, open, tell);
	}
}

async function openDatagrams(host: string, port: number): Promise<Way> {
	// Looked up once and not for every message; again after each failure.
	const { address, family } = await dns.lookup(host);
	const socket = dgram.createSocket(family === 6 ? 'udp6' : 'udp4');
	let failure: Error | undefined;
	let closed = false;
	socket.on('error', (error) => {
		failure = error;
	});
	const close = async () => {
		if (!closed) socket.close();
		closed = true;
	};
	try {
		// Connected, so that the kernel tells when nobody listens there.
		await new Promise<void>((resolve, reject) => {
			socket.once('error', reject);
			socket.connect(port, address, resolve);
		});
	} catch (error) {
		await close();
		throw error;
	}
	socket.unref();
	return {
		async send(lines) {
			if (failure !== undefined) throw failure;
			const sending = lines.map(
				(line) =>
					new Promise<void>((resolve, reject) => {
						socket.send(line, (error) => (error ? reject(error) : resolve()));
					}),
			);
			// Each is waited for, so that none is still under way when the first failure closes the socket.
			const failed = (await Promise.allSettled(sending)).find(({ status }) => status === 'rejected');
			if (failed?.status === 'rejected') throw failed.reason;
			return lines.length;
		},
		close,
	};
}

/** Milliseconds for a connection to come about. */
const connectTime = 5_000;

async function openConnection(host: string, port: number): Promise<Way> {
	const socket = net.connect({ host, port, keepAlive: true });
	let failure: Error | undefined;
	let fail: (error: Error) => void = () => {};
	const broken = (error: Error) => {
		failure ??= error;
		fail(failure);
	};
	socket.on('error', broken);
	socket.on('close', () => broken(new Error('the syslog server closed the connection')));
	// Daemons say nothing, but of a connection that nobody reads the end is not noticed.
	socket.resume();
	socket.setTimeout(connectTime, () => socket.destroy(new Error('the syslog server does not answer')));
	await new Promise<void>((resolve, reject) => {
		socket.once('connect', resolve);
		fail = reject;
	});
	socket.setTimeout(0);
	socket.unref();
	return {
		async send(lines) {
			const frames = lines.map((line) => `${Buffer.byteLength(line)} ${line}`).join('');
			await new Promise<void>((resolve, reject) => {
				fail = reject;
				if (failure !== undefined) reject(failure);
				else socket.write(frames, () => resolve());
			});
			if (failure !== undefined) throw failure;
			return lines.length;
		},
		async close() {
			if (socket.destroyed) return;
			const closed = new Promise((resolve) => socket.once('close', resolve));
			socket.end();
			await closed;
		},
	};
}
