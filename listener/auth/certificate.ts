/**
 * `certificate`: the caller has shown a certificate that TLS found to be good: signed by the CA, neither expired nor revoked,
 * its key at hand. On Puppet's CA that is every node, with no secret to be handed out.
 */

import { z } from 'zod';
import { puppetExtensionNames } from '../certificates/identity.ts';
import { matcherOf } from './globs.ts';
import { type AuthKind, admitted, forbidden, unknown } from './kind.ts';
import { broughtAbout } from './open.ts';

const globs = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)], {
	error: 'must be a text in which * stands for any characters, or a list of such texts',
});

const options = z
	.strictObject({
		certname: globs.optional().meta({
			description:
				'The names admitted: texts in which * stands for any characters, dots too, and ? for one. Default: any.',
		}),
		extensions: z.record(z.string(), globs).optional().meta({
			description:
				'Trusted extensions that the certificate has to have, by their names, such as pp_role, or their object identifiers; with the values admitted, as for certname.',
		}),
	})
	.meta({ description: 'A certificate of the CA of listen.tls, such as every Puppet node has.' });

/** Refuses with 401 who has shown none, and with 403 who has shown another's. */
export const certificate: AuthKind<z.output<typeof options>> = {
	name: 'certificate',
	options,
	compile({ certname, extensions }, { name, certificates, fault }) {
		if (!certificates) {
			fault('callers are not asked for certificates: set listen.client_certs to optional, or to required');
		}
		if (certname === undefined && extensions === undefined) {
			fault('must say a "certname" or "extensions"; certname: "*" admits every certificate of the CA');
		}
		const wanted = Object.entries(extensions ?? {}).map(([extension, values]) => {
			if (/^pp_/.test(extension) && !known.has(extension)) {
				fault(`is none of Puppet's extensions; those are ${[...known].join(', ')}`, 'extensions', extension);
			}
			return { extension, matches: matcherOf([values].flat()) };
		});
		const admits = certname === undefined ? () => true : matcherOf([certname].flat());
		return {
			kind: 'certificate',
			name,
			check(delivery) {
				const { client } = delivery;
				if (client.distrust !== '') return unknown(`the certificate is not trusted: ${client.distrust}`);
				if (client.certname === '') return unknown('no certificate was shown');
				if (!admits(client.certname)) return forbidden(`the certname "${client.certname}" is not admitted`);
				for (const { extension, matches } of wanted) {
					const value = Object.hasOwn(client.extensions, extension)
						? client.extensions[extension]
						: undefined;
					if (value === undefined) return forbidden(`"${client.certname}" has no extension ${extension}`);
					if (!matches(value)) return forbidden(`"${client.certname}" has another ${extension}`);
				}
				// A browser shows the certificate that it was given whichever page has it call.
				const page = broughtAbout(delivery);
				return page === undefined ? admitted(`certificate ${client.certname}`) : forbidden(page);
			},
		};
	},
};

const known = new Set(Object.values(puppetExtensionNames));
