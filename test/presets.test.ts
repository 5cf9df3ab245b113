/** Presets: what a route makes of one, and what those that come with the listener do. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { loadConfig } from '../listener/config/config.ts';
import { presetNames, presetText } from '../listener/config/presets.ts';
import { ConfigError } from '../listener/errors.ts';
import { command, type Listener, root, startListener, temporaryDirectory } from './helpers/listener.ts';
import { makeRepositories, type Repositories } from './helpers/repositories.ts';

const folder = path.join(root, 'listener/routes/presets');

/** Everything that is wrong with a file of routes. */
async function faultsOf(routes: string): Promise<string[]> {
	const file = path.join(temporaryDirectory(), 'routes.yaml');
	fs.writeFileSync(file, routes);
	try {
		await loadConfig(file, null);
		return [];
	} catch (error) {
		assert.ok(error instanceof ConfigError);
		return error.faults.map(({ line, message }) => `${line}: ${message}`);
	}
}

describe('a preset', () => {
	test('is a file that may be taken by its name, and be copied', async () => {
		const files = fs.readdirSync(folder).map((name) => path.basename(name, '.yaml'));
		assert.deepEqual(files.sort(), [...presetNames].sort());
		for (const name of presetNames) {
			const copied = presetText(name).replaceAll(/^(?=.)/gm, '    ');
			assert.deepEqual(
				await faultsOf(`routes:\n  taken: { preset: ${name} }\n  copied:\n${copied}`),
				[],
				name,
			);
		}
	});

	test('is printed by the command presets', async () => {
		const all = await command(['presets']);
		assert.deepEqual(
			all.stdout
				.trim()
				.split('\n')
				.map((line) => line.split(':')[0]),
			[...presetNames],
		);
		const one = await command(['presets', 'jenkins-deploy']);
		assert.equal(one.stdout, fs.readFileSync(path.join(folder, 'jenkins-deploy.yaml'), 'utf8'));
		const none = await command(['presets', 'jenkins']);
		assert.equal(none.code, 2);
		assert.match(none.stderr, /Allowed choices are .*jenkins-deploy/);
	});

	test('that there is not is a fault that names the one that was meant', async () => {
		assert.deepEqual(await faultsOf('routes:\n  a: { preset: jenkins_deploy }\n  b: { preset: [] }'), [
			'2: route "a": preset: must be jenkins-deploy, not "jenkins_deploy"; did you mean "jenkins-deploy"?',
			'3: route "b": preset: must be jenkins-deploy, not a list',
		]);
	});

	test('does not say who may call', async () => {
		const faults = await faultsOf('listen: { address: "::" }\nroutes:\n  deploy: { preset: jenkins-deploy }');
		assert.equal(faults.length, 1);
		assert.match(faults[0] ?? '', /^3: route "deploy": other hosts can call it/);
	});

	test('is joined with the route, whose keys win', async () => {
		const listener = await startListener({
			routes: `
defaults: { timeout: 1h, env: { FRUIT: apple } }
routes:
  own:
    preset: jenkins-deploy
    method: put
    params: { environment: { enum: [qa] }, extra: { default: more } }
    command: echo "$environment $extra $FRUIT $role"
`,
		});
		const of = async (body: object) =>
			(await listener.request('/own?async=false', { method: 'PUT', body })).json;
		assert.match((await of({ environment: 'qa', role: 'web' })).output.text, /^qa more apple web\n/);
		assert.deepEqual((await of({ role: 'web' })).status, 422);
		assert.deepEqual((await of({ environment: 'production', role: 'web' })).status, 422);
		assert.equal((await listener.post('/own', {})).status, 405);
	});
});

/** Stands in for mco, which is not there: writes down how it was called, and ends as the role says. */
const mcoStandIn = `#!/bin/sh
echo "$*" >> "$(dirname "$0")/mco.log"
case $4 in
  role=nobody) echo 'did not discover any nodes'; exit 1 ;;
  role=disabled) echo "Request Aborted: Puppet is disabled: 'maintenance'"; exit 2 ;;
  role=hangs) exec sleep 1000 ;;
  role=flaky) [ -e "$0.flaky" ] || { touch "$0.flaky"; exit 3; } ;;
esac
`;

