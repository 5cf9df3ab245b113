/** Where and how to listen: what the file says, completed, and tried out as far as one can without listening. */

import { X509Certificate } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import type { z } from 'zod';
import { Proxies } from '../auth/proxies.ts';
import { type ExtensionNames, subjectOf } from '../certificates/identity.ts';
import { readRevocationLists } from '../certificates/revocation.ts';
import { puppetTls } from './puppet.ts';
import type { clientCertificates, listenSchema } from './schema.ts';
import type { Key } from './yaml.ts';

/** What TLS needs: paths of PEM files, and names. */
export interface ListenTls {
	/** The certificate, followed by the intermediate ones. */
	readonly cert: string;
	readonly key: string;
	/** The CA whose certificates callers may show, with all above it. */
	readonly ca?: string | undefined;
	/** The lists of revoked certificates, one of each of these CAs. */
	readonly crl?: string | undefined;
	/** Of trusted extensions, beside those that Puppet names. */
	readonly names: ExtensionNames;
}

export type ClientCertificates = (typeof clientCertificates)[number];

/** Every default filled in. Times in milliseconds, sizes in bytes, paths absolute. */
export interface Listen {
	/** IP addresses and `unix:/path`s; at least one. */
	readonly address: readonly string[];
	/** 0: any free one. */
	readonly port: number;
	/** undefined for plain HTTP. */
	readonly tls: ListenTls | undefined;
	readonly client_certs: ClientCertificates;
	/** Those that are believed when they say who calls. */
	readonly proxies: Proxies;
	readonly max_body: number;
	readonly header_timeout: number;
	readonly body_timeout: number;
}

export interface ListenFault {
	/** From `listen` on. */
	readonly key: Key;
	readonly message: string;
}

/**
 * @param written the section `listen`, its shape already checked
 * @param directory where relative paths begin
 */
export function compileListen(
	written: z.output<typeof listenSchema>,
	directory: string,
): { listen: Listen; faults: ListenFault[]; notes: string[] } {
	const address = [written.address ?? '127.0.0.1'].flat();
	const twice = address.flatMap((given, index) =>
		address.indexOf(given) < index ? [{ key: ['address', index], message: `"${given}" is there twice` }] : [],
	);
	const client_certs = written.client_certs ?? 'none';
	const given = tlsOf(written.tls, directory);
	const files = typeof given === 'string' ? noFiles : given;
	const listen: Listen = {
		address: Object.freeze(address),
		port: written.port ?? 6969,
		tls: files && Object.freeze(files),
		client_certs,
		proxies: new Proxies([written.trusted_proxies ?? []].flat()),
		max_body: written.max_body ?? 25 * 1024 ** 2,
		header_timeout: written.header_timeout ?? 10_000,
		body_timeout: written.body_timeout ?? 30_000,
	};
	const asking = client_certs !== 'none';
	const faults = [...twice, ...(asking ? askingFaults(written.tls !== undefined, files) : [])];
	if (typeof given === 'string') faults.push({ key: ['tls'], message: given });
	else if (files) faults.push(...tlsFaults(files, asking, isPuppet(written.tls)));
	const unaware = asking && files?.ca !== undefined && files.crl === undefined;
	const notes = unaware ? [unawareOf(isPuppet(written.tls))] : [];
	return { listen: Object.freeze(listen), faults, notes };
}

type WrittenTls = z.output<typeof listenSchema>['tls'];

function isPuppet(written: WrittenTls): boolean {
	return written === 'puppet' || (written !== undefined && 'puppet' in written);
}

/** For a configuration that says TLS and not with what, so that whoever calls it knows at least that. */
const noFiles: ListenTls = Object.freeze({ cert: '', key: '', names: {} });

/** Why, as a sentence, when Puppet's settings are asked and do not tell. */
function tlsOf(written: WrittenTls, directory: string): ListenTls | string | undefined {
	if (written === undefined) return undefined;
	if (written === 'puppet') return puppetTls(undefined);
	if ('puppet' in written) return puppetTls(path.resolve(directory, written.puppet));
	const { cert, key, ca, crl } = written;
	return {
		cert: path.resolve(directory, cert),
		key: path.resolve(directory, key),
		...(ca === undefined ? {} : { ca: path.resolve(directory, ca) }),
		...(crl === undefined ? {} : { crl: path.resolve(directory, crl) }),
		names: {},
	};
}

function askingFaults(written: boolean, files: ListenTls | undefined): ListenFault[] {
	const key = ['client_certs'];
	if (!written)
		return [
			{ key, message: 'needs listen.tls: certificates are a part of TLS; say "tls: puppet", for example' },
		];
	// Node would take those of the system instead, and so the certificate of anybody who has ever bought one.
	if (files !== noFiles && files?.ca === undefined)
		return [{ key, message: 'needs listen.tls.ca: the CA whose certificates callers have to show' }];
	return [];
}

function unawareOf(puppet: boolean): string {
	return puppet
		? 'listen.tls: revoked certificates are admitted, as puppet.conf says certificate_revocation = false'
		: 'listen.tls: revoked certificates are admitted, as "crl" is not said';
}

