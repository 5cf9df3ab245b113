/**
 * Where the Puppet agent of this host has its certificate, key, CA and CRLs: read from puppet.conf by Puppet's own rules,
 * without starting Puppet, which takes seconds and which a host may have under any of several names.
 */

import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { load } from 'js-yaml';
import { type ExtensionNames, isTrustedExtension, puppetExtensionNames } from '../certificates/identity.ts';

/** Where Puppet keeps its settings for the whole host: of Puppet's and OpenVox' own packages, and of Debian's. */
const systemDirectories = ['/etc/puppetlabs/puppet', '/etc/puppet'] as const;
/** The same for a user who is not root, below the home directory. */
const userDirectories = ['.puppetlabs/etc/puppet', '.puppet/etc'] as const;
/** Debian's packages, and Puppet 3, keep certificates apart from settings. */
const debian = { confdir: '/etc/puppet', ssldir: '/var/lib/puppet/ssl' } as const;

/** What a Puppet agent uses for TLS. Paths are absolute. */
export interface PuppetTls {
	readonly cert: string;
	readonly key: string;
	readonly ca: string;
	/** undefined: Puppet is told not to look at revocation (`certificate_revocation = false`). */
	readonly crl: string | undefined;
	/** Of extensions that are the organisation's own. */
	readonly names: ExtensionNames;
}

/**
 * @param confdir Puppet's own setting; without it that of the user who runs this, else that of the host
 * @returns the files, none of them looked at; or why Puppet's settings do not tell them
 */
export function puppetTls(confdir: string | undefined): PuppetTls | string {
	const directory = confdir ?? usualDirectory();
	if (directory === undefined) {
		return `finds no settings of Puppet: neither ${systemDirectories.join(' nor ')} is there. Install the Puppet agent, or say { puppet: DIRECTORY } with its confdir, or {cert, key, ca, crl}`;
	}
	const conf = path.join(directory, 'puppet.conf');
	let text = '';
	try {
		text = fs.readFileSync(conf, 'utf8');
	} catch (error) {
		const { code } = error as NodeJS.ErrnoException;
		// Puppet does without one as well, but not where somebody said that it is here.
		if (code !== 'ENOENT' || confdir !== undefined) return `cannot read ${conf} (${code})`;
	}
	try {
		return tlsOf(new Settings(directory, text));
	} catch (error) {
		if (!(error instanceof Unclear)) throw error;
		return `${conf}: ${error.message}`;
	}
}

function usualDirectory(): string | undefined {
	const own = userDirectories.map((name) => path.join(os.homedir(), name));
	// Puppet run by another user than root never looks at the host's settings; the listener, which has a user of its own so
	// that it is not root, is meant to have the host's certificate, unless that user has Puppet settings too.
	const candidates = process.getuid?.() === 0 ? systemDirectories : [...own, ...systemDirectories];
	return (
		candidates.find((directory) => fs.existsSync(path.join(directory, 'puppet.conf'))) ??
		systemDirectories.find((directory) => fs.existsSync(directory))
	);
}

/** The settings do not say what is asked, in a sentence. */
class Unclear extends Error {}

/** Settings of an agent: its own section counts before [main]; values may hold others, as $name or ${name}. */
class Settings {
	readonly #written: ReadonlyMap<string, string>;
	readonly #defaults: Readonly<Record<string, string | (() => string)>>;

