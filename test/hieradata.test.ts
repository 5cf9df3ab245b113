/** The step `hieradata`, seen from outside: what stands in the files, in the history, and at the remote after it. Real git. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { loadConfig } from '../listener/config/config.ts';
import { ConfigError } from '../listener/errors.ts';
import { type Listener, startListener, temporaryDirectory, until } from './helpers/listener.ts';
import { git, makeRepositories, type Repositories, stateOf } from './helpers/repositories.ts';

/** A run once it has ended, with all of its output. */
async function ran(listener: Listener, route: string, body: object = {}) {
	const accepted = await listener.post(`/${route}`, body);
	assert.equal(accepted.status, 202, accepted.text);
	const { id } = accepted.json.runs[0];
	const run = await listener.ended(id);
	return { ...run, id, text: await listener.output(id) };
}

const role = `---
# What the nodes of this role run.
profile::app::version: 2.1.3   # set by Jenkins
profile::app::settings: &settings
  debug: false
  motd: >
    Folded text
    of two lines.
profile::other::settings: *settings
profile::app::password: >
  ENC[PKCS7,MIIBeQYJKoZIhvcNAQcDoIIBajCCAWYCAQAxggEhMIIBHQIBADAFMAACAQEwDQYJ
  KoZIhvcNAQEBBQAEggEA]
`;
const key = 'profile::app::version';

/** A route that sets the version in `data/ROLE.yaml`, with further keys of the step. */
function route(repo: string, ...more: readonly string[]): string {
	const keys = [`repo: ${repo}`, 'file: "data/{{role}}.yaml"', `set: { ${key}: "{{version}}" }`, ...more];
	return `
    params: { role: { default: web }, version: {} }
    concurrency: { when_busy: parallel }
    steps:
      - hieradata:
${keys.map((line) => `          ${line}\n`).join('')}`;
}

