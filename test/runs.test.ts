/** Runs by the front door: what a command gets, what is kept of it, and what happens to it whatever dies. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
	type Listener,
	processesOf,
	send,
	spawnListener,
	startListener,
	temporaryDirectory,
	until,
} from './helpers/listener.ts';

/** Writes each argument between angle brackets, so that blanks, line ends and empty ones show. */
const showArguments = '#!/bin/sh\nfor a in "$@"; do printf "<%s>" "$a"; done\n';

/** Waits for the run of a route and gives it with its output. */
async function finished(listener: Listener, route: string, body?: string | Buffer | object) {
	const accepted = await listener.post(`/${route}`, body);
	assert.equal(accepted.status, 202, accepted.text);
	const run = await listener.ended(accepted.json.runs[0].id);
	return { ...run, text: await listener.output(run.id) };
}

async function accept(listener: Listener, route: string, body?: object): Promise<string> {
	const accepted = await listener.post(`/${route}`, body);
	assert.equal(accepted.status, 202, accepted.text);
	return accepted.json.runs[0].id;
}

/** The processes below the listener that start programs for it. */
function startersOf(listener: Listener): number[] {
	return processesOf(listener.dir)
		.filter(({ command }) => /runner-starter|^\/bin\/sh -s/.test(command))
		.map(({ pid }) => pid);
}

function isAlive(pid: number): boolean {
	try {
		return !/^State:\s+[ZX]/m.test(fs.readFileSync(`/proc/${pid}/status`, 'latin1'));
	} catch {
		return false;
	}
}

/** The process id that a command wrote into a file. */
function pidFrom(file: string): Promise<number> {
	return until(`a process id in ${file}`, () =>
		fs.existsSync(file) ? Number(fs.readFileSync(file, 'utf8')) : 0,
	);
}

function anonymousMemory(pid: number): number {
	return Number(/^RssAnon:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) / 1024;
}

const routes = `
routes:
  text:
    params: { role: {}, note: { pattern: '[^\\x00]*' } }
    command: 'printf "%s|" "$0" "$role" "$note" "$(echo sub)"; f() { echo $1; }; f func'
  bash: { shell: /bin/bash, command: 'a=(x y); echo "\${a[1]}" <(true) | cut -c1-9' }
  list:
    params: { role: { pattern: '[^\\x00]*' } }
    command: [./show, plain, '', 'two words', "li\\nne", '"''$HOME\`;*', 'in-{{role}}-side', '{{role}}', '']
  environment:
    params: { role: {}, count: { type: integer }, absent: {} }
    env: { FROM_ROUTE: 'value of {{role}}', TZ: Europe/Bratislava, role: loses }
    command: [/usr/bin/env, '-0']
  cwd: { cwd: '/usr/{{where}}', params: { where: {} }, command: pwd }
  input: { stdin: body, command: 'cat; [ -f /dev/stdin ] || [ ! -t 0 ] && wc -c </dev/stdin >&2 || true' }
  deaf: { stdin: body, command: [/bin/true] }
  no-input: { command: 'readlink /proc/self/fd/0; cat' }
  exit: { params: { code: { type: integer } }, command: 'exit $code' }
  signal: { command: 'kill -USR1 $$' }
  not-found: { command: [no-such-program, x] }
  shell-not-found: { command: no-such-program }
  in-one: { command: ['echo hello world'] }
  not-executable: { command: [./plain-file] }
  no-interpreter: { command: [./lost] }
  no-cwd: { cwd: /no/such/directory, command: pwd }
  file-cwd: { cwd: /etc/passwd, command: pwd }
  too-long: { stdin: none, params: { big: { pattern: 'x*' } }, env: { A: '{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}{{big}}' }, command: [/bin/true] }
  group: { command: 'echo $$ >group.pid; ps -o pid=,pgid= -p $$' }
  streams: { command: 'for i in 1 2 3 4 5 6 7 8 9; do echo out$i; echo err$i >&2; done; echo named >/dev/stderr; echo too >/dev/stdout' }
  late: { timeout: 300ms, kill_after: 200ms, command: 'echo begun; sleep 1000 & echo $! >late.pid; wait' }
  stubborn: { timeout: 300ms, kill_after: 200ms, command: "trap '' TERM; (trap '' TERM; exec sleep 1000) & echo $! >stubborn.pid; while :; do wait; done" }
  quitter: { timeout: 300ms, kill_after: 200ms, command: "(trap '' TERM; exec sleep 1000) & echo $! >quitter.pid; wait" }
  daemon: { command: 'sleep 1000 & echo $! >daemon.pid; echo last words' }
  chatty: { command: 'while :; do echo chat; done & echo $! >chatty.pid; echo last words' }
  slow: { command: 'sleep 0.3; echo slow' }
  forever: { command: 'echo $$ >forever.pid; echo begun; exec sleep 1000' }
  bytes: { command: [head, -c, '70000', ./bytes] }
  small-limit: { max_output: 1KiB, command: [./bytes-then-end] }
  lines: { command: 'seq 1 10100' }
  long-line: { command: [./long-line] }
  torn: { command: 'printf "\\303"; sleep 0.25; printf "\\274ber\\n"' }
  flood: { max_output: 1MiB, command: [head, -c, '100000000', /dev/zero] }
  reject: { concurrency: { when_busy: reject }, command: 'while [ ! -e go ]; do sleep 0.02; done' }
  coalesce: { concurrency: { when_busy: coalesce }, params: { commit: {} }, command: 'echo $commit; while [ ! -e go ]; do sleep 0.02; done' }
  parallel: { concurrency: { when_busy: parallel }, command: 'touch parallel-$WEBHOOK_RUN; while [ "$(ls parallel-* | wc -l)" -lt 2 ]; do sleep 0.02; done' }
  by-branch: { concurrency: { group: 'branch-{{branch}}' }, params: { branch: {} }, command: 'echo $branch >>order; [ $branch = free ] || while [ ! -e go ]; do sleep 0.02; done' }
`;

