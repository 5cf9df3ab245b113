/** The certificate: read when the listener starts, and again whenever its files change, without dropping a connection. */

import fs from 'node:fs';
import type https from 'node:https';
import tls from 'node:tls';
import { ListenError } from '../errors.ts';
import type { Log } from '../log.ts';

/** Paths of PEM files. */
export interface TlsFiles {
	/** The certificate, followed by the intermediate ones. */
	readonly cert: string;
	readonly key: string;
	readonly ca?: string | undefined;
}

/**
 * Milliseconds between looks at the files. Looking is the one way that sees every kind of replacement (written in place,
 * renamed, a symbolic link set elsewhere), a look costs microseconds, and certificates change weeks before they expire.
 */
const lookEvery = 2000;

/** Milliseconds after a change in which the other files may follow. */
const quietFor = 200;

/**
 * Reads the files and proves that they belong together. Loading the configuration has done so too, and tells faults at length.
 * @throws ListenError when they changed since
 */
export function readCertificate({ cert, key, ca }: TlsFiles): tls.SecureContextOptions {
	try {
		const options: tls.SecureContextOptions = {
			cert: fs.readFileSync(cert),
			key: fs.readFileSync(key),
			...(ca === undefined ? {} : { ca: fs.readFileSync(ca) }),
			// Older versions are broken, and every Puppet agent since version 5 speaks this one.
			minVersion: 'TLSv1.2',
		};
		tls.createSecureContext(options);
		return options;
	} catch (error) {
		throw new ListenError(
			`the certificate ${cert} and the key ${key} cannot be used (${(error as Error).message}); both have to be readable PEM files of one pair`,
			{ cause: error },
		);
	}
}

/**
 * Keeps the servers' certificate as the files have it. A pair that is broken, or half replaced, leaves the old one in use.
 * @returns what ends it
 */
export function followCertificate(files: TlsFiles, servers: readonly https.Server[], log: Log): () => void {
	const paths = [files.cert, files.key, ...(files.ca === undefined ? [] : [files.ca])];
	let settled: NodeJS.Timeout | undefined;
	const take = () => {
		try {
			const options = readCertificate(files);
			for (const server of servers) server.setSecureContext(options);
			log.info('certificate taken up', { cert: files.cert });
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
