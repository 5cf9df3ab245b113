/**
 * A real Puppet server with its CA on loopback, and real Puppet agents: each with directories and settings of its own, so that
 * nothing of the host's Puppet is read or written. To start takes 20 seconds and 0.6 GB, so a test file has one for all its tests.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net, { type AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { after, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { inCI } from '../../scripts/tools.ts';
import { temporaryDirectory } from './listener.ts';
import { hostTest, modulePath, type Ran, run } from './puppet.ts';

const jar = '/usr/share/puppetserver/puppetserver.jar';

/** A test that needs a Puppet server of Debian's packages, whose places these are, and root, who may read its settings. */
export function serverTest(title: string, body: (t: TestContext) => Promise<void>): void {
	const asRoot = async (t: TestContext) => {
		if (process.getuid?.() === 0) return body(t);
		assert.ok(!inCI, 'CI runs as root');
		t.skip('only root may read the settings of the Puppet server, and give files to root as the module does');
	};
	hostTest('puppetserver', title, asRoot, `test -e ${jar} && command -v java && command -v puppet`);
}

export async function freePort(): Promise<number> {
	const server = net.createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	const { port } = server.address() as AddressInfo;
	server.close();
	await once(server, 'close');
	return port;
}

/** Seconds that the server may take to start; 20 with two cores to itself. */
const patience = 150;

let started: Promise<PuppetServer> | undefined;
let dir: string | undefined;
let java: ChildProcess | undefined;

after(async () => {
	if (java && java.exitCode === null && java.signalCode === null) {
		const ended = once(java, 'close');
		java.kill('SIGTERM');
		const slow = setTimeout(() => java?.kill('SIGKILL'), 15_000);
		await ended;
		clearTimeout(slow);
	}
	if (dir) fs.rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
});

/** The server of this test file, started by the first test that asks for it. */
export function puppetServer(): Promise<PuppetServer> {
	started ??= start();
	return started;
}

async function start(): Promise<PuppetServer> {
	dir = fs.mkdtempSync(path.join(os.tmpdir(), 'puppet-webhook-server-'));
	const port = await freePort();
	const server = new PuppetServer(dir, port);
	const at = (...names: string[]) => path.join(server.dir, ...names);
	for (const folder of [
		'conf.d',
		'puppet',
		'code/environments',
		'code/modules',
		'var',
		'run',
		'log',
		'ssl',
		'tmp',
	])
		fs.mkdirSync(at(folder), { recursive: true });
	for (const name of ['auth.conf', 'metrics.conf', 'web-routes.conf'])
		fs.copyFileSync(path.join('/etc/puppet/puppetserver/conf.d', name), at('conf.d', name));
	const files = {
		'conf.d/ca.conf': 'certificate-authority: { allow-subject-alt-names: true }',
		'conf.d/global.conf': `global: { logging-config: ${at('logback.xml')} }`,
		'conf.d/webserver.conf': `webserver: { client-auth: want, ssl-host: 127.0.0.1, ssl-port: ${port} }`,
		'conf.d/puppetserver.conf': `
jruby-puppet: {
  ruby-load-path: [/usr/lib/puppetserver/ruby/vendor_ruby]
  gem-home: ${at('gems')}
  gem-path: ["${at('gems')}", "/usr/lib/puppetserver/vendored-jruby-gems"]
  server-conf-dir: ${at('puppet')}
  server-code-dir: ${at('code')}
  server-var-dir: ${at('var')}
  server-run-dir: ${at('run')}
  server-log-dir: ${at('log')}
  max-active-instances: 1
}
http-client: {}
profiler: {}`,
		'logback.xml':
			'<configuration><appender name="S" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%p [%c{2}] %m%n</pattern></encoder></appender><root level="info"><appender-ref ref="S"/></root></configuration>',
		// Debian's basemodulepath holds the host's modules, which every agent would get.
		'puppet/puppet.conf': `[main]
certname = puppet.test
server = localhost
serverport = ${port}
ssldir = ${at('ssl')}
[server]
codedir = ${at('code')}
vardir = ${at('var')}
cadir = ${at('ca')}
basemodulepath = ${at('code/modules')}
reports = store
reportdir = ${at('reports')}
autosign = true
keylength = 2048
`,
	};
	for (const [name, text] of Object.entries(files)) fs.writeFileSync(at(name), `${text}\n`);
	// The server counts its starts here, as soon as it serves.
	fs.writeFileSync(at('run/restart'), '0');
	// Puppet gives its files to this user when it is root, and then has to be able to read them.
	const [uid, gid] = [id('-u'), id('-g')];
	execFileSync('chown', ['-R', `${uid}:${gid}`, server.dir]);
	await server.authority('setup', '--subject-alt-names', 'DNS:localhost,IP:127.0.0.1');

	// One instance of JRuby, little memory and the quicker compiler: starts in half the time and takes half the memory.
	java = spawn(
		'java',
		[
			...[
				'-Xms256m',
				'-Xmx640m',
				'-XX:+UseSerialGC',
				'-XX:TieredStopAtLevel=1',
				`-Djava.io.tmpdir=${at('tmp')}`,
			],
			'-Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger',
			...['-Djruby.lib=/usr/share/jruby/lib', '-jar', jar, '--config', at('conf.d')],
			...['--bootstrap-config', '/etc/puppet/puppetserver/services.d', '--restart-file', at('run/restart')],
		],
		{
			cwd: server.dir,
			env: { PATH: process.env.PATH, HOME: at('var'), LANG: 'C.UTF-8' },
			stdio: ['ignore', 'pipe', 'pipe'],
			uid,
			gid,
		},
	);
	for (const stream of [java.stdout, java.stderr])
		stream?.setEncoding('utf8').on('data', (text: string) => (server.log += text));
	const end = Date.now() + patience * 1000;
	while (fs.readFileSync(at('run/restart'), 'utf8') !== '1') {
		assert.equal(java.exitCode, null, `the Puppet server ended:\n${server.log}`);
		assert.ok(Date.now() < end, `no Puppet server within ${patience} seconds:\n${server.log}`);
		await sleep(100);
	}
	return server;
}

