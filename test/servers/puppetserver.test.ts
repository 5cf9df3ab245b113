/**
 * The whole way as a site has it: a Puppet server compiles, its CA signs, Puppet agents get the module by pluginsync and call a
 * listener with their certificates, and what comes of it is in the reports that the server keeps.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { after } from 'node:test';
import { type Listener, root, startListener, temporaryDirectory, until } from '../helpers/listener.ts';
import { run, standIn } from '../helpers/puppet.ts';
import { freePort, Node, type PuppetServer, puppetServer, serverTest } from '../helpers/puppetserver.ts';

const dir = temporaryDirectory();

interface Site {
	readonly server: PuppetServer;
	readonly listener: Listener;
	/** The node that the listener runs on. */
	readonly home: Node;
	/** Its role opens the routes. */
	readonly sender: Node;
	/** Its role does not. */
	readonly reader: Node;
}

let made: Promise<Site> | undefined;
function site(): Promise<Site> {
	made ??= makeSite();
	return made;
}

async function makeSite(): Promise<Site> {
	const server = await puppetServer();
	const home = new Node(server, 'listener.test', { names: 'localhost' });
	const sender = new Node(server, 'one.nodes.test', { extensions: { pp_role: 'web::front' } });
	const reader = new Node(server, 'two.nodes.test', { extensions: { pp_role: 'mail' } });
	await Promise.all([home.enrol(), sender.enrol(), reader.enrol()]);
	const listener = await startListener({
		routes: `
listen: { address: 127.0.0.1, port: 0, tls: { puppet: ${home.dir} }, client_certs: optional }
auth:
  web: { certificate: { certname: "*.nodes.test", extensions: { pp_role: "web::*" } } }
defaults: { auth: [web] }
routes:
  node_is_built:
    params: { role: { from: client.extensions.pp_role } }
    command: 'test -e "${dir}/$WEBHOOK_CERTNAME" && echo "$WEBHOOK_CERTNAME is built: $role"'
  hello: { method: get, command: 'true' }
  broken: { method: get, command: 'echo no disk; exit 3' }
  keep: { stdin: body, command: cat }
  password: { method: get, command: echo hushPassword }
`,
	});
	return { server, listener, home, sender, reader };
}

/** How often a route was called. */
const calls = ({ listener }: Site, route: string) =>
	listener.log().filter((line) => line.message === 'delivery' && line.route === route).length;

/** Resource defaults for calls of the listener with the node's certificate. */
const defaults = ({ listener }: Site) =>
	`Http { fqdn => 'localhost', port => ${listener.port}, tls => puppet }\n`;

/** The call of a node that is ready, in a last run stage. */
const announcing = (here: Site) => `${defaults(here)}
stage { 'last':
  require => Stage['main'],
}
class announce {
  http { 'node_is_built':
    ensure => post,
    wait   => true,
  }
}
node default {
  file { "${dir}/\${trusted['certname']}":
    content => "built\\n",
  }
  class { 'announce':
    stage => 'last',
  }
}
`;

serverTest(
	'PW-T17: pp_role in the certificate decides whether a node may call, in the last run stage',
	async (t) => {
		const here = await site();
		const { server, listener, sender, reader } = here;
		server.environment('production', { 'manifests/site.pp': announcing(here) });
		const [opened, refused] = await Promise.all([
			sender.puppetRun('production'),
			reader.puppetRun('production'),
		]);

		await t.test('the right role: the run knows who called, and its output is in the report', () => {
			assert.equal(opened.code, 2, opened.stdout + opened.stderr);
			const said = 'one.nodes.test is built: web::front';
			assert.ok(
				opened.stdout.includes(`/Stage[last]/Announce/Http[node_is_built]: ${said}\n`),
				opened.stdout,
			);
			assert.match(opened.stdout, /sent POST https:\/\/localhost:\S+: 200 OK, run \w{26} succeeded$/m);
			const report = server.reports(sender.certname).at(-1) ?? '';
			assert.ok(report.includes(`message: '${said}'`), report);
			assert.match(report, /^status: changed$/m);
		});

		await t.test('another role: the resource fails with the status, and the log says why', async () => {
			assert.equal(refused.code, 6, refused.stdout + refused.stderr);
			assert.match(
				refused.stderr,
				/Http\[node_is_built\]\/ensure: .* failed: POST https:\S+: 403 Forbidden instead of 200-299: ./,
			);
			assert.doesNotMatch(refused.stderr, /web::/, 'the caller is not told what would do');
			assert.match(server.reports(reader.certname).at(-1) ?? '', /^status: failed$/m);
			await listener.logged('the refusal', ({ reason }) => /another pp_role/.test(String(reason)));
		});
	},
);