	constructor(confdir: string, text: string) {
		this.#written = readSettings(text);
		this.#defaults = {
			confdir,
			ssldir:
				confdir === debian.confdir && !fs.existsSync(path.join(confdir, 'ssl'))
					? debian.ssldir
					: '$confdir/ssl',
			certdir: '$ssldir/certs',
			privatekeydir: '$ssldir/private_keys',
			certname: () => this.#onlyCertname(),
			hostcert: '$certdir/$certname.pem',
			hostprivkey: '$privatekeydir/$certname.pem',
			localcacert: '$certdir/ca.pem',
			hostcrl: '$ssldir/crl.pem',
			certificate_revocation: 'chain',
			trusted_oid_mapping_file: '$confdir/custom_trusted_oid_mapping.yaml',
			run_mode: 'agent',
		};
	}

	/** @throws Unclear */
	get(name: string, asking: readonly string[] = []): string {
		const value = this.#written.get(name) ?? this.#defaults[name];
		if (value === undefined) throw new Unclear(`${asking.at(-1)} holds $${name}, which is not set there`);
		if (typeof value !== 'string') return value();
		if (asking.includes(name)) throw new Unclear(`${name} is told by itself`);
		return value.replace(/\$(?:(\w+)|\{(\w+)\})/g, (_, bare, braced) =>
			this.get(bare ?? braced, [...asking, name]),
		);
	}

	/**
	 * Puppet asks Facter for the host's name and domain, which asks the resolver. Here the certificates that there are tell it,
	 * which is the answer that counts: any other name has none.
	 */
	#onlyCertname(): string {
		const host = os.hostname().toLowerCase();
		const directory = this.get('certdir');
		let names: string[];
		try {
			names = fs.readdirSync(directory).flatMap((file) => (file.endsWith('.pem') ? file.slice(0, -4) : []));
		} catch (error) {
			const { code } = error as NodeJS.ErrnoException;
			throw new Unclear(
				code === 'ENOENT'
					? `there is no ${directory}, where the agent's certificate would be; run \`puppet agent --test\` or \`puppet ssl bootstrap\` first`
					: `certname is not set, and ${directory} cannot be read (${code})`,
			);
		}
		const [short = host] = host.split('.');
		const ours = names.filter((name) => name === host || name === short || name.startsWith(`${short}.`));
		const exact = ours.find((name) => name === host);
		if (exact !== undefined) return exact;
		if (ours.length === 1) return ours[0]!;
		const found = ours.length === 0 ? `has none for ${host}` : `has ${ours.join(' and ')}`;
		throw new Unclear(
			`certname is not set, and ${directory} ${found}; set it: puppet config set certname NAME --section main`,
		);
	}
}

/** The first of each setting counts, as in Puppet. @throws Unclear */
function readSettings(text: string): Map<string, string> {
	const sections = { agent: new Map<string, string>(), main: new Map<string, string>() };
	let section: string = 'main';
	for (const [index, line] of text.split(/\r?\n/).entries()) {
		if (/^\s*(#|$)/.test(line)) continue;
		const [, header] = /^\s*\[(\w+)\]\s*$/.exec(line) ?? [];
		if (header !== undefined) {
			section = header;
			continue;
		}
		const [, name, value = ''] = /^\s*(\w+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
		if (name === undefined) throw new Unclear(`line ${index + 1} is no setting; Puppet refuses it too`);
		if (section !== 'agent' && section !== 'main') continue;
		// Puppet admits { owner = …, group = …, mode = … } behind paths.
		const bare = value.replace(/\{\s*(?:owner|group|mode)\s*=[^}]*\}\s*$/, '').trimEnd();
		if (!sections[section].has(name)) sections[section].set(name, bare);
	}
	return new Map([...sections.main, ...sections.agent]);
}

function tlsOf(settings: Settings): PuppetTls {
	const revocation = settings.get('certificate_revocation');
	return {
		cert: settings.get('hostcert'),
		key: settings.get('hostprivkey'),
		ca: settings.get('localcacert'),
		crl: revocation === 'false' ? undefined : settings.get('hostcrl'),
		names: readNames(settings.get('trusted_oid_mapping_file')),
	};
}

/** The names of custom_trusted_oid_mapping.yaml, which need not be there. @throws Unclear */
function readNames(file: string): ExtensionNames {
	let mapping: unknown;
	try {
		mapping = (load(fs.readFileSync(file, 'utf8')) as { oid_mapping?: unknown } | null)?.oid_mapping;
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {};
		throw new Unclear(`${file} cannot be read: ${(error as Error).message}`);
	}
	if (mapping === null || typeof mapping !== 'object') {
		throw new Unclear(`${file} has no map "oid_mapping"; Puppet refuses it too`);
	}
	const taken = new Set(Object.values(puppetExtensionNames));
	const names: Record<string, string> = {};
	for (const [oid, told] of Object.entries(mapping)) {
		const name = (told as { shortname?: unknown } | null)?.shortname;
		if (typeof name !== 'string') throw new Unclear(`${file} gives ${oid} no "shortname"`);
		// Such as pp_role: whoever may have the one signed would pass for whom Puppet gave the other.
		if (taken.has(name)) {
			throw new Unclear(
				`${file} gives ${oid} the name ${name}, which is another extension's; give it one of its own`,
			);
		}
		taken.add(name);
		if (isTrustedExtension(oid)) names[oid] = name;
	}
	return Object.freeze(names);
}
