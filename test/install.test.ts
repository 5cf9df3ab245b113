/**
 * scripts/install.cjs, which runs before everything else on whatever Node the host has. Here on a small checkout of its own,
 * with a stand-in for npm, so that nothing is fetched; CI's clean clone goes through the real one.
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { root, temporaryDirectory, until } from './helpers/listener.ts';

/** Does what npm would have to do, and writes its arguments to npm.log. `FAIL` is printed in place of doing it. */
const standIn = `
const fs = require('fs');
const path = require('path');
const args = process.argv.slice(2);
fs.appendFileSync(process.env.LOG, args.join(' ') + '\\n');
if (args[0] === '--version') console.log(process.env.NPM_VERSION || '11.0.0');
else if (process.env.FAIL) { console.error(process.env.FAIL); process.exit(1); }
else if (args[0] === 'ci') {
	if (process.env.SLOW) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60000);
	const lock = JSON.parse(fs.readFileSync('package-lock.json', 'utf8'));
	fs.mkdirSync('node_modules/.bin', { recursive: true });
	for (const place of Object.keys(lock.packages).slice(1)) fs.mkdirSync(place, { recursive: true });
	fs.writeFileSync('node_modules/.package-lock.json', JSON.stringify(lock));
} else {
	const name = args.at(-1).split('@')[0];
	const bin = path.join('node_modules', name, 'bin');
	fs.mkdirSync(bin, { recursive: true });
	if (name === 'npm') fs.copyFileSync(__filename, path.join(bin, 'npm-cli.js'));
	else fs.writeFileSync(path.join(bin, 'node'), '#!/bin/sh\\necho v24.0.0\\n', { mode: 0o755 });
}
`;

class Checkout {
	readonly dir = temporaryDirectory('puppet-webhook-install-');
	readonly npm = path.join(this.dir, 'stand-in', 'npm-cli.js');
	readonly log = path.join(this.dir, 'npm.log');

	constructor() {
		this.write('stand-in/npm-cli.js', standIn);
		this.write('scripts/install.cjs', fs.readFileSync(path.join(root, 'scripts/install.cjs'), 'utf8'));
		this.write(
			'package.json',
			JSON.stringify({ dependencies: { koa: '1' }, devDependencies: { node: '24' } }),
		);
		this.write(
			'package-lock.json',
			JSON.stringify({
				packages: {
					'': { dependencies: { koa: '1' }, devDependencies: { node: '24' } },
					'node_modules/koa': { version: '1.0.0' },
					'node_modules/node': { version: '24.0.0', dev: true },
				},
			}),
		);
	}

	write(name: string, text: string): void {
		const file = path.join(this.dir, name);
		fs.mkdirSync(path.dirname(file), { recursive: true });
		fs.writeFileSync(file, text);
	}

	start(env: Readonly<Record<string, string>> = {}) {
		const child = spawn(process.execPath, [path.join(this.dir, 'scripts/install.cjs')], {
			env: { PATH: '/usr/bin:/bin', npm_execpath: this.npm, LOG: this.log, ...env },
			stdio: ['ignore', 'pipe', 'pipe'],
		});
		let said = '';
		child.stdout.on('data', (text) => (said += text));
		child.stderr.on('data', (text) => (said += text));
		const ended = new Promise<{ code: number | null; said: string }>((resolve) => {
			child.on('close', (code) => resolve({ code, said }));
		});
		return { child, ended };
	}

	install(env?: Readonly<Record<string, string>>) {
		return this.start(env).ended;
	}

	/** The stand-in's calls since this was last asked. */
	calls(): string[] {
		if (!fs.existsSync(this.log)) return [];
		const lines = fs.readFileSync(this.log, 'utf8').trim().split('\n');
		fs.rmSync(this.log);
		return lines;
	}

	/** Folders in which something is being put together. */
	staging(): string[] {
		return fs.readdirSync(this.dir).filter((name) => name.startsWith('.installing-'));
	}
}