const files = {
	show: showArguments,
	'plain-file': 'text',
	lost: '#!/no/such/interpreter\n',
	bytes: '',
	'bytes-then-end': '#!/bin/sh\nhead -c 600 bytes; head -c 100000 /dev/zero; tail -c 600 bytes\n',
	'long-line': '#!/bin/sh\nhead -c 20000 /dev/zero | tr "\\0" x; echo\n',
};

/** Bytes of every value, no two kilobytes alike. */
const someBytes = Buffer.from(Array.from({ length: 70_000 }, (_, i) => (i * 7 + (i >> 8)) & 255));

describe('a command', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes, files, env: { SECRET_TOKEN: 'hidden', LC_TIME: 'C' } });
		for (const name of ['show', 'lost', 'bytes-then-end', 'long-line']) {
			fs.chmodSync(path.join(listener.dir, name), 0o755);
		}
		fs.writeFileSync(path.join(listener.dir, 'bytes'), someBytes);
	});

	const inDir = (name: string) => path.join(listener.dir, name);

	test('RK-V2: that is a string is run by the shell, and reads parameters as variables only', async () => {
		const run = await finished(listener, 'text', { role: 'web', note: '$(touch made) `id` "; exit 7; #' });
		assert.equal(run.state, 'succeeded');
		assert.equal(run.text, '/bin/sh|web|$(touch made) `id` "; exit 7; #|sub|func\n');
		assert.equal(fs.existsSync(inDir('made')), false);
	});

	test('that is a string is run by the shell the route names', async () => {
		assert.match((await finished(listener, 'bash')).text, /^y \/dev\/fd/);
	});

	test('that is a list gets exactly its items, whatever is in them', async () => {
		const run = await finished(listener, 'list', { role: ' a  b\n$(id) ' });
		assert.equal(
			run.text,
			'<plain><><two words><li\nne><"\'$HOME`;*><in- a  b\n$(id) -side>< a  b\n$(id) ><>',
		);
	});

	test('sees the allow-list, the route’s variables, the parameters and what tells of the run, and nothing else', async () => {
		const run = await finished(listener, 'environment', { role: 'web', count: 3 });
		const seen = Object.fromEntries(
			run.text
				.split('\0')
				.filter(Boolean)
				.map((line: string) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
		);
		const given = { ...process.env, LC_TIME: 'C', TMPDIR: inDir('tmp') } as Record<string, string>;
		const allowed = /^(HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_[A-Z]+|TMPDIR)$/;
		const { PATH, ...rest } = seen;
		assert.ok(PATH.includes('/usr/bin'));
		assert.deepEqual(rest, {
			...Object.fromEntries(Object.entries(given).filter(([name]) => allowed.test(name))),
			FROM_ROUTE: 'value of web',
			TZ: 'Europe/Bratislava',
			role: 'web',
			count: '3',
			WEBHOOK_RUN: run.id,
			WEBHOOK_ROUTE: 'environment',
			WEBHOOK_DELIVERY: run.delivery,
			WEBHOOK_EVENT: 'call',
			WEBHOOK_CLIENT: '127.0.0.1',
			WEBHOOK_CERTNAME: '',
		});
	});

	test('runs in the route’s working directory, which may hold a parameter', async () => {
		assert.equal(
			(await finished(listener, 'cwd', { where: 'bin' })).text.trim(),
			fs.realpathSync('/usr/bin'),
		);
	});

	test('reads the body as standard input, byte for byte, also by the name /dev/stdin', async () => {
		const answer = await send({ port: listener.port }, '/input?async=false', {
			method: 'POST',
			body: someBytes,
			headers: { 'content-type': 'application/octet-stream', prefer: 'wait=20' },
		});
		const output = await listener.get(`/-/runs/${answer.json.id}/output`, { accept: 'text/plain' });
		assert.match(output.text, /70000\n$/);
		assert.equal(answer.json.output.size, 70_006);
	});

	test('may leave its standard input unread, however much there is', async () => {
		const run = await finished(listener, 'deaf', Buffer.alloc(5_000_000, 'x'));
		assert.deepEqual([run.state, run.exitCode], ['succeeded', 0]);
	});

	test('without input reads /dev/null', async () => {
		assert.equal((await finished(listener, 'no-input')).text, '/dev/null\n');
	});

	test('is told apart by its exit status', async () => {
		const results = [];
		for (const code of [0, 1, 3, 255]) {
			const { state, reason, exitCode, signal, message } = await finished(listener, 'exit', { code });
			results.push([state, reason, exitCode, signal, message]);
		}
		assert.deepEqual(results, [
			['succeeded', 'exit', 0, null, ''],
			['failed', 'exit', 1, null, 'the command exited with 1'],
			['failed', 'exit', 3, null, 'the command exited with 3'],
			['failed', 'exit', 255, null, 'the command exited with 255'],
		]);
	});

	test('that a signal ends fails with its name', async () => {
		const { state, reason, exitCode, signal, message } = await finished(listener, 'signal');
		assert.deepEqual(
			[state, reason, exitCode, signal, message],
			['failed', 'signal', null, 'SIGUSR1', 'the command was ended by SIGUSR1'],
		);
	});

	const notStarted: readonly [route: string, message: RegExp, body?: object][] = [
		['not-found', /"no-such-program" was not found in PATH \(.*\/usr\/bin.*\)$/],
		['in-one', /"echo hello world" was not found.*make each argument an item of the list, or write/],
		['not-executable', /\.\/plain-file may not be executed by user \d+; make it executable/],
		['no-interpreter', /\.\/lost exists, but not the interpreter that its first line/],
		['no-cwd', /working directory \/no\/such\/directory does not exist; make it, or mend "cwd"/],
		['file-cwd', /working directory \/etc\/passwd is not a directory/],
		[
			'too-long',
			/longer than the system allows; pass long values as standard input/,
			{ big: 'x'.repeat(8192) },
		],
	];
	for (const [route, message, body] of notStarted) {
		test(`that cannot be started says why and what to do: ${route}`, async () => {
			const run = await finished(listener, route, body);
			assert.deepEqual([run.state, run.reason, run.exitCode], ['failed', 'spawn', null]);
			assert.match(run.message, message);
		});
	}

	test('that the shell does not find fails with the shell’s own status and words', async () => {
		const run = await finished(listener, 'shell-not-found');
		assert.deepEqual([run.reason, run.exitCode], ['exit', 127]);
		assert.match(run.text, /not found/);
	});

	test('has a process group of its own', async () => {
		const run = await finished(listener, 'group');
		const [pid, group] = run.text.trim().split(/\s+/);
		assert.equal(group, pid);
	});

	test('keeps the order of what it prints on both streams, which it may open by name', async () => {
		const numbers = Array.from({ length: 9 }, (_, i) => `out${i + 1}\nerr${i + 1}\n`).join('');
		assert.equal((await finished(listener, 'streams')).text, `${numbers}named\ntoo\n`);
	});

	test('that goes over its time limit is told to end, with its children', async () => {
		const run = await finished(listener, 'late');
		assert.deepEqual([run.state, run.reason, run.signal], ['failed', 'timeout', 'SIGTERM']);
		assert.equal(run.message, 'the command was stopped at the time limit of 0.3 s');
		assert.equal(run.text, 'begun\n');
		assert.equal(isAlive(await pidFrom(inDir('late.pid'))), false);
	});

	test('that does not end by TERM is ended by KILL, with its children', async () => {
		const run = await finished(listener, 'stubborn');
		assert.deepEqual([run.reason, run.signal], ['timeout', 'SIGKILL']);
		assert.equal(isAlive(await pidFrom(inDir('stubborn.pid'))), false);
	});

	test('that ends by TERM and leaves a child that does not has ended when the child has', async () => {
		const run = await finished(listener, 'quitter');
		assert.deepEqual([run.reason, run.signal], ['timeout', 'SIGTERM']);
		await until('the child to end', () => !isAlive(Number(fs.readFileSync(inDir('quitter.pid'), 'utf8'))));
	});

	test('is not held up by a daemon that keeps its output open, nor does it end the daemon', async () => {
		const run = await finished(listener, 'daemon');
		const pid = await pidFrom(inDir('daemon.pid'));
		assert.deepEqual([run.state, run.text], ['succeeded', 'last words\n']);
		assert.ok(isAlive(pid));
		process.kill(pid);
	});

	test('is not held up by a daemon that goes on printing, which can go on and is kept no more', async () => {
		const run = await finished(listener, 'chatty');
		const pid = await pidFrom(inDir('chatty.pid'));
		assert.equal(run.state, 'succeeded');
		assert.match(run.text, /last words\n/);
		// More runs than there are pipes at first: none may read what the daemon prints.
		for (let i = 0; i < 20; i++) assert.equal((await finished(listener, 'exit', { code: 0 })).text, '');
		assert.ok(isAlive(pid));
		assert.equal((await listener.run(run.id)).output.size, run.output.size);
		process.kill(pid, 'SIGKILL');
	});

	test('that is cancelled ends, with its children', async () => {
		const id = await accept(listener, 'forever');
		const pid = await pidFrom(inDir('forever.pid'));
		const answer = await listener.post(`/-/runs/${id}/cancel`);
		assert.equal(answer.status, 200);
		const run = await listener.ended(id);
		assert.deepEqual([run.state, run.reason, run.signal], ['cancelled', 'caller', 'SIGTERM']);
		assert.equal(isAlive(pid), false);
		assert.equal((await listener.post(`/-/runs/${id}/cancel`)).status, 409);
		assert.equal((await listener.post('/-/runs/unknown/cancel')).status, 404);
	});

	test('that is cancelled before it begins never begins', async () => {
		fs.rmSync(inDir('go'), { force: true });
		const first = await accept(listener, 'by-branch', { branch: 'cancel' });
		const second = await accept(listener, 'by-branch', { branch: 'cancel' });
		const cancelled = await listener.post(`/-/runs/${second}/cancel`);
		assert.deepEqual(
			[cancelled.json.state, cancelled.json.reason, cancelled.json.attempt, cancelled.json.startedAt],
			['cancelled', 'caller', 0, null],
		);
		fs.writeFileSync(inDir('go'), '');
		await listener.ended(first);
		const order = fs.readFileSync(inDir('order'), 'utf8');
		assert.equal(order.split('\n').filter((line) => line === 'cancel').length, 1);
	});

	describe('prints', () => {
		test('any bytes, which are kept exactly, and read from any offset', async () => {
			const run = await finished(listener, 'bytes');
			assert.equal(run.output.size, someBytes.length);
			const read = (from: number) =>
				execFileSync('curl', [
					'-s',
					'-H',
					'Accept: application/octet-stream',
					`${listener.url}/-/runs/${run.id}/output?from=${from}`,
				]);
			for (const from of [0, 1, 65_535, 65_536, 69_999, 70_000, 80_000]) {
				assert.deepEqual(read(from), someBytes.subarray(from));
			}
		});

		test('more than its limit: beginning and end are kept, and the cut is said', async () => {
			const run = await finished(listener, 'small-limit');
			assert.equal(run.output.size, 101_200);
			const bytes = execFileSync('curl', [
				'-s',
				'-H',
				'Accept: application/octet-stream',
				`${listener.url}/-/runs/${run.id}/output`,
			]);
			assert.deepEqual(bytes, Buffer.concat([someBytes.subarray(0, 512), someBytes.subarray(-512)]));
			assert.match(run.text, /\[… 100176 bytes were not kept …\]/);
			assert.ok(fs.statSync(path.join(listener.state, 'output', run.id)).size <= 1032);
		});

		test('100 MB, in memory that stays flat', async () => {
			const pid = listener.process.pid ?? 0;
			await finished(listener, 'flood');
			const earlier = anonymousMemory(pid);
			const run = await finished(listener, 'flood');
			const grown = anonymousMemory(pid) - earlier;
			assert.equal(run.output.size, 100_000_000);
			assert.ok(grown < 32, `grew by ${grown} MB`);
		});

		test('a character in two pieces, which nobody sees torn', async () => {
			const id = await accept(listener, 'torn');
			const followed = execFileSync('curl', ['-sN', `${listener.url}/-/runs/${id}/output?follow=true`]);
			assert.equal(followed.toString(), 'über\n');
			assert.ok(
				await listener.logged('the whole line', (line) => line.message === 'über' && line.run === id),
			);
		});

		test('RK-V6: lines, each of which is logged once with run and route, before the run is said to have finished', async () => {
			const run = await finished(listener, 'streams');
			await listener.logged('the end', (line) => line.message === 'run finished' && line.run === run.id);
			const lines = listener.log().filter((line) => line.run === run.id && line.level === 'info');
			assert.deepEqual(
				lines.map((line) => line.message),
				[...run.text.trimEnd().split('\n'), 'run finished'],
			);
			assert.ok(lines.every((line) => line.route === 'streams'));
		});

		test('10,100 lines, of which 10,000 are logged, and where the rest is', async () => {
			const run = await finished(listener, 'lines');
			const more = await listener.logged(
				'the rest',
				(line) => line.run === run.id && line.output !== undefined,
			);
			assert.equal(more.output, `/-/runs/${run.id}/output`);
			await listener.logged('the end', (line) => line.message === 'run finished' && line.run === run.id);
			const lines = listener.log().filter((line) => line.run === run.id && /^\d+$/.test(line.message));
			assert.deepEqual([lines.length, lines[0]?.message, lines.at(-1)?.message], [10_000, '1', '10000']);
			assert.equal(run.text.split('\n').length, 10_101);
		});

		test('a line of 20,000 letters, of which the log takes 8 KiB', async () => {
			const run = await finished(listener, 'long-line');
			const line = await listener.logged('the line', (l) => l.run === run.id && l.message.startsWith('xxx'));
			assert.equal(line.message, `${'x'.repeat(8192)}…`);
			assert.equal(run.output.size, 20_001);
		});
	});

	describe('of a busy group', () => {
		test('that says reject is refused with 409 and named, and taken when there is room', async () => {
			fs.rmSync(inDir('go'), { force: true });
			const first = await accept(listener, 'reject');
			const refused = await listener.post('/reject');
			assert.equal(refused.status, 409);
			assert.match(refused.json.detail, /"reject"/);
			fs.writeFileSync(inDir('go'), '');
			await listener.ended(first);
			await listener.ended(await accept(listener, 'reject'));
		});

		test('that says coalesce: ten pushes during a run give one more, with what the last one said', async () => {
			fs.rmSync(inDir('go'), { force: true });
			const first = await accept(listener, 'coalesce', { commit: 'c0' });
			await until('the first to run', async () => (await listener.run(first)).state === 'running');
			const ids = new Set<string>();
			for (let i = 1; i <= 10; i++) ids.add(await accept(listener, 'coalesce', { commit: `c${i}` }));
			assert.equal(ids.size, 1);
			fs.writeFileSync(inDir('go'), '');
			const [second = ''] = ids;
			await listener.ended(second);
			assert.deepEqual([await listener.output(first), await listener.output(second)], ['c0\n', 'c10\n']);
			assert.equal(await listener.runCount('coalesce'), 2);
		});

		test('that says parallel runs beside the others', async () => {
			const ids = [await accept(listener, 'parallel'), await accept(listener, 'parallel')];
			for (const id of ids) assert.equal((await listener.ended(id)).state, 'succeeded');
		});

		test('RK-V3, TW-V3: that says queue waits its turn, and other groups do not wait for it', async () => {
			fs.rmSync(inDir('go'), { force: true });
			fs.rmSync(inDir('order'), { force: true });
			const busy = [];
			for (let i = 0; i < 5; i++) busy.push(await accept(listener, 'by-branch', { branch: 'busy' }));
			await listener.ended(await accept(listener, 'by-branch', { branch: 'free' }));
			const states = await Promise.all(busy.map(async (id) => (await listener.run(id)).state));
			assert.deepEqual(states, ['running', 'queued', 'queued', 'queued', 'queued']);
			fs.writeFileSync(inDir('go'), '');
			const runs = [];
			for (const id of busy) runs.push(await listener.ended(id));
			for (const [i, run] of runs.entries()) {
				if (i > 0)
					assert.ok(run.startedAt >= runs[i - 1].endedAt, 'one began before the one before had ended');
			}
		});
	});
});

