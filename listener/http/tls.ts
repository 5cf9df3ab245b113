/**
 * TLS: this host's certificate, and what those of callers are judged by. Read when the listener starts, and again whenever
 * one of the files changes.
 */

import crypto, { constants } from 'node:crypto';
import fs from 'node:fs';
import type https from 'node:https';
import tls, { type TLSSocket } from 'node:tls';
import { DerError } from '../certificates/der.ts';
import { type ExtensionNames, identityOf } from '../certificates/identity.ts';
import { readRevocationLists } from '../certificates/revocation.ts';
import type { Listen } from '../config/config.ts';
import { type Client, noCertificate } from '../delivery.ts';
import { ListenError } from '../errors.ts';
import type { Log } from '../log.ts';

type Files = NonNullable<Listen['tls']>;

/** What TLS is served with. */
export interface Certificate {
	readonly options: tls.SecureContextOptions;
	/** The same as long as callers' certificates are judged the same. */
	readonly trust: string;
	/** What operators are to know of it. */
	readonly warnings: readonly string[];
}

/**
 * Milliseconds between looks at the files. Looking is the one way that sees every kind of replacement (written in place,
 * renamed, a symbolic link set elsewhere), a look costs microseconds, and a revoked certificate counts for as long at most.
 */
const lookEvery = 2000;

/** Milliseconds after a change in which the other files may follow. */
const quietFor = 200;

/**
 * Reads the files and proves that they belong together. Loading the configuration has done so too, and tells faults at length.
 * @throws ListenError when they changed since
 */
export function readCertificate({ tls: files, client_certs }: Listen): Certificate | undefined {
	if (files === undefined) return undefined;
	const asking = client_certs !== 'none';
	try {
		const ca = files.ca === undefined ? undefined : fs.readFileSync(files.ca);
		const crl = files.crl === undefined || !asking ? undefined : fs.readFileSync(files.crl, 'latin1');
		const lists = crl === undefined ? [] : readRevocationLists(crl);
		const options: tls.SecureContextOptions = {
			cert: fs.readFileSync(files.cert),
			key: fs.readFileSync(files.key),
			...(ca === undefined ? {} : { ca }),
			...(crl === undefined ? {} : { crl: lists.map(({ pem }) => pem) }),
			// Older versions are broken, and every Puppet agent since version 5 speaks this one.
			minVersion: 'TLSv1.2',
			// A resumed session repeats what was found when it began, and so a certificate that was revoked since would count on.
			...(asking ? { secureOptions: constants.SSL_OP_NO_TICKET } : {}),
		};
		tls.createSecureContext(options);
		const late = lists.filter(({ until }) => until !== null && until < Date.now()).length;
		return {
			options,
			trust: crypto.hash('sha256', JSON.stringify([ca?.toString('latin1'), crl])),
			warnings:
				late === 0
					? []
					: [
							`${files.crl}: ${late} of ${lists.length} revocation lists have run out, so no certificate is trusted until they are renewed`,
						],
		};
	} catch (error) {
		throw new ListenError(
			`the certificate ${files.cert} and the key ${files.key} cannot be used (${(error as Error).message}); both have to be readable PEM files of one pair, and so have those of the CA and its revocation lists`,
			{ cause: error },
		);
	}
}

/**
 * Keeps the servers' certificate as the files have it. Files that are broken, or half replaced, leave the old ones in use.
 * @param distrusted called when callers' certificates are judged otherwise from now on
 * @returns what ends it
 */
export function followCertificate(
	listen: Listen,
	first: Certificate,
	servers: readonly https.Server[],
	log: Log,
	distrusted: () => void,
): () => void {
	const { cert, key, ca, crl } = listen.tls as Files;
	const paths = [cert, key, ca, crl].filter((path) => path !== undefined);
	let { trust } = first;
	let settled: NodeJS.Timeout | undefined;
	const take = () => {
		try {
			const certificate = readCertificate(listen);
			if (certificate === undefined) return;
			for (const server of servers) server.setSecureContext(certificate.options);
			log.info('certificate taken up', { cert });
			for (const warning of certificate.warnings) log.warn(warning);
			if (certificate.trust !== trust) distrusted();
			trust = certificate.trust;
		} catch (error) {
			log.warn('certificate refused, the one before stays in use', { reason: (error as Error).message });
		}
	};
	// Whoever renews replaces several files, one after the other; each is noticed by itself.
	const changed = () => {
		clearTimeout(settled);
		settled = setTimeout(take, quietFor);
	};
	for (const path of paths) fs.watchFile(path, { interval: lookEvery, persistent: false }, changed);
	return () => {
		clearTimeout(settled);
		for (const path of paths) fs.unwatchFile(path, changed);
	};
}

/** Who a caller's certificate says it is. */
export interface Peer extends Pick<Client, 'certname' | 'extensions' | 'distrust'> {
	/** Milliseconds since 1970 after which it says so no longer. */
	readonly until: number;
}

const stranger: Peer = Object.freeze({ ...noCertificate, until: Number.POSITIVE_INFINITY });

/** Who is at the other end, once the handshake is done. A certificate that TLS does not trust counts as none, and why is told. */
export function peerOf(socket: TLSSocket, names: ExtensionNames): Peer {
	const certificate = socket.getPeerX509Certificate();
	if (certificate === undefined) return stranger;
	if (!socket.authorized) return { ...stranger, distrust: String(socket.authorizationError) };
	try {
		const until = certificate.validToDate.getTime();
		return { ...noCertificate, ...identityOf(certificate, names), until };
	} catch (error) {
		if (!(error instanceof DerError)) throw error;
		return { ...stranger, distrust: error.message };
	}
}
