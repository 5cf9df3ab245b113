/**
 * `npm run build:module`: pkg/<name>-<version>.tar.gz, the Puppet module as `puppet module install` takes it, with the listener
 * inside. The same sources give the same bytes.
 *
 * `--node` puts in Node.js as well, that of this checkout and for this host's architecture, for sites whose hosts cannot get one.
 * `--out FOLDER` builds into another folder than pkg/.
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

const root = path.join(import.meta.dirname, '..');
const { values: options } = parseArgs({
	options: { node: { type: 'boolean' }, out: { type: 'string', default: path.join(root, 'pkg') } },
});

const { name, version } = readJson(path.join(root, 'metadata.json'));
const out = path.resolve(options.out);
const release = `${name}-${version}`;
const stage = path.join(out, release);
fs.rmSync(stage, { recursive: true, force: true });
fs.mkdirSync(path.join(stage, 'files'), { recursive: true });

for (const part of [
	...['metadata.json', 'hiera.yaml', 'README.md', 'CHANGELOG.md', 'LICENSE', 'routes.yaml'],
	...['data', 'docs', 'functions', 'manifests', 'templates', 'types'],
]) {
	copy(path.join(root, part), path.join(stage, part));
}
// In a checkout lib is a link, which Puppet's own unpacking turns into an empty file.
copy(path.join(root, 'ruby-type/lib'), path.join(stage, 'lib'));
bundleListener();
if (options.node) bundleNode();
writeReference();
writeChecksums();
pack(out, release, path.join(out, `${release}.tar.gz`));
fs.rmSync(stage, { recursive: true });
console.log(path.join(out, `${release}.tar.gz`));

/**
 * files/puppet-webhook.tar.gz: the npm package. The packages it needs are in dist/ already, with their licences.
 */
function bundleListener(): void {
	const home = path.join(stage, 'puppet-webhook');
	run(process.execPath, [path.join(root, 'scripts/build.ts'), path.join(home, 'dist')]);
	const { scripts, dependencies, devDependencies, ...manifest } = readJson(path.join(root, 'package.json'));
	fs.writeFileSync(path.join(home, 'package.json'), `${JSON.stringify(manifest, null, '\t')}\n`);
	fs.copyFileSync(path.join(root, 'LICENSE'), path.join(home, 'LICENSE'));
	pack(stage, 'puppet-webhook', path.join(stage, 'files/puppet-webhook.tar.gz'));
	fs.rmSync(home, { recursive: true });
}

function bundleNode(): void {
	const home = path.join(stage, 'node');
	fs.mkdirSync(path.join(home, 'bin'), { recursive: true });
	fs.copyFileSync(process.execPath, path.join(home, 'bin/node'));
	fs.chmodSync(path.join(home, 'bin/node'), 0o755);
	pack(stage, 'node', path.join(stage, `files/node-${process.platform}-${process.arch}.tar.gz`));
	fs.rmSync(home, { recursive: true });
}

/** REFERENCE.md, as puppet-strings makes it of the comments. */
function writeReference(): void {
	if (spawnSync('puppet', ['help', 'strings']).status !== 0) {
		console.error('puppet-strings is not installed (Debian: puppet-strings); the module has no REFERENCE.md');
		return;
	}
	const sources = ['manifests/**/*.pp', 'functions/**/*.pp', 'types/**/*.pp', 'lib/**/*.rb'];
	run('puppet', ['strings', 'generate', '--format', 'markdown', '--out', 'REFERENCE.md', ...sources], stage);
	// Its cache.
	fs.rmSync(path.join(stage, '.yardoc'), { recursive: true });
}

/** checksums.json, by which `puppet module changes` finds what was changed on a host. */
function writeChecksums(): void {
	const checksums: Record<string, string> = {};
	for (const entry of fs.readdirSync(stage, { recursive: true, withFileTypes: true })) {
		const file = path.join(entry.parentPath, entry.name);
		if (entry.isDirectory()) continue;
		if (!entry.isFile())
			throw new Error(`${path.relative(stage, file)} is no plain file, which a module cannot hold`);
		checksums[path.relative(stage, file)] = createHash('md5').update(fs.readFileSync(file)).digest('hex');
	}
	const sorted = Object.fromEntries(Object.entries(checksums).sort(([a], [b]) => (a < b ? -1 : 1)));
	fs.writeFileSync(path.join(stage, 'checksums.json'), `${JSON.stringify(sorted, null, 2)}\n`);
}

/** A folder as a tarball of files that belong to root, in order, with modes that do not depend on who built it. */
function pack(parent: string, folder: string, tarball: string): void {
	const same = [
		'--owner=0',
		'--group=0',
		'--numeric-owner',
		'--sort=name',
		'--mtime=@0',
		'--mode=u+rw,go+r,go-w,a+X',
	];
	run('tar', [...same, '--use-compress-program', 'gzip -n', '-C', parent, '-cf', tarball, folder]);
}

function copy(from: string, to: string, wanted: (file: string) => boolean = () => true): void {
	fs.cpSync(from, to, {
		recursive: true,
		dereference: true,
		filter: (file) =>
			fs.statSync(file).isDirectory()
				? !(file !== from && path.basename(file) === 'node_modules')
				: wanted(file),
	});
}

function run(program: string, args: readonly string[], cwd = root): void {
	const { status, error } = spawnSync(program, args, {
		cwd,
		// The last line of our own output is the tarball's path.
		stdio: ['ignore', 2, 'inherit'],
		// Ruby's warnings are for those who wrote puppet-strings.
		env: { ...process.env, RUBYOPT: '-W0' },
	});
	if (error) throw error;
	if (status !== 0) process.exit(1);
}

// biome-ignore lint/suspicious/noExplicitAny: what npm and Puppet define
function readJson(file: string): any {
	return JSON.parse(fs.readFileSync(file, 'utf8'));
}