test('installs packages and Node once, saying so in a line, and then neither does nor says anything', async () => {
	const checkout = new Checkout();
	const first = await checkout.install();
	assert.equal(first.code, 0, first.said);
	assert.match(first.said, /^puppet-webhook: installing Node 24\.0\.0 and the packages .*\n$/);
	assert.ok(fs.existsSync(path.join(checkout.dir, 'node_modules/koa')));
	assert.ok(fs.existsSync(path.join(checkout.dir, 'node_modules/.bin/node')));
	const calls = checkout.calls();
	assert.match(calls[1] ?? '', /^ci .*--ignore-scripts/, 'install scripts of packages do not run');
	assert.match(calls[2] ?? '', /^install .*node-\S+@24\.0\.0$/);

	assert.deepEqual(await checkout.install(), { code: 0, said: '' });
	assert.deepEqual(checkout.calls(), []);
	assert.deepEqual(checkout.staging(), []);
});

test('installs again when the lock file changes or the installation is not whole', async () => {
	const checkout = new Checkout();
	await checkout.install();
	const record = path.join(checkout.dir, 'node_modules/.package-lock.json');
	for (const damage of [() => fs.rmSync(record), () => fs.writeFileSync(record, '{"packages":{}}')]) {
		damage();
		const again = await checkout.install();
		assert.equal(again.code, 0, again.said);
		assert.match(again.said, /installing/);
	}
	assert.deepEqual(await checkout.install(), { code: 0, said: '' });
});

test('leaves what was there when it fails, and says why and what to do', async () => {
	const checkout = new Checkout();
	await checkout.install();
	fs.writeFileSync(path.join(checkout.dir, 'node_modules/.package-lock.json'), '{"packages":{}}');
	const failures = [
		['npm error code ECONNREFUSED', /registry was not reached/],
		['npm error code EUSAGE', /run "npm install" and commit both/],
		['npm error code ENOSPC', /disk is full/],
		['npm error something new', /Run "npm ci"/],
	] as const;
	for (const [failure, remedy] of failures) {
		const { code, said } = await checkout.install({ FAIL: failure });
		assert.equal(code, 1);
		assert.ok(said.includes(failure), said);
		assert.match(said, remedy);
		assert.ok(fs.existsSync(path.join(checkout.dir, 'node_modules/koa')));
		assert.deepEqual(checkout.staging(), []);
	}
});

test('fetches a newer npm when the host has one that cannot read the lock file', async () => {
	const checkout = new Checkout();
	const { code, said } = await checkout.install({ NPM_VERSION: '6.14.18' });
	assert.equal(code, 0, said);
	assert.match(checkout.calls()[1] ?? '', /^install .*npm@8/);
	assert.deepEqual(checkout.staging(), []);
});

test('says what is missing where there is no npm or no lock file', async () => {
	const checkout = new Checkout();
	const withoutNpm = await checkout.install({ npm_execpath: '', PATH: checkout.dir });
	assert.equal(withoutNpm.code, 1);
	assert.match(withoutNpm.said, /npm is needed .*\n.*ENOENT\nIt comes with Node/);
	fs.rmSync(path.join(checkout.dir, 'package-lock.json'));
	assert.match((await checkout.install()).said, /package-lock\.json is missing or damaged/);
	assert.deepEqual(checkout.staging(), []);
});

test('three at once make one whole installation', async () => {
	const checkout = new Checkout();
	const all = await Promise.all([checkout.install(), checkout.install(), checkout.install()]);
	for (const { code, said } of all) assert.equal(code, 0, said);
	assert.deepEqual(await checkout.install(), { code: 0, said: '' });
	assert.deepEqual(checkout.staging(), []);
});

test('an interrupt ends it at once and leaves nothing; what a kill leaves, the next one removes', async () => {
	const checkout = new Checkout();
	const midway = () => fs.existsSync(checkout.log) && fs.readFileSync(checkout.log, 'utf8').includes('\nci ');
	const interrupted = checkout.start({ SLOW: '1' });
	await until('npm to be at work', midway);
	interrupted.child.kill('SIGINT');
	const { code, said } = await interrupted.ended;
	assert.equal(code, 130);
	assert.match(said, /interrupted; what was there before is untouched/);
	assert.deepEqual(checkout.staging(), []);

	checkout.calls();
	checkout.write(
		'.installing-4194305/node_modules/half/index.js',
		'its process id is above what Linux gives',
	);
	assert.equal((await checkout.install()).code, 0);
	assert.deepEqual(checkout.staging(), []);
});