function id(option: '-u' | '-g'): number {
	return Number(execFileSync('id', [option, 'puppet'], { encoding: 'utf8' }));
}

/** What an environment holds beside the module `webhook`: texts by path below it. */
export type Files = Readonly<Record<string, string>>;

export class PuppetServer {
	readonly dir: string;
	readonly port: number;
	log = '';

	constructor(dir: string, port: number) {
		this.dir = dir;
		this.port = port;
	}

	/** `puppetserver ca`. @throws unless it succeeds */
	async authority(action: string, ...args: readonly string[]): Promise<void> {
		const config = ['--config', path.join(this.dir, 'puppet/puppet.conf')];
		const ran = await run('puppetserver', ['ca', action, ...config, ...args]);
		assert.equal(ran.code, 0, `puppetserver ca ${action}: ${ran.stdout}${ran.stderr}`);
	}

	/**
	 * Writes an environment, or some of its files anew: the next Puppet run has them.
	 * @param module the module `webhook` as it is installed; by default that of this checkout without a listener in it
	 */
	environment(name: string, files: Files, module = path.join(modulePath(), 'webhook')): void {
		const at = path.join(this.dir, 'code/environments', name);
		const installed = path.join(at, 'modules/webhook');
		if (!fs.existsSync(installed)) fs.cpSync(module, installed, { recursive: true });
		for (const [file, text] of Object.entries(files)) {
			fs.mkdirSync(path.dirname(path.join(at, file)), { recursive: true });
			fs.writeFileSync(path.join(at, file), text);
		}
	}

	/** The reports that a node has sent, oldest first, as YAML. */
	reports(certname: string): string[] {
		const at = path.join(this.dir, 'reports', certname);
		return fs
			.readdirSync(at)
			.sort()
			.map((name) => fs.readFileSync(path.join(at, name), 'utf8'));
	}
}

export interface NodeOptions {
	/** Trusted extensions that it asks for: values by name. */
	readonly extensions?: Readonly<Record<string, string>>;
	/** Further names for its certificate. */
	readonly names?: string;
}

/** A node: what a Puppet agent has on its host. */
export class Node {
	readonly certname: string;
	/** Its settings, certificates and state. */
	readonly dir = temporaryDirectory('puppet-webhook-node-');

	constructor({ port }: PuppetServer, certname: string, { extensions = {}, names }: NodeOptions = {}) {
		this.certname = certname;
		fs.writeFileSync(
			path.join(this.dir, 'puppet.conf'),
			// On a connection that it uses again, Puppet waits half a minute for a certificate that has just been asked for.
			`[main]
certname = ${certname}
server = localhost
serverport = ${port}
vardir = ${this.dir}/var
ssldir = ${this.dir}/ssl
keylength = 2048
http_keepalive_timeout = 0
${names === undefined ? '' : `dns_alt_names = ${names}\n`}`,
		);
		// JSON is YAML.
		fs.writeFileSync(
			path.join(this.dir, 'csr_attributes.yaml'),
			JSON.stringify({ extension_requests: extensions }),
		);
	}

	/** Has a certificate made and signed, without a Puppet run. */
	async enrol(): Promise<void> {
		const ran = await this.#puppet('ssl', ['bootstrap']);
		assert.equal(ran.code, 0, ran.stdout + ran.stderr);
	}

	/** A run of `puppet agent --test`, which has detailed exit codes. @param options further arguments, such as `--noop` */
	puppetRun(environment: string, options: readonly string[] = [], env = {}): Promise<Ran> {
		return this.#puppet('agent', ['--test', '--environment', environment, ...options], env);
	}

	async #puppet(command: string, args: readonly string[], env = {}): Promise<Ran> {
		// Without the limit an agent asks for its certificate every two minutes for ever.
		const usual = ['--confdir', this.dir, '--color=false', '--waitforcert', '0'];
		const ran = await run('puppet', [command, ...usual, ...args], { env });
		// As root, Facter complains of processes that it may not look into; that is about the host, not about us.
		return { ...ran, stderr: ran.stderr.replaceAll(/^Error: Facter: .*\n/gm, '') };
	}
}