serverTest('a revoked node is refused as soon as the listener’s Puppet agent has the new list', async () => {
	const here = await site();
	const { server, listener, home } = here;
	server.environment('production', { 'manifests/site.pp': announcing(here) });
	const node = new Node(server, 'three.nodes.test', { extensions: { pp_role: 'web::front' } });
	const admitted = await node.puppetRun('production');
	assert.equal(admitted.code, 2, admitted.stdout + admitted.stderr);

	await server.authority('revoke', '--certname', node.certname);
	const renewed = await home.puppetRun('production', ['--crl_refresh_interval', '1', '--noop']);
	assert.equal(renewed.code, 0, renewed.stdout + renewed.stderr);

	// The Puppet server refuses it as well; it still has its last catalog.
	const refused = await until('the listener to refuse it', async () => {
		const ran = await node.puppetRun('production', ['--use_cached_catalog']);
		return ran.code === 4 ? ran : undefined;
	});
	assert.match(refused.stderr, /Http\[node_is_built\]\/ensure: .* failed: POST https:\S+: 401 Unauthorized/);
	await listener.logged('the refusal', ({ reason }) => /not trusted: CERT_REVOKED/.test(String(reason)));
});

serverTest('the exit code of a Puppet run tells what became of its calls', async (t) => {
	const here = await site();
	const { server, sender } = here;
	const outcomes: readonly (readonly [string, number, number, string, RegExp, ...string[]])[] = [
		['nothing to send', 0, 0, "http { 'hello': refreshonly => true }", /Applied catalog/],
		['PW-T10: noop mode', 0, 0, "http { 'hello': }", /should be 'GET https:.*\/hello' \(noop\)/, '--noop'],
		[
			'an attribute that does not exist, which the server refuses',
			...([1, 0, "http { 'hello': } http { 'x': metod => 'get' }"] as const),
			/Error 500 on SERVER: .*no parameter named 'metod'/,
		],
		[
			'a value that does not exist, which the agent refuses',
			...([1, 0, "http { 'hello': } http { 'x': tls => 'sure' }"] as const),
			/Failed to apply catalog: .*tls/,
		],
		['sent', 2, 1, "http { 'hello': wait => true }", /200 OK, run \w{26} succeeded/],
		[
			'a run that failed',
			...([4, 0, "http { 'broken': wait => true } -> http { 'hello': }"] as const),
			/Http\[broken\]: no disk$[\s\S]*run \w{26} failed: .*exited with 3[\s\S]*Http\[hello\]: Skipping/m,
		],
		[
			'both',
			...([6, 1, "http { 'hello': } -> http { 'nowhere': }"] as const),
			/sent GET [\s\S]*404 Not Found instead of 200-299: ./,
		],
	];
	for (const [what, code, count, manifest, message, ...options] of outcomes) {
		await t.test(`${what}: ${code}`, async () => {
			server.environment('outcomes', { 'manifests/site.pp': defaults(here) + manifest });
			const before = calls(here, 'hello');
			const ran = await sender.puppetRun('outcomes', options);
			assert.equal(ran.code, code, ran.stdout + ran.stderr);
			assert.match(ran.stdout + ran.stderr, message);
			assert.equal(calls(here, 'hello') - before, count);
		});
	}
});

serverTest('PW-T15: a deferred value comes to the node alone, and no secret to the reports', async (t) => {
	const here = await site();
	const { server, listener, sender } = here;
	server.environment('secrets', {
		'manifests/site.pp': `${defaults(here)}
$password = Deferred('webhook::call', [{
  'fqdn'      => 'localhost',
  'port'      => ${listener.port},
  'route'     => 'password',
  'tls'       => 'puppet',
  'wait'      => true,
  'sensitive' => true,
}])
file { '${dir}/password':
  mode    => '0600',
  content => $password,
}
http { 'keep':
  data   => { 'token' => Sensitive('hushToken'), 'password' => $password },
  header => { 'X-Key' => Sensitive('hushKey') },
  wait   => true,
}
`,
	});
	const ran = await sender.puppetRun('secrets', ['--debug']);
	assert.equal(ran.code, 2, ran.stdout + ran.stderr);

	await t.test('the node has it, by a call with its own certificate', () => {
		assert.equal(fs.readFileSync(path.join(dir, 'password'), 'utf8'), 'hushPassword\n');
		assert.ok(
			listener.log().some(({ message }) => message.includes('"token":"hushToken","password":"hushPassword')),
		);
	});

	await t.test('the catalog holds the call, not the value', () => {
		const catalogs = path.join(sender.dir, 'var/client_data/catalog');
		const [name = ''] = fs.readdirSync(catalogs);
		const catalog = fs.readFileSync(path.join(catalogs, name), 'utf8');
		assert.match(catalog, /webhook::call/);
		assert.doesNotMatch(catalog, /hushPassword/);
		assert.doesNotMatch(server.log, /hush/);
	});

	await t.test('neither what Puppet says nor the report that the server keeps has any of them', () => {
		assert.match(ran.stdout, /Http\[keep\]: .*\[redacted\]/);
		assert.doesNotMatch(ran.stdout + ran.stderr, /hush/);
		const report = server.reports(sender.certname).at(-1) ?? '';
		assert.match(report, /Http\[keep\]/);
		assert.doesNotMatch(report, /hush/);
	});
});

