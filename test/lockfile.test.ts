/** Runs that name a lock file wait while another program holds it, as every Puppet run holds `agent_catalog_run.lock`. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { command, type Listener, spawnListener, startListener, until } from './helpers/listener.ts';

const routes = `
routes:
  waiting:
    command: echo ran
    concurrency: { lockfile: state.lock }
  refused:
    command: echo ran
    concurrency: { lockfile: state.lock, when_busy: reject }
  joined:
    params: { version: {} }
    command: echo "ran $version"
    concurrency: { lockfile: state.lock, when_busy: coalesce }
  named/:node:
    command: echo ran
    concurrency: { lockfile: "locks/{{node}}.lock", when_busy: parallel }
  holding:
    command: echo $$ > state.lock; until test -e go; do sleep 0.02; done; rm state.lock
    concurrency: { lockfile: state.lock }
  # As puppet agent --onetime does: the command ends, and what it left behind takes the lock some time later.
  background:
    command: setsid sh -c 'until test -e go; do sleep 0.02; done; echo $$ > state.lock; until test -e end; do sleep 0.02; done; rm state.lock' > /dev/null 2>&1 &
    concurrency: { lockfile: state.lock, when_busy: reject }
  other: echo other
`.replace('other: echo other', 'other: { command: echo other }');

const sleepers: ChildProcess[] = [];
after(() => {
	for (const sleeper of sleepers) sleeper.kill('SIGKILL');
});

/** Some process of another program. */
function sleeper(...argv: string[]): ChildProcess {
	const [program = 'sleep', ...rest] = argv.length > 0 ? argv : ['sleep', '300'];
	const child = spawn(program, rest, { stdio: 'ignore' });
	sleepers.push(child);
	return child;
}

