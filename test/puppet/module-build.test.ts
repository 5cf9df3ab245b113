/**
 * The module as a site gets it: built, installed offline by `puppet module install`, and applied to a throwaway root. Services
 * cannot run there, so what a unit would start is started by hand, exactly as its ExecStart says.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe } from 'node:test';
import { type LogLine, root, send, temporaryDirectory, until } from '../helpers/listener.ts';
import { hostTest, type PuppetRun, puppetApply, puppetTest, run } from '../helpers/puppet.ts';

const home = temporaryDirectory('puppet-webhook-site-');
const inHome = (...names: string[]) => path.join(home, ...names);
const modules = inHome('modules');
const unit = (name: string) => fs.readFileSync(inHome('units', name), 'utf8');
const routesOf = (listener: string) => fs.readFileSync(inHome('etc', listener, 'routes.yaml'), 'utf8');

let tarball = '';
const started: ChildProcess[] = [];

async function freePort(): Promise<number> {
	const server = net.createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	const { port } = server.address() as net.AddressInfo;
	server.close();
	await once(server, 'close');
	return port;
}

/** Class webhook for the throwaway root: everything below it, nothing started, nobody added to the host's users. */
const site = `class { 'webhook':
  node_method       => 'none',
  node              => '${process.execPath}',
  manage_services   => false,
  manage_user       => false,
  user              => 'root',
  install_directory => '${inHome('opt')}',
  command           => '${inHome('puppet-webhook')}',
  config_directory  => '${inHome('etc')}',
  state_directory   => '${inHome('var')}',
  unit_directory    => '${inHome('units')}',
  sudoers_directory => '${inHome('sudoers.d')}',
}
`;

function apply(manifest: string, options: readonly string[] = []): Promise<PuppetRun> {
	return puppetApply(site + manifest, { options: ['--modulepath', modules, ...options] });
}

interface Service {
	readonly child: ChildProcess;
	readonly lines: LogLine[];
}

/** Does for a unit what systemd would: its command, in a short environment, with the credentials in a directory. */
async function start(name: string): Promise<Service> {
	const text = unit(`puppet-webhook@${name}.service`);
	const [program = '', ...args] = /^ExecStart=(.*)$/m.exec(text)?.[1]?.split(' ') ?? [];
	const credentials = inHome(`credentials-${name}`);
	fs.mkdirSync(credentials, { recursive: true });
	for (const [, credential = '', file = ''] of text.matchAll(/^LoadCredential=([^:]+):(.*)$/gm)) {
		fs.copyFileSync(file, path.join(credentials, credential));
	}
	const child = spawn(program, args, {
		cwd: '/',
		env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', CREDENTIALS_DIRECTORY: credentials },
		stdio: ['ignore', 'pipe', 'inherit'],
	});
	started.push(child);
	const lines: LogLine[] = [];
	createInterface(child.stdout).on('line', (line) => lines.push(JSON.parse(line)));
	await until(`${name} to listen`, () => {
		assert.equal(child.exitCode, null, JSON.stringify(lines));
		return lines.some(({ message }) => message === 'listening');
	});
	return { child, lines };
}

let port = 0;
let twitchPort = 0;
let r10kPort = 0;
let service: Service;

/** The class and the call of the original's document, with its alignment and quotes. */
const original = `
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
include puppetmaster::webhook
`;

const deploy = (command: string) => `
webhook::listener { 'deploy':
  bind_address => '127.0.0.1',
  port         => ${port},
  auth         => { 'jenkins' => { 'bearer' => { 'credential' => 'jenkins' } } },
  credentials  => { 'jenkins' => Sensitive('swordfish') },
  routes       => {
    'hello' => { 'auth' => ['jenkins'], 'command' => ['echo', ${command}] },
  },
}
`;

const hello = (token: string) =>
	send({ port }, '/hello?async=false', { method: 'POST', headers: { authorization: `Bearer ${token}` } });

/** A user that every host has, so that none has to be made. */
const [, , uid, gid, , daemonHome] =
	/^daemon:.*$/m.exec(fs.readFileSync('/etc/passwd', 'utf8'))?.[0].split(':') ?? [];

const twitch = () => `
class { 'webhook::twitch':
  user       => 'daemon',
  home       => '${daemonHome}',
  managehome => false,
  uid        => ${uid},
  gid        => ${gid},
  bind       => '127.0.0.1',
  port       => ${twitchPort},
  puppet     => '${inHome('standin')}',
  lockfile   => '${inHome('agent_catalog_run.lock')}',
  run_dir    => '${inHome('run')}',
}
`;

