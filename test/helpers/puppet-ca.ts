/**
 * A real Puppet CA for tests: root and intermediate CA and their CRLs are made by `puppetserver ca setup`, the program that
 * sets up CAs in production, and runs without a Puppet server. What that program does only through a running server (to sign
 * with extensions, to revoke, to date back) is done by openssl with the same intermediate CA's key.
 */

import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { temporaryDirectory } from './listener.ts';
import { hostTest } from './puppet.ts';

/** PEM files. */
export interface Pair {
	readonly cert: string;
	readonly key: string;
}

export interface Issue {
	/** Trusted extensions: values by object identifier. */
	readonly extensions?: Readonly<Record<string, string>>;
	/** It was valid in 2020. */
	readonly expired?: boolean;
	/** Seconds for which it is valid from now on; two days by default. */
	readonly seconds?: number;
}

/** Object identifiers of trusted extensions. */
export const oids = {
	pp_environment: '1.3.6.1.4.1.34380.1.1.12',
	pp_role: '1.3.6.1.4.1.34380.1.1.13',
	pp_auth_role: '1.3.6.1.4.1.34380.1.3.13',
	own: '1.3.6.1.4.1.34380.1.2.1',
} as const;

export function caTest(title: string, body: (t: TestContext) => Promise<void>): void {
	hostTest('puppetserver ca', title, body, "ruby -e 'require %q(puppetserver/ca/cli)' && command -v openssl");
}

export class PuppetAuthority {
	readonly dir: string;
	/** The intermediate CA and the root, as agents get them. */
	readonly ca: string;
	/** Their CRLs. */
	readonly crl: string;
	#count = 0;

	constructor() {
		this.dir = temporaryDirectory('puppet-webhook-ca-');
		const puppetConf = path.join(this.dir, 'puppet.conf');
		fs.writeFileSync(
			puppetConf,
			`[main]
certname = ca.test
server = localhost
serverport = 1
ssldir = ${this.dir}/ssl
[server]
vardir = ${this.dir}/var
cadir = ${this.dir}/ca
keylength = 2048
`,
		);
		const program = 'exit Puppetserver::Ca::Cli.run(ARGV)';
		const setup = ['-rpuppetserver/ca/cli', '-e', program, '--', 'setup', '--config', puppetConf];
		execFileSync('ruby', setup, { stdio: 'pipe' });
		this.ca = path.join(this.dir, 'ca/ca_crt.pem');
		this.crl = path.join(this.dir, 'ca/ca_crl.pem');
		const [intermediate = ''] = fs.readFileSync(this.ca, 'utf8').split(/(?<=-----END CERTIFICATE-----\n)/);
		fs.writeFileSync(path.join(this.dir, 'intermediate.pem'), intermediate);
		fs.writeFileSync(path.join(this.dir, 'index.txt'), '');
		fs.writeFileSync(
			path.join(this.dir, 'openssl.conf'),
			`[ca]
default_ca = ours
[ours]
database = ${this.dir}/index.txt
new_certs_dir = ${this.dir}
certificate = ${this.dir}/intermediate.pem
private_key = ${this.dir}/ca/ca_key.pem
default_md = sha256
default_days = 2
default_crl_days = 2
policy = any
unique_subject = no
rand_serial = yes
[any]
commonName = supplied
`,
		);
	}

	/** A certificate as this CA gives to nodes, valid for localhost and 127.0.0.1 too. */
	issue(certname: string, { extensions = {}, expired, seconds }: Issue = {}): Pair {
		const at = path.join(this.dir, `${certname}-${++this.#count}`);
		const pair = { cert: `${at}.pem`, key: `${at}.key` };
		fs.writeFileSync(
			`${at}.ext`,
			[
				`subjectAltName=DNS:${certname},DNS:localhost,IP:127.0.0.1`,
				'extendedKeyUsage=critical,serverAuth,clientAuth',
				'keyUsage=critical,digitalSignature,keyEncipherment',
				'basicConstraints=critical,CA:FALSE',
				...Object.entries(extensions).map(([oid, value]) => `${oid}=ASN1:UTF8String:${value}`),
				'',
			].join('\n'),
		);
		this.#openssl(
			...['req', '-newkey', 'rsa:2048', '-nodes', '-subj', `/CN=${certname}`],
			...['-keyout', pair.key, '-out', `${at}.csr`],
		);
		const until = new Date(Date.now() + (seconds ?? 0) * 1000).toISOString().replace(/[-:T]|\.\d+/g, '');
		const times = expired
			? ['-startdate', '20200101000000Z', '-enddate', '20200102000000Z']
			: seconds === undefined
				? []
				: ['-enddate', until];
		this.#ca('-batch', '-notext', ...times, '-extfile', `${at}.ext`, '-in', `${at}.csr`, '-out', pair.cert);
		return pair;
	}

	/** Puts the certificate on the intermediate CA's CRL; the root's stays as it is. */
	revoke(...pairs: readonly Pair[]): void {
		for (const { cert } of pairs) this.#ca('-revoke', cert);
		const fresh = path.join(this.dir, 'fresh.crl');
		this.#ca('-gencrl', '-out', fresh);
		const lists = fs.readFileSync(this.crl, 'utf8').split(/(?<=-----END X509 CRL-----\n)/);
		fs.writeFileSync(this.crl, fs.readFileSync(fresh, 'utf8') + lists.slice(1).join(''));
	}

	/** Puts another list of the intermediate CA into a file of CRLs, one that should have been renewed years ago. */
	letListRunOut(file: string): void {
		const old = path.join(this.dir, 'old.crl');
		const times = ['-crl_lastupdate', '20200101000000Z', '-crl_nextupdate', '20200102000000Z'];
		this.#ca('-gencrl', ...times, '-out', old);
		const lists = fs.readFileSync(this.crl, 'utf8').split(/(?<=-----END X509 CRL-----\n)/);
		replaceFile(file, fs.readFileSync(old, 'utf8') + lists.slice(1).join(''));
	}

	/**
	 * Lays files out as a Puppet agent with this certificate has them, below a directory of settings.
	 * @returns that directory
	 */
	layOutAgent(pair: Pair, certname: string, settings = `certname = ${certname}\n`): string {
		const confdir = temporaryDirectory('puppet-webhook-agent-');
		fs.writeFileSync(path.join(confdir, 'puppet.conf'), `[main]\n${settings}`);
		for (const [from, to] of [
			[this.ca, 'certs/ca.pem'],
			[this.crl, 'crl.pem'],
			[pair.cert, `certs/${certname}.pem`],
			[pair.key, `private_keys/${certname}.pem`],
		] as const) {
			replaceFile(path.join(confdir, 'ssl', to), fs.readFileSync(from));
		}
		return confdir;
	}

	#ca(...args: readonly string[]): void {
		this.#openssl('ca', '-config', path.join(this.dir, 'openssl.conf'), ...args);
	}

	#openssl(...args: readonly string[]): void {
		execFileSync('openssl', args, { stdio: 'pipe' });
	}
}

/** Replaces a file as Puppet does: all of it at once. */
export function replaceFile(file: string, content: Buffer | string): void {
	fs.mkdirSync(path.dirname(file), { recursive: true });
	fs.writeFileSync(`${file}.new`, content, { mode: 0o640 });
	fs.renameSync(`${file}.new`, file);
}
