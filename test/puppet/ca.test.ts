/** The Puppet CA as identity: nodes call with the certificate that they have, and nothing else is handed out. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import tls, { type PeerCertificate, type SecureVersion } from 'node:tls';
import {
	command,
	type Listener,
	root,
	startListener,
	temporaryDirectory,
	until,
} from '../helpers/listener.ts';
import { puppetApply } from '../helpers/puppet.ts';
import { caTest, oids, type Pair, PuppetAuthority, replaceFile } from '../helpers/puppet-ca.ts';

/** The same for all tests of this file, since making it takes a second. */
let made: PuppetAuthority | undefined;
function authority(): PuppetAuthority {
	made ??= new PuppetAuthority();
	return made;
}

interface CallOptions {
	readonly pair?: Pair | undefined;
	readonly agent?: https.Agent;
	readonly version?: SecureVersion;
	readonly headers?: Record<string, string>;
}

interface Told {
	readonly status: number;
	// biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
	readonly json: any;
	readonly shown: PeerCertificate;
}

/** POSTs as a node with this certificate would. @throws when the connection is refused or cut */
function call(
	listener: Listener,
	route: string,
	{ pair, agent, version, headers = {} }: CallOptions = {},
): Promise<Told> {
	const trust = {
		ca: fs.readFileSync(authority().ca),
		...(pair ? { cert: fs.readFileSync(pair.cert), key: fs.readFileSync(pair.key) } : {}),
		...(version ? { minVersion: version, maxVersion: version } : {}),
	};
	return new Promise((resolve, reject) => {
		const request = https.request(
			{
				host: 'localhost',
				port: listener.port,
				path: route,
				method: 'POST',
				headers,
				agent: agent ?? false,
				...trust,
			},
			(response) => {
				const shown = (response.socket as tls.TLSSocket).getPeerCertificate();
				let text = '';
				response.on('data', (chunk) => (text += chunk));
				response.on('error', reject);
				response.on('end', () => {
					resolve({ status: response.statusCode ?? 0, json: JSON.parse(text), shown });
				});
			},
		);
		request.on('error', reject);
		request.end();
	});
}

const routes = `
auth:
  web: { certificate: { certname: "*.nodes.test", extensions: { pp_role: [ "web::*", db ] } } }
  any: { certificate: { certname: "*" } }
  named: { certificate: { extensions: { our_tier: gold } } }
routes:
  web: { auth: [web], command: 'echo "by $WEBHOOK_CERTNAME."' }
  any: { auth: [any], command: 'true' }
  tier: { auth: [named], command: 'true' }
  role: { auth: [any], when: 'client.certname.endsWith(".nodes.test")', params: { role: { from: client.extensions.pp_role, required: true } }, command: 'echo "$role"' }
  slow: { auth: [any], wait: true, command: 'echo > "$TMPDIR/begun"; while [ ! -e "$TMPDIR/go" ]; do sleep 0.05; done' }
  open: { auth: none, command: 'echo "by $WEBHOOK_CERTNAME."' }
`;

const listenOf = (confdir: string, certs: 'none' | 'optional' | 'required', more = '') =>
	`listen: { address: 127.0.0.1, port: 0, tls: { puppet: ${confdir} }, client_certs: ${certs}${more} }\n`;

/** A listener with a certificate of the CA, as its Puppet agent has it. */
async function listening(
	certs: 'optional' | 'required',
	{ listenerPair = authority().issue('listener.test'), settings = undefined as string | undefined } = {},
): Promise<{ listener: Listener; confdir: string }> {
	const confdir = authority().layOutAgent(listenerPair, 'listener.test', settings);
	return { listener: await startListener({ routes: listenOf(confdir, certs) + routes }), confdir };
}

const web = { [oids.pp_role]: 'web::front', [oids.pp_environment]: 'production' };
const versions = ['TLSv1.2', 'TLSv1.3'] as const;

