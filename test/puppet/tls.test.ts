/** `tls` in all its forms: real certificates from a CA laid out as a Puppet agent has it, with its CRL. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { temporaryDirectory } from '../helpers/listener.ts';
import { puppetApply, puppetTest, standIn } from '../helpers/puppet.ts';

interface Pair {
	readonly cert: string;
	readonly key: string;
}

/** A certificate authority in a directory of its own, made with openssl. */
class Authority {
	readonly dir: string;
	readonly cert: string;
	readonly crl: string;

	constructor(dir: string, name: string) {
		fs.mkdirSync(dir, { recursive: true });
		this.dir = dir;
		this.cert = path.join(dir, 'ca.pem');
		this.crl = path.join(dir, 'crl.pem');
		fs.writeFileSync(path.join(dir, 'index.txt'), '');
		fs.writeFileSync(
			path.join(dir, 'ca.conf'),
			`[ca]
default_ca = ours
[ours]
database = ${dir}/index.txt
new_certs_dir = ${dir}
certificate = ${this.cert}
private_key = ${dir}/ca.key
default_md = sha256
default_days = 2
default_crl_days = 2
rand_serial = yes
policy = any
copy_extensions = copy
[any]
commonName = supplied
`,
		);
		const request = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', `/CN=${name}`];
		const uses = ['-addext', 'keyUsage=critical,keyCertSign,cRLSign'];
		this.#openssl([...request, ...uses, '-keyout', `${dir}/ca.key`, '-out', this.cert]);
		this.#writeCrl();
	}

	issue(name: string, alternatives?: string): Pair {
		const pair = { cert: path.join(this.dir, `${name}.pem`), key: path.join(this.dir, `${name}.key`) };
		const csr = path.join(this.dir, `${name}.csr`);
		const names = alternatives ? ['-addext', `subjectAltName=${alternatives}`] : [];
		this.#openssl([
			'req',
			'-newkey',
			'rsa:2048',
			'-nodes',
			'-subj',
			`/CN=${name}`,
			...names,
			'-keyout',
			pair.key,
			'-out',
			csr,
		]);
		this.#openssl([
			'ca',
			'-batch',
			'-notext',
			'-config',
			`${this.dir}/ca.conf`,
			'-in',
			csr,
			'-out',
			pair.cert,
		]);
		return pair;
	}

	revoke(pair: Pair): void {
		this.#openssl(['ca', '-config', `${this.dir}/ca.conf`, '-revoke', pair.cert]);
		this.#writeCrl();
	}

	#writeCrl(): void {
		this.#openssl(['ca', '-config', `${this.dir}/ca.conf`, '-gencrl', '-out', this.crl]);
	}

	#openssl(args: readonly string[]): void {
		execFileSync('openssl', args, { stdio: 'pipe' });
	}
}

/** What a Puppet agent has in its ssldir once its certificate is signed. */
function layOutAgent(ssldir: string, certname: string, authority: Authority, pair: Pair): void {
	for (const [from, to] of [
		[authority.cert, 'certs/ca.pem'],
		[authority.crl, 'crl.pem'],
		[pair.cert, `certs/${certname}.pem`],
		[pair.key, `private_keys/${certname}.pem`],
	] as const) {
		fs.mkdirSync(path.dirname(path.join(ssldir, to)), { recursive: true });
		fs.copyFileSync(from, path.join(ssldir, to));
	}
}

