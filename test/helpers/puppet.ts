/**
 * Real `puppet apply` runs for tests: each with directories of its own, on the module as it is installed (a real folder `lib`,
 * no link). A Puppet run costs about two seconds, so tests put what belongs together into one manifest.
 */

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { inCI } from '../../scripts/tools.ts';
import { root, temporaryDirectory } from './listener.ts';

export interface Ran {
	readonly code: number | null;
	readonly stdout: string;
	readonly stderr: string;
}

/** Runs a program to its end, without any proxy that the environment names, and without colours. */
export async function run(
	file: string,
	args: readonly string[],
	{ cwd = root, env = {} }: { cwd?: string; env?: Readonly<Record<string, string>> } = {},
): Promise<Ran> {
	const inherited = Object.entries(process.env).filter(([name]) => !/^(https?|no|all)_proxy$/i.test(name));
	const child = spawn(file, args, {
		cwd,
		env: { ...Object.fromEntries(inherited), ...env },
		stdio: ['ignore', 'pipe', 'pipe'],
	});
	let stdout = '';
	let stderr = '';
	child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
	child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
	const [code] = await once(child, 'close');
	return { code, stdout, stderr };
}

const installed = new Map<string, boolean>();

/**
 * A test that needs a program of the host. Without the program it is reported as skipped, with the reason; in CI
 * it fails, because there the program ought to be.
 * @param probe a shell command that succeeds when the program is there.
 */
export function hostTest(
	program: string,
	title: string,
	body: (t: TestContext) => Promise<void>,
	probe = `command -v ${program}`,
): void {
	test(title, async (t) => {
		if (!installed.has(program)) installed.set(program, spawnSync('sh', ['-c', probe]).status === 0);
		if (installed.get(program)) return body(t);
		const reason = `${program} is not installed on this host (docs/contributing.md names the packages)`;
		assert.ok(!inCI, reason);
		t.skip(reason);
	});
}

export function puppetTest(title: string, body: (t: TestContext) => Promise<void>): void {
	hostTest('puppet', title, body);
}

let modules: string | undefined;

/** A module path that holds the module `webhook` as an installation would. */
export function modulePath(): string {
	if (modules === undefined) {
		modules = temporaryDirectory('puppet-webhook-modules-');
		const module = path.join(modules, 'webhook');
		for (const name of [
			...['metadata.json', 'hiera.yaml', 'data', 'functions', 'manifests', 'templates', 'types'],
		]) {
			fs.cpSync(path.join(root, name), path.join(module, name), { recursive: true });
		}
		fs.cpSync(path.join(root, 'ruby-type/lib'), path.join(module, 'lib'), { recursive: true });
	}
	return modules;
}

export interface PuppetRun extends Ran {
	/** Where this Puppet run kept its configuration, state, report and certificates. */
	readonly dir: string;
}

/** Runs any Puppet command on the module, with directories of its own: new ones, or those of an earlier run. */
export async function puppet(
	args: readonly string[],
	{ dir = temporaryDirectory('puppet-webhook-puppet-') }: { dir?: string } = {},
): Promise<PuppetRun> {
	const [command = '', ...rest] = args;
	const own = ['--confdir', `${dir}/conf`, '--vardir', `${dir}/var`, '--ssldir', `${dir}/ssl`];
	const ran = await run('puppet', [command, ...own, '--modulepath', modulePath(), '--color=false', ...rest]);
	// As root, Facter complains of processes that it may not look into; that is about the host, not about us.
	const stderr = ran.stderr.replaceAll(/^Error: Facter: .*\n/gm, '');
	return { ...ran, stderr, dir };
}

/**
 * Applies a manifest with `--detailed-exitcodes`: 0 nothing changed, 1 the manifest is wrong, 2 changed, 4 failed, 6 both.
 * The host's facts come from a file: to gather them takes half the time of a Puppet run, and none of ours depends on them.
 * @param options further arguments of `puppet apply`, such as `--noop`.
 */
export function puppetApply(
	manifest: string,
	{
		options = [],
		dir = temporaryDirectory('puppet-webhook-puppet-'),
		certname = 'node.test',
	}: { options?: readonly string[]; dir?: string; certname?: string } = {},
): Promise<PuppetRun> {
	const facts = path.join(dir, 'yaml/facts', `${certname}.yaml`);
	fs.mkdirSync(path.dirname(facts), { recursive: true });
	fs.writeFileSync(
		facts,
		`--- !ruby/object:Puppet::Node::Facts\nname: ${certname}\nvalues: { os: { family: Debian, name: Debian } }\n`,
	);
	const fromFile = ['--facts_terminus', 'yaml', '--yamldir', `${dir}/yaml`, '--clientyamldir', `${dir}/yaml`];
	const args = [
		'apply',
		'--detailed-exitcodes',
		'--certname',
		certname,
		...fromFile,
		...options,
		'-e',
		manifest,
	];
	return puppet(args, { dir });
}

/** What a stand-in was sent: header names in lower case, the body's exact bytes as text. */
export interface Received {
	readonly method: string;
	readonly url: string;
	readonly headers: http.IncomingHttpHeaders;
	readonly body: string;
	/** The certificate's name when the caller showed one that the stand-in's CA has signed. */
	readonly certname: string | undefined;
}

const standIns: http.Server[] = [];
after(() => {
	for (const server of standIns) server.close().closeAllConnections();
});

export interface StandIn {
	readonly port: number;
	readonly received: Received[];
}

/** How a stand-in answers; undefined for never. */
export type Reply = { status: number; headers?: http.OutgoingHttpHeaders; body?: string } | undefined;

/**
 * A server that stands in for a listener where the real one cannot show something (the exact bytes of a request) or does not
 * do it (redirect, ask to come back later, hang).
 */
export async function standIn(
	reply: (request: Received) => Reply = () => ({ status: 200 }),
	tls?: https.ServerOptions,
): Promise<StandIn> {
	const received: Received[] = [];
	const handle = (request: http.IncomingMessage, response: http.ServerResponse) => {
		const chunks: Buffer[] = [];
		request.on('data', (chunk) => chunks.push(chunk));
		request.on('end', () => {
			const peer =
				'getPeerCertificate' in request.socket ? (request.socket as TlsPeer).getPeerCertificate() : {};
			const one: Received = {
				method: request.method ?? '',
				url: request.url ?? '',
				headers: request.headers,
				body: Buffer.concat(chunks).toString(),
				certname: peer.subject?.CN,
			};
			received.push(one);
			const answer = reply(one);
			if (answer) response.writeHead(answer.status, answer.headers).end(answer.body);
		});
	};
	const server = tls ? https.createServer(tls, handle) : http.createServer(handle);
	standIns.push(server.listen(0, '127.0.0.1'));
	await once(server, 'listening');
	return { port: (server.address() as AddressInfo).port, received };
}

interface TlsPeer {
	getPeerCertificate(): { subject?: { CN?: string } };
}