serverTest('a catalog with 500 calls is applied, each sent once', async (t) => {
	const here = await site();
	const { server, sender } = here;
	server.environment('many', {
		'manifests/site.pp': `${defaults(here)}
Integer[1, 500].each |$n| {
  http { "call \${n}":
    route => 'hello',
  }
}
`,
	});
	const before = calls(here, 'hello');
	const began = performance.now();
	const ran = await sender.puppetRun('many', ['--http_keepalive_timeout', '4']);
	const seconds = ((performance.now() - began) / 1000).toFixed(1);
	assert.equal(ran.code, 2, ran.stderr);
	assert.equal(calls(here, 'hello') - before, 500);
	const compiled = /Compiled catalog for one\.nodes\.test in environment many in (\S+) seconds/.exec(
		server.log,
	)?.[1];
	const applied = /Applied catalog in (\S+) seconds/.exec(ran.stdout)?.[1];
	t.diagnostic(
		`500 calls by https: a Puppet run of ${seconds} s; the catalog compiled in ${compiled} s, applied in ${applied} s`,
	);
});

// ---- The original's manifests, as they stand in its document ----------------------------------------------------

const original = {
	route: `
http { 'the_route':
    ensure  => get,
    fqdn    => 'your.domain.com',
    port    => '6969',
}
`,
	api: `
http { 'my_api':
    ensure  => post,
    fqdn    => 'your.domain.com',
    port    => '6969',
    data    => {
        'my_key'        => 'some_value',
        'another_key'   => $::some_fact,
    }
    header  => 'application/json', # or maybe javascript? or whatever your hook expects...
}
`,
	role: `
class roles::haproxy_member_backend_service {
    stage { 'last':
        requires => Stage['main'],
    }

    #... a bunch of code

    class { 'profiles::update_loadbalancer':
        stage => 'last',
    }
}
`,
	profile: `
class profiles::update_loadbalancer {
    
    http { 'update_loadbalancer':
        ensure  => get,
        port    => '6969',
        fqdn    => 'my.puppetmaster.com',
    }
}
`,
	master: `
class puppetmaster::webhook {

    include webhook
    webhook::listener {'puppet':
        port => '6969',
        routes            => { 
            'kick_haproxy_app_internal'  => {
                'method'  => 'get',
                'command' => "su - peadmin -c 'mco puppet runonce -F role=haproxy_app_internal'"
            },
        }
    }
}
`,
};

const services: ChildProcess[] = [];
after(async () => {
	for (const child of services) {
		if (child.exitCode !== null || child.signalCode !== null) continue;
		child.kill('SIGTERM');
		await once(child, 'close');
	}
});

