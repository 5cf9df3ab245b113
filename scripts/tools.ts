/**
 * The programs of the host that the tests and checks use beside Node. As root on Debian the missing ones are installed;
 * elsewhere each is named with its package, and what needs it is left out, except where `CI` is set: there nothing may be
 * left out.
 */

import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

interface Tool {
	/** The package of Debian that brings it. */
	readonly debian: string;
	/** How it is recognised: a program on PATH, a Ruby library, or a place in the file system. */
	readonly found: { readonly program: string } | { readonly gem: string } | { readonly path: string };
	/** What is left out without it. */
	readonly purpose: string;
}

const tools: readonly Tool[] = [
	{ debian: 'puppet-agent', found: { program: 'puppet' }, purpose: 'tests that apply Puppet manifests' },
	{ debian: 'ruby-rspec-puppet', found: { gem: 'rspec-puppet' }, purpose: 'the specs in spec/' },
	{
		debian: 'ruby-puppetlabs-spec-helper',
		found: { gem: 'puppetlabs_spec_helper' },
		purpose: 'the specs in spec/',
	},
	{
		debian: 'puppet-module-puppetlabs-stdlib',
		found: { path: '/usr/share/puppet/modules/stdlib' },
		purpose: 'the specs in spec/',
	},
	{ debian: 'puppet-lint', found: { program: 'puppet-lint' }, purpose: 'style checks of manifests' },
	{
		debian: 'puppet-strings',
		found: { gem: 'puppet-strings' },
		purpose: 'checks of the reference in doc comments',
	},
	{
		debian: 'metadata-json-lint',
		found: { program: 'metadata-json-lint' },
		purpose: 'checks of metadata.json',
	},
	{ debian: 'rubocop', found: { program: 'rubocop' }, purpose: 'style checks of Ruby' },
	{ debian: 'openssl', found: { program: 'openssl' }, purpose: 'tests with TLS' },
	{ debian: 'curl', found: { program: 'curl' }, purpose: 'tests that call the listener as curl does' },
	{ debian: 'git', found: { program: 'git' }, purpose: 'tests with git work trees' },
	{ debian: 'gcc', found: { program: 'gcc' }, purpose: "the benchmark's limit, written in C" },
];

/** True where nothing may be left out for want of a tool. */
export const inCI = !['', '0', 'false', undefined].includes(process.env.CI);

/** True when `name` is a program on PATH. */
export function onPath(name: string): boolean {
	return (process.env.PATH ?? '').split(delimiter).some((folder) => {
		try {
			accessSync(join(folder, name), constants.X_OK);
			return true;
		} catch {
			return false;
		}
	});
}

/** Installs what is missing where that is possible, and says what stays missing. False when that is a failure. */
export function provideTools(): boolean {
	let missing = missingTools();
	if (missing.length > 0 && process.getuid?.() === 0 && onPath('apt-get')) {
		const packages = missing.map((tool) => tool.debian);
		console.error(`installing Debian packages (once): ${packages.join(' ')} …`);
		withoutStartingServices(() => {
			apt('update');
			apt('install', '--no-install-recommends', '--', ...packages);
		});
		missing = missingTools();
	}
	for (const tool of missing) {
		console.error(
			`not found: ${Object.values(tool.found)[0]} (Debian: ${tool.debian}); left out: ${tool.purpose}`,
		);
	}
	return missing.length === 0 || !inCI;
}

function missingTools(): Tool[] {
	const gems = missingGems(tools.flatMap((tool) => ('gem' in tool.found ? [tool.found.gem] : [])));
	return tools.filter(({ found }) => {
		if ('program' in found) return !onPath(found.program);
		if ('gem' in found) return gems.includes(found.gem);
		return !existsSync(found.path);
	});
}

function missingGems(names: string[]): string[] {
	const question = 'puts ARGV.reject { |name| Gem::Specification.stubs_for(name).any? }';
	const answer = spawnSync('ruby', ['-e', question, ...names], { encoding: 'utf8' });
	return answer.status === 0 ? answer.stdout.split('\n') : names;
}

function apt(action: string, ...words: string[]): void {
	const options = ['-qq', '-y', '-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3'];
	const result = spawnSync('apt-get', [...options, action, ...words], {
		encoding: 'utf8',
		env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
		stdio: ['ignore', 'pipe', 'pipe'],
	});
	if (result.status !== 0) console.error(`apt-get ${action}:\n${result.stderr}`);
}

/**
 * Debian's packages start the services they bring, here Puppet's agent. A policy-rc.d forbids it; the host's own, if
 * there is one, stays.
 */
function withoutStartingServices(work: () => void): void {
	const policy = '/usr/sbin/policy-rc.d';
	const forbid =
		'#!/bin/sh\n# Made for the time of an installation by `npm test` of puppet-webhook.\nexit 101\n';
	// While a handler is there, an interrupt ends apt-get and not this process, which still has the policy to remove.
	const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
	const wait = () => {};
	for (const signal of signals) process.on(signal, wait);
	let made = false;
	try {
		if (!existsSync(policy)) {
			writeFileSync(policy, forbid, { mode: 0o755, flag: 'wx' });
			made = true;
		}
		work();
	} finally {
		if (made) rmSync(policy);
		for (const signal of signals) process.off(signal, wait);
	}
}