/** Writes a git hook. */
function hook(file: string, text: string): void {
	fs.writeFileSync(file, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
}

/** Has somebody else push, as shell text for a hook. */
function rivalPush({ another }: Repositories): string {
	const commit =
		'git pull -q --rebase && date +%N > rival && git add rival && git -c user.name=R -c user.email=r@example.com commit -qm rival';
	return `cd ${another('rival')} && unset GIT_DIR GIT_WORK_TREE && ${commit} && git push -q`;
}

const versionIn = (text: string) => /version: (\S+)/.exec(text)?.[1];

describe('hieradata', () => {
	let repositories: Repositories;
	let listener: Listener;
	const subjects = () => repositories.subjects().length;
	const local = (file: string) => path.join(repositories.clone, file);

	before(async () => {
		repositories = makeRepositories({
			'data/web.yaml': role,
			'data/db.yaml': role,
			'data/flat.yaml': `${key}: 1\n`,
		});
		const { clone } = repositories;
		listener = await startListener({
			routes: `
routes:
  deploy:${route(clone, 'author: Jenkins <jenkins@example.com>', 'push: true')}
  here:${route(clone, 'message: "{{role}} {{version}}"')}
  create:${route(clone, 'push: true', 'create: true')}
  stop:${route(clone, 'push: true', 'unchanged: stop')}
      - command: echo next
  each:${route(clone, 'push: true', 'each: role').replace('role: { default: web }', 'role: { pattern: "[a-z,]+" }')}
  anything:${route(clone, 'push: true').replace('role: { default: web }', 'role: { pattern: "(?s).*" }')}
`,
		});
	});

	test('JW-10, JW-B6: sets one value, commits with author, message and the id of the run, and pushes', async () => {
		const run = await ran(listener, 'deploy', { version: '2.1.4' });
		assert.equal(run.state, 'succeeded', run.message + run.text);
		const expected = role.replace('2.1.3 ', '2.1.4 ');
		assert.equal(repositories.pushed('data/web.yaml'), expected);
		assert.equal(fs.readFileSync(local('data/web.yaml'), 'utf8'), expected);
		assert.equal(
			git(repositories.remote, 'log', '-1', '--format=%an <%ae>|%cn|%B', 'production').trim(),
			`Jenkins <jenkins@example.com>|Jenkins|data/web.yaml: set ${key} to 2.1.4 (was 2.1.3)\n\nWebhook-Run: ${run.id}`,
		);
		const status = git(repositories.clone, 'status', '--porcelain', '--branch');
		assert.equal(status, '## production...origin/production');
		assert.match(
			run.text,
			/set profile::app::version to 2\.1\.4 \(was 2\.1\.3\)\ncommitted as [0-9a-f]{10} and pushed to origin\n/,
		);
	});

	test('JW-6: a value that is there already is no commit and a success', async () => {
		await ran(listener, 'deploy', { version: '2.2.0' });
		const [count, state] = [subjects(), stateOf(repositories.clone)];
		const run = await ran(listener, 'deploy', { version: '2.2.0' });
		assert.equal(run.state, 'succeeded');
		assert.match(run.text, /nothing to change: every value is there already\n/);
		assert.deepEqual([subjects(), stateOf(repositories.clone)], [count, state]);
	});

	test('JW-B1: steps follow a change, and with "unchanged: stop" none follows when there was none', async () => {
		const changed = await ran(listener, 'stop', { version: '2.3.0' });
		assert.match(changed.text, /^next$/m);
		const unchanged = await ran(listener, 'stop', { version: '2.3.0' });
		assert.equal(unchanged.state, 'succeeded');
		assert.doesNotMatch(unchanged.text, /^next$/m);
	});

	test('a value that no caller gave is left alone', async () => {
		const count = subjects();
		const run = await ran(listener, 'stop');
		assert.equal(run.state, 'succeeded');
		assert.match(run.text, /nothing to set, as the caller gave no value[\s\S]*^next$/m);
		assert.equal(subjects(), count);
	});

	test('without "push" the commit stays, and goes along with the next one that is pushed', async () => {
		const here = await ran(listener, 'here', { version: '2.4.0', role: 'db' });
		assert.equal(here.state, 'succeeded', here.message);
		assert.equal(git(repositories.clone, 'log', '-1', '--format=%s'), 'db 2.4.0');
		assert.equal(versionIn(repositories.pushed('data/db.yaml')), '2.1.3');
		// What others pushed meanwhile comes before it.
		const rival = repositories.another('rival');
		repositories.push(rival, 'README', 'read me\n');
		const run = await ran(listener, 'deploy', { version: '2.4.1' });
		assert.equal(run.state, 'succeeded', run.message + run.text);
		assert.equal(versionIn(repositories.pushed('data/db.yaml')), '2.4.0');
		assert.equal(repositories.pushed('README'), 'read me\n');
		assert.equal(
			git(repositories.clone, 'rev-parse', 'HEAD'),
			git(repositories.remote, 'rev-parse', 'production'),
		);
		assert.equal(git(repositories.remote, 'log', '--merges', '--format=%s', 'production'), '');
	});

	test('JW-7: a key or file that is not there is a failure, unless it may be made', async () => {
		const [count, state] = [subjects(), stateOf(repositories.clone)];
		const file = await ran(listener, 'deploy', { version: '1.0.0', role: 'none' });
		assert.deepEqual([file.state, file.reason], ['failed', 'exit']);
		assert.match(
			file.message,
			/changed nothing: data\/none\.yaml does not exist; commit it by hand, or say "create: true"$/,
		);
		assert.deepEqual([subjects(), stateOf(repositories.clone)], [count, state]);
		const made = await ran(listener, 'create', { version: '1.0.0', role: 'none' });
		assert.equal(made.state, 'succeeded', made.message + made.text);
		assert.equal(repositories.pushed('data/none.yaml'), `---\n${key}: 1.0.0\n`);
		assert.equal(fs.readFileSync(local('data/none.yaml'), 'utf8'), `---\n${key}: 1.0.0\n`);
	});

	test('"each" sets the value in several files with one commit, or in none of them', async () => {
		const count = subjects();
		const run = await ran(listener, 'each', { role: 'web,db', version: '2.5.0' });
		assert.equal(run.state, 'succeeded', run.message);
		for (const file of ['data/web.yaml', 'data/db.yaml'])
			assert.equal(versionIn(repositories.pushed(file)), '2.5.0');
		assert.equal(subjects(), count + 1);
		const state = stateOf(repositories.clone);
		const missing = await ran(listener, 'each', { role: 'web,missing', version: '2.5.1' });
		assert.match(missing.message, /data\/missing\.yaml does not exist/);
		assert.deepEqual([subjects(), stateOf(repositories.clone)], [count + 1, state]);
	});

	test('JW-B3: no value of a caller leads out of the repository, by name or by symbolic link', async () => {
		const outside = path.join(temporaryDirectory(), 'out.yaml');
		fs.writeFileSync(outside, role);
		const clone = repositories.another('links');
		fs.symlinkSync(outside, path.join(clone, 'data/out.yaml'));
		fs.symlinkSync(path.dirname(outside), path.join(clone, 'data/away'));
		fs.symlinkSync('web.yaml', path.join(clone, 'data/alias.yaml'));
		fs.symlinkSync('/nonexistent/new.yaml', path.join(clone, 'data/dangling.yaml'));
		git(clone, 'add', '--all');
		git(clone, 'commit', '--quiet', '-m', 'links');
		git(clone, 'push', '--quiet', 'origin', 'HEAD:production');
		const refused: [string, RegExp][] = [
			['out', /data\/out\.yaml leads out of the repository by a symbolic link/],
			['away/out', /data\/away\/out\.yaml leads out of the repository/],
			['dangling', /data\/dangling\.yaml leads out of the repository/],
			['../../out', /the file "data\/\.\.\/\.\.\/out\.yaml" has an empty part, or one that is/],
			['../.git/x', /the file "data\/\.\.\/\.git\/x\.yaml" has an empty part/],
			['.git/config', /is git's own/],
			['/etc/x', /has an empty part/],
			['web.yaml\n', /has a character that no file/],
			['', /does not exist/],
		];
		for (const [name, why] of refused) {
			const run = await ran(listener, 'anything', { role: name, version: '6.6.6' });
			assert.equal(run.state, 'failed', name);
			assert.match(run.message, why, name);
		}
		assert.equal(fs.readFileSync(outside, 'utf8'), role);
		const alias = await ran(listener, 'anything', { role: 'alias', version: '2.6.0' });
		assert.equal(alias.state, 'succeeded', alias.message);
		assert.equal(versionIn(repositories.pushed('data/web.yaml')), '2.6.0');
		assert.ok(fs.lstatSync(local('data/alias.yaml')).isSymbolicLink());
	});

	test('the file is there as a whole at any time, with its mode', async () => {
		fs.chmodSync(local('data/web.yaml'), 0o640);
		const reader = spawn(process.execPath, [
			'-e',
			`const fs = require('fs');
			let reads = 0;
			process.on('SIGTERM', () => { console.log(reads); process.exit(); });
			const read = () => {
				for (let i = 0; i < 200; i++, reads++) {
					const text = fs.readFileSync(process.argv[1], 'utf8');
					if (!/version: [0-9.]+ [^]*KoZIhvcNAQEBBQAEggEA\\]\\n$/.test(text)) { console.log('torn', text); process.exit(1); }
				}
				setImmediate(read);
			};
			read();`,
			local('data/web.yaml'),
		]);
		let said = '';
		reader.stdout.setEncoding('utf8').on('data', (chunk) => (said += chunk));
		const ended = once(reader, 'close');
		for (const version of ['3.0.1', '3.0.2', '3.0.3', '3.0.4', '3.0.5'])
			assert.equal((await ran(listener, 'deploy', { version })).state, 'succeeded');
		reader.kill('SIGTERM');
		await ended;
		assert.ok(Number(said) > 200, said);
		assert.equal(fs.statSync(local('data/web.yaml')).mode & 0o777, 0o640);
	});
});

describe('hieradata, when the work tree or the remote is not as it should be', () => {
	/** A listener and repositories of a test's own. */
	async function start(...more: readonly string[]) {
		const repositories = makeRepositories({ 'data/web.yaml': role });
		const listener = await startListener({
			routes: `routes:\n  deploy:${route(repositories.clone, 'push: true', ...more)}`,
		});
		return { repositories, listener, clone: repositories.clone };
	}

	interface Trouble {
		readonly title: string;
		prepare(clone: string, repositories: Repositories): void;
		readonly message: RegExp;
		readonly output?: RegExp;
		mend(clone: string, repositories: Repositories): void;
	}

	const troubles: readonly Trouble[] = [
		{
			title: 'changes that are not committed',
			prepare: (clone) => fs.appendFileSync(path.join(clone, 'data/web.yaml'), '# mine\n'),
			message: /has changes that are not committed \(data\/web\.yaml\); commit them or take them back$/,
			mend: (clone) => git(clone, 'checkout', '--quiet', '--', '.'),
		},
		{
			title: 'a detached HEAD',
			prepare: (clone) => git(clone, 'checkout', '--quiet', '--detach'),
			message: /has no branch checked out \(detached HEAD at [0-9a-f]{10}\); check one out there/,
			mend: (clone) => git(clone, 'checkout', '--quiet', 'production'),
		},
		{
			title: 'a lock that a dead git left behind',
			prepare: (clone) => fs.writeFileSync(path.join(clone, '.git/index.lock'), ''),
			message:
				/another git holds .*\/\.git\/index\.lock, or one that died has left it; when no git runs there any more, remove the file$/,
			mend: (clone) => fs.rmSync(path.join(clone, '.git/index.lock')),
		},
		{
			title: 'a lock on a reference that a dead git left behind',
			prepare: (clone, { push, another }) => {
				push(another('other'), 'README', 'x\n');
				fs.writeFileSync(path.join(clone, '.git/refs/remotes/origin/production.lock'), '');
			},
			message:
				/another git holds .*production\.lock, or one that died has left it: when no git runs there any more, remove the file$/,
			mend: (clone) => fs.rmSync(path.join(clone, '.git/refs/remotes/origin/production.lock')),
		},
		{
			title: 'a merge that is not finished',
			prepare: (clone) =>
				fs.writeFileSync(path.join(clone, '.git/MERGE_HEAD'), `${git(clone, 'rev-parse', 'HEAD')}\n`),
			message: /is in the middle of a merge \(git merge --abort gives it up\); finish it first$/,
			mend: (clone) => fs.rmSync(path.join(clone, '.git/MERGE_HEAD')),
		},
		{
			title: 'commits that conflict with those of the remote',
			prepare: (clone, { push, another }) => {
				push(another('other'), 'data/web.yaml', role.replace('2.1.3', '9.0.0'));
				fs.writeFileSync(path.join(clone, 'data/web.yaml'), role.replace('2.1.3', '8.0.0'));
				git(clone, 'commit', '--quiet', '--all', '-m', 'mine');
			},
			message:
				/commits of production that were never pushed conflict with those of the remote; rebase them in .* by hand$/,
			output: /CONFLICT \(content\)/,
			mend: (clone) => git(clone, 'reset', '--quiet', '--hard', 'origin/production'),
		},
		{
			title: 'a hook that refuses the commit',
			prepare: (clone) =>
				hook(path.join(clone, '.git/hooks/pre-commit'), 'echo "no deploys on Fridays"; exit 1'),
			message:
				/git could not commit: .*; maybe a git hook refused \(pre-commit\), whose reasons are in the output$/,
			output: /^no deploys on Fridays$/m,
			mend: (clone) => fs.rmSync(path.join(clone, '.git/hooks/pre-commit')),
		},
		{
			title: 'a hook of the remote that refuses the push',
			prepare: (_clone, { remote }) =>
				hook(path.join(remote, 'hooks/pre-receive'), 'echo "protected branch"; exit 1'),
			message: /origin refused it \(pre-receive hook declined\); its reasons are in the output$/,
			output: /remote: protected branch/,
			mend: (_clone, { remote }) => fs.rmSync(path.join(remote, 'hooks/pre-receive')),
		},
		{
			title: 'a remote that is not there',
			prepare: (_clone, { remote }) => fs.renameSync(remote, `${remote}.away`),
			message:
				/git could not fetch production from origin: '.*remote\.git' does not appear to be a git repository$/,
			mend: (_clone, { remote }) => fs.renameSync(`${remote}.away`, remote),
		},
		{
			title: 'a remote that nobody answers at, whose password is not told',
			prepare: (clone) => git(clone, 'remote', 'set-url', 'origin', 'http://ann:hunter2@127.0.0.1:1/x.git'),
			message: /git could not fetch production from origin: unable to access .*127\.0\.0\.1/,
			mend: (clone, { remote }) => git(clone, 'remote', 'set-url', 'origin', remote),
		},
		{
			title: 'a branch that the remote does not have',
			prepare: (clone) => git(clone, 'checkout', '--quiet', '-b', 'qa'),
			message: /git could not fetch qa from origin: couldn't find remote ref refs\/heads\/qa$/,
			mend: (clone) => git(clone, 'checkout', '--quiet', 'production'),
		},
	];

	test('JW-B5: is a failure that says what to do, leaves everything as it was, and works once it is mended', async (t) => {
		const { repositories, listener, clone } = await start();
		for (const { title, prepare, message, output, mend } of troubles) {
			await t.test(title, async () => {
				prepare(clone, repositories);
				const [before, subjects] = [
					stateOf(clone),
					fs.existsSync(repositories.remote) && repositories.subjects(),
				];
				const run = await ran(listener, 'deploy', { version: '5.0.0' });
				assert.deepEqual([run.state, run.reason], ['failed', 'exit']);
				assert.match(run.message, message);
				if (output) assert.match(run.text, output);
				assert.doesNotMatch(run.message + run.text, /hunter2/);
				assert.equal(stateOf(clone), before);
				assert.deepEqual(fs.existsSync(repositories.remote) && repositories.subjects(), subjects);
				mend(clone, repositories);
				const mended = await ran(listener, 'deploy', { version: `${Math.random()}`.replace('0.', '5.0.') });
				assert.equal(mended.state, 'succeeded', mended.message + mended.text);
			});
		}
	});

	test('a directory that is no work tree, or only a part of one, is a failure', async () => {
		const repositories = makeRepositories({ 'data/web.yaml': role });
		const empty = temporaryDirectory();
		const unborn = temporaryDirectory();
		git(unborn, 'init', '--quiet');
		const listener = await startListener({
			routes: `
routes:
  missing:${route('/nonexistent/control')}
  empty:${route(empty)}
  part:${route(path.join(repositories.clone, 'data'))}
  bare:${route(repositories.remote)}
  new:${route(unborn)}
`,
		});
		const message = async (name: string) => (await ran(listener, name, { version: '1.0.0' })).message;
		assert.match(
			await message('missing'),
			/\/nonexistent\/control does not exist; clone the repository there$/,
		);
		assert.match(await message('empty'), /is not a git work tree \(not a git repository/);
		assert.match(
			await message('part'),
			/control\/data is not the top of a git work tree; that is .*\/control$/,
		);
		assert.match(
			await message('bare'),
			/is not a git work tree \(this operation must be run in a work tree\)/,
		);
	});

	test('a remote that never answers ends at the time limit, and the run can be cancelled', async () => {
		const { listener, clone } = await start('timeout: 1s');
		// What git starts for a remote is a program, here one that waits.
		git(clone, 'config', 'protocol.ext.allow', 'always');
		git(clone, 'remote', 'set-url', 'origin', 'ext::sleep 1000');
		const before = stateOf(clone);
		const late = await ran(listener, 'deploy', { version: '5.0.0' });
		assert.deepEqual([late.state, late.reason], ['failed', 'timeout']);
		assert.match(late.message, /was stopped at the time limit of 1 s/);
		const accepted = await listener.post('/deploy', { version: '5.0.0' });
		const { id } = accepted.json.runs[0];
		await until('the run to begin', async () => (await listener.run(id)).state === 'running');
		await listener.post(`/-/runs/${id}/cancel`);
		assert.equal((await listener.ended(id)).state, 'cancelled');
		assert.equal(stateOf(clone), before);
	});

	test('what a listener that was killed left behind is no trouble, and its run is done once', async () => {
		const { repositories, listener, clone } = await start();
		const gate = path.join(temporaryDirectory(), 'open');
		hook(
			path.join(repositories.remote, 'hooks/update'),
			`touch ${gate}.reached; until [ -e ${gate} ]; do sleep 0.05; done`,
		);
		const accepted = await listener.post('/deploy', { version: '5.0.0' });
		const { id } = accepted.json.runs[0];
		await until('the push to be under way', () => fs.existsSync(`${gate}.reached`));
		await listener.stop('SIGKILL');
		fs.writeFileSync(gate, '');
		const next = await listener.again();
		const run = await next.ended(id);
		assert.equal(run.state, 'succeeded', run.message);
		assert.equal(versionIn(repositories.pushed('data/web.yaml')), '5.0.0');
		assert.equal(versionIn(fs.readFileSync(path.join(clone, 'data/web.yaml'), 'utf8')), '5.0.0');
		assert.equal(repositories.subjects().length, 2);
		assert.deepEqual(fs.readdirSync(path.join(clone, '.git/puppet-webhook')), []);
		assert.equal(git(clone, 'status', '--porcelain'), '');
	});
});

describe('hieradata, when many push at the same time', () => {
	const roles = Array.from({ length: 10 }, (_, index) => `role${index}`);
	const files = Object.fromEntries(roles.map((name) => [`data/${name}.yaml`, role]));

	test('100 deploys at once to 10 roles all land, beside a rival who pushes first, and history is linear', async () => {
		const repositories = makeRepositories(files);
		// A rival pushes right before every fifth push of ours.
		const counter = path.join(temporaryDirectory(), 'pushes');
		const often = `n=$(($(cat ${counter} 2>/dev/null || echo 0) + 1)); echo $n > ${counter}; [ $((n % 5)) -ne 0 ] || { ${rivalPush(repositories)}; }`;
		hook(path.join(repositories.clone, '.git/hooks/pre-push'), often);
		const listener = await startListener({
			routes: `routes:\n  deploy:${route(repositories.clone, 'push: true')}`,
		});
		const landedSoFar = () =>
			repositories.subjects().filter((subject) => subject.startsWith('data/role')).length;
		const accepted = await Promise.all(
			Array.from({ length: 100 }, (_, index) =>
				listener.post('/deploy', { role: roles[index % 10], version: `${index}.0.0` }),
			),
		);
		const ids = accepted.map(({ json }) => json.runs[0].id as string);
		const runs = [];
		for (const id of ids) {
			// As long as they land one by one, it takes as long as it takes.
			for (let landed = -1; landed < landedSoFar(); ) {
				landed = landedSoFar();
				const run = await until(`run ${id}, or another one, to end`, async () => {
					const now = await listener.run(id);
					return now.endedAt || landedSoFar() > landed ? now : undefined;
				});
				if (run.endedAt) break;
			}
			runs.push(await listener.ended(id));
		}
		assert.deepEqual(
			runs.filter(({ state }) => state !== 'succeeded').map(({ message }) => message),
			[],
		);
		const log = git(repositories.remote, 'log', '--format=%P|%s|%b', 'production').split('\n');
		assert.ok(
			log.filter((line) => line.includes('|')).every((line) => !line.split('|')[0]?.includes(' ')),
			'there are merges',
		);
		const landed = repositories
			.subjects()
			.flatMap((subject) => /data\/(\w+)\.yaml: set \S+ to (\d+)\.0\.0/.exec(subject)?.slice(1) ?? []);
		const versions = landed.filter((_, index) => index % 2 === 1).map(Number);
		assert.deepEqual(
			versions.sort((a, b) => a - b),
			Array.from({ length: 100 }, (_, index) => index),
		);
		// Each role is at the version that came last in history.
		for (const name of roles) {
			const last = landed[landed.indexOf(name) + 1];
			assert.equal(versionIn(repositories.pushed(`data/${name}.yaml`)), `${last}.0.0`);
			assert.equal(repositories.pushed(`data/${name}.yaml`), role.replace('2.1.3', `${last}.0.0`));
		}
		assert.ok(repositories.subjects().filter((subject) => subject === 'rival').length >= 20);
	});

	test('two listeners on work trees of their own give way to each other', async () => {
		const repositories = makeRepositories(files);
		const clones = [repositories.clone, repositories.another('second')];
		const listeners = await Promise.all(
			clones.map((clone) =>
				startListener({ routes: `routes:\n  deploy:${route(clone, 'push: true', 'attempts: 50')}` }),
			),
		);
		const runs = await Promise.all(
			roles.flatMap((name) =>
				listeners.map((listener, index) =>
					ran(listener, 'deploy', { role: name, version: `${index + 1}.0.0` }),
				),
			),
		);
		assert.deepEqual(
			runs.filter(({ state }) => state !== 'succeeded').map(({ message }) => message),
			[],
		);
		assert.equal(repositories.subjects().length, roles.length + 20);
	});

	test('others who are faster every time are a failure after so many attempts', async () => {
		const repositories = makeRepositories({ 'data/web.yaml': role });
		hook(path.join(repositories.clone, '.git/hooks/pre-push'), rivalPush(repositories));
		const listener = await startListener({
			routes: `routes:\n  deploy:${route(repositories.clone, 'push: true', 'attempts: 3')}`,
		});
		const before = stateOf(repositories.clone);
		const run = await ran(listener, 'deploy', { version: '5.0.0' });
		assert.equal(run.state, 'failed');
		assert.match(
			run.message,
			/others were faster with pushing to production of origin, 3 times of as many; raise "attempts"$/,
		);
		assert.equal(run.text.match(/somebody else pushed to production first: once more/g)?.length, 2);
		assert.equal(stateOf(repositories.clone), before);
		assert.equal(versionIn(repositories.pushed('data/web.yaml')), '2.1.3');
	});
});

describe('hieradata in routes.yaml', () => {
	const faults: [keys: string, message: RegExp][] = [
		['file: a.yaml, set: { a: 1 }', /hieradata: "repo" is missing/],
		['repo: /r, set: { a: 1 }', /hieradata: "file" is missing/],
		['repo: /r, file: a.yaml, set: {}', /hieradata\.set: must have at least one key/],
		[
			'repo: /r, file: ../a.yaml, set: { a: 1 }',
			/hieradata\.file: has an empty part, or one that is "\." or "\.\."/,
		],
		['repo: /r, file: /a.yaml, set: { a: 1 }', /hieradata\.file: must begin at the top of the work tree/],
		['repo: /r, file: .git/config, set: { a: 1 }', /hieradata\.file: is git's own/],
		[
			'repo: "../{{role}}", file: a.yaml, set: { a: 1 }',
			/hieradata\.repo: must have no part "\.\." beside \{\{…\}\}/,
		],
		['repo: /r, file: a.yaml, set: { a: "{{none}}" }', /\{\{none\}\} is used but not declared/],
		[
			'repo: /r, file: a.yaml, set: { a: 1 }, author: Jenkins',
			/hieradata\.author: must be a name and an address/,
		],
		['repo: /r, file: a.yaml, set: { a: 1 }, branch: qa', /hieradata\.branch: is for "push: true"/],
		[
			'repo: /r, file: a.yaml, set: { a: 1 }, push: true, branch: "a b"',
			/hieradata\.branch: is no name of a branch/,
		],
		[
			'repo: /r, file: a.yaml, set: { a: 1 }, push: true, remote: "-x"',
			/hieradata\.remote: must be the name of a remote/,
		],
		[
			'repo: /r, file: a.yaml, set: { a: 1 }, each: roles',
			/hieradata\.each: \{\{roles\}\} is used but not declared under params; declared are role/,
		],
		[
			'repo: /r, file: a.yaml, set: { a: 1 }, each: role',
			/hieradata\.each: must stand in "file" or in a key/,
		],
		['repo: /r, file: a.yaml, set: { a: 1 }, puhs: true', /unknown key "puhs", did you mean "push"\?/],
	];
	for (const [keys, message] of faults) {
		test(`{ ${keys} } is refused: ${message.source}`, async () => {
			const file = path.join(temporaryDirectory(), 'routes.yaml');
			fs.writeFileSync(
				file,
				`routes:\n  a:\n    params: { role: {} }\n    steps: [{ hieradata: { ${keys} } }]\n`,
			);
			await assert.rejects(
				loadConfig(file, null),
				(error) => error instanceof ConfigError && message.test(error.message),
			);
		});
	}
});
