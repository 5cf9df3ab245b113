/**
 * Where the listener listens: TCP addresses and unix sockets, plain or TLS, all or none. Every limit that keeps one caller
 * from harming the others, and that Node can enforce below a request, is set here.
 */

import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net, { type AddressInfo, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { plainAddress } from '../auth/addresses.ts';
import type { Listen } from '../config/config.ts';
import { type Client, noCertificate } from '../delivery.ts';
import { ListenError } from '../errors.ts';
import type { Log } from '../log.ts';
import { problemJson, problemType } from './answers.ts';
import { type Certificate, followCertificate, peerOf, readCertificate } from './tls.ts';

/** Where one of the servers answers. */
export interface ListeningAddress {
	/** As the log shows it: `127.0.0.1:6969`, `[::]:6969`, `unix:/run/x.sock`. */
	readonly address: string;
	/** What to call: for "every address" that of this host. A unix socket has its address. */
	readonly url: string;
}

/** Bytes of a request's line and header together: Node's own limit, said here because it is one of the promises. */
const maxHeader = 16 * 1024;

/**
 * Milliseconds that a connection may stay open without a request. Proxies keep theirs for 60 s (nginx, AWS); being the first
 * to close would make them send requests into a closing connection and answer 502.
 */
const keepAlive = 65_000;

/**
 * Connections of one address at a time; further ones are closed at once. One costs about 25 KB when idle, so this bounds
 * memory at 250 MB, and leaves files free for output out of the usual 524,288.
 */
const maxConnections = 10_000;

/** Milliseconds of silence after which the system asks whether a peer is still there; waiting callers say nothing for long. */
const probeAfter = 60_000;

/** Milliseconds for which a connection stays open after a refusal, for the peer to read why. */
const lingering = 1000;

/** What is known of an open connection. */
interface Connection {
	client: Client;
	/** Milliseconds since 1970 after which the client's certificate counts no longer. */
	readonly until: number;
	/** The answer to the latest request on it. */
	response: http.ServerResponse | undefined;
}

const connections = new WeakMap<Duplex, Connection>();

/** Who is at the other end of a request's connection at this moment; to be asked when the request arrives. */
export function clientOf(request: http.IncomingMessage): Client {
	const connection = connections.get(request.socket);
	if (connection === undefined) return nobody;
	const { client, until } = connection;
	return Date.now() < until ? client : withoutCertificate(client, 'CERT_HAS_EXPIRED');
}

function withoutCertificate(client: Client, distrust: string): Client {
	return Object.freeze({ ...client, ...noCertificate, distrust });
}

/** A peer that was gone before its address could be read. */
const nobody: Client = Object.freeze({ ip: 'unknown', loopback: false, ...noCertificate });
const onUnixSocket: Client = Object.freeze({ ip: 'unix', loopback: true, ...noCertificate });

function clientAt(socket: Socket): Client {
	const peer = socket.remoteAddress;
	if (peer === undefined) return nobody;
	const ip = plainAddress(peer);
	const loopback = ip === '::1' || (net.isIPv4(ip) && ip.startsWith('127.'));
	return Object.freeze({ ip, loopback, ...noCertificate });
}

/** All the servers of a listener, which answer alike. */
export class Listening {
	readonly #listen: Listen;
	readonly #handle: http.RequestListener;
	readonly #log: Log;
	readonly #handedOver: readonly number[];
	readonly #servers: http.Server[] = [];
	/** Connections whose clients are known by a certificate. */
	readonly #certified = new Map<TLSSocket, Connection>();
	#unfollow = () => {};
	#toldOfDrops = 0;
	#toldOfTls = 0;

	/** @param handedOver file descriptors of sockets that systemd has bound, each to an address of `listen` */
	constructor(listen: Listen, handle: http.RequestListener, log: Log, handedOver: readonly number[] = []) {
		this.#listen = listen;
		this.#handle = handle;
		this.#log = log;
		this.#handedOver = handedOver;
	}

	/** Opens every address. @throws ListenError; then none is open */
	async open(): Promise<readonly ListeningAddress[]> {
		const { address: addresses } = this.#listen;
		const certificate = readCertificate(this.#listen);
		for (const warning of certificate?.warnings ?? []) this.#log.warn(warning);
		const opened: ListeningAddress[] = [];
		try {
			const taken = this.#handedOver.map((socket) => this.#take(socket, certificate));
			opened.push(...taken);
			for (const address of addresses) {
				if (taken.some((one) => one.configured === address)) continue;
				const server = this.#server(certificate, address.startsWith('unix:'));
				this.#servers.push(server);
				opened.push(await this.#open(server, address));
			}
		} catch (error) {
			await this.close(0);
			throw error;
		}
		if (certificate) {
			const servers = this.#servers as https.Server[];
			this.#unfollow = followCertificate(this.#listen, certificate, servers, this.#log, () =>
				this.#distrust(),
			);
		}
		return opened;
	}

	/**
	 * Takes no further connections, closes those that are idle, and gives the others time to get their answers.
	 * @param patience milliseconds; then what is left is cut off
	 */
	async close(patience: number): Promise<void> {
		this.#unfollow();
		const servers = this.#servers.splice(0).filter((server) => server.listening);
		const closed = Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
		// A connection is idle only once its answer is sent, so one look at the beginning is not enough.
		const idle = setInterval(() => {
			for (const server of servers) server.closeIdleConnections();
		}, 20);
		const late = setTimeout(() => {
			for (const server of servers) server.closeAllConnections();
		}, patience);
		await closed;
		clearInterval(idle);
		clearTimeout(late);
	}

	/** Tells of connections that were one too many; once a minute, as whoever floods the listener shall not flood the log. */
	#dropped(address: string): void {
		const now = Date.now();
		if (now - this.#toldOfDrops < 60_000) return;
		this.#toldOfDrops = now;
		this.#log.warn('connections were closed, as too many are open', { address, open: maxConnections });
	}

	/**
	 * Ends connections that are known by certificates, since one of these may have been revoked: those without a request at once,
	 * others when it is answered. A request that is under way counts as when it came, further ones as of a stranger.
	 */
	#distrust(): void {
		const why = 'the CA or its revocation lists have changed since the connection was opened';
		for (const [socket, connection] of this.#certified) {
			const { client, response } = connection;
			connection.client = withoutCertificate(client, why);
			if (response === undefined || response.writableFinished) {
				socket.destroy();
				continue;
			}
			response.shouldKeepAlive = false;
			if (response.headersSent) response.once('finish', () => socket.destroySoon());
		}
		this.#certified.clear();
	}

	/** Tells of connections that TLS refused; once a second, as above. */
	#refusedByTls(error: NodeJS.ErrnoException, socket: TLSSocket): void {
		const now = Date.now();
		if (now - this.#toldOfTls < 1000) return;
		this.#toldOfTls = now;
		// Set where the certificate was the reason, and then the error is that the connection was cut.
		const reason = socket.authorizationError ?? error.code ?? error.message;
		this.#log.info('a connection was refused by TLS', {
			client: clientAt(socket).ip,
			reason: String(reason),
		});
	}

	#server(certificate: Certificate | undefined, unix: boolean): http.Server {
		const { header_timeout: header, body_timeout: body, client_certs, tls } = this.#listen;
		const options: http.ServerOptions = {
			maxHeaderSize: maxHeader,
			// Of two Authorization headers Node would otherwise show the first, and a proxy may have checked the other.
			joinDuplicateHeaders: true,
			headersTimeout: header,
			// Bodies have a time limit of their own, which answers better; this ends connections whose rest nobody reads.
			requestTimeout: header + body + 1000,
			// How late the two above may be noticed.
			connectionsCheckingInterval: Math.min(1000, Math.ceil(header / 4)),
			keepAliveTimeout: keepAlive,
			keepAlive: true,
			keepAliveInitialDelay: probeAfter,
		};
		const server = certificate
			? https.createServer({
					...options,
					...certificate.options,
					requestCert: client_certs !== 'none',
					// Otherwise a certificate that is not trusted counts as none: its owner could as well have shown none.
					rejectUnauthorized: client_certs === 'required',
					handshakeTimeout: header,
				})
			: http.createServer(options);
		server.maxConnections = maxConnections;
		server.on(certificate ? 'secureConnection' : 'connection', (socket: Socket | TLSSocket) => {
			const place = unix ? onUnixSocket : clientAt(socket);
			if (!(socket instanceof TLSSocket) || client_certs === 'none') {
				connections.set(socket, { client: place, until: Number.POSITIVE_INFINITY, response: undefined });
				return;
			}
			const { until, ...peer } = peerOf(socket, tls?.names ?? {});
			const client = Object.freeze({ ...place, ...peer });
			const connection: Connection = { client, until, response: undefined };
			connections.set(socket, connection);
			if (peer.certname === '') return;
			this.#certified.set(socket, connection);
			socket.once('close', () => this.#certified.delete(socket));
		});
		if (certificate) server.on('tlsClientError', (error, socket) => this.#refusedByTls(error, socket));
		const handle = (request: http.IncomingMessage, response: http.ServerResponse) => {
			const connection = connections.get(request.socket);
			if (connection) connection.response = response;
			this.#handle(request, response);
		};
		server.on('request', handle);
		// Whoever waits for "100 Continue" gets it when, and only if, its body is going to be read.
		server.on('checkContinue', handle);
		server.on('clientError', refuse);
		return server;
	}

	/**
	 * Listens on a socket that is bound already. It has to be one that routes.yaml has too: who may call a route was decided by
	 * the addresses there. No connection is taken before that is known, as none is while this turn of the event loop lasts.
	 */
	#take(socket: number, certificate: Certificate | undefined): ListeningAddress & { configured: string } {
		const path = unixPathOf(socket);
		const server = this.#server(certificate, path !== undefined);
		this.#servers.push(server);
		server.on('error', (error) =>
			this.#log.error('a connection could not be taken', { address: shown, error: error.message }),
		);
		server.listen({ fd: socket });
		const bound = path === undefined ? (server.address() as AddressInfo | null) : null;
		const shown =
			path !== undefined
				? `unix:${path}`
				: bound
					? shownAddress(bound.address, bound.port)
					: `socket ${socket}`;
		const { address: addresses, port, tls } = this.#listen;
		const configured = addresses.find((address) =>
			path !== undefined ? address === shown : bound !== null && normalised(address) === bound.address,
		);
		if (configured === undefined || (bound && port !== 0 && port !== bound.port)) {
			throw new ListenError(
				`was handed a socket for ${shown}, where routes.yaml does not listen; make ListenStream= of the socket unit ` +
					'agree with listen.address and listen.port',
			);
		}
		server.on('drop', () => this.#dropped(configured));
		const url = bound ? `${tls ? 'https' : 'http'}://${callableAddress(configured, bound.port)}` : shown;
		return { address: shown, url, configured };
	}

	async #open(server: http.Server, address: string): Promise<ListeningAddress> {
		const { port, tls } = this.#listen;
		const path = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined;
		if (path !== undefined) await removeStaleSocket(path);
		// A socket may be written by its owner and group, such as a web server's, and by nobody else, from its first moment.
		const umask = path === undefined ? undefined : process.umask(0o117);
		try {
			// `::` would take IPv4's "every address" as well, which the list has as an entry of its own.
			const ipv6Only = address === '::' && this.#listen.address.includes('0.0.0.0');
			server.listen(path === undefined ? { host: address, port, ipv6Only } : { path });
		} finally {
			if (umask !== undefined) process.umask(umask);
		}
		await new Promise<void>((resolve, reject) => {
			const refused = (error: Error) => reject(cannotListen(error, address, port));
			server.once('error', refused);
			server.once('listening', () => {
				server.off('error', refused);
				resolve();
			});
		});
		// Such as too many open files: bad for one caller, and no reason to leave the others alone.
		server.on('error', (error) =>
			this.#log.error('a connection could not be taken', { address, error: error.message }),
		);
		server.on('drop', () => this.#dropped(address));
		if (path !== undefined) return { address, url: address };
		const { port: actual } = server.address() as AddressInfo;
		return {
			address: shownAddress(address, actual),
			url: `${tls ? 'https' : 'http'}://${callableAddress(address, actual)}`,
		};
	}
}

