/** Runs that are started again: because they failed and their route says so, or because the listener died; and those that are not. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { type Listener, processesOf, startListener, until } from './helpers/listener.ts';

async function accept(listener: Listener, route: string, body?: object): Promise<string> {
	const accepted = await listener.post(`/${route}`, body);
	assert.equal(accepted.status, 202, accepted.text);
	return accepted.json.runs[0].id;
}

/** When each start of a run was, as its command noted it: milliseconds since 1970. */
function starts(listener: Listener, id: string): number[] {
	const file = path.join(listener.dir, `starts-${id}`);
	return fs.existsSync(file) ? fs.readFileSync(file, 'utf8').trim().split('\n').map(Number) : [];
}

/** The run as soon as it waits for its next attempt. */
function postponed(listener: Listener, id: string) {
	return until('the run to wait for its next attempt', async () => {
		const run = await listener.run(id);
		return run.nextAttemptAt === null ? undefined : run;
	});
}

const note = 'date +%s%3N >>starts-$WEBHOOK_RUN';
const routes = `
routes:
  third: { retry: { attempts: 5, delay: 200ms, backoff: 2 }, command: '${note}; echo try; [ $(wc -l <starts-$WEBHOOK_RUN) = 3 ] || exit 7' }
  never: { retry: { attempts: 3, delay: 100ms, backoff: 1 }, command: '${note}; exit 5' }
  missing: { retry: { attempts: 2, delay: 100ms }, command: [no-such-program] }
  late: { timeout: 100ms, retry: { attempts: 2, delay: 100ms }, command: '${note}; sleep 1000' }
  slow: { retry: { attempts: 2, delay: 2s }, command: '${note}; exit 1' }
  hour: { retry: { attempts: 2, delay: 1h }, params: { fail: {} }, command: '${note}; [ ! "$fail" ]' }
  once: { retry: { attempts: 1 }, command: 'exit 1' }
  held: { retry: { attempts: 3, delay: 100ms }, command: '${note}; trap "exit 1" TERM; while :; do sleep 0.02; done' }
`;

describe('retry', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes });
	});

	test('starts a run again that failed, after a delay that grows, until it succeeds', async () => {
		const id = await accept(listener, 'third');
		const waiting = await postponed(listener, id);
		assert.deepEqual([waiting.state, waiting.attempt, waiting.endedAt], ['queued', 1, null]);
		const run = await listener.ended(id);
		assert.deepEqual([run.state, run.attempt, run.exitCode, run.nextAttemptAt], ['succeeded', 3, 0, null]);
		const [first = 0, second = 0, third = 0] = starts(listener, id);
		assert.ok(second - first >= 200, `${second - first} ms`);
		assert.ok(third - second >= 400, `${third - second} ms`);
		assert.equal(await listener.output(id), 'try\n', 'the output is that of the last attempt');
		await listener.logged('the end', (line) => line.run === id && line.message === 'run finished');
		const lines = listener.log().filter((line) => line.run === id && line.message === 'try');
		assert.equal(lines.length, 3, 'the log has them all');
		const told = listener.log().filter((line) => line.run === id && /started again later/.test(line.message));
		assert.deepEqual(
			told.map(({ attempt, attempts, why, again }) => [attempt, attempts, why, again]),
			[
				[1, 5, 'the command exited with 7', '0.2s'],
				[2, 5, 'the command exited with 7', '0.4s'],
			],
		);
	});

	test('ends with the last outcome when there are no attempts left, which a waiting caller gets', async () => {
		const answer = await listener.post('/never?async=false');
		assert.equal(answer.status, 500);
		assert.deepEqual([answer.json.state, answer.json.exitCode, answer.json.attempt], ['failed', 5, 3]);
		assert.equal(starts(listener, answer.json.id).length, 3);
	});

	test('counts a time limit and a command that cannot be started as failures', async () => {
		const late = await listener.ended(await accept(listener, 'late'));
		assert.deepEqual([late.reason, late.attempt], ['timeout', 2]);
		const missing = await listener.ended(await accept(listener, 'missing'));
		assert.deepEqual([missing.reason, missing.attempt], ['spawn', 2]);
	});

	test('leaves a route with one attempt as it is', async () => {
		assert.equal((await listener.ended(await accept(listener, 'once'))).attempt, 1);
	});

	test('while a run waits, its group is free, its caller may be answered 202, and it can be cancelled', async () => {
		const answer = await listener.post('/hour', { fail: 'x' }, { prefer: 'wait=1' });
		assert.equal(answer.status, 202);
		const { id } = answer.json.runs[0];
		const waiting = await postponed(listener, id);
		const ms = Date.parse(waiting.nextAttemptAt) - Date.now();
		assert.ok(ms > 3_500_000 && ms <= 3_600_000, `${ms} ms`);
		assert.equal((await listener.ended(await accept(listener, 'hour'))).state, 'succeeded');
		const cancelled = await listener.post(`/-/runs/${id}/cancel`);
		assert.deepEqual(
			[cancelled.json.state, cancelled.json.attempt, cancelled.json.nextAttemptAt],
			['cancelled', 1, null],
		);
	});

	test('a run that is cancelled while it runs is not started again', async () => {
		const id = await accept(listener, 'held');
		await until('it to begin', () => starts(listener, id).length === 1);
		await listener.post(`/-/runs/${id}/cancel`);
		const run = await listener.ended(id);
		assert.deepEqual([run.state, run.attempt], ['cancelled', 1]);
	});
});

