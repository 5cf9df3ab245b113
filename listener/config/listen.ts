/** Where and how to listen: what the file says, completed, and tried out as far as one can without listening. */

import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import tls from 'node:tls';
import type { z } from 'zod';
import type { listenSchema } from './schema.ts';
import type { Key } from './yaml.ts';

/** Every default filled in. Times in milliseconds, sizes in bytes, paths absolute. */
export interface Listen {
	/** IP addresses and `unix:/path`s; at least one. */
	readonly address: readonly string[];
	/** 0: any free one. */
	readonly port: number;
	/** Paths of PEM files; undefined for plain HTTP. */
	readonly tls: { readonly cert: string; readonly key: string; readonly ca?: string | undefined } | undefined;
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
): { listen: Listen; faults: ListenFault[] } {
	const address = [written.address ?? '127.0.0.1'].flat();
	const twice = address.flatMap((given, index) =>
		address.indexOf(given) < index ? [{ key: ['address', index], message: `"${given}" is there twice` }] : [],
	);
	const files = written.tls && {
		cert: path.resolve(directory, written.tls.cert),
		key: path.resolve(directory, written.tls.key),
		...(written.tls.ca === undefined ? {} : { ca: path.resolve(directory, written.tls.ca) }),
	};
	const listen: Listen = {
		address: Object.freeze(address),
		port: written.port ?? 6969,
		tls: files && Object.freeze(files),
		max_body: written.max_body ?? 25 * 1024 ** 2,
		header_timeout: written.header_timeout ?? 10_000,
		body_timeout: written.body_timeout ?? 30_000,
	};
	return { listen: Object.freeze(listen), faults: [...twice, ...(files ? tlsFaults(files) : [])] };
}

const pemNames = { cert: 'certificate', key: 'private key', ca: 'CA certificates' } as const;

/** Uses the files as a server would, so that `check` refuses what `serve` could not use. */
function tlsFaults(files: NonNullable<Listen['tls']>): ListenFault[] {
	const faults: ListenFault[] = [];
	const contents: { cert?: Buffer; key?: Buffer; ca?: Buffer } = {};
	for (const name of ['cert', 'key', 'ca'] as const) {
		const file = files[name];
		if (file === undefined) continue;
		try {
			const content = fs.readFileSync(file);
			tls.createSecureContext({ [name]: content });
			contents[name] = content;
		} catch (error) {
			faults.push({
				key: ['tls', name],
				message: `${file} ${unusable(name, error as NodeJS.ErrnoException)}`,
			});
		}
	}
	if (contents.cert && contents.key) {
		try {
			tls.createSecureContext(contents);
		} catch {
			const message = `${files.key} is not the key of the certificate ${files.cert}, whose first certificate has to be the host's own`;
			faults.push({ key: ['tls', 'key'], message });
		}
	}
	return faults;
}

function unusable(name: keyof typeof pemNames, { code, syscall, message }: NodeJS.ErrnoException): string {
	if (code === 'ENOENT') return 'does not exist';
	if (syscall !== undefined) return `cannot be read by the user the listener runs as (${code})`;
	if (code === 'ERR_MISSING_PASSPHRASE' || /passphrase|password|bad decrypt/i.test(message)) {
		return 'is encrypted; give the key without a passphrase, readable by the listener only';
	}
	return `holds no ${pemNames[name]} in PEM form (${message})`;
}

const loopback = new net.BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** Whether another host can get to what listens at an address. */
export function isReachable(address: string): boolean {
	return !address.startsWith('unix:') && !loopback.check(address, net.isIPv6(address) ? 'ipv6' : 'ipv4');
}
