/** The module's own checks: its Ruby specs, and what the tools of the Puppet world say of it. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { root, temporaryDirectory } from '../helpers/listener.ts';
import { hostTest, modulePath, puppet, puppetTest, run } from '../helpers/puppet.ts';

hostTest('rspec', 'the specs of the type, its provider and the classes pass', async () => {
	const ran = await run('rspec', ['--no-color']);
	assert.equal(ran.code, 0, ran.stdout + ran.stderr);
	assert.match(ran.stdout, /^[1-9]\d* examples, 0 failures$/m);
});

hostTest('rubocop', 'rubocop finds nothing in the Ruby files', async () => {
	const ran = await run('rubocop', ['--cache', 'false', '--no-color', 'ruby-type', 'spec']);
	assert.equal(ran.code, 0, ran.stdout + ran.stderr);
});

hostTest('puppet-lint', 'puppet-lint finds nothing in the manifests', async () => {
	// It wants the folder to be called like the module.
	const folders = ['manifests', 'functions', 'types'].map((name) => path.join(modulePath(), 'webhook', name));
	const ran = await run('puppet-lint', ['--fail-on-warnings', ...folders]);
	assert.equal(ran.code, 0, ran.stdout + ran.stderr);
});

hostTest('metadata-json-lint', 'metadata.json is fit for the Forge', async () => {
	const ran = await run('metadata-json-lint', ['metadata.json']);
	assert.equal(ran.code, 0, ran.stdout + ran.stderr);
	const { version } = JSON.parse(fs.readFileSync(path.join(root, 'metadata.json'), 'utf8'));
	assert.equal(version, JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8')).version);
});

async function everythingIsDocumented() {
	const out = path.join(temporaryDirectory(), 'REFERENCE.md');
	const module = path.join(modulePath(), 'webhook');
	const generate = ['strings', 'generate', '--format', 'markdown', '--out', out];
	const sources = ['manifests/**/*.pp', 'functions/**/*.pp', 'types/**/*.pp', 'lib/**/*.rb'];
	const ran = await run('puppet', [...generate, ...sources], { cwd: module });
	assert.equal(ran.code, 0, ran.stderr);
	assert.match(ran.stdout, /100\.00% documented/);
	assert.doesNotMatch(ran.stdout + ran.stderr, /\[(warn|error)\]/);
}
hostTest(
	'puppet-strings',
	'puppet strings finds every class, type and attribute documented',
	everythingIsDocumented,
	'puppet help strings',
);

puppetTest('the types are found by puppet generate types, as environments isolate them', async () => {
	const env = temporaryDirectory();
	fs.mkdirSync(path.join(env, 'production/modules'), { recursive: true });
	fs.cpSync(path.join(modulePath(), 'webhook'), path.join(env, 'production/modules/webhook'), {
		recursive: true,
	});
	const ran = await puppet(['generate', 'types', '--environmentpath', env, '--environment', 'production']);
	assert.equal(ran.code, 0, ran.stderr);
	assert.ok(fs.existsSync(path.join(env, 'production/.resource_types/http.pp')));
});

test('a checkout is a module: lib leads to ruby-type/lib', () => {
	assert.equal(fs.readlinkSync(path.join(root, 'lib')), 'ruby-type/lib');
});