function shownAddress(address: string, port: number): string {
	return net.isIPv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}

/** What this host itself calls: for "every address" one of its own. */
function callableAddress(address: string, port: number): string {
	return shownAddress(address === '::' ? '::1' : address === '0.0.0.0' ? '127.0.0.1' : address, port);
}

/** An IP address as the system writes it: `0:0::1` is `::1`. */
function normalised(address: string): string {
	if (!net.isIPv6(address)) return address;
	return new net.SocketAddress({ address, family: 'ipv6' }).address;
}

/** The path of a unix socket by its file descriptor, which Node does not tell; undefined for any other socket. */
function unixPathOf(socket: number): string | undefined {
	const inode = /^socket:\[(\d+)\]$/.exec(fs.readlinkSync(`/proc/self/fd/${socket}`))?.[1];
	if (inode === undefined) return undefined;
	// Num RefCount Protocol Flags Type St Inode Path
	const line = new RegExp(`^(?:\\S+\\s+){6}${inode} (/.*)$`, 'm');
	return line.exec(fs.readFileSync('/proc/net/unix', 'latin1'))?.[1];
}

/** Removes the socket file that a listener left behind which could not tidy up. @throws ListenError when it is in use */
async function removeStaleSocket(path: string): Promise<void> {
	const found = fs.lstatSync(path, { throwIfNoEntry: false });
	if (found === undefined) {
		// The system's own word for this would be EACCES.
		if (!fs.existsSync(dirname(path))) throw cannotListen({ code: 'ENOENT' }, `unix:${path}`, 0);
		return;
	}
	if (!found.isSocket()) {
		throw new ListenError(
			`cannot listen on unix:${path}: there is a file that is no socket; choose another path`,
		);
	}
	const answers = await new Promise<boolean>((resolve) => {
		const probe = net.connect(path);
		probe.once('connect', () => resolve(true));
		probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'ECONNREFUSED'));
		probe.once('connect', () => probe.destroy());
	});
	if (answers) throw cannotListen({ code: 'EADDRINUSE' }, `unix:${path}`, 0);
	fs.unlinkSync(path);
}

