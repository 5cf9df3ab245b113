/** IP addresses and networks, as routes.yaml names them. */

import net from 'node:net';
import { z } from 'zod';

/** An address without what says the same in other words: `::ffff:127.0.0.1` is `127.0.0.1`, `fe80::1%eth0` is `fe80::1`. */
export function plainAddress(written: string): string {
	const zone = written.indexOf('%');
	const address = zone < 0 ? written : written.slice(0, zone);
	// What an IPv4 peer looks like to a dual-stack socket.
	return /^::ffff:[\d.]+$/i.test(address) ? address.slice('::ffff:'.length) : address;
}

/** Whether text is an address, or a network such as `10.0.0.0/8`. */
export function isNetwork(text: string): boolean {
	return parse(text) !== undefined;
}

interface Network {
	readonly address: string;
	readonly bits: number;
	readonly family: 'ipv4' | 'ipv6';
}

function parse(text: string): Network | undefined {
	const [, address = '', given] = /^([0-9A-Fa-f.:]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
	const version = net.isIP(address);
	if (version === 0) return undefined;
	const most = version === 4 ? 32 : 128;
	const bits = given === undefined ? most : Number(given);
	return bits <= most ? { address, bits, family: version === 4 ? 'ipv4' : 'ipv6' } : undefined;
}

/** Some networks, of both families. */
export class Networks {
	readonly #list = new net.BlockList();

	/** @param written each of which `isNetwork` takes */
	constructor(written: readonly string[]) {
		for (const text of written) {
			const { address, bits, family } = parse(text)!;
			this.#list.addSubnet(address, bits, family);
		}
	}

	/** @param address as `plainAddress` gives it; what is none lies in no network */
	has(address: string): boolean {
		const version = net.isIP(address);
		return version !== 0 && this.#list.check(address, version === 4 ? 'ipv4' : 'ipv6');
	}
}

/** An address or network in routes.yaml. */
export const networkSchema = z.string().refine(isNetwork, {
	error: 'must be an address or a network, such as 10.0.0.0/8 or 2001:db8::/32',
});
