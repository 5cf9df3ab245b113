/**
 * The programs of the host that the tests use beside Node. As root on Debian the missing ones are installed; elsewhere each
 * is named with its package and the tests that need it are skipped, except where `CI` is set: there nothing may be skipped.
 */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

interface Tool {
	/** The package of Debian that brings it. */
	readonly debian: string;
	/** How it is recognised: by a program on PATH, or as a Ruby library. */
	readonly found: { readonly program: string } | { readonly gem: string };
	/** What is skipped without it. */
	readonly purpose: string;
}

const tools: readonly Tool[] = [
	{ debian: 'puppet-agent', found: { program: 'puppet' }, purpose: 'tests that apply manifests' },
	{ debian: 'ruby-rspec-puppet', found: { gem: 'rspec-puppet' }, purpose: 'the specs in spec/' },
	{
		debian: 'ruby-puppetserver-ca-cli',
		found: { gem: 'puppetserver-ca' },
		purpose: 'tests with a Puppet CA',
	},
	{ debian: 'puppet-lint', found: { program: 'puppet-lint' }, purpose: 'the check of manifests’ style' },
	{ debian: 'puppet-strings', found: { gem: 'puppet-strings' }, purpose: 'the check of doc comments' },
	{
		debian: 'metadata-json-lint',
		found: { program: 'metadata-json-lint' },
		purpose: 'the check of metadata.json',
	},
	{ debian: 'rubocop', found: { program: 'rubocop' }, purpose: 'the check of Ruby’s style' },
	{ debian: 'openssl', found: { program: 'openssl' }, purpose: 'tests with certificates' },
	{ debian: 'build-essential', found: { program: 'cc' }, purpose: 'the test of power loss' },
	{ debian: 'curl', found: { program: 'curl' }, purpose: 'the commands that the documents show' },
	{ debian: 'python3', found: { program: 'python3' }, purpose: 'tests with a syslog daemon of this host' },
	{ debian: 'sudo', found: { program: 'visudo' }, purpose: 'the check of sudo’s rules' },
	{ debian: 'systemd', found: { program: 'systemd-analyze' }, purpose: 'tests with systemd’s programs' },
	{ debian: 'prometheus', found: { program: 'promtool' }, purpose: 'the check of metrics and alerts' },
];

/** What the tests in test/servers use. The Puppet server brings the Puppet agent. */
const serverTools: readonly Tool[] = [
	{ debian: 'puppetserver', found: { program: 'puppetserver' }, purpose: 'tests with a Puppet server' },
	{ debian: 'default-jre-headless', found: { program: 'java' }, purpose: 'tests with a Puppet server' },
];

/** True where nothing may be skipped for want of a tool. */
export const inCI = !['', '0', 'false', undefined].includes(process.env.CI);

/** True when `name` is a program on PATH. */
function onPath(name: string): boolean {
	return (process.env.PATH ?? '').split(delimiter).some((folder) => {
		try {
			accessSync(join(folder, name), constants.X_OK);
			return true;
		} catch {
			return false;
		}
	});
}

/**
 * Installs what is missing where that is possible, and says what stays missing. False when that is a failure.
 * @param suite `servers` for the tests in test/servers, `usual` for all others.
 */
export async function provideTools(suite: 'usual' | 'servers'): Promise<boolean> {
	const wanted = suite === 'servers' ? serverTools : tools;
	let missing = missingTools(wanted);
	if (missing.length > 0 && process.getuid?.() === 0 && onPath('apt-get')) {
		await installPackages(missing.map((tool) => tool.debian));
		missing = missingTools(wanted);
	}
	for (const tool of missing) {
		console.error(
			`not found: ${Object.values(tool.found)[0]} (Debian: ${tool.debian}); skipped: ${tool.purpose}`,
		);
	}
	return missing.length === 0 || !inCI;
}

function missingTools(wanted: readonly Tool[]): Tool[] {
	const gems = missingGems(wanted.flatMap((tool) => ('gem' in tool.found ? [tool.found.gem] : [])));
	return wanted.filter(({ found }) =>
		'program' in found ? !onPath(found.program) : gems.includes(found.gem),
	);
}

function missingGems(names: string[]): string[] {
	if (names.length === 0) return [];
	const question = 'puts ARGV.reject { |name| Gem::Specification.stubs_for(name).any? }';
	const answer = spawnSync('ruby', ['-e', question, ...names], { encoding: 'utf8' });
	return answer.status === 0 ? answer.stdout.split('\n') : names;
}

/**
 * Debian's packages start the services they bring, here Puppet's agent and server. A policy-rc.d forbids it meanwhile; the host's own,
 * if there is one, stays. An interrupt waits until ours is gone again.
 */
async function installPackages(packages: readonly string[]): Promise<void> {
	console.error(`installing Debian packages (once): ${packages.join(' ')} …`);
	const policy = '/usr/sbin/policy-rc.d';
	const forbid =
		'#!/bin/sh\n# Made for the time of an installation by `npm test` of puppet-webhook.\nexit 101\n';
	// Ours may be there already, from an installation that was killed.
	const ours = !existsSync(policy) || readFileSync(policy, 'utf8') === forbid;
	let interrupted = false;
	const interrupt = () => {
		interrupted = true;
	};
	const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
	for (const signal of signals) process.on(signal, interrupt);
	try {
		if (ours) writeFileSync(policy, forbid, { mode: 0o755 });
		await apt('update');
		// One at a time: a package that a release does not have must not keep the others out.
		for (const name of packages) {
			if (!interrupted) await apt('install', '--no-install-recommends', '--', name);
		}
	} finally {
		if (ours) rmSync(policy);
		for (const signal of signals) process.off(signal, interrupt);
	}
	if (interrupted) process.exit(130);
}

/** Says what failed; the caller looks for itself what is there afterwards. */
async function apt(action: string, ...words: string[]): Promise<void> {
	const options = ['-qq', '-y', '-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3'];
	const child = spawn('apt-get', [...options, action, ...words], {
		env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
		stdio: ['ignore', 'ignore', 'pipe'],
	});
	let errors = '';
	child.stderr.setEncoding('utf8').on('data', (text) => {
		errors += text;
	});
	const [status] = await once(child, 'close');
	if (status !== 0) console.error(`apt-get ${action} ${words.at(-1) ?? ''}\n${errors}`);
}
