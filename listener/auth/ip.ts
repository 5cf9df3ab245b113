/** `ip`: the caller's address lies in one of some networks. It is that of the connection, or what trusted proxies say. */

import { z } from 'zod';
import { Networks, networkSchema } from './addresses.ts';
import { type AuthKind, admitted, forbidden } from './kind.ts';
import { isOwnName } from './local.ts';
import { broughtAbout } from './open.ts';

export const ip: AuthKind<string | readonly string[]> = {
	name: 'ip',
	options: z
		.union([networkSchema, z.array(networkSchema).min(1)], {
			error: 'must be an address or a network such as 10.0.0.0/8, or a list of these',
		})
		.meta({ description: 'Addresses and networks, IPv4 and IPv6, that callers may have.' }),
	compile(written, making) {
		const networks = new Networks([written].flat());
		return {
			kind: 'ip',
			name: making.name,
			check(delivery) {
				const { ip: address, loopback } = delivery.client;
				if (!networks.has(address)) return forbidden(`the address ${address} is not among those admitted`);
				// A browser at that address would let any page call from there.
				const page = broughtAbout(delivery);
				if (page !== undefined) return forbidden(page);
				const { host } = delivery.headers;
				if (loopback && host !== undefined && !isOwnName(String(host))) {
					return forbidden(
						'the host was called by a name that is not its own, as a web page can bring about',
					);
				}
				return admitted(`address ${address}`);
			},
		};
	},
};