caTest('a node calls with its certificate, and every other certificate gets what it deserves', async (t) => {
	const ca = authority();
	const good = ca.issue('a.nodes.test', { extensions: web });
	const revoked = ca.issue('revoked.nodes.test', { extensions: web });
	ca.revoke(revoked);
	const { listener } = await listening('optional');
	const callers: readonly [string, Pair | undefined, number, RegExp][] = [
		['the right name and role', good, 202, /^$/],
		[
			'another role',
			ca.issue('b.nodes.test', { extensions: { [oids.pp_role]: 'mail' } }),
			403,
			/another pp_role/,
		],
		['no role', ca.issue('c.nodes.test'), 403, /has no extension pp_role/],
		[
			'another name',
			ca.issue('web.example.com', { extensions: web }),
			403,
			/"web.example.com" is not admitted/,
		],
		[
			'a name that only contains the right one',
			ca.issue('a.nodes.test.example.com', { extensions: web }),
			403,
			/not admitted/,
		],
		[
			'a role given for authorization only',
			ca.issue('d.nodes.test', { extensions: { [oids.pp_auth_role]: 'web::x' } }),
			403,
			/no extension pp_role/,
		],
		['a certificate that was revoked', revoked, 401, /not trusted: CERT_REVOKED/],
		[
			'one that has expired',
			ca.issue('old.nodes.test', { extensions: web, expired: true }),
			401,
			/CERT_HAS_EXPIRED/,
		],
		[
			'one of another Puppet CA',
			new PuppetAuthority().issue('a.nodes.test', { extensions: web }),
			401,
			/not trusted: (?!CERT_REVOKED)[A-Z_]+/,
		],
		['no certificate', undefined, 401, /no certificate was shown/],
	];
	for (const version of versions) {
		for (const [what, pair, status, reason] of callers) {
			await t.test(`${what}, by ${version}: ${status}`, async () => {
				const runs = await count(listener);
				const before = deliveries(listener).length;
				const answer = await call(listener, '/web', { pair, version });
				assert.equal(answer.status, status);
				const line = await until('the log', () => deliveries(listener)[before]);
				assert.match(String(line.reason ?? ''), reason);
				assert.equal(await count(listener), runs + (status === 202 ? 1 : 0));
				if (status !== 202)
					assert.ok(!JSON.stringify(answer.json).includes('nodes.test'), 'callers are told nothing');
			});
		}
	}

	await t.test('the command reads who called as WEBHOOK_CERTNAME', async () => {
		const told = await call(listener, '/web?async=false', { pair: good });
		assert.equal(told.status, 200);
		assert.equal(told.json.output.text, 'by a.nodes.test.\n');
	});

	await t.test(
		'a route that needs none takes all of them, and a certificate that is not trusted gives no name',
		async () => {
			for (const [pair, name] of [
				[good, 'a.nodes.test'],
				[revoked, ''],
				[undefined, ''],
			] as const) {
				const told = await call(listener, '/open?async=false', { pair });
				assert.equal(told.json.output.text, `by ${name}.\n`);
			}
		},
	);

	await t.test('conditions and parameters read the name and the extensions', async () => {
		const told = await call(listener, '/role?async=false', { pair: good });
		assert.equal(told.json.output.text, 'web::front\n');
		const another = ca.issue('web.example.com', { extensions: web });
		assert.equal((await call(listener, '/role', { pair: another })).json.ignored.length, 1);
	});

	await t.test('a web page cannot use the certificate of a browser', async () => {
		const headers = { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' };
		assert.equal((await call(listener, '/web', { pair: good, headers })).status, 403);
		assert.equal(
			(await call(listener, '/web', { pair: good, headers: { 'sec-fetch-site': 'none' } })).status,
			202,
		);
	});
});

function deliveries(listener: Listener) {
	return listener.log().filter(({ message }) => message === 'delivery');
}

async function count(listener: Listener): Promise<number> {
	return (await runsOf(listener)).length;
}

/** As an operator asks: the listener's own command finds it by its routes.yaml. */
async function runsOf(listener: Listener): Promise<unknown[]> {
	const url = `https://localhost:${listener.port}/-/runs?limit=200`;
	return new Promise((resolve, reject) => {
		https
			.get(
				url,
				{ ca: fs.readFileSync(authority().ca), agent: false, headers: { host: 'localhost' } },
				(response) => {
					let text = '';
					response.on('data', (chunk) => (text += chunk)).on('end', () => resolve(JSON.parse(text).runs));
				},
			)
			.on('error', reject);
	});
}

caTest('what is revoked counts at once for sessions, and within seconds for open connections', async (t) => {
	const ca = authority();
	const { listener, confdir } = await listening('optional');
	const crl = path.join(confdir, 'ssl/crl.pem');
	const idle = new https.Agent({ keepAlive: true, maxSockets: 1 });
	const without = new https.Agent({ keepAlive: true, maxSockets: 1 });
	t.after(() => [idle, without].map((agent) => agent.destroy()));
	const [revoked, busy] = [ca.issue('revoked.nodes.test', { extensions: web }), ca.issue('busy.nodes.test')];

	assert.equal((await call(listener, '/web', { pair: revoked, agent: idle })).status, 202);
	assert.equal((await call(listener, '/open', { agent: without })).status, 202);
	const socketOf = (agent: https.Agent) => Object.values(agent.freeSockets)[0]?.[0];
	const [idleSocket, anonymous] = [socketOf(idle), socketOf(without)];
	assert.ok(idleSocket !== undefined && anonymous !== undefined);
	const closed = once(idleSocket, 'close');
	const waiting = call(listener, '/slow', { pair: busy });
	await until('the slow run to begin', () => fs.existsSync(path.join(listener.dir, 'tmp/begun')));

	ca.revoke(revoked, busy);
	replaceFile(crl, fs.readFileSync(ca.crl));
	await closed;
	assert.equal((await call(listener, '/web', { pair: revoked })).status, 401);
	const line = await listener.logged('the refusal', ({ reason }) => /CERT_REVOKED/.test(String(reason)));
	assert.equal(line.message, 'delivery');

	fs.writeFileSync(path.join(listener.dir, 'tmp/go'), '');
	assert.equal((await waiting).status, 200, 'a request that was under way gets its answer');
	assert.equal((await call(listener, '/open', { agent: without })).status, 202);
	assert.equal(socketOf(without), anonymous, 'connections without a certificate stay open');
	assert.equal(
		(await call(listener, '/web', { pair: ca.issue('new.nodes.test', { extensions: web }) })).status,
		202,
	);
});

caTest(
	'a TLS session is not resumed, so that each connection shows a certificate that is good now',
	async () => {
		const { listener } = await listening('optional');
		const pair = authority().issue('a.nodes.test', { extensions: web });
		for (const version of versions) {
			const options = {
				port: listener.port,
				host: 'localhost',
				ca: fs.readFileSync(authority().ca),
				cert: fs.readFileSync(pair.cert),
				key: fs.readFileSync(pair.key),
				minVersion: version,
				maxVersion: version,
			};
			const first = tls.connect(options);
			let ticket: Buffer | undefined;
			first.on('session', (session) => (ticket = session));
			await once(first, 'secureConnect');
			first.end('GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
			first.resume();
			await once(first, 'close');
			const session = ticket ?? first.getSession();
			const second = tls.connect({ ...options, ...(session ? { session } : {}) });
			await once(second, 'secureConnect');
			assert.equal(second.isSessionReused(), false, version);
			second.destroy();
		}
	},
);

caTest('a certificate that expires while its connection is open counts no longer', async (t) => {
	const { listener } = await listening('optional');
	const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
	t.after(() => agent.destroy());
	const pair = authority().issue('a.nodes.test', { extensions: web, seconds: 6 });
	const socketOf = () => Object.values(agent.freeSockets)[0]?.[0];
	assert.equal((await call(listener, '/web', { pair, agent })).status, 202);
	const socket = socketOf();
	await until('the certificate to expire', async () => {
		await sleep(100);
		return (await call(listener, '/web', { pair, agent })).status === 401;
	});
	assert.equal(socketOf(), socket);
	await listener.logged('the refusal', ({ reason }) => /CERT_HAS_EXPIRED/.test(String(reason)));
});

caTest('certificates that Puppet renews are taken up, and no connection is dropped', async (t) => {
	const ca = authority();
	const { listener, confdir } = await listening('optional');
	const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
	t.after(() => agent.destroy());
	const node = ca.issue('a.nodes.test', { extensions: web });
	const before = await call(listener, '/web', { pair: node, agent });
	const socket = Object.values(agent.freeSockets)[0]?.[0];

	const renewed = ca.issue('listener.test');
	replaceFile(path.join(confdir, 'ssl/certs/listener.test.pem'), fs.readFileSync(renewed.cert));
	await listener.logged('that both do not fit yet', ({ message }) =>
		message.startsWith('certificate refused'),
	);
	assert.equal(
		(await call(listener, '/web', { pair: node })).shown.fingerprint256,
		before.shown.fingerprint256,
	);
	replaceFile(path.join(confdir, 'ssl/private_keys/listener.test.pem'), fs.readFileSync(renewed.key));
	await listener.logged('the new pair', ({ message }) => message === 'certificate taken up');
	const after = await call(listener, '/web', { pair: node });
	assert.equal(after.status, 202);
	assert.notEqual(after.shown.fingerprint256, before.shown.fingerprint256);
	assert.equal((await call(listener, '/web', { pair: node, agent })).status, 202);
	assert.equal(Object.values(agent.freeSockets)[0]?.[0], socket);
});

caTest('client_certs: required refuses in the handshake who shows no good certificate', async (t) => {
	const ca = authority();
	const own = ca.issue('listener.test');
	const revoked = ca.issue('revoked.nodes.test', { extensions: web });
	ca.revoke(revoked);
	const port = await freePort();
	const files = `{ cert: ${own.cert}, key: ${own.key}, ca: ${ca.ca}, crl: ${ca.crl} }`;
	const listener = await startListener({
		routes: `listen: { address: 127.0.0.1, port: ${port}, tls: ${files}, client_certs: required }\n${routes}`,
	});
	for (const version of versions) {
		await t.test(version, async () => {
			const good = ca.issue('a.nodes.test', { extensions: web });
			assert.equal((await call(listener, '/web', { pair: good, version })).status, 202);
			await assert.rejects(call(listener, '/open', { version }));
			await assert.rejects(call(listener, '/open', { pair: revoked, version }));
		});
	}
	await listener.logged('why, as TLS names it', ({ message, reason }) => {
		return (
			message === 'a connection was refused by TLS' && /CERT_REVOKED|PEER_DID_NOT_RETURN/.test(String(reason))
		);
	});
	await t.test("operators' commands show the listener's own certificate", async () => {
		const asked = await command(['runs', '--config', listener.config, '--json']);
		assert.equal(asked.code, 0, asked.stderr);
		assert.equal(JSON.parse(asked.stdout).runs?.length ?? asked.stdout.trim().split('\n').length, 2);
	});
});

async function freePort(): Promise<number> {
	const server = net.createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	const { port } = server.address() as AddressInfo;
	server.close();
	await once(server, 'close');
	return port;
}

caTest("an organisation's own extensions have the names of custom_trusted_oid_mapping.yaml", async () => {
	const ca = authority();
	const own = `${oids.own}.1`;
	const confdir = ca.layOutAgent(ca.issue('listener.test'), 'listener.test');
	const mapping = path.join(confdir, 'custom_trusted_oid_mapping.yaml');
	fs.writeFileSync(mapping, `oid_mapping:\n  ${own}: { shortname: our_tier, longname: Our tier }\n`);
	const listener = await startListener({ routes: listenOf(confdir, 'optional') + routes });
	const gold = ca.issue('a.nodes.test', { extensions: { [own]: 'gold' } });
	assert.equal((await call(listener, '/tier', { pair: gold })).status, 202);
	assert.equal(
		(await call(listener, '/tier', { pair: ca.issue('b.nodes.test', { extensions: { [own]: 'tin' } }) }))
			.status,
		403,
	);

	fs.writeFileSync(mapping, `oid_mapping:\n  ${own}: { shortname: pp_role, longname: Not really }\n`);
	const checked = await command(['check', '--config', listener.config]);
	assert.match(
		checked.stderr,
		/gives 1\.3\.6\.1\.4\.1\.34380\.1\.2\.1\.1 the name pp_role, which is another extension's/,
	);
});

/** What `check` has to say against a listener with this `listen`. */
async function faults(listen: string, more = ''): Promise<string> {
	const dir = temporaryDirectory();
	const file = path.join(dir, 'routes.yaml');
	fs.writeFileSync(file, `listen: ${listen}\n${more}routes: { x: { auth: none, command: "true" } }\n`);
	const { code, stderr } = await command(['check', '--config', file]);
	return code === 0 ? '' : stderr;
}

caTest('puppet.conf is read as Puppet reads it', async (t) => {
	const none = temporaryDirectory();
	const cases: readonly [string, string][] = [
		[
			'the agent section before main',
			`[main]\ncertname = main.test\nssldir = ${none}\n[agent]\ncertname = agent.test\n`,
		],
		[
			'settings inside others',
			`[main]\ncertname = a.test\nvardir = ${none}\nssldir = $vardir/$certname\ncertdir = $ssldir/c\n`,
		],
		[
			'files of their own',
			`ssldir = ${none}\ncertname = a.test\n[main]\nhostcert = ${none}/x.pem\nhostprivkey=${none}/y.pem { owner = root, mode = 640 }\nlocalcacert = $ssldir/z.pem\nhostcrl = /none/crl.pem\n`,
		],
		[
			'comments and other sections',
			`# certname = no.test\n[main]\n  ssldir = ${none}  \ncertname=a.test\n[server]\ncertname = server.test\n[user]\ncertname = user.test\n`,
		],
	];
	for (const [what, text] of cases) {
		await t.test(what, async () => {
			const confdir = temporaryDirectory();
			fs.writeFileSync(path.join(confdir, 'puppet.conf'), text);
			const names = ['hostcert', 'hostprivkey', 'localcacert', 'hostcrl'];
			const printed = execFileSync(
				'puppet',
				['config', 'print', ...names, '--section', 'agent', '--confdir', confdir],
				{ encoding: 'utf8' },
			);
			const said = await faults(`{ tls: { puppet: ${confdir} }, client_certs: optional }`);
			for (const name of names) {
				const file = new RegExp(`^${name} = (.*)$`, 'm').exec(printed)?.[1];
				assert.ok(
					file !== undefined && said.includes(`${file} does not exist: the Puppet agent`),
					`${name}: ${file}\n${said}`,
				);
			}
		});
	}

	await t.test('a certname that is not set is that of the one certificate of this host', async () => {
		const host = execFileSync('hostname', { encoding: 'utf8' }).trim().toLowerCase().split('.')[0];
		const pair = authority().issue('listener.test');
		const confdir = authority().layOutAgent(pair, `${host}.example.com`, 'environment = production\n');
		assert.equal(await faults(`{ tls: { puppet: ${confdir} }, client_certs: optional }`), '');
		fs.copyFileSync(pair.cert, path.join(confdir, `ssl/certs/${host}.example.org.pem`));
		assert.match(
			await faults(`{ tls: { puppet: ${confdir} } }`),
			/certname is not set, and .* has .*example.* and .*; set it: puppet config set certname/,
		);
	});
});

caTest('what is wrong with certificates is said with the remedy', async (t) => {
	const ca = authority();
	const confdir = ca.layOutAgent(ca.issue('listener.test'), 'listener.test');
	const at = (name: string) => path.join(confdir, 'ssl', name);
	const listen = `{ tls: { puppet: ${confdir} }, client_certs: optional }`;
	assert.equal(await faults(listen), '');

	await t.test('no settings of Puppet', async () => {
		assert.match(
			await faults('{ tls: { puppet: /nowhere } }'),
			/:1:\d+: listen\.tls: cannot read \/nowhere\/puppet\.conf \(ENOENT\)/,
		);
		const file = path.join(temporaryDirectory(), 'routes.yaml');
		fs.writeFileSync(file, 'listen: { tls: { puppet: /nowhere } }\nroutes: {}\n');
		const { code, stderr } = await command(['runs', '--config', file]);
		assert.equal(code, 1);
		assert.match(stderr, /a certificate that Puppet's settings do not tell .*puppet-webhook check/);
	});
	await t.test('an agent without a certificate', async () => {
		fs.renameSync(at('certs/listener.test.pem'), at('certs/away'));
		assert.match(await faults(listen), /listener\.test\.pem does not exist: .*puppet ssl bootstrap/);
		fs.renameSync(at('certs/away'), at('certs/listener.test.pem'));
	});
	await t.test('a revocation list that is missing', async () => {
		const [first = ''] = fs.readFileSync(ca.crl, 'utf8').split(/(?<=-----END X509 CRL-----\n)/);
		replaceFile(at('crl.pem'), first);
		assert.match(
			await faults(listen),
			/crl\.pem has no revocation list of CN=.*, without which TLS refuses every certificate/,
		);
		replaceFile(at('crl.pem'), fs.readFileSync(ca.crl));
	});
	await t.test('a key that the user may not read', async () => {
		if (process.getuid?.() !== 0) return;
		const keys = at('private_keys');
		for (const [dir, mode] of [
			[confdir, 0o755],
			[path.join(confdir, 'ssl'), 0o755],
			[keys, 0o750],
		] as const)
			fs.chmodSync(dir, mode);
		fs.chownSync(keys, 0, 4);
		const file = path.join(confdir, 'routes.yaml');
		fs.writeFileSync(file, `listen: ${listen}\nroutes: { x: { auth: none, command: "true" } }\n`);
		fs.chmodSync(file, 0o644);
		// A checkout may be where that user cannot get to.
		const place = temporaryDirectory('puppet-webhook-for-all-');
		fs.chmodSync(place, 0o755);
		fs.copyFileSync(process.execPath, path.join(place, 'node'));
		fs.copyFileSync(path.join(root, 'package.json'), path.join(place, 'package.json'));
		execFileSync(process.execPath, [path.join(root, 'scripts/build.ts'), path.join(place, 'dist')]);
		const { stderr } = spawnSync(
			path.join(place, 'node'),
			[path.join(place, 'dist/main.cjs'), 'check', '--config', file],
			{
				uid: 65534,
				gid: 65534,
				encoding: 'utf8',
				env: { PATH: process.env.PATH, HOME: '/nonexistent' },
			},
		);
		assert.match(
			stderr,
			/private_keys\/listener\.test\.pem cannot be read by the user the listener runs as, nobody \(EACCES\); .*private_keys is open to group adm: add the user to it \(usermod -aG adm nobody\)/,
		);
	});
	await t.test('certificates asked for without TLS, or without a CA', async () => {
		assert.match(await faults('{ client_certs: optional }'), /listen\.client_certs: needs listen\.tls/);
		const pair = ca.issue('x.test');
		assert.match(
			await faults(`{ tls: { cert: ${pair.cert}, key: ${pair.key} }, client_certs: required }`),
			/listen\.client_certs: needs listen\.tls\.ca/,
		);
	});
	await t.test('certificates wanted by auth and not asked for', async () => {
		const auth = 'auth: { nodes: { certificate: { certname: "*" } } }\n';
		assert.match(
			await faults(listen.replace('optional', 'none'), auth),
			/auth\.nodes\.certificate: .*listen\.client_certs/,
		);
		assert.equal(await faults(listen, auth), '');
	});
	await t.test(
		'a certificate auth that says nothing, or an extension that Puppet does not have',
		async () => {
			assert.match(
				await faults(listen, 'auth: { nodes: { certificate: {} } }\n'),
				/certname: "\*" admits every certificate/,
			);
			assert.match(
				await faults(listen, 'auth: { nodes: { certificate: { extensions: { pp_rolle: x } } } }\n'),
				/pp_rolle: is none of Puppet's extensions/,
			);
		},
	);
});

caTest('a revocation list that has run out is told, since no certificate is trusted then', async () => {
	const ca = authority();
	const confdir = ca.layOutAgent(ca.issue('listener.test'), 'listener.test');
	ca.letListRunOut(path.join(confdir, 'ssl/crl.pem'));
	const listener = await startListener({ routes: listenOf(confdir, 'optional') + routes });
	await listener.logged(
		'the warning',
		({ level, message }) => level === 'warn' && /1 of 2 revocation lists have run out/.test(message),
	);
	assert.equal(
		(await call(listener, '/web', { pair: ca.issue('a.nodes.test', { extensions: web }) })).status,
		401,
	);
	const line = await until('the log', () => deliveries(listener)[0]);
	assert.match(String(line.reason), /CRL_HAS_EXPIRED/);
});

caTest('the resource type http with tls => puppet calls such a route', async () => {
	const ca = authority();
	const { listener } = await listening('required');
	const node = ca.issue('a.nodes.test', { extensions: web });
	const dir = ca.layOutAgent(node, 'a.nodes.test');
	const ran = await puppetApply(
		`http { 'web': ensure => post, fqdn => 'localhost', port => ${listener.port}, tls => puppet }`,
		{ dir, certname: 'a.nodes.test' },
	);
	assert.equal(ran.code, 2, ran.stderr + ran.stdout);
	assert.match(ran.stdout, /Http\[web\]\/ensure: sent POST https:\/\/localhost:\d+\/web: 202 Accepted/);
	const output = await listener.logged('the output', ({ message }) => message === 'by a.nodes.test.');
	assert.equal(output.route, 'web');
});
