/** `npm run lint`: what can be checked without running the program. All checks run; one line each, and what failed in full. */

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { onPath, provideTools } from './tools.ts';

const root = join(import.meta.dirname, '..');

interface Check {
	readonly name: string;
	readonly command: readonly [string, ...string[]];
	/** Files and folders that are checked: those of them that exist are added to the command; without any it is left out. */
	readonly over?: readonly string[];
}

const checks: readonly Check[] = [
	{ name: 'format and lint', command: ['biome', 'check', '--error-on-warnings', '--colors=off'] },
	{ name: 'types', command: ['tsc', '--noEmit'] },
	{ name: 'manifests compile', command: ['puppet', 'parser', 'validate'], over: ['manifests', 'types'] },
	{
		name: 'manifests’ style',
		// The check of the layout wants the checkout's folder to be called like the module.
		command: ['puppet-lint', '--fail-on-warnings', '--no-autoloader_layout-check'],
		over: ['manifests', 'types'],
	},
	{ name: 'Ruby’s style', command: ['rubocop'], over: ['ruby-type', 'spec'] },
	{ name: 'metadata.json', command: ['metadata-json-lint'], over: ['metadata.json'] },
];

if (!provideTools()) process.exit(1);
let failures = 0;
for (const { name, command, over } of checks) {
	const [program, ...words] = command;
	const places = over?.filter((place) => existsSync(join(root, place)));
	if (places?.length === 0 || !onPath(program)) continue;
	const start = performance.now();
	const result = spawnSync(program, [...words, ...(places ?? [])], {
		cwd: root,
		encoding: 'utf8',
		stdio: ['ignore', 'pipe', 'pipe'],
		timeout: 120_000,
	});
	const seconds = ((performance.now() - start) / 1000).toFixed(1);
	const good = result.status === 0;
	console.log(`${good ? 'ok    ' : 'FAILED'} ${name} (${seconds} s)`);
	if (good) continue;
	failures++;
	console.log(`${result.error?.message ?? ''}${result.stdout}${result.stderr}`);
}
process.exit(failures === 0 ? 0 : 1);