describe('jenkins-deploy', () => {
	let listener: Listener;
	let repositories: Repositories;
	let directory: string;
	let calls: () => string[];

	const text =
		'version: 2.1.3 # ours\nbilling_version_production: 1.0.0\nprofile::billing::version: 1.0.0\nowner: ann\n';

	before(async () => {
		directory = temporaryDirectory();
		repositories = makeRepositories({
			'hieradata/versions.yaml': 'billing_version_production: 1.0.0\n',
			...Object.fromEntries(
				['billing', 'web', 'nobody', 'disabled', 'hangs', 'flaky'].map((role) => [
					`data/roles/${role}.yaml`,
					text,
				]),
			),
		});
		fs.symlinkSync(repositories.clone, path.join(directory, 'production'));
		fs.writeFileSync(path.join(directory, 'mco'), mcoStandIn, { mode: 0o755 });
		const log = path.join(directory, 'mco.log');
		calls = () => (fs.existsSync(log) ? fs.readFileSync(log, 'utf8').trim().split('\n') : []);
		const copied = presetText('jenkins-deploy')
			.replace('/etc/puppetlabs/code/environments', directory)
			.replace('timeout: 5m', 'timeout: 1s');
		listener = await startListener({
			env: { PATH: `${directory}:${process.env.PATH}` },
			routes: `
routes:
  deploy:
${copied.replaceAll(/^(?=.)/gm, '    ')}
  again:
    retry: { attempts: 2, delay: 10ms }
${copied.replaceAll(/^(?=.)/gm, '    ')}
  shipped: { preset: jenkins-deploy }
  versions:
    preset: jenkins-deploy
    params: { service: { required: true } }
    steps:
      - hieradata:
          repo: ${repositories.clone}
          file: hieradata/versions.yaml
          set: { "{{key}}": "{{version}}" }
          message: "{{service}} {{version}} for {{environment}}"
          push: true
          branch: production
`,
		});
	});

	async function deploy(body: object, route = 'deploy') {
		const called = calls().length;
		const answer = await listener.post(`/${route}?async=false`, body);
		return { status: answer.status, run: answer.json, called: calls().slice(called) };
	}
	const billing = { environment: 'production', role: 'billing' };
	const runonce = (role: string) => `puppet runonce -F role=${role}`;

	test('JW-1, JW-10, JW-11: sets the version, pushes it, and has Puppet run on the nodes of the role', async () => {
		const { status, run, called } = await deploy({ ...billing, version: '2.1.4' });
		assert.equal(status, 200, JSON.stringify(run));
		assert.deepEqual(called, [runonce('billing')]);
		assert.equal(repositories.pushed('data/roles/billing.yaml'), text.replace('2.1.3', '2.1.4'));
		assert.equal(repositories.subjects()[0], 'Set version to 2.1.4 for billing in production');
		assert.match(run.output.text, /role billing: its nodes have taken the request/);
	});

	test('JW-2: with a service the key is made of service and environment; a key that is given counts', async () => {
		assert.equal((await deploy({ ...billing, service: 'billing', version: '1.1.0' })).status, 200);
		assert.match(repositories.pushed('data/roles/billing.yaml'), /^billing_version_production: 1\.1\.0$/m);
		assert.equal(
			(await deploy({ ...billing, key: 'profile::billing::version', version: '1.2.0' })).status,
			200,
		);
		assert.match(repositories.pushed('data/roles/billing.yaml'), /^profile::billing::version: 1\.2\.0$/m);
	});

	test('JW-3, JW-4: repository, file and branch are what the route says, with steps of its own', async () => {
		const { status, run } = await deploy({ ...billing, service: 'billing', version: '4.0.0' }, 'versions');
		assert.equal(status, 200, JSON.stringify(run));
		assert.equal(repositories.pushed('hieradata/versions.yaml'), 'billing_version_production: 4.0.0\n');
		assert.equal(repositories.subjects()[0], 'billing 4.0.0 for production');
		assert.equal((await deploy({ ...billing, version: '4.0.0' }, 'versions')).status, 422);
	});

	test('a run that is started again after mco failed goes on to mco, though the version is there', async () => {
		const { status, run, called } = await deploy({ ...billing, role: 'flaky', version: '4.0.0' }, 'again');
		assert.equal(status, 200, JSON.stringify(run));
		assert.equal(run.attempt, 2);
		assert.deepEqual(called, [runonce('flaky'), runonce('flaky')]);
	});

	test('JW-5: without a version only Puppet is run', async () => {
		const commits = repositories.subjects().length;
		for (const route of ['deploy', 'shipped']) {
			const { status, run, called } = await deploy(billing, route);
			assert.equal(status, 200, JSON.stringify(run));
			assert.deepEqual(called, [runonce('billing')]);
			assert.match(run.output.text, /nothing to set, as the caller gave no value/);
		}
		assert.equal(repositories.subjects().length, commits);
	});

	test('JW-6, JW-B1: a version that is there already changes nothing and runs nothing, and has succeeded', async () => {
		await deploy({ ...billing, version: '2.2.0' });
		const commits = repositories.subjects().length;
		const { status, run, called } = await deploy({ ...billing, version: '2.2.0' });
		assert.equal(status, 200, JSON.stringify(run));
		assert.deepEqual(called, []);
		assert.equal(repositories.subjects().length, commits);
		assert.match(run.output.text, /nothing to change: every value is there already, so no step follows/);
	});

	test('JW-7, JW-B3: a key that is not there, or is none for versions, is refused and nothing is run', async () => {
		const { status, run, called } = await deploy({ ...billing, service: 'other', version: '1' });
		assert.equal(status, 500);
		assert.match(run.message, /data\/roles\/billing\.yaml has no key other_version_production/);
		assert.deepEqual(called, []);
		assert.equal((await deploy({ ...billing, key: 'owner', version: '1' })).status, 422);
		const paths = { git_repo: '/tmp', git_repo_dir: '/tmp', data_file_path: '/etc/passwd' };
		assert.equal((await deploy({ ...billing, ...paths, version: '2.2.0' })).status, 200);
	});

	test('JW-8, JW-B2: what is null, missing or no name is answered 422', async () => {
		for (const body of [
			{ environment: 'production' },
			{ role: 'billing' },
			{ ...billing, version: null },
			{ ...billing, role: [] },
			{ ...billing, role: ["x'; touch F; '"] },
			{ ...billing, role: '../../etc/passwd' },
			{ ...billing, environment: '../production' },
		]) {
			const { status, called } = await deploy(body);
			assert.deepEqual([status, called], [422, []], JSON.stringify(body));
		}
	});

	test('JW-12: a role may be a list, whose files get one commit', async () => {
		const commits = repositories.subjects().length;
		const { status, run, called } = await deploy({ ...billing, role: ['billing', 'web'], version: '3.0.0' });
		assert.equal(status, 200, JSON.stringify(run));
		assert.deepEqual(called, [runonce('billing'), runonce('web')]);
		assert.equal(repositories.subjects().length, commits + 1);
		for (const role of ['billing', 'web'])
			assert.match(repositories.pushed(`data/roles/${role}.yaml`), /^version: 3\.0\.0 # ours$/m);
	});

	test('JW-13: a failure of mco is one of the run, with what its exit code means and no backtrace', async () => {
		const none = await deploy({ ...billing, role: ['nobody', 'web'], version: '1.0.1' });
		assert.deepEqual([none.status, none.run.exitCode], [500, 1]);
		assert.match(
			none.run.output.text,
			/role nobody: mco found no nodes \(1\)[\s\S]*role web: its nodes have taken/,
		);
		assert.equal(none.called.length, 2);
		const disabled = await deploy({ ...billing, role: 'disabled' });
		assert.deepEqual([disabled.status, disabled.run.exitCode], [500, 2]);
		assert.match(disabled.run.output.text, /role disabled: nodes refused or failed \(2\)/);
		assert.equal((await listener.post('/elsewhere', billing)).status, 404);
	});

	test('mco that waits for ever for a broker that is down ends at the time limit', async () => {
		const { status, run } = await deploy({ ...billing, role: 'hangs' });
		assert.deepEqual([status, run.reason], [504, 'timeout']);
		assert.match(run.message, /time limit of 1 s/);
	});
});
