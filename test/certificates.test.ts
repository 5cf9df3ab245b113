/** What is read from certificates and revocation lists: exactly what they say, and nothing from those that are not quite right. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { DerError } from '../listener/certificates/der.ts';
import { identityOf, subjectOf } from '../listener/certificates/identity.ts';
import { readRevocationLists } from '../listener/certificates/revocation.ts';
import { temporaryDirectory } from './helpers/listener.ts';

const arc = '1.3.6.1.4.1.34380.1';

/** A certificate with this subject and these extensions, as openssl writes them. */
function certificate(subject: string, extensions: Readonly<Record<string, string>> = {}): X509Certificate {
	const dir = temporaryDirectory();
	const added = Object.entries(extensions).flatMap(([oid, value]) => ['-addext', `${oid}=${value}`]);
	const key = [
		'-newkey',
		'ec',
		'-pkeyopt',
		'ec_paramgen_curve:P-256',
		'-nodes',
		'-keyout',
		path.join(dir, 'key'),
	];
	const args = ['req', '-x509', '-utf8', '-multivalue-rdn', ...key, '-days', '2', '-subj', subject, ...added];
	return new X509Certificate(execFileSync('openssl', args, { stdio: 'pipe' }));
}

test('a certificate says its certname, and trusted extensions under the names that Puppet has for them', () => {
	const told = identityOf(
		certificate('/O=example/CN=web1.example.com', {
			[`${arc}.1.1`]: 'ASN1:UTF8String:ED803750-E3C7-44F5-BB08-41A04433FE2E',
			[`${arc}.1.12`]: 'ASN1:PRINTABLESTRING:production',
			[`${arc}.1.13`]: 'ASN1:FORMAT:UTF8,UTF8String:web::frönt',
			[`${arc}.1.25`]: 'ASN1:IA5STRING:web1',
			[`${arc}.1.26`]: 'ASN1:BMPSTRING:astrid',
			[`${arc}.2.1`]: 'ASN1:UTF8String:mine',
			[`${arc}.2.2`]: 'ASN1:UTF8String:unnamed',
			[`${arc}.3.13`]: 'ASN1:UTF8String:admin',
			// As old versions of Puppet wrote it: the text without a head.
			[`${arc}.1.7`]: `DER:${Buffer.from('billing').toString('hex')}`,
			'1.3.6.1.4.1.99999.1': 'ASN1:UTF8String:of somebody else',
		}),
		{ [`${arc}.2.1`]: 'our_own' },
	);
	assert.deepEqual(
		{ certname: told.certname, extensions: { ...told.extensions } },
		{
			certname: 'web1.example.com',
			extensions: {
				pp_uuid: 'ED803750-E3C7-44F5-BB08-41A04433FE2E',
				pp_environment: 'production',
				pp_role: 'web::frönt',
				pp_hostname: 'web1',
				pp_owner: 'astrid',
				our_own: 'mine',
				[`${arc}.2.2`]: 'unnamed',
				pp_auth_role: 'admin',
				pp_project: 'billing',
			},
		},
	);
});

test('a certificate whose subject is not one certname says nothing', () => {
	for (const subject of [
		'/O=example',
		'/CN=a.example.com/CN=b.example.com',
		'/CN=a+CN=b',
		'/CN=wéb.example.com',
		'/CN=a\\/b',
	]) {
		assert.throws(() => identityOf(certificate(subject), {}), DerError, subject);
	}
});

test('bytes that are changed never give more than a refusal', () => {
	const { raw } = certificate('/CN=web1.example.com', { [`${arc}.1.13`]: 'ASN1:UTF8String:web' });
	fc.assert(
		fc.property(fc.nat(raw.length - 1), fc.nat(255), fc.nat(raw.length), (place, byte, length) => {
			const copy = Buffer.from(raw.subarray(0, Math.max(length, 1)));
			copy[place % copy.length] = byte;
			for (const read of [() => identityOf({ raw: copy }, {}), () => subjectOf({ raw: copy })]) {
				try {
					read();
				} catch (error) {
					assert.ok(error instanceof DerError, String(error));
				}
			}
		}),
		{ numRuns: 2000, seed: 11 },
	);
});

test('every revocation list of a file is read, with its CA and its end', () => {
	const dir = temporaryDirectory();
	const at = (name: string) => path.join(dir, name);
	const lists = ['one', 'two'].map((name) => {
		const own = at(name);
		const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
		execFileSync(
			'openssl',
			['req', '-x509', ...ec, '-keyout', `${own}.key`, '-out', `${own}.pem`, '-subj', `/CN=${name}`],
			{ stdio: 'pipe' },
		);
		fs.writeFileSync(`${own}.txt`, '');
		fs.writeFileSync(
			`${own}.conf`,
			`[ca]\ndefault_ca = a\n[a]\ndatabase = ${own}.txt\ndefault_md = sha256\n`,
		);
		const times = [
			'-crl_lastupdate',
			'20260101000000Z',
			'-crl_nextupdate',
			name === 'one' ? '20300102030405Z' : '20600102030405Z',
		];
		const files = ['-cert', `${own}.pem`, '-keyfile', `${own}.key`];
		return execFileSync('openssl', ['ca', '-config', `${own}.conf`, '-gencrl', ...files, ...times], {
			encoding: 'utf8',
			stdio: 'pipe',
		});
	});
	const read = readRevocationLists(`Some text before\n${lists.join('and between\n')}`);
	assert.deepEqual(
		read.map(({ until }) => until),
		[Date.UTC(2030, 0, 2, 3, 4, 5), Date.UTC(2060, 0, 2, 3, 4, 5)],
	);
	for (const [index, name] of ['one', 'two'].entries()) {
		const subject = subjectOf(new X509Certificate(fs.readFileSync(at(`${name}.pem`))));
		assert.ok(read[index]?.issuer.equals(subject), name);
		assert.equal(read[index]?.pem, lists[index]?.trim());
	}
	assert.deepEqual(readRevocationLists('nothing'), []);
	assert.throws(
		() => readRevocationLists('-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----'),
		DerError,
	);
});