serverTest('the original’s manifests do what its document says, once its mistakes are mended', async (t) => {
	const server = await puppetServer();
	const master = new Node(server, 'my.puppetmaster.com');
	const member = new Node(server, 'member.test');
	const api = await standIn();
	const port = await freePort();
	/** For hosts and ports of this test. */
	const here = (text: string) =>
		text
			.replaceAll(/(your\.domain|my\.puppetmaster)\.com/g, '127.0.0.1')
			.replaceAll("'6969'", `'${text.includes('your.domain') ? api.port : port}'`);
	const built = await run(process.execPath, [
		path.join(root, 'scripts/build-module.ts'),
		'--out',
		`${dir}/pkg`,
	]);
	assert.equal(built.code, 0, built.stderr);
	for (const name of ['module', 'units', 'sudoers.d', 'bin']) fs.mkdirSync(path.join(dir, name));
	await run('tar', ['-xzf', built.stdout.trim(), '-C', `${dir}/module`, '--strip-components=1']);
	server.environment(
		'original',
		{
			'modules/puppetmaster/manifests/webhook.pp': here(original.master),
			'modules/profiles/manifests/update_loadbalancer.pp': here(original.profile),
			'modules/roles/manifests/haproxy_member_backend_service.pp': original.role,
			'modules/examples/manifests/route.pp': `class examples::route {${here(original.route)}}`,
			'modules/examples/manifests/api.pp': `class examples::api {${here(original.api)}}`,
			// Loopback is enough here.
			'manifests/site.pp': `
node 'my.puppetmaster.com' {
  Webhook::Listener { bind_address => '127.0.0.1' }
  include puppetmaster::webhook
}
node default {
  lookup('classes').each |$class| { include $class }
}
`,
			'hiera.yaml': 'version: 5\nhierarchy: [{ name: all, path: common.yaml }]\n',
			// Everything below a directory of the test, nothing started, nobody added to the host's users.
			'data/common.yaml': `
webhook::node_method: none
webhook::node: ${process.execPath}
webhook::manage_services: false
webhook::manage_user: false
webhook::user: root
webhook::install_directory: ${dir}/opt
webhook::command: ${dir}/puppet-webhook
webhook::config_directory: ${dir}/etc
webhook::state_directory: ${dir}/state
webhook::unit_directory: ${dir}/units
webhook::sudoers_directory: ${dir}/sudoers.d
classes: [examples::route]
`,
		},
		`${dir}/module`,
	);
	const common = () =>
		fs.readFileSync(path.join(server.dir, 'code/environments/original/data/common.yaml'), 'utf8');
	/** A Puppet run of the member with this class. */
	const including = (name: string) => {
		server.environment('original', {
			'data/common.yaml': common().replace(/^classes: .*$/m, `classes: [${name}]`),
		});
		return member.puppetRun('original', [], { FACTER_some_fact: 'of the node' });
	};

	await t.test('PW-T1: a GET of a route: as it stands', async () => {
		const ran = await including('examples::route');
		assert.equal(ran.code, 2, ran.stdout + ran.stderr);
		assert.deepEqual(
			api.received.map(({ method, url }) => `${method} ${url}`),
			['GET /the_route'],
		);
	});

	await t.test('PW-T2, PW-T6: a POST with data: wants a comma', async () => {
		const pasted = await including('examples::api');
		assert.equal(pasted.code, 1);
		assert.match(pasted.stderr, /Syntax error at 'header'/);
		server.environment('original', {
			'modules/examples/manifests/api.pp': `class examples::api {${here(original.api).replace('    }\n    header', '    },\n    header')}}`,
		});
		const mended = await including('examples::api');
		assert.equal(mended.code, 2, mended.stdout + mended.stderr);
		const sent = api.received.at(-1);
		assert.equal(
			`${sent?.method} ${sent?.url} ${sent?.headers['content-type']}`,
			'POST /my_api application/json',
		);
		assert.equal(sent?.body, '{"my_key":"some_value","another_key":"of the node"}');
	});

	let output = '';
	await t.test('PW-L5: the listener of the Puppet server: as it stands', async () => {
		const ran = await master.puppetRun('original');
		assert.equal(ran.code, 2, ran.stdout + ran.stderr);
		const again = await master.puppetRun('original');
		assert.equal(again.code, 0, again.stdout + again.stderr);

		// Stands in for su, since there is neither the user nor mCollective.
		fs.writeFileSync(path.join(dir, 'bin/su'), '#!/bin/sh\nprintf "%s, " "$@"\n', { mode: 0o755 });
		const unit = fs.readFileSync(path.join(dir, 'units/puppet-webhook@puppet.service'), 'utf8');
		const [program = '', ...args] = /^ExecStart=(.*)$/m.exec(unit)?.[1]?.split(' ') ?? [];
		const child = spawn(program, args, {
			cwd: '/',
			env: { PATH: `${dir}/bin:/usr/sbin:/usr/bin:/sbin:/bin` },
			stdio: ['ignore', 'pipe', 'inherit'],
		});
		services.push(child);
		child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
		await until('the listener to listen', () => {
			assert.equal(child.exitCode, null, output);
			return output.includes('"listening"');
		});
	});
	await t.test('the call in the last run stage: wants require, and the name of the route', async () => {
		const role = 'roles::haproxy_member_backend_service';
		const pasted = await including(role);
		assert.equal(pasted.code, 1);
		assert.match(pasted.stderr, /no parameter named 'requires'/);

		server.environment('original', {
			'modules/roles/manifests/haproxy_member_backend_service.pp': original.role.replace(
				'requires',
				'require',
			),
		});
		const unknown = await including(role);
		assert.equal(unknown.code, 4, unknown.stdout + unknown.stderr);
		assert.match(
			unknown.stderr,
			/Http\[update_loadbalancer\]\/ensure: .*\/update_loadbalancer: 404 Not Found/,
		);

		server.environment('original', {
			'modules/profiles/manifests/update_loadbalancer.pp': here(original.profile).replace(
				"'update_loadbalancer'",
				"'kick_haproxy_app_internal'",
			),
		});
		const mended = await including(role);
		assert.equal(mended.code, 2, mended.stdout + mended.stderr);
		assert.match(
			mended.stdout,
			/Stage\[last\]\/Profiles::Update_loadbalancer\/Http\[\S+: sent GET .*: 202 Accepted/,
		);
		await until('the command', () =>
			output.includes('-, peadmin, -c, mco puppet runonce -F role=haproxy_app_internal, '),
		);
	});
});