/** Runs that tell of themselves in files of the listener's directory, and wait there for the file `go`. */
const crashRoutes = `
routes:
  note: { params: { n: {} }, command: 'echo $n >>done' }
  wait: { params: { n: {} }, command: 'echo $n >>begun; while [ ! -e go ]; do sleep 0.02; done; echo $n >>done' }
  again:
    command: |
      if [ -e first.pid ]; then
        for p in $(cat first.pid child.pid); do
          # A process that ended stays as a zombie until somebody takes note.
          grep -q '^State:.[^ZX]' /proc/$p/status 2>/dev/null && echo overlap
        done
        echo second
      else
        env -i sleep 1000 & echo $! >child.pid
        echo $$ >first.pid; echo first; sleep 1000
      fi
  assassin: { command: 'echo x >>shots; kill -9 $PPID; sleep 1000' }
`;

const lines = (listener: Listener, name: string) => {
	const file = path.join(listener.dir, name);
	return fs.existsSync(file) ? fs.readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
};

/** How often a process has asked the system to write something; threads that wake each other do so as well. */
function writesOf(pid: number): number {
	return Number(/^syscw: (\d+)$/m.exec(fs.readFileSync(`/proc/${pid}/io`, 'latin1'))?.[1]);
}

test('a run that waits for its group costs nothing while it waits, whatever has run meanwhile', async () => {
	const listener = await startListener({
		routes: `
routes:
  long: { command: sleep 300 }
  short: { command: 'true', wait: true }
`,
	});
	const waiting = [await accept(listener, 'long'), await accept(listener, 'long')];
	const call = async () => {
		for (let i = 0; i < 30; i++) assert.equal((await listener.post('/short')).status, 200);
	};
	await Promise.all(Array.from({ length: 16 }, call));
	const pid = listener.process.pid!;
	await until('the listener to be idle', async () => {
		const before = writesOf(pid);
		await sleep(1000);
		return writesOf(pid) - before < 50;
	});
	for (const id of waiting.reverse()) await listener.post(`/-/runs/${id}/cancel`);
});