async function end(child: ChildProcess): Promise<void> {
	child.kill('SIGKILL');
	if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

const lockOf = (listener: Listener) => path.join(listener.dir, 'state.lock');

async function accepted(listener: Listener, route: string, body?: object): Promise<string> {
	const answer = await listener.post(route, body);
	assert.equal(answer.status, 202, answer.text);
	return answer.json.runs[0].id;
}

test('TW-H4, TW-V1: a run waits at its place while a live process holds the lock, and says so', async () => {
	const listener = await startListener({ routes });
	const holder = sleeper();
	fs.writeFileSync(lockOf(listener), `${holder.pid}\n`);
	const id = await accepted(listener, '/waiting');
	const line = await listener.logged('why it waits', (each) => each.message === 'run waits for a lock file');
	assert.deepEqual(
		[line.run, line.lockfile, line.why],
		[id, lockOf(listener), `process ${holder.pid} holds it`],
	);
	const behind = await accepted(listener, '/waiting');
	assert.deepEqual((await listener.post('/other?async=false')).status, 200, 'others go on');
	const run = await listener.run(id);
	assert.deepEqual([run.state, run.waitsFor, run.attempt], ['queued', 'lockfile', 0]);
	assert.equal((await listener.run(behind)).waitsFor, 'group');
	const shown = await command(['runs', id, '--url', listener.url]);
	assert.match(shown.stdout, /waits for +its lock file/);

	const refused = await listener.post('/refused');
	assert.equal(refused.status, 409);
	assert.match(refused.json.detail, /another process holds its lock file .*state\.lock; try again later/);

	await end(holder);
	const first = await listener.ended(id);
	assert.deepEqual([first.state, first.attempt, first.waitsFor], ['succeeded', 1, null]);
	assert.equal(
		(await listener.ended(behind)).state,
		'succeeded',
		'the next comes when nothing has taken the lock',
	);
	assert.equal(
		listener.log().filter((each) => each.message === 'run waits for a lock file' && each.run === id).length,
		1,
	);
});

test('coalesce: later runs join the one that waits for the lock', async () => {
	const listener = await startListener({ routes });
	const holder = sleeper();
	fs.writeFileSync(lockOf(listener), `${holder.pid}`);
	const id = await accepted(listener, '/joined', { version: '1' });
	assert.equal(await accepted(listener, '/joined', { version: '2' }), id);
	fs.rmSync(lockOf(listener));
	await listener.ended(id);
	assert.equal(await listener.output(id), 'ran 2\n');
});

test('TW-B5: a lock file that a crash left behind holds up nobody', async () => {
	const listener = await startListener({ routes });
	const gone = sleeper('true');
	await once(gone, 'exit');
	const younger = sleeper();
	const old = new Date(Date.now() - 3600_000);
	const stale: Record<string, [string, Date?]> = {
		'a process that is gone': [`${gone.pid}\n`],
		'an id that another process has by now': [`${younger.pid}\n`, old],
		'nothing, for long': ['', old],
		'no process id': ['{"disabled_message":"reason not specified"}'],
		'process 0': ['0'],
	};
	for (const [what, [text, time]] of Object.entries(stale)) {
		fs.writeFileSync(path.join(listener.dir, 'state.lock'), text);
		if (time) fs.utimesSync(lockOf(listener), time, time);
		// Others of this route are refused for some seconds after a run.
		const node = `n${Object.keys(stale).indexOf(what)}`;
		fs.mkdirSync(path.join(listener.dir, 'locks'), { recursive: true });
		fs.renameSync(lockOf(listener), path.join(listener.dir, `locks/${node}.lock`));
		const answer = await listener.post(`/named/${node}?async=false`);
		assert.equal(answer.status, 200, what);
	}
});

test('a file that is locked by flock is held, and one that cannot be read counts as held', async () => {
	const listener = await startListener({ routes });
	const locks = path.join(listener.dir, 'locks');
	fs.mkdirSync(path.join(locks, 'b.lock', 'is a directory'), { recursive: true });
	const file = path.join(locks, 'a.lock');
	fs.writeFileSync(file, '');
	fs.utimesSync(file, 1, 1);
	const holder = sleeper('flock', '--no-fork', file, 'sleep', '300');
	await until('the lock', () => fs.readFileSync('/proc/locks', 'latin1').includes(` ${holder.pid} `));
	const id = await accepted(listener, '/named/a');
	const line = await listener.logged('why', (each) => each.run === id && each.message.includes('lock file'));
	assert.equal(line.why, `process ${holder.pid} has locked it`);
	assert.equal((await listener.post('/named/b?async=false')).status, 200, 'a directory is no lock file');
	// A name that is too long cannot be looked for, whoever looks; file modes do not keep root out.
	const unreadable = await accepted(listener, `/named/${'x'.repeat(253)}`);
	const why = await listener.logged(
		'why',
		(each) => each.run === unreadable && each.message.includes('lock file'),
	);
	assert.match(String(why.why), /^it cannot be read \(ENAMETOOLONG/);
	await end(holder);
	assert.equal((await listener.ended(id)).state, 'succeeded');
	await listener.post(`/-/runs/${unreadable}/cancel`);
	assert.equal((await listener.run(unreadable)).state, 'cancelled');
});

test('TW-B4: nobody slips in between a command that ends and the lock that what it left behind takes', async () => {
	const listener = await startListener({ routes });
	const id = await accepted(listener, '/background');
	assert.equal((await listener.ended(id)).state, 'succeeded');
	assert.equal((await listener.post('/refused')).status, 409, 'the lock is not taken yet');
	assert.ok(!fs.existsSync(lockOf(listener)));
	fs.writeFileSync(path.join(listener.dir, 'go'), '');
	await until('the lock', () => fs.existsSync(lockOf(listener)));
	assert.equal((await listener.post('/refused')).status, 409, 'it is');
	const waiting = await accepted(listener, '/waiting');
	await listener.logged(
		'the holder',
		(each) => each.run === waiting && /process \d+ holds it/.test(String(each.why)),
	);
	const letGo = Date.now();
	fs.writeFileSync(path.join(listener.dir, 'end'), '');
	const run = await listener.ended(waiting);
	assert.ok(Date.parse(run.startedAt) - letGo < 4000, 'it starts soon after');
});

test('a command that holds the lock itself holds up the next no longer than it runs', async () => {
	const listener = await startListener({ routes });
	const id = await accepted(listener, '/holding');
	const next = await accepted(listener, '/waiting');
	await listener.logged(
		'the holder',
		(each) => each.run === next && /process \d+ holds it/.test(String(each.why)),
	);
	fs.writeFileSync(path.join(listener.dir, 'go'), '');
	const [first, second] = [await listener.ended(id), await listener.ended(next)];
	assert.ok(second.startedAt >= first.endedAt);
	assert.ok(
		Date.parse(second.startedAt) - Date.parse(first.endedAt) < 4000,
		`${first.endedAt} ${second.startedAt}`,
	);
});

test('a run that waits for a lock file goes on waiting after a restart', async () => {
	const listener = await startListener({ routes });
	const holder = sleeper();
	fs.writeFileSync(lockOf(listener), `${holder.pid}`);
	const id = await accepted(listener, '/waiting');
	await listener.stop('SIGKILL');
	const next = await listener.again();
	await next.logged(
		'why it waits',
		(each) => each.run === id && each.message === 'run waits for a lock file',
	);
	await end(holder);
	const run = await next.ended(id);
	assert.deepEqual([run.state, run.attempt], ['succeeded', 1]);
});

test('a lock file that uses what is not declared is refused', async () => {
	const listener = spawnListener({
		routes: 'routes:\n  a:\n    command: date\n    concurrency: { lockfile: "/run/{{node}}.lock" }\n',
	});
	assert.equal((await listener.exited()).code, 1);
	assert.match(
		listener.stderr,
		/routes\.yaml:6:\d+: route "a": concurrency\.lockfile: \{\{node\}\} is used but not declared/,
	);
});