test('retry: a restart of the listener neither shortens nor loses the delay', async () => {
	for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
		const first = await startListener({ routes });
		const id = await accept(first, 'slow');
		const { nextAttemptAt } = await postponed(first, id);
		await first.stop(signal);
		const next = await first.again();
		const run = await next.ended(id);
		assert.deepEqual([run.state, run.attempt], ['failed', 2]);
		const [, second = 0] = starts(next, id);
		assert.ok(second >= Date.parse(nextAttemptAt), `${second} is before ${nextAttemptAt}`);
		await next.stop();
	}
});

describe('on_crash: fail', () => {
	const routes = `
defaults: { on_crash: fail }
routes:
  once: { command: '${note}; echo begun; sleep 0.2; echo more; sleep 1000' }
  again: { on_crash: rerun, command: '${note}; [ $(wc -l <starts-$WEBHOOK_RUN) = 2 ] || sleep 1000' }
`;

	const said = (run: Record<string, unknown>) => [run.state, run.reason, run.attempt, run.exitCode];

	/** Starts a listener, and a run that has said something. */
	async function begun(args: readonly string[] = []) {
		const listener = await startListener({ routes, args });
		const id = await accept(listener, 'once');
		await until('output', async () => /more/.test(await listener.output(id)));
		return { listener, id };
	}

	test('a run that the listener died over has failed, and is not run again; those behind it are run', async () => {
		const { listener: first, id } = await begun();
		const behind = await accept(first, 'once');
		const other = await accept(first, 'again');
		await until('the other to begin', () => starts(first, other).length === 1);
		await first.stop('SIGKILL');
		const next = await first.again();
		const run = await next.ended(id);
		assert.deepEqual(said(run), ['failed', 'lost', 1, null]);
		assert.equal(run.message, 'the listener ended while it ran');
		assert.equal(await next.output(id), 'begun\nmore\n');
		assert.equal(run.output.size, 11);
		await until('the next to begin', () => starts(next, behind).length === 1);
		assert.equal(starts(next, id).length, 1);
		assert.deepEqual(said(await next.ended(other)), ['succeeded', 'exit', 2, 0]);
		await next.post(`/-/runs/${behind}/cancel`);
		await next.ended(behind);
	});

	test('a run whose program was started by what was killed has failed', async () => {
		const { listener, id } = await begun();
		for (const { pid, command } of processesOf(listener.dir)) {
			if (/runner-starter|^\/bin\/sh -s/.test(command)) process.kill(pid, 'SIGKILL');
		}
		const run = await listener.ended(id);
		assert.deepEqual(said(run), ['failed', 'lost', 1, null]);
		assert.equal(run.message, 'what had started its program was killed');
		assert.equal(await listener.output(id), 'begun\nmore\n');
	});

	test('a run that is ended at the end of the drain time has failed', async () => {
		const { listener, id } = await begun(['--drain', '100ms']);
		await listener.stop();
		const next = await listener.again();
		const run = await next.run(id);
		assert.deepEqual(said(run), ['failed', 'lost', 1, null]);
		assert.equal(run.message, 'the listener was stopped while it ran');
		assert.equal(await next.output(id), 'begun\nmore\n');
	});
});