test('a run that comes in the moment in which the one before it ends begins all the same', async () => {
	const listener = await startListener({ routes: 'routes:\n  short: { command: "true" }\n' });
	for (let i = 0; i < 200; i++) {
		await accept(listener, 'short');
		const waited = await listener.post('/short', undefined, { prefer: 'wait=20' });
		assert.equal(waited.status, 200, `the run ${i} did not begin: ${waited.text}`);
	}
});

describe('when the listener is killed', () => {
	test('PW-H13: what it answered 202 to is run after the next start, in order, each once', async () => {
		const listener = await startListener({ routes: crashRoutes });
		const ids = [];
		for (let i = 0; i < 5; i++) ids.push(await accept(listener, 'wait', { n: `${i}` }));
		await until('the first to begin', () => lines(listener, 'begun').length === 1);
		await listener.stop('SIGKILL');
		const next = await listener.again();
		// Not before, or what is left of the first attempt may still get to its end.
		fs.writeFileSync(path.join(listener.dir, 'go'), '');
		for (const id of ids) assert.equal((await next.ended(id)).state, 'succeeded');
		assert.deepEqual(lines(next, 'done'), ['0', '1', '2', '3', '4']);
		assert.deepEqual(await Promise.all(ids.map(async (id) => (await next.run(id)).attempt)), [2, 1, 1, 1, 1]);
	});

	test('right after the 202, the run is there and goes on', async () => {
		let listener = await startListener({ routes: crashRoutes });
		for (let i = 1; i <= 3; i++) {
			const accepted = await listener.post('/note', { n: `${i}` });
			listener.process.kill('SIGKILL');
			assert.equal(accepted.status, 202);
			await listener.exited();
			listener = await listener.again();
			assert.equal((await listener.ended(accepted.json.runs[0].id)).state, 'succeeded');
		}
	});

	test('what it was running is ended by what it had started it with, which leaves as well', async () => {
		const listener = await startListener({ routes: crashRoutes });
		await accept(listener, 'again');
		await pidFrom(path.join(listener.dir, 'first.pid'));
		await listener.stop('SIGKILL');
		await until('everything to end', () => processesOf(listener.dir).length === 0);
		assert.equal(isAlive(await pidFrom(path.join(listener.dir, 'child.pid'))), false);
	});

	test('together with what had started its runs, what was running is ended before it is run again', async () => {
		const listener = await startListener({ routes: crashRoutes });
		const id = await accept(listener, 'again');
		const pids = [
			await pidFrom(path.join(listener.dir, 'first.pid')),
			await pidFrom(path.join(listener.dir, 'child.pid')),
		];
		for (const pid of startersOf(listener)) process.kill(pid, 'SIGKILL');
		await listener.stop('SIGKILL');
		assert.deepEqual(pids.map(isAlive), [true, true]);
		const next = await listener.again();
		const run = await next.ended(id);
		assert.deepEqual([run.state, run.attempt], ['succeeded', 2]);
		assert.equal(await next.output(id), 'second\n');
		assert.deepEqual(pids.map(isAlive), [false, false]);
	});
});

