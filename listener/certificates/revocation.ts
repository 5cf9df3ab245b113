/** Certificate revocation lists, of which a Puppet host has one for each CA in the chain, in one file. */

import { DerError, partsOf, readOne, type Tlv, tags, timeOf } from './der.ts';

export interface RevocationList {
	/** Alone, in PEM: Node reads only the first one of a text, and refuses every client for want of the others. */
	readonly pem: string;
	/** The CA that made it, as certificates have it. */
	readonly issuer: Buffer;
	/** Milliseconds since 1970, after which it counts for nothing, and so every certificate is refused; null: never. */
	readonly until: number | null;
}

const block = /-----BEGIN X509 CRL-----[^-]+-----END X509 CRL-----/g;

/** All lists in a PEM file. @throws DerError when one cannot be read */
export function readRevocationLists(pem: string): RevocationList[] {
	return (pem.match(block) ?? []).map((text) => {
		const der = Buffer.from(text.replace(/-----[^-]+-----/g, ''), 'base64');
		const [signed] = partsOf(readOne(der), tags.sequence);
		const fields = partsOf(signed, tags.sequence);
		// The version is optional, and so is the time of the next one.
		const [, issuer, , next] = fields[0]?.tag === tags.integer ? fields.slice(1) : fields;
		if (issuer?.tag !== tags.sequence) throw new DerError('it does not say which CA made it');
		return { pem: text, issuer: issuer.whole, until: isTime(next) ? timeOf(next) : null };
	});
}

function isTime(value: Tlv | undefined): value is Tlv {
	return value?.tag === tags.utcTime || value?.tag === tags.generalizedTime;
}