/** With a program that says how it was called. */
const r10k = () => `
class { 'webhook::r10k':
  user => 'daemon',
  port => ${r10kPort},
  r10k => '/bin/echo',
}
`;

describe('the built module', () => {
	after(async () => {
		for (const child of started) {
			if (child.exitCode !== null || child.signalCode !== null) continue;
			child.kill('SIGTERM');
			await once(child, 'close');
		}
	});
	before(async () => {
		for (const dir of ['units', 'sudoers.d', 'modules']) fs.mkdirSync(inHome(dir));
		const built = await run(process.execPath, [
			path.join(root, 'scripts/build-module.ts'),
			'--out',
			inHome('pkg'),
		]);
		assert.equal(built.code, 0, built.stderr);
		tarball = built.stdout.trim();
		if (process.getuid?.() !== 0) return;
		// Puppet would ask the Forge even for the dependencies of a file, were it not told not to.
		const args = ['--ignore-dependencies', '--target-dir', modules, '--modulepath', modules];
		const dirs = ['--confdir', inHome('conf'), '--vardir', inHome('vardir')];
		await run('puppet', ['module', 'install', tarball, ...args, ...dirs]);
	});

	puppetTest(
		'is one folder of plain files that belong to root: sources, reference, the listener, checksums',
		async () => {
			assert.equal(path.basename(tarball), 'puppetwebhook-webhook-0.1.0.tar.gz');
			const { stdout } = await run('tar', ['--numeric-owner', '--full-time', '--utc', '-tvzf', tarball]);
			const entries = stdout
				.trim()
				.split('\n')
				.map((line) => line.split(/\s+/));
			for (const [mode = '', owner, , day, , name = ''] of entries) {
				assert.match(mode, /^(-rw-r--r--|drwxr-xr-x)$/, name);
				assert.equal(`${owner} ${day}`, '0/0 1970-01-01', name);
				assert.match(name, /^puppetwebhook-webhook-0\.1\.0\//);
			}
			const names = entries.map((entry) => entry[5]?.replace(/^[^/]+\//, ''));
			for (const name of [
				...[
					'metadata.json',
					'LICENSE',
					'README.md',
					'hiera.yaml',
					'lib/puppet/type/http.rb',
					'types/route.pp',
				],
				...['manifests/init.pp', 'templates/service.epp', 'files/puppet-webhook.tar.gz', 'checksums.json'],
			]) {
				assert.ok(names.includes(name), name);
			}
			assert.ok(
				!names.some((name) => /^(ruby-type|test|spec|node_modules|\.)/.test(name ?? '')),
				names.join('\n'),
			);
		},
	);

	hostTest(
		'puppet-strings',
		'has a reference of every class, define, type and function',
		async () => {
			const { stdout } = await run('tar', ['-xzOf', tarball, 'puppetwebhook-webhook-0.1.0/REFERENCE.md']);
			for (const name of [
				'webhook::listener',
				'webhook::twitch',
				'http',
				'Webhook::Route',
				'webhook::call',
			]) {
				assert.match(stdout, new RegExp(`^### .*${name}`, 'm'));
			}
		},
		'puppet help strings',
	);

	puppetTest(
		'PW-B11, PW-L11: holds every package the listener needs, at the locked versions, with its licence',
		async () => {
			const dir = inHome('unpacked');
			fs.mkdirSync(dir);
			await run('tar', ['-xzf', tarball, '-C', dir, '--strip-components=1']);
			await run('tar', ['-xzf', path.join(dir, 'files/puppet-webhook.tar.gz'), '-C', dir]);
			const lock = JSON.parse(fs.readFileSync(path.join(root, 'package-lock.json'), 'utf8'));
			const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
			const licences = fs.readFileSync(path.join(dir, 'puppet-webhook/dist/LICENSES.txt'), 'utf8');
			for (const name of Object.keys(manifest.dependencies)) {
				const { version } = lock.packages[`node_modules/${name}`];
				assert.ok(
					licences.includes(`\n${name} ${version}: `) || licences.startsWith(`${name} ${version}: `),
					name,
				);
			}
			assert.ok(!/^typescript /m.test(licences), 'tools of development are not in it');
			assert.ok(!fs.existsSync(path.join(dir, 'puppet-webhook/node_modules')));
			const links = await run('find', [dir, '-type', 'l']);
			assert.equal(links.stdout, '');
			const metadata = JSON.parse(fs.readFileSync(path.join(dir, 'metadata.json'), 'utf8'));
			const required = metadata.requirements.map(
				({ name, version_requirement: range }: Record<string, string>) => `${name} ${range}`,
			);
			assert.deepEqual(required, ['openvox >= 7.0.0 < 9.0.0', 'puppet >= 7.0.0 < 9.0.0']);
			assert.deepEqual(metadata.dependencies, []);
		},
	);

	let everything: PuppetRun;

	asRoot('TW-P10: writes everything and starts nothing; a second Puppet run changes nothing', async () => {
		port = await freePort();
		twitchPort = await freePort();
		r10kPort = await freePort();
		// A lower level of Hiera, and a higher one.
		const shared = (number: number) =>
			`{ bind_address: 127.0.0.1, port: ${number}, routes: { r: { command: common } } }`;
		fs.mkdirSync(inHome('hiera'));
		fs.writeFileSync(
			inHome('hiera/hiera.yaml'),
			'version: 5\ndefaults: { datadir: ., data_hash: yaml_data }\nhierarchy: [{ name: all, paths: [node.yaml, common.yaml] }]\n',
		);
		fs.writeFileSync(
			inHome('hiera/common.yaml'),
			`webhook::listeners: { one: ${shared(7001)}, two: ${shared(7002)} }\n`,
		);
		fs.writeFileSync(
			inHome('hiera/node.yaml'),
			'webhook::listeners: { one: { routes: { r: { command: node } } } }\n',
		);
		const manifest = original + deploy("'from Puppet'") + twitch() + r10k();
		everything = await apply(manifest, ['--hiera_config', inHome('hiera/hiera.yaml')]);
		assert.equal(everything.code, 2, everything.stdout + everything.stderr);
		const again = await apply(manifest, ['--hiera_config', inHome('hiera/hiera.yaml')]);
		assert.equal(again.code, 0, again.stdout + again.stderr);
	});

	asRoot('the original’s call, as it stands in its document, is taken by the listener', async () => {
		assert.match(
			everything.stdout + everything.stderr,
			/webhook::listener\[puppet\]: anybody may call its routes/,
		);
		assert.match(
			routesOf('puppet'),
			/command: "su - peadmin -c 'mco puppet runonce -F role=haproxy_app_internal'"/,
		);
		assert.match(unit('puppet-webhook@puppet.socket'), /^ListenStream=0\.0\.0\.0:6969$/m);
	});

	asRoot('secrets are in files that others cannot read, and in nothing that Puppet says', async () => {
		assert.doesNotMatch(everything.stdout + everything.stderr, /swordfish/);
		assert.equal(fs.statSync(inHome('etc/deploy/routes.yaml')).mode & 0o777, 0o640);
		assert.equal(fs.statSync(inHome('etc/deploy/credentials/jenkins')).mode & 0o777, 0o600);
	});

	asRoot('listeners of all levels of Hiera are there, the more specific level winning', async () => {
		assert.match(routesOf('one'), /port: 7001\n[\s\S]*command: node\n/);
		assert.match(routesOf('two'), /port: 7002\n[\s\S]*command: common\n/);
	});

	asRoot(
		'PW-L6: what the unit starts serves its routes, and takes the credential that systemd hands over',
		async () => {
			service = await start('deploy');
			const answer = await hello('swordfish');
			assert.equal(answer.status, 200, answer.text);
			assert.equal(answer.json.output.text, 'from Puppet\n');
			assert.equal((await hello('tuna')).status, 401);
		},
	);

	asRoot('PW-L8: a changed route is taken up by the listener that runs, without a restart', async () => {
		const ran = await apply(deploy("'changed'"));
		assert.equal(ran.code, 2, ran.stderr);
		await until('the new route', async () => (await hello('swordfish')).json.output?.text === 'changed\n');
		assert.equal(service.child.exitCode, null);
		assert.match(ran.stdout, /routes\.yaml\]\/content: changed \[redacted\] to \[redacted\]/);
	});

	asRoot('what would be refused replaces nothing, and the Puppet run says why', async () => {
		const before = routesOf('deploy');
		const ran = await apply(`${deploy("'{{nobody}}'")}
webhook::listener { 'keyless':
  bind_address => '127.0.0.1',
  auth         => { 'jenkins' => { 'bearer' => { 'credential' => 'nowhere' } } },
  routes       => { 'hello' => { 'auth' => ['jenkins'], 'command' => 'date' } },
}
webhook::sudo { 'broken':
  user     => 'nobody',
  commands => ['/usr/bin/true ^a('],
}
`);
		assert.equal(Number(ran.code) & 4, 4, ran.stdout);
		const said = ran.stdout + ran.stderr;
		assert.match(said, /route "hello".*nobody/, 'a parameter that is not declared');
		assert.match(said, /nowhere/, 'a credential that is not there');
		assert.match(said, /unterminated regular expression/, 'a rule that sudo does not understand');
		assert.equal(routesOf('deploy'), before);
		assert.ok(!fs.existsSync(inHome('etc/keyless/routes.yaml')));
		assert.ok(!fs.existsSync(inHome('sudoers.d/broken')));
		assert.equal((await hello('swordfish')).json.output.text, 'changed\n');
	});

	asRoot(
		'the unit’s exposure is below 3, and systemd understands it',
		async () => {
			// The tool does not take the name of an instance for a file.
			const file = inHome('puppet-webhook-score.service');
			fs.copyFileSync(inHome('units/puppet-webhook@puppet.service'), file);
			const { stdout } = await run('systemd-analyze', ['security', '--offline=true', '--no-pager', file]);
			const score = Number(/Overall exposure level for .*: ([\d.]+)/.exec(stdout)?.[1]);
			assert.ok(score < 3, `${score}\n${stdout}`);
			for (const name of [
				'puppet-webhook@puppet.service',
				'puppet-webhook@twitch.service',
				'puppet-webhook@deploy.socket',
			]) {
				const verified = await run('systemd-analyze', ['verify', inHome('units', name)]);
				assert.doesNotMatch(verified.stderr, /puppet-webhook@\S+:\d+/, verified.stderr);
			}
		},
		'systemd-analyze',
	);

	asRoot('TW-P1, TW-P3: puppet-twitch by one class: its answers, and rules that sudo takes', async () => {
		const rules = fs.readFileSync(inHome('sudoers.d/daemon'), 'utf8');
		assert.equal(rules.match(/^%daemon ALL = \(root\) NOPASSWD: .*$/gm)?.length, 3, rules);
		assert.equal(fs.statSync(inHome('sudoers.d/daemon')).mode & 0o777, 0o440);

		// Stands in for Puppet: runs until the file is gone.
		const busy = inHome('busy');
		fs.writeFileSync(inHome('standin'), `#!/bin/sh\nwhile [ -e ${busy} ]; do sleep 0.05; done\n`, {
			mode: 0o755,
		});
		fs.writeFileSync(busy, '');
		await start('twitch');
		const call = (query = '') => send({ port: twitchPort }, `/puppet/twitch${query}`);
		const accepted = await call();
		assert.deepEqual([accepted.status, accepted.text], [202, 'Triggered puppet run']);
		const second = await call();
		assert.deepEqual([second.status, second.text], [409, 'Puppet already running']);
		fs.rmSync(busy);
		await until(
			'the Puppet run to end',
			async () => (await call('?async=false')).text === 'Puppet run complete',
		);
	});

	asRoot('a Node.js that is too old fails the Puppet run, which names its version', async () => {
		const old = inHome('old-node');
		// As Debian 12 has it.
		fs.writeFileSync(old, '#!/bin/sh\n[ "$1" = --version ] && echo v18.19.0\n', { mode: 0o755 });
		const elsewhere = inHome('elsewhere');
		fs.mkdirSync(elsewhere);
		const manifest = site.replaceAll(home, elsewhere).replace(`'${process.execPath}'`, `'${old}'`);
		const ran = await puppetApply(manifest, { options: ['--modulepath', modules] });
		assert.equal(Number(ran.code) & 4, 4, ran.stdout);
		assert.match(
			ran.stdout,
			/old-node: v18\.19\.0; the listener needs Node\.js 22\.18 or newer, see webhook::node_method/,
		);
		assert.ok(!fs.existsSync(path.join(elsewhere, 'puppet-webhook')), 'no command that would not work');
	});

	asRoot(
		'webhook::r10k deploys the environment that was asked for, and nothing that is no environment',
		async () => {
			await start('r10k');
			const call = (environment: string) =>
				send({ port: r10kPort }, '/r10k/environment?async=false', { method: 'POST', body: { environment } });
			const deployed = await call('feature_x');
			assert.equal(
				deployed.json.output?.text,
				'deploy environment feature_x --modules --verbose info\n',
				deployed.text,
			);
			assert.equal((await call('--help')).status, 422);
		},
	);
});

/** Puppet that installs software runs as root, and owns what it writes; what is written here includes rules for sudo. */
function asRoot(title: string, body: () => Promise<void>, program = 'visudo'): void {
	hostTest(program, title, async (t) => {
		if (process.getuid?.() === 0) return body();
		t.skip('needs root, to whom the files belong');
	});
}