describe('when what started a program is killed', () => {
	test('the run is ended and run again, and its output begins again', async () => {
		const listener = await startListener({ routes: crashRoutes });
		const id = await accept(listener, 'again');
		const pid = await pidFrom(path.join(listener.dir, 'child.pid'));
		await until('output', async () => (await listener.output(id)) === 'first\n');
		for (const starter of startersOf(listener)) process.kill(starter, 'SIGKILL');
		const run = await listener.ended(id);
		assert.deepEqual([run.state, run.attempt], ['succeeded', 2]);
		assert.equal(await listener.output(id), 'second\n');
		assert.equal(isAlive(pid), false);
		assert.equal((await listener.get('/-/healthy')).status, 200);
	});

	test('by its own run, again and again, the run is given up as lost and the others go on', async () => {
		const listener = await startListener({ routes: crashRoutes });
		const run = await listener.ended(await accept(listener, 'assassin'));
		assert.deepEqual([run.state, run.reason], ['failed', 'lost']);
		assert.match(run.message, /was killed 3 times/);
		assert.equal(lines(listener, 'shots').length, 3);
		assert.equal((await listener.ended(await accept(listener, 'note', { n: 'on' }))).state, 'succeeded');
	});
});

describe('when the listener is told to stop', () => {
	test('TW-V7: runs under way end, and the rest is left for the next start', async () => {
		const listener = await startListener({ routes: crashRoutes });
		const ids = [await accept(listener, 'wait', { n: '0' }), await accept(listener, 'wait', { n: '1' })];
		await until('the first to begin', () => lines(listener, 'begun').length === 1);
		const stopping = listener.stop();
		await listener.logged('stopping', (line) => line.message === 'stopping');
		fs.writeFileSync(path.join(listener.dir, 'go'), '');
		assert.equal((await stopping).code, 0);
		assert.deepEqual(lines(listener, 'done'), ['0']);
		const next = await listener.again();
		for (const id of ids) assert.deepEqual([(await next.ended(id)).attempt], [1]);
		assert.deepEqual(lines(next, 'done'), ['0', '1']);
	});

	test('a run that takes longer than the drain time is ended and run again by the next', async () => {
		const listener = await startListener({ routes: crashRoutes, args: ['--drain', '200ms'] });
		const id = await accept(listener, 'again');
		const pid = await pidFrom(path.join(listener.dir, 'first.pid'));
		assert.equal((await listener.stop()).code, 0);
		assert.equal(isAlive(pid), false);
		const next = await listener.again();
		assert.equal((await next.ended(id)).attempt, 2);
		assert.equal(await next.output(id), 'second\n');
	});
});