puppetTest('PW-T7: https, with trust from Puppet, the system or files', async (t) => {
	const dir = temporaryDirectory();
	const ours = new Authority(path.join(dir, 'ours'), 'Puppet CA');
	const foreign = new Authority(path.join(dir, 'foreign'), 'another CA');
	const revoked = ours.issue('revoked.test', 'IP:127.0.0.1');
	ours.revoke(revoked);

	const serve = (pair: Pair) =>
		standIn(({ certname }) => ({ status: certname === undefined ? 204 : 200 }), {
			cert: fs.readFileSync(pair.cert),
			key: fs.readFileSync(pair.key),
			ca: [fs.readFileSync(ours.cert)],
			requestCert: true,
			rejectUnauthorized: false,
		});
	const good = await serve(ours.issue('listener.test', 'IP:127.0.0.1'));
	const bad = await serve(revoked);
	const other = await serve(foreign.issue('foreign.test', 'IP:127.0.0.1'));

	const client = ours.issue('client.test');
	layOutAgent(path.join(dir, 'run/ssl'), 'node1.test', ours, ours.issue('node1.test'));
	const ran = await puppetApply(
		`
		Http { fqdn => '127.0.0.1', port => ${good.port} }

		http { 'puppet': tls => puppet }
		http { 'revoked': tls => puppet, port => ${bad.port} }
		http { 'foreign': tls => puppet, port => ${other.port} }
		http { 'other name': tls => puppet, fqdn => 'localhost' }
		http { 'system': tls => system, port => ${other.port} }
		http { 'ca': tls => { 'ca' => '${ours.cert}' } }
		http { 'wrong ca': tls => { 'ca' => '${foreign.cert}' } }
		http { 'client': tls => { 'ca' => '${ours.cert}', 'cert' => '${client.cert}', 'key' => '${client.key}' } }
		http { 'foreign ca': tls => { 'ca' => '${foreign.cert}' }, port => ${other.port} }
		http { 'no file': tls => { 'ca' => '${dir}/none.pem' } }
		http { 'no certificate': tls => { 'ca' => '${client.key}' } }
		http { 'wrong key': tls => { 'ca' => '${ours.cert}', 'cert' => '${client.cert}', 'key' => '${dir}/ours/ca.key' } }
		http { 'plain': }
	`,
		{ dir: path.join(dir, 'run'), certname: 'node1.test', options: ['--ssl_trust_store', foreign.cert] },
	);
	assert.equal(ran.code, 6, ran.stderr);
	const failed = (title: string) =>
		ran.stderr.match(new RegExp(`Http\\[${title}\\]/ensure: .*? failed: (.*)`))?.[1] ?? '';
	const certname = (title: string) =>
		[...good.received, ...bad.received, ...other.received].find(({ url }) => decodeURI(url) === `/${title}`)
			?.certname;
	const sent = (title: string) =>
		assert.match(ran.stdout, new RegExp(`Http\\[${title}\\]/ensure: sent GET https://`));

	await t.test("tls => puppet trusts Puppet's CA and shows this host's certificate", () => {
		sent('puppet');
		assert.equal(certname('puppet'), 'node1.test');
		assert.match(failed('foreign'), /certificate verify failed/);
	});

	await t.test("a listener's certificate on Puppet's CRL is refused", () => {
		assert.match(failed('revoked'), /certificate revoked/);
		assert.equal(bad.received.length, 0);
	});

	await t.test("the host's name must be in the certificate", () => {
		assert.match(failed('other name'), /localhost|expected one of/);
	});

	await t.test('tls => system trusts the CAs of the system and those of ssl_trust_store', () => {
		sent('system');
	});

	await t.test('tls => {ca} trusts that CA alone, and shows a certificate only when told to', () => {
		sent('ca');
		assert.equal(certname('ca'), undefined);
		sent('foreign ca');
		assert.match(failed('wrong ca'), /certificate verify failed/);
		sent('client');
		assert.equal(certname('client'), 'client.test');
	});

	await t.test('files that cannot be used are named', () => {
		assert.match(failed('no file'), /tls: No such file or directory .*none\.pem/);
		assert.match(failed('no certificate'), /tls: .*client\.test\.key holds no certificate/);
		assert.match(failed('wrong key'), /does not match its private key/);
	});

	await t.test('http where https is served fails', () => {
		assert.match(failed('plain'), /^GET http:\/\//);
	});
});

puppetTest('tls => puppet without certificates says what is missing', async () => {
	const ran = await puppetApply("http { 'kick': fqdn => '127.0.0.1', tls => puppet }");
	assert.equal(ran.code, 4);
	assert.match(ran.stderr, /Http\[kick\]\/ensure: .* failed: .*The CA certificates are missing/);
});