const pemNames = {
	cert: 'certificate',
	key: 'private key',
	ca: 'CA certificates',
	crl: 'revocation lists (CRLs)',
} as const;

/**
 * Uses the files as a server would, so that `check` refuses what `serve` could not use.
 * @param asking callers are asked for certificates
 * @param puppet the files are those that Puppet's settings tell, and keys lead to `tls` alone
 */
function tlsFaults(files: ListenTls, asking: boolean, puppet: boolean): ListenFault[] {
	const faults: ListenFault[] = [];
	const fault = (name: keyof typeof pemNames, message: string) => {
		faults.push({ key: puppet ? ['tls'] : ['tls', name], message });
	};
	const contents: { cert?: Buffer; key?: Buffer; ca?: Buffer; crl?: Buffer } = {};
	for (const name of ['cert', 'key', 'ca', 'crl'] as const) {
		const file = files[name];
		if (file === undefined) continue;
		try {
			const content = fs.readFileSync(file);
			if (name === 'crl') readLists(content);
			else tls.createSecureContext({ [name]: content });
			contents[name] = content;
		} catch (error) {
			fault(name, `${file} ${unusable(name, file, error as NodeJS.ErrnoException, puppet)}`);
		}
	}
	if (contents.cert && contents.key) {
		try {
			tls.createSecureContext({ cert: contents.cert, key: contents.key });
		} catch {
			const message = `${files.key} is not the key of the certificate ${files.cert}, whose first certificate has to be the host's own`;
			fault('key', message);
		}
	}
	if (asking && contents.ca && contents.crl) {
		const missing = withoutList(contents.ca, contents.crl);
		if (missing.length > 0) {
			const message = `${files.crl} has no revocation list of ${missing.join(' and ')}, without which TLS refuses every certificate; it has to hold one of each CA in ${files.ca}`;
			fault('crl', message);
		}
	}
	return faults;
}

function readLists(content: Buffer): ReturnType<typeof readRevocationLists> {
	const lists = readRevocationLists(content.toString('latin1'));
	if (lists.length === 0) throw new Error('there is no BEGIN X509 CRL');
	return lists;
}

/** Names of CAs of which there is no revocation list. */
function withoutList(ca: Buffer, crl: Buffer): string[] {
	const lists = readLists(crl);
	const certificates = ca
		.toString('latin1')
		.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g);
	return (certificates ?? []).flatMap((pem) => {
		const certificate = new X509Certificate(pem);
		const subject = subjectOf(certificate);
		return lists.some(({ issuer }) => issuer.equals(subject))
			? []
			: certificate.subject.replaceAll('\n', ', ');
	});
}

function unusable(
	name: keyof typeof pemNames,
	file: string,
	{ code, syscall, message }: NodeJS.ErrnoException,
	puppet: boolean,
): string {
	if (code === 'ENOENT') {
		return puppet
			? 'does not exist: the Puppet agent of this host has no certificate yet; run `puppet agent --test` or `puppet ssl bootstrap` first'
			: 'does not exist';
	}
	if (syscall !== undefined) {
		return `cannot be read by the user the listener runs as, ${os.userInfo().username} (${code})${groupRemedy(file)}`;
	}
	if (code === 'ERR_MISSING_PASSPHRASE' || /passphrase|password|bad decrypt/i.test(message)) {
		return 'is encrypted; give the key without a passphrase, readable by the listener only';
	}
	return `holds no ${pemNames[name]} in PEM form (${message})`;
}

/** Which group the user would have to be in: that of the file, or of the first directory on the way that is closed. */
function groupRemedy(file: string): string {
	const above: string[] = [file];
	while (path.dirname(above[0]!) !== above[0]) above.unshift(path.dirname(above[0]!));
	const closed = above.find((place) => {
		try {
			fs.accessSync(place, place === file ? fs.constants.R_OK : fs.constants.X_OK);
			return false;
		} catch {
			return true;
		}
	});
	const found = closed === undefined ? undefined : fs.statSync(closed, { throwIfNoEntry: false });
	const wanted = closed === file ? 0o040 : 0o010;
	if (found === undefined || found.gid === 0 || (found.mode & wanted) === 0) {
		return '; let that user read it, or give the listener copies that it may read';
	}
	return `; ${closed} is open to group ${groupName(found.gid)}: add the user to it (usermod -aG ${groupName(found.gid)} ${os.userInfo().username}) and start the listener again`;
}

function groupName(gid: number): string {
	const groups = fs.existsSync('/etc/group') ? fs.readFileSync('/etc/group', 'utf8') : '';
	const line = groups.split('\n').find((one) => one.split(':')[2] === String(gid));
	return line?.split(':')[0] ?? String(gid);
}

const loopback = new net.BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** Whether another host can get to what listens at an address. */
export function isReachable(address: string): boolean {
	return !address.startsWith('unix:') && !loopback.check(address, net.isIPv6(address) ? 'ipv6' : 'ipv4');
}