test('a second listener on one state directory exits with the reason', async () => {
	const first = await startListener({ routes: crashRoutes });
	const second = spawnListener({ dir: first.dir });
	assert.equal((await second.exited()).code, 1);
	assert.match(second.stderr, new RegExp(`held by another listener \\(process ${first.process.pid}\\)`));
	assert.equal((await first.get('/-/healthy')).status, 200);
});

/**
 * Ways to have a file system take no more: a limit on the size of files, which every user may set; and, where we may mount one,
 * a small file system that is filled up.
 */
const fullDisks: {
	name: string;
	prepare(state: string): void;
	fill(l: Listener): void;
	free(l: Listener): void;
}[] = [
	{
		name: 'a limit on files',
		prepare: () => {},
		fill: (listener) => limitFiles(listener, '1000'),
		free: (listener) => limitFiles(listener, 'unlimited'),
	},
];

function limitFiles(listener: Listener, bytes: string): void {
	const { status } = spawnSync('prlimit', [`--pid=${listener.process.pid}`, `--fsize=${bytes}:`]);
	assert.equal(status, 0, 'prlimit (util-linux) is needed');
}

const mounted: string[] = [];

function mountSmall(directory: string): boolean {
	fs.mkdirSync(directory, { recursive: true });
	const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', directory]);
	if (status === 0) mounted.push(directory);
	return status === 0;
}