/** The system's refusal in words that help. */
function cannotListen(
	error: { code?: string; message?: string },
	address: string,
	port: number,
): ListenError {
	const unix = address.startsWith('unix:');
	const remedies: Record<string, string> = {
		EADDRINUSE: unix
			? 'another program listens there; stop it, or set listen.address'
			: `another program listens there (\`ss -ltnp sport = :${port}\` names it); stop it, or set listen.port`,
		EACCES: unix
			? 'the directory may not be written by the user the listener runs as'
			: 'ports below 1024 need a privilege (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE); grant it, or set listen.port',
		EADDRNOTAVAIL: 'this host has no such address; set listen.address to one it has, or to "::" for all',
		EAFNOSUPPORT: 'this host has no IPv6; set listen.address to an IPv4 address, 0.0.0.0 for all',
		ENOENT: 'the directory does not exist; create it, or set listen.address',
	};
	const place = unix ? address : `${address} port ${port}`;
	const remedy = remedies[error.code ?? ''] ?? error.message;
	return new ListenError(`cannot listen on ${place}: ${remedy}`, { cause: error });
}

/** Answers what never became a request: a header that is broken, too large or too slow. */
function refuse(error: NodeJS.ErrnoException, socket: Duplex): void {
	// Told already, and what the peer still sends is not worth another word.
	if (socket.writableEnded && !socket.destroyed) return;
	const response = connections.get(socket)?.response;
	const answering = response?.headersSent && !response.writableFinished;
	if (error.code === 'ECONNRESET' || !socket.writable || answering) {
		socket.destroy();
		return;
	}
	const [status, code, message] = refusals[error.code ?? ''] ?? malformed;
	const body = problemJson({ status, code, message });
	socket.end(
		`HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\nContent-Type: ${problemType}\r\n` +
			`Content-Length: ${Buffer.byteLength(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n${body}`,
	);
	setTimeout(() => socket.destroy(), lingering);
}

type Refusal = readonly [status: number, code: string, message: string];
const malformed: Refusal = [400, 'ERR_BAD_REQUEST', 'the request is not valid HTTP'];
const refusals: Readonly<Record<string, Refusal>> = {
	HPE_HEADER_OVERFLOW: [
		431,
		'ERR_HEADER_TOO_LARGE',
		`path and header are larger than ${maxHeader} bytes together`,
	],
	HPE_INVALID_CONTENT_LENGTH: [400, 'ERR_BAD_REQUEST', 'Content-Length is not a number'],
	HPE_CHUNK_EXTENSIONS_OVERFLOW: [
		413,
		'ERR_BODY_TOO_LARGE',
		'the chunk extensions of the body are too large',
	],
	ERR_HTTP_REQUEST_TIMEOUT: [
		408,
		'ERR_REQUEST_TIMEOUT',
		'the request did not arrive in time (listen.header_timeout)',
	],
};
