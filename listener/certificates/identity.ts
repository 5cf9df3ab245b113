/**
 * What a certificate of the Puppet CA says about its owner: the certname, and the trusted extensions under the names that
 * Puppet has for them (`$trusted['extensions']` in manifests).
 */

import type { X509Certificate } from 'node:crypto';
import type { Client } from '../delivery.ts';
import { DerError, oidOf, partsOf, readAll, readOne, type Tlv, tags, textOf } from './der.ts';

/** Names of trusted extensions by object identifier. */
export type ExtensionNames = Readonly<Record<string, string>>;

/** Below which Puppet has its extensions: registered (1), an organisation's own (2), for authorization (3). */
const registered = '1.3.6.1.4.1.34380.1.1';
const own = '1.3.6.1.4.1.34380.1.2';
const authorization = '1.3.6.1.4.1.34380.1.3';

/** Registered ones in the order of their numbers, from 1 on. */
const registeredNames = [
	...['pp_uuid', 'pp_instance_id', 'pp_image_name', 'pp_preshared_key', 'pp_cost_center', 'pp_product'],
	...['pp_project', 'pp_application', 'pp_service', 'pp_employee', 'pp_created_by', 'pp_environment'],
	...['pp_role', 'pp_software_version', 'pp_department', 'pp_cluster', 'pp_provisioner', 'pp_region'],
	...['pp_datacenter', 'pp_zone', 'pp_network', 'pp_securitypolicy', 'pp_cloudplatform', 'pp_apptier'],
	...['pp_hostname', 'pp_owner'],
];

/** The names that Puppet itself gives; an organisation adds those of custom_trusted_oid_mapping.yaml. */
export const puppetExtensionNames: ExtensionNames = Object.freeze({
	...Object.fromEntries(registeredNames.map((name, index) => [`${registered}.${index + 1}`, name])),
	[`${authorization}.1`]: 'pp_authorization',
	[`${authorization}.13`]: 'pp_auth_role',
	// What `puppetserver ca` gives to the certificate of the CA's own administrator.
	[`${authorization}.39`]: 'pp_cli_auth',
});

/** True for what Puppet takes for a trusted extension. */
export function isTrustedExtension(oid: string): boolean {
	return [registered, own, authorization].some((arc) => oid.startsWith(`${arc}.`));
}

const commonName = '2.5.4.3';

/** As Puppet admits them: printable ASCII without a slash. */
const certnamePattern = /^[ -.0-~]+$/;

/**
 * Reads a certificate that TLS has verified.
 * @param names of an organisation's own extensions; what has no name there comes under its object identifier
 * @throws DerError when it does not say exactly one certname, or says an extension twice
 */
export function identityOf(
	{ raw }: Pick<X509Certificate, 'raw'>,
	names: ExtensionNames,
): Pick<Client, 'certname' | 'extensions'> {
	const fields = signedFields(raw);
	const extensions = fields.find(({ tag }) => tag === tags.context3);
	return Object.freeze({ certname: certnameOf(fields[4]), extensions: extensionsOf(extensions, names) });
}

/** A certificate's subject, byte for byte as the lists of revoked certificates of that CA name it. @throws DerError */
export function subjectOf({ raw }: Pick<X509Certificate, 'raw'>): Buffer {
	const subject = signedFields(raw)[4];
	if (subject?.tag !== tags.sequence) throw new DerError('it has no subject');
	return subject.whole;
}

/** What the CA has signed: serial number, algorithm, issuer, validity, subject, and so on. */
function signedFields(raw: Buffer): Tlv[] {
	const [signed] = partsOf(readOne(raw), tags.sequence);
	const fields = partsOf(signed, tags.sequence);
	// The first versions of certificates do not say which they are.
	return fields[0]?.tag === tags.integer ? fields : fields.slice(1);
}

function certnameOf(subject: Tlv | undefined): string {
	const found = partsOf(subject, tags.sequence)
		.flatMap((set) => partsOf(set, tags.set))
		.map((attribute) => partsOf(attribute, tags.sequence))
		.filter(([type]) => oidOf(type) === commonName)
		.map(([, value]) => (value === undefined ? undefined : textOf(value)));
	const [name] = found;
	if (found.length !== 1 || name === undefined || !certnamePattern.test(name)) {
		throw new DerError('its subject has not exactly one common name that is a certname');
	}
	return name;
}

function extensionsOf(tagged: Tlv | undefined, names: ExtensionNames): Client['extensions'] {
	const found: Record<string, string> = Object.create(null);
	if (tagged === undefined) return Object.freeze(found);
	for (const extension of partsOf(readOne(tagged.content), tags.sequence)) {
		const [id, ...rest] = partsOf(extension, tags.sequence);
		const oid = oidOf(id);
		if (!isTrustedExtension(oid)) continue;
		const name = puppetExtensionNames[oid] ?? names[oid] ?? oid;
		if (name in found) throw new DerError(`it has the extension ${name} twice`);
		// Before it there may be whether it is critical.
		found[name] = valueIn(rest.at(-1));
	}
	return Object.freeze(found);
}

/** Text in DER; old versions of Puppet wrote the bare text (PUP-3560). */
function valueIn(octets: Tlv | undefined): string {
	if (octets?.tag !== tags.octetString) throw new DerError('an extension has no value');
	try {
		const [value, ...more] = readAll(octets.content);
		const text = value === undefined || more.length > 0 ? undefined : textOf(value);
		if (text !== undefined) return text;
	} catch (error) {
		if (!(error instanceof DerError)) throw error;
	}
	return octets.content.toString('utf8');
}