function unmountAll(): void {
	for (const directory of mounted.splice(0)) execFileSync('umount', [directory]);
}

if (mountSmall(path.join(temporaryDirectory(), 'trial'))) {
	unmountAll();
	fullDisks.push({
		name: 'a full file system',
		prepare: (state) => assert.ok(mountSmall(state)),
		fill: (listener) => {
			const fd = fs.openSync(path.join(listener.state, 'filler'), 'w');
			assert.throws(() => {
				for (;;) fs.writeSync(fd, Buffer.alloc(4096));
			}, /ENOSPC/);
			fs.closeSync(fd);
		},
		free: (listener) => fs.rmSync(path.join(listener.state, 'filler')),
	});
}

describe('when the disk takes no more', () => {
	for (const { name, prepare, fill, free } of fullDisks) {
		test(`(${name}) deliveries are refused with 503, nothing is lost, and it goes on by itself`, async () => {
			const dir = temporaryDirectory();
			prepare(path.join(dir, 'state'));
			const listener = await startListener({ dir, routes: crashRoutes });
			const waiting = await accept(listener, 'wait', { n: 'kept' });
			await until('it to begin', () => lines(listener, 'begun').length === 1);
			fill(listener);
			// What is there already still has room for a little.
			const refused = await until('a refusal', async () => {
				const answer = await listener.post('/note', { n: 'x'.repeat(200) });
				return answer.status === 202 ? undefined : answer;
			});
			assert.equal(refused.status, 503);
			assert.equal(refused.headers['retry-after'], '30');
			assert.match(refused.json.detail, /state directory takes nothing.*nothing was started, try again/);
			// A run that ends meanwhile is settled later.
			fs.writeFileSync(path.join(listener.dir, 'go'), '');
			await listener.logged('the trouble', (line) => line.level === 'error' && line.run === waiting);
			free(listener);
			assert.equal((await listener.ended(waiting)).state, 'succeeded');
			assert.equal((await listener.ended(await accept(listener, 'note', { n: 'taken' }))).state, 'succeeded');
			const done = lines(listener, 'done');
			assert.deepEqual([done.includes('kept'), done.at(-1)], [true, 'taken']);
			const runs = await listener.runCount();
			await listener.stop();
			const next = await listener.again();
			assert.equal(await next.runCount(), runs);
			await next.stop();
			unmountAll();
		});
	}
});
