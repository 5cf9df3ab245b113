/** The contract of stores/store.ts, for every engine: what `accept`, `claim` and `settle` promise, whatever keeps the runs. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { Conflict, StateError, StoreUnavailable } from '../listener/errors.ts';
import { idMaker, type NewRun, type Outcome, type WhenBusy } from '../listener/runs/run.ts';
import { SqliteStore } from '../listener/stores/sqlite.ts';
import { type Acceptance, type KeptOutput, mostKeptInput, type Store } from '../listener/stores/store.ts';
import { temporaryDirectory } from './helpers/listener.ts';

/** An engine: opens the store of a directory, which may be opened again after it was closed. */
const engines: Readonly<Record<string, (directory: string, now?: () => number) => Store>> = {
	sqlite: (directory, now = Date.now) => SqliteStore.open(directory, { now }),
};

const newId = idMaker();

function offer(given: Partial<NewRun> = {}): NewRun {
	return {
		id: newId(),
		route: 'deploy',
		group: 'deploy',
		limit: 1,
		whenBusy: 'queue',
		delivery: newId(),
		event: 'call',
		client: '192.0.2.7',
		certname: '',
		parameters: { environment: 'qa', text: 'blank "quote" \n ü \u{1f600}' },
		plan: {
			steps: [{ kind: 'command' }],
			timeout: 600_000,
			killAfter: 10_000,
			maxOutput: 1024,
		},
		stdin: null,
		acceptedAt: Date.now(),
		...given,
	};
}

const success: Outcome = { state: 'succeeded', reason: 'exit', exitCode: 0, signal: null, message: '' };
const failure: Outcome = {
	state: 'failed',
	reason: 'signal',
	exitCode: null,
	signal: 'SIGTERM',
	message: 'ended by SIGTERM',
};
const cancelled: Outcome = {
	state: 'cancelled',
	reason: 'caller',
	exitCode: null,
	signal: null,
	message: '',
};
const none = { size: 0, short: Buffer.alloc(0) };

async function acceptOne(store: Store, given: Partial<NewRun> = {}) {
	const [acceptance] = await store.accept([offer(given)]);
	assert.ok(acceptance && acceptance.kind !== 'busy');
	return acceptance.run;
}

/** Ends a run as the holder of an attempt; true when the store took it. */
async function settle(store: Store, id: string, attempt: number, outcome: Outcome, output: KeptOutput) {
	const run = await store.get(id);
	assert.ok(run);
	return (await store.settle({ ...run, attempt }, outcome, output)) !== undefined;
}

async function putBack(store: Store, id: string, attempt: number): Promise<boolean> {
	const run = await store.get(id);
	assert.ok(run);
	return store.putBack({ ...run, attempt });
}

/** What became of runs that were offered: `accepted 0h…`. */
const told = (acceptances: readonly Acceptance[]) =>
	acceptances.map((each) => `${each.kind} ${each.kind === 'busy' ? each.group : each.run.id}`);

const ids = (runs: readonly { id: string }[]) => runs.map((run) => run.id);

for (const [engine, open] of Object.entries(engines)) {
	const directory = () => temporaryDirectory('puppet-webhook-store-');
	/** Runs a test on an empty store and closes it afterwards. */
	const withStore = (title: string, body: (store: Store, directory: string) => Promise<void>) =>
		test(`${engine}: ${title}`, async () => {
			const dir = directory();
			const store = open(dir);
			try {
				await body(store, dir);
			} finally {
				await store.close();
			}
		});

	withStore('gives back a run exactly as it was offered', async (store) => {
		const offered = offer({ stdin: Buffer.from([0, 255, 10]) });
		const [acceptance] = await store.accept([offered]);
		assert.equal(acceptance?.kind, 'accepted');
		const { stdin, ...rest } = offered;
		const expected = {
			...rest,
			seq: 1,
			state: 'queued',
			waitsFor: 'turn',
			attempt: 0,
			nextAttemptAt: null,
			startedAt: null,
			endedAt: null,
			outcome: null,
			outputSize: 0,
		};
		assert.deepEqual(acceptance.run, expected);
		assert.deepEqual(await store.get(offered.id), expected);
		const [claimed] = await store.claim(1);
		assert.ok(claimed);
		const { startedAt } = claimed;
		assert.deepEqual(claimed, {
			...expected,
			startedAt,
			state: 'running',
			waitsFor: null,
			attempt: 1,
			stdin,
		});
		assert.ok(startedAt !== null && startedAt >= offered.acceptedAt);
	});

	withStore('claims a run in the turn it is accepted, and gives the same as later', async (store) => {
		const offered = offer({ stdin: Buffer.from('body') });
		const accepting = store.accept([offered]);
		const [claimed] = await store.claim(5);
		await accepting;
		assert.ok(claimed);
		const { stdin, ...run } = claimed;
		assert.deepEqual(stdin, offered.stdin);
		assert.deepEqual(run, await store.get(offered.id));
	});

	test(`${engine}: has what it accepted after a crash`, async () => {
		const dir = directory();
		const store = open(dir);
		const accepted = await acceptOne(store);
		const settled = await acceptOne(store, { group: 'other' });
		await store.claim(2);
		await settle(store, settled.id, 1, failure, { size: 5, short: Buffer.from('bytes') });
		// What a crash leaves is what the files hold now; the store that is still open never gets to tidy up in the copy.
		const copy = directory();
		fs.cpSync(dir, copy, { recursive: true });
		await store.close();
		const after = open(copy);
		try {
			assert.deepEqual(ids(await after.recover()), [accepted.id]);
			const run = await after.get(settled.id);
			assert.deepEqual(run?.outcome, failure);
			assert.deepEqual(await after.shortOutput(settled.id), Buffer.from('bytes'));
			assert.deepEqual(await after.counts(), { queued: 1, running: 0 });
		} finally {
			await after.close();
		}
	});

	withStore('accepts several runs at once, in order', async (store) => {
		const offers = [offer(), offer(), offer()];
		const acceptances = await store.accept(offers);
		assert.deepEqual(
			acceptances.map((a) => a.kind === 'accepted' && [a.run.id, a.run.seq]),
			offers.map((o, i) => [o.id, i + 1]),
		);
	});

	withStore('accepts all or none', async (store) => {
		const first = offer();
		await assert.rejects(store.accept([first, offer({ id: first.id })]));
		assert.equal(await store.get(first.id), undefined);
		assert.deepEqual(await store.counts(), { queued: 0, running: 0 });
		await acceptOne(store);
		assert.equal((await store.claim(9)).length, 1, 'the group is not left full');
	});

	withStore('a faulty change does not touch its neighbours of the same turn', async (store) => {
		const taken = await acceptOne(store);
		const good = offer({ group: 'other' });
		const results = await Promise.allSettled([store.accept([offer({ id: taken.id })]), store.accept([good])]);
		assert.deepEqual(
			results.map((r) => r.status),
			['rejected', 'fulfilled'],
		);
		assert.ok(await store.get(good.id));
	});

	withStore('the same delivery gives the same runs, also twice in one turn', async (store) => {
		const delivery = { route: 'deploy', key: 'a1', remember: 60_000 };
		const first = [offer({ group: 'a' }), offer({ group: 'b' })];
		const [once, again] = await Promise.all([
			store.accept(first, delivery),
			store.accept([offer({ group: 'a' }), offer({ group: 'b' })], delivery),
		]);
		assert.deepEqual(told(once), [`accepted ${first[0]!.id}`, `accepted ${first[1]!.id}`]);
		assert.deepEqual(told(again), [`repeated ${first[0]!.id}`, `repeated ${first[1]!.id}`]);
		const [claimed] = await store.claim(1);
		await settle(store, claimed!.id, 1, failure, none);
		const [late] = await store.accept([offer(), offer()], delivery);
		assert.ok(late?.kind === 'repeated');
		assert.deepEqual(late.run, await store.get(first[0]!.id), 'as it stands now');
		assert.deepEqual(await store.counts(), { queued: 1, running: 0 });
		for (const other of [
			{ ...delivery, key: 'a2' },
			{ ...delivery, route: 'other' },
		]) {
			const [acceptance] = await store.accept([offer({ route: other.route })], other);
			assert.equal(acceptance?.kind, 'accepted');
		}
	});

	withStore('the same delivery gives the run it joined, and joins it no second time', async (store) => {
		const given = { whenBusy: 'coalesce' } as const;
		const run = await acceptOne(store, given);
		const delivery = { route: 'deploy', key: 'b', remember: 60_000 };
		const [joined] = await store.accept([offer({ ...given, parameters: { version: '2' } })], delivery);
		assert.deepEqual(told([joined!]), [`joined ${run.id}`]);
		await store.accept([offer({ ...given, parameters: { version: '3' } })]);
		const [repeated] = await store.accept([offer({ ...given, parameters: { version: '2' } })], delivery);
		assert.deepEqual(told([repeated!]), [`repeated ${run.id}`]);
		assert.deepEqual((await store.get(run.id))?.parameters, { version: '3' });
	});

	withStore(
		'a delivery that was refused is not remembered, and of one in part what was taken',
		async (store) => {
			const given = { whenBusy: 'reject' } as const;
			const running = await acceptOne(store, given);
			const delivery = { route: 'deploy', key: 'c', remember: 60_000 };
			const offers = () => [offer(given), offer({ ...given, group: 'free' })];
			const [busy, taken] = await store.accept(offers(), delivery);
			assert.deepEqual([busy?.kind, taken?.kind], ['busy', 'accepted']);
			const alone = { ...delivery, key: 'd' };
			assert.equal((await store.accept([offer(given)], alone))[0]?.kind, 'busy');
			await store.claim(9);
			await settle(store, running.id, 1, success, none);
			const [now, before] = await store.accept(offers(), delivery);
			assert.equal(now?.kind, 'accepted');
			assert.deepEqual(
				told([before!]),
				told([taken!]).map((text) => text.replace('accepted', 'repeated')),
			);
			assert.deepEqual(
				(await store.accept(offers(), delivery)).map(({ kind }) => kind),
				['repeated', 'repeated'],
			);
			assert.equal((await store.accept([offer({ group: 'e' })], alone))[0]?.kind, 'accepted');
		},
	);

	withStore('a delivery whose run was removed is not run again', async (store) => {
		const delivery = { route: 'deploy', key: 'e', remember: 60_000 };
		const [first] = await store.accept([offer()], delivery);
		assert.ok(first?.kind === 'accepted');
		await store.claim(1);
		await settle(store, first.run.id, 1, success, none);
		assert.deepEqual((await store.prune('deploy', { runs: 0, endedBefore: 0 }, 10)).ids, [first.run.id]);
		await assert.rejects(store.accept([offer()], delivery), Conflict);
		assert.deepEqual(await store.counts(), { queued: 0, running: 0 });
	});

	test(`${engine}: deliveries are forgotten in time, over restarts, and when the clock was set back`, async () => {
		let time = 1_000_000;
		const dir = directory();
		let store = open(dir, () => time);
		const kind = async (key: string) =>
			(await store.accept([offer({ group: newId() })], { route: 'deploy', key, remember: 1000 }))[0]?.kind;
		assert.equal(await kind('a'), 'accepted');
		time += 999;
		await store.close();
		store = open(dir, () => time);
		assert.equal(await kind('a'), 'repeated');
		time += 1;
		assert.equal(await kind('a'), 'accepted');
		time -= 900;
		assert.equal(await kind('a'), 'repeated', 'a little back changes nothing');
		time -= 200;
		assert.equal(
			await kind('a'),
			'accepted',
			'what was kept by a clock that went wrong does not stay for ever',
		);
		await store.close();
	});

	withStore('changes resolve in the order in which they were asked for', async (store) => {
		const delivery = { route: 'deploy', key: 'order', remember: 1000 };
		const order: string[] = [];
		const note = (what: string) => () => void order.push(what);
		await Promise.all([
			store.accept([offer()], delivery).then(note('first')),
			store.claim(1).then(note('second')),
			store.accept([offer()]).then(note('third')),
			store.claim(1).then(note('fourth')),
		]);
		assert.deepEqual(order, ['first', 'second', 'third', 'fourth']);
	});

	withStore('claims the oldest first, and never more than asked for', async (store) => {
		const runs = [];
		for (const group of ['a', 'b', 'c']) runs.push(await acceptOne(store, { group }));
		assert.deepEqual(ids(await store.claim(2)), ids(runs.slice(0, 2)));
		assert.deepEqual(ids(await store.claim(2)), ids(runs.slice(2)));
		assert.deepEqual(await store.claim(2), []);
	});

	withStore('queue: runs of a group come one after another, in order', async (store) => {
		const runs = [await acceptOne(store), await acceptOne(store), await acceptOne(store)];
		for (const run of runs) {
			assert.deepEqual(ids(await store.claim(9)), [run.id]);
			assert.deepEqual(await store.claim(9), []);
			assert.equal(await settle(store, run.id, 1, success, none), true);
		}
	});

	withStore('a group takes as many at a time as its limit says', async (store) => {
		for (let i = 0; i < 5; i++) await acceptOne(store, { limit: 3 });
		const running = await store.claim(9);
		assert.equal(running.length, 3);
		await settle(store, running[1]!.id, 1, success, none);
		assert.equal((await store.claim(9)).length, 1);
	});

	withStore('10,000 runs behind a busy group delay no other group', async (store) => {
		await acceptOne(store, { group: 'busy' });
		await store.claim(1);
		await store.accept(Array.from({ length: 10_000 }, () => offer({ group: 'busy' })));
		const other = await acceptOne(store, { group: 'other' });
		assert.deepEqual(ids(await store.claim(9)), [other.id]);
		assert.deepEqual(await store.counts(), { queued: 10_000, running: 2 });
	});

	withStore('coalesce: later runs join the one that waits, which takes over the newest', async (store) => {
		const given = { whenBusy: 'coalesce' as const };
		const running = await acceptOne(store, given);
		await store.claim(1);
		const waiting = await acceptOne(store, given);
		const last = offer({ ...given, parameters: { commit: 'newest' }, stdin: Buffer.from('newest') });
		const acceptances = await store.accept([offer({ ...given, stdin: Buffer.from('older') }), last]);
		assert.deepEqual(
			acceptances.map((a) => a.kind !== 'busy' && [a.kind, a.run.id, a.run.seq]),
			[
				['joined', waiting.id, waiting.seq],
				['joined', waiting.id, waiting.seq],
			],
		);
		assert.equal(await store.get(last.id), undefined);
		await settle(store, running.id, 1, success, none);
		const [claimed, ...rest] = await store.claim(9);
		assert.deepEqual(rest, []);
		assert.deepEqual(
			[claimed?.id, claimed?.parameters, claimed?.delivery, claimed?.stdin?.toString()],
			[waiting.id, { commit: 'newest' }, last.delivery, 'newest'],
		);
	});

	withStore('coalesce: a run of another route is other work and joins nothing', async (store) => {
		await acceptOne(store, { whenBusy: 'coalesce' });
		const [other] = await store.accept([offer({ whenBusy: 'coalesce', route: 'restart' })]);
		assert.equal(other?.kind, 'accepted');
	});

	withStore('coalesce: a run that was started before is joined no more', async (store) => {
		const run = await acceptOne(store, { whenBusy: 'coalesce' });
		await store.claim(1);
		await putBack(store, run.id, 1);
		const [later] = await store.accept([offer({ whenBusy: 'coalesce' })]);
		assert.equal(later?.kind, 'accepted');
	});

	withStore('coalesce: input that was joined away is gone', async (store) => {
		const first = await acceptOne(store, { whenBusy: 'coalesce', stdin: Buffer.from('old') });
		await store.accept([offer({ whenBusy: 'coalesce' })]);
		const [claimed] = await store.claim(1);
		assert.deepEqual([claimed?.id, claimed?.stdin], [first.id, null]);
	});

	withStore('reject: says busy while the group is full and takes runs again afterwards', async (store) => {
		const given = { whenBusy: 'reject' as const, group: 'g', limit: 2 };
		const first = await acceptOne(store, given);
		await acceptOne(store, given);
		assert.deepEqual(await store.accept([offer(given)]), [{ kind: 'busy', group: 'g' }]);
		await store.claim(9);
		assert.deepEqual(await store.accept([offer(given)]), [{ kind: 'busy', group: 'g' }]);
		await settle(store, first.id, 1, success, none);
		assert.equal((await store.accept([offer(given)]))[0]?.kind, 'accepted');
		assert.deepEqual(await store.counts(), { queued: 1, running: 1 });
	});

	withStore('parallel: waits for nobody, and others wait for it', async (store) => {
		const given = { whenBusy: 'parallel' as const };
		const runs = [
			await acceptOne(store, given),
			await acceptOne(store, given),
			await acceptOne(store, given),
		];
		const queued = await acceptOne(store);
		assert.deepEqual(ids(await store.claim(9)), ids(runs));
		for (const run of runs) {
			assert.deepEqual(await store.claim(9), []);
			await settle(store, run.id, 1, success, none);
		}
		assert.deepEqual(ids(await store.claim(9)), [queued.id]);
	});

	withStore('a run that names a lock file keeps its place until that is free', async (store) => {
		const plan = { ...offer().plan, lockfile: '/run/a.lock' };
		const first = await acceptOne(store, { plan });
		const behind = await acceptOne(store);
		const elsewhere = await acceptOne(store, { group: 'other', plan });
		const third = await acceptOne(store, { group: 'third', plan: { ...plan, lockfile: '/run/b.lock' } });
		const free = await acceptOne(store, { group: 'free' });
		assert.deepEqual(
			[first, behind, elsewhere, free].map(({ waitsFor }) => waitsFor),
			['lockfile', 'group', 'lockfile', 'turn'],
		);
		assert.deepEqual(ids(await store.claim(9)), [free.id], 'nobody else is delayed');
		assert.deepEqual(
			(await store.locked()).map(({ id, route, lockfile }) => [id, route, lockfile]),
			[
				[first.id, 'deploy', '/run/a.lock'],
				[third.id, 'deploy', '/run/b.lock'],
			],
		);
		assert.deepEqual(
			ids(await store.claim(1, ['/run/b.lock', '/run/a.lock'])),
			[first.id],
			'the oldest first',
		);
		assert.equal((await store.get(first.id))?.attempt, 1);
		assert.deepEqual(ids(await store.claim(9, ['/run/a.lock'])), [elsewhere.id]);
		await settle(store, first.id, 1, success, none);
		assert.deepEqual(ids(await store.claim(9)), [behind.id]);
		const run = await store.get(elsewhere.id);
		assert.ok(await store.putBack(run!));
		assert.equal((await store.get(elsewhere.id))?.waitsFor, 'lockfile', 'it is looked at again');
		assert.deepEqual(ids(await store.claim(9)), []);
		assert.equal(await store.cancelQueued(elsewhere.id, cancelled), true);
		assert.deepEqual(ids(await store.claim(9, ['/run/a.lock', '/run/b.lock'])), [third.id]);
	});

	withStore('a run that names a lock file joins, and takes over whether there is one', async (store) => {
		const given = { whenBusy: 'coalesce' } as const;
		const plan = { ...offer().plan, lockfile: '/run/a.lock' };
		const first = await acceptOne(store, { ...given, plan });
		assert.deepEqual(told(await store.accept([offer({ ...given, plan })])), [`joined ${first.id}`]);
		assert.equal((await acceptOne(store, given)).waitsFor, 'turn');
		assert.equal((await acceptOne(store, { ...given, plan })).waitsFor, 'lockfile');
		assert.deepEqual(await store.claim(9), []);
		assert.deepEqual(await store.counts(), { queued: 1, running: 0 });
		assert.deepEqual(ids(await store.claim(9, ['/run/a.lock'])), [first.id]);
	});

	withStore('reject: says busy while a lock file is held, or another run waits for it', async (store) => {
		const plan = { ...offer().plan, lockfile: '/run/a.lock' };
		const given = { whenBusy: 'reject', plan } as const;
		const refused = [{ kind: 'busy', group: 'deploy', lockfile: '/run/a.lock' }];
		assert.deepEqual(await store.accept([offer(given)], undefined, ['/run/a.lock']), refused);
		assert.equal((await acceptOne(store, { group: 'other', plan })).waitsFor, 'lockfile');
		assert.deepEqual(await store.accept([offer(given)]), refused);
		await store.claim(1, ['/run/a.lock']);
		assert.equal((await store.accept([offer(given)]))[0]?.kind, 'accepted');
	});

	test(`${engine}: runs that name a lock file are recovered as such`, async () => {
		const dir = directory();
		const before = open(dir);
		const plan = { ...offer().plan, lockfile: '/run/a.lock' };
		const run = await acceptOne(before, { plan });
		await before.claim(1, ['/run/a.lock']);
		await before.close();
		const store = open(dir);
		assert.deepEqual(
			(await store.recover()).map(({ id, waitsFor }) => [id, waitsFor]),
			[[run.id, 'lockfile']],
		);
		assert.deepEqual(await store.claim(9), []);
		assert.equal((await store.locked()).length, 1);
		assert.deepEqual(ids(await store.claim(9, ['/run/a.lock'])), [run.id]);
		await store.close();
	});

	withStore('settles a run once, and only for the holder of the present attempt', async (store) => {
		const run = await acceptOne(store);
		assert.equal(await settle(store, run.id, 0, success, none), false, 'it was not started yet');
		await store.claim(1);
		await putBack(store, run.id, 1);
		await store.claim(1);
		assert.equal(await settle(store, run.id, 1, success, none), false, 'the first attempt is over');
		assert.equal((await store.get(run.id))?.state, 'running');
		assert.equal(await settle(store, run.id, 2, failure, { size: 70_000, short: null }), true);
		assert.equal(await settle(store, run.id, 2, success, none), false);
		const ended = await store.get(run.id);
		assert.deepEqual(
			[ended?.state, ended?.outcome, ended?.attempt, ended?.outputSize],
			['failed', failure, 2, 70_000],
		);
		assert.ok(ended!.endedAt! >= ended!.startedAt!);
	});

	test(`${engine}: a clock that steps back lets no run end before it began`, async () => {
		let time = 2_000_000;
		const store = open(directory(), () => time);
		const run = await acceptOne(store);
		await store.claim(1);
		time -= 1_000_000;
		await settle(store, run.id, 1, success, none);
		const ended = await store.get(run.id);
		assert.deepEqual([ended?.startedAt, ended?.endedAt], [2_000_000, 2_000_000]);
		await store.close();
	});

	test(`${engine}: a clock that is set back makes no retry wait any longer, and puts nothing out of order`, async () => {
		let time = Date.UTC(2030, 0, 1);
		const store = open(directory(), () => time);
		const run = await acceptOne(store);
		const [claimed] = await store.claim(1);
		await store.retry(claimed!, 60_000);
		assert.equal(await store.nextRetry(), 60_000);
		time -= 30 * 60_000;
		const behind = await acceptOne(store, { group: 'other', acceptedAt: time });
		assert.equal(await store.nextRetry(), 60_000);
		assert.deepEqual(ids(await store.claim(9)), [behind.id]);
		assert.equal(
			(await store.get(run.id))?.nextAttemptAt,
			time + 60_000,
			'it is told by the clock as it is now',
		);
		time += 59_999;
		assert.deepEqual(await store.claim(9), []);
		assert.equal(await store.nextRetry(), 1);
		time += 1;
		assert.deepEqual(ids(await store.claim(9)), [run.id]);
		assert.ok(await settle(store, run.id, 2, success, none));
		assert.deepEqual(ids(await store.list({ limit: 9 })), [behind.id, run.id], 'the newest first');
		const { startedAt, endedAt } = (await store.get(run.id))!;
		assert.ok(startedAt !== null && endedAt !== null && endedAt >= startedAt);
		// A year ahead for a moment: what ended then is older than any age only when that time has come.
		time += 365 * 86_400_000;
		await store.claim(9);
		await settle(store, behind.id, 1, success, none);
		time -= 365 * 86_400_000;
		assert.deepEqual((await store.prune('deploy', { runs: 9, endedBefore: time - 1000 }, 9)).ids, []);
		await store.close();
	});

	withStore('gives a settled run as it stands', async (store) => {
		await acceptOne(store, { stdin: Buffer.from('x') });
		const [claimed] = await store.claim(1);
		const { stdin: _, ...run } = claimed!;
		const settled = await store.settle(run, failure, { size: 3, short: Buffer.from('abc') });
		assert.deepEqual(settled, await store.get(run.id));
		assert.equal(await store.settle(run, failure, none), undefined);
	});

	withStore('puts a run back at its old place', async (store) => {
		const first = await acceptOne(store);
		const second = await acceptOne(store);
		await store.claim(1);
		assert.equal(await putBack(store, first.id, 1), true);
		assert.equal(await putBack(store, first.id, 1), false);
		const [again] = await store.claim(9);
		assert.deepEqual([again?.id, again?.attempt], [first.id, 2]);
		await settle(store, first.id, 2, success, none);
		assert.deepEqual(ids(await store.claim(9)), [second.id]);
	});

	withStore('cancels queued runs, and makes room for those behind', async (store) => {
		const ready = await acceptOne(store);
		const waiting = await acceptOne(store);
		const last = await acceptOne(store);
		assert.equal(await store.cancelQueued(waiting.id, cancelled), true);
		assert.equal(await store.cancelQueued(waiting.id, cancelled), false);
		assert.equal(await store.cancelQueued(ready.id, cancelled), true);
		assert.deepEqual(ids(await store.claim(9)), [last.id]);
		assert.equal(await store.cancelQueued(last.id, cancelled), false, 'it is running');
		const run = await store.get(waiting.id);
		assert.deepEqual([run?.state, run?.outcome, run?.startedAt], ['cancelled', cancelled, null]);
		assert.ok(run!.endedAt !== null);
		assert.equal(await store.cancelQueued('unknown', cancelled), false);
	});

	test(`${engine}: recovers every running run, in order and at its place`, async () => {
		const dir = directory();
		let store = open(dir);
		const runs = [await acceptOne(store, { limit: 2 }), await acceptOne(store, { limit: 2 })];
		const behind = await acceptOne(store, { limit: 2 });
		await store.claim(9);
		await store.close();
		store = open(dir);
		assert.deepEqual(await store.counts(), { queued: 1, running: 2 });
		assert.deepEqual(ids(await store.recover()), ids(runs));
		assert.deepEqual(await store.counts(), { queued: 3, running: 0 });
		const again = await store.claim(9);
		assert.deepEqual(
			again.map((run) => [run.id, run.attempt]),
			runs.map((run) => [run.id, 2]),
		);
		await settle(store, runs[0]!.id, 2, success, none);
		assert.deepEqual(ids(await store.claim(9)), [behind.id]);
		await store.close();
	});

	withStore('counts triggers up, each time by one, however many do at once', async (store) => {
		assert.equal(await store.trigger('a'), undefined);
		const before = Date.now();
		const counts = await Promise.all(
			Array.from({ length: 100 }, (_, i) => store.countTrigger(i % 2 ? 'a' : 'b')),
		);
		assert.deepEqual(
			counts.map(({ name, count }) => [name, count]),
			Array.from({ length: 100 }, (_, i) => [i % 2 ? 'a' : 'b', Math.floor(i / 2) + 1]),
		);
		await Promise.all([store.countTrigger('a'), acceptOne(store), store.countTrigger('a')]);
		const { countedAt, ...a } = (await store.trigger('a'))!;
		assert.deepEqual(a, { name: 'a', count: 52 });
		assert.ok(countedAt >= before && countedAt <= Date.now());
	});

	withStore('lists triggers by name, a few at a time', async (store) => {
		for (const name of ['b', 'a/b', 'C', 'a']) await store.countTrigger(name);
		const names = async (after: string, limit: number) =>
			(await store.triggersAfter(after, limit)).map(({ name }) => name);
		assert.deepEqual(await names('', 3), ['C', 'a', 'a/b']);
		assert.deepEqual(await names('a/b', 3), ['b']);
		assert.deepEqual(await names('b', 3), []);
	});

	test(`${engine}: keeps the counts of triggers`, async () => {
		const dir = directory();
		const store = open(dir);
		await Promise.all([store.countTrigger('a'), store.countTrigger('a'), store.countTrigger('b')]);
		await store.close();
		await assert.rejects(store.countTrigger('a'), StoreUnavailable);
		const again = open(dir);
		assert.equal((await again.trigger('a'))?.count, 2);
		assert.equal((await again.countTrigger('b')).count, 2);
		await again.close();
	});

	withStore('leaves a run running that must not be run twice', async (store) => {
		const { plan } = offer();
		const fail = await acceptOne(store, { group: 'fail', plan: { ...plan, onCrash: 'fail' } });
		const again = await acceptOne(store, { group: 'again' });
		const waiting = await acceptOne(store, { group: 'fail', plan: { ...plan, onCrash: 'fail' } });
		await store.claim(9);
		const recovered = await store.recover();
		assert.deepEqual(
			recovered.map(({ id, state }) => [id, state]),
			[
				[fail.id, 'running'],
				[again.id, 'queued'],
			],
		);
		assert.deepEqual(await store.counts(), { queued: 2, running: 1 });
		assert.ok(await store.settle(recovered[0]!, failure, none));
		assert.deepEqual(ids(await store.claim(9)), [again.id, waiting.id]);
	});

	withStore('lists newest first, by route and state, page by page', async (store) => {
		const runs = [];
		for (let i = 0; i < 12; i++) {
			runs.push(await acceptOne(store, { route: i % 2 === 0 ? 'even' : 'odd', group: `g${i}` }));
		}
		const claimed = await store.claim(8);
		for (const [i, run] of claimed.slice(0, 6).entries()) {
			await settle(store, run.id, 1, i % 3 === 0 ? failure : success, none);
		}
		const newest = ids(runs).reverse();
		assert.deepEqual(ids(await store.list({ limit: 200 })), newest);
		assert.deepEqual(ids(await store.list({ limit: 5 })), newest.slice(0, 5));
		const [, , third] = await store.list({ limit: 3 });
		assert.deepEqual(ids(await store.list({ limit: 4, before: third!.seq })), newest.slice(3, 7));
		const even = newest.filter((_, i) => i % 2 === 1);
		assert.deepEqual(ids(await store.list({ route: 'even', limit: 200 })), even);
		assert.deepEqual(
			ids(await store.list({ route: 'even', limit: 2, before: runs[8]!.seq })),
			even.slice(2, 4),
		);
		const all = await store.list({ limit: 200 });
		for (const state of ['queued', 'running', 'succeeded', 'failed', 'cancelled'] as const) {
			assert.deepEqual(
				ids(await store.list({ state, limit: 200 })),
				ids(all.filter((r) => r.state === state)),
			);
			assert.deepEqual(
				ids(await store.list({ state, route: 'odd', limit: 200 })),
				ids(all.filter((r) => r.state === state && r.route === 'odd')),
			);
		}
		assert.deepEqual(await store.list({ route: 'unknown', limit: 10 }), []);
	});

	withStore(
		'keeps short output with the run, and tells when there is none or it is elsewhere',
		async (store) => {
			const [short, empty, long] = [
				await acceptOne(store, { group: 'a' }),
				await acceptOne(store, { group: 'b' }),
				await acceptOne(store, { group: 'c' }),
			];
			assert.equal(await store.shortOutput(short.id), null, 'to come');
			await store.claim(9);
			const bytes = Buffer.from([0, 1, 255, 13, 10]);
			await settle(store, short.id, 1, success, { size: bytes.length, short: bytes });
			await settle(store, empty.id, 1, success, none);
			await settle(store, long.id, 1, success, { size: 99_999, short: null });
			assert.deepEqual(await store.shortOutput(short.id), bytes);
			assert.deepEqual(await store.shortOutput(empty.id), Buffer.alloc(0));
			assert.equal(await store.shortOutput(long.id), null);
			assert.equal(await store.shortOutput('unknown'), undefined);
		},
	);

	test(`${engine}: a run that is to be retried leaves its group, and comes back at its old place when it is due`, async () => {
		let time = 1_000_000;
		const dir = directory();
		let store = open(dir, () => time);
		const [first, second, third] = [await acceptOne(store), await acceptOne(store), await acceptOne(store)];
		await store.claim(9);
		const claimed = await store.get(first.id);
		const retried = await store.retry(claimed!, 5000);
		assert.deepEqual(retried, await store.get(first.id));
		assert.deepEqual([retried?.state, retried?.attempt, retried?.nextAttemptAt], ['queued', 1, 1_005_000]);
		assert.equal(await store.retry(claimed!, 5000), undefined, 'its attempt is over');
		assert.deepEqual(await store.counts(), { queued: 3, running: 0 });
		assert.deepEqual(ids(await store.claim(9)), [second.id], 'nobody waits for it');
		time += 4000;
		assert.equal(await store.nextRetry(), 1000);
		await store.close();

		store = open(dir, () => time);
		assert.deepEqual(await store.counts(), { queued: 2, running: 1 });
		assert.equal(await store.nextRetry(), 1000);
		assert.deepEqual(await store.claim(9), []);
		time += 1000;
		assert.equal(await store.nextRetry(), 0);
		assert.deepEqual(await store.claim(9), [], 'its group is busy');
		assert.equal(await store.nextRetry(), undefined);
		await settle(store, second.id, 1, success, none);
		const [again] = await store.claim(9);
		assert.deepEqual([again?.id, again?.attempt, again?.nextAttemptAt], [first.id, 2, null]);
		// A clock that was set back while nobody looked does not make anybody wait for it.
		await store.retry(again!, 5000);
		assert.deepEqual(ids(await store.claim(9)), [third.id]);
		await settle(store, third.id, 1, success, none);
		time -= 900_000_000;
		await store.close();
		store = open(dir, () => time);
		assert.equal(await store.nextRetry(), 0);
		assert.deepEqual(ids(await store.claim(9)), [first.id]);
		await store.retry((await store.get(first.id))!, 5000);
		assert.equal(await store.cancelQueued(first.id, cancelled), true);
		assert.equal(await store.nextRetry(), undefined);
		assert.deepEqual(await store.counts(), { queued: 0, running: 0 });
		await store.close();
	});

	withStore('keeps input for another run, unless it is long and its run has ended', async (store) => {
		const inputs = [null, Buffer.alloc(0), Buffer.from('in'), Buffer.alloc(mostKeptInput + 1, 'x')];
		const runs: { id: string }[] = [];
		for (const [i, stdin] of inputs.entries()) runs.push(await acceptOne(store, { stdin, group: `g${i}` }));
		const first = await acceptOne(store, { group: 'coalesce', whenBusy: 'coalesce' });
		await store.accept([offer({ group: 'coalesce', whenBusy: 'coalesce', stdin: inputs[3]! })]);
		const kept = async () => Promise.all([...runs, first].map(({ id }) => store.input(id)));
		const all = [...inputs, inputs[3]!].map((bytes) => ({ kept: true, bytes }));
		assert.deepEqual(await kept(), all);
		await store.claim(9);
		assert.deepEqual(await kept(), all);
		for (const { id } of [...runs, first]) await settle(store, id, 1, success, none);
		const gone = { kept: false };
		assert.deepEqual(await kept(), [...all.slice(0, 3), gone, gone]);
		assert.equal(await store.input('unknown'), undefined);
	});

	test(`${engine}: prunes ended runs of a route beyond a number or an age, the oldest first and a few at a time`, async () => {
		let time = 1_000_000;
		const dir = directory();
		let store = open(dir, () => time);
		const ended: string[] = [];
		for (let i = 0; i < 10; i++) {
			const { id } = await acceptOne(store, { stdin: Buffer.from('in') });
			await acceptOne(store, { route: 'other', group: 'other' });
			time += 1000;
			if (i % 4 === 3) await store.cancelQueued(id, cancelled);
			else {
				await store.claim(9);
				await settle(store, id, 1, i % 2 === 0 ? success : failure, { size: 3, short: Buffer.from('out') });
			}
			ended.push(id);
		}
		const running = await acceptOne(store);
		await store.claim(1);
		const queued = await acceptOne(store);
		const left = async () => ids(await store.list({ route: 'deploy', limit: 50 })).reverse();
		const young = { endedBefore: 0 };

		assert.deepEqual(await store.routesAfter('', 9), ['deploy']);
		assert.deepEqual((await store.prune('deploy', { runs: 10, ...young }, 9)).ids, []);
		assert.deepEqual((await store.prune('deploy', { runs: 6, ...young }, 3)).ids, ended.slice(0, 3));
		assert.deepEqual((await store.prune('deploy', { runs: 6, ...young }, 3)).ids, ended.slice(3, 4));
		assert.deepEqual(await left(), [...ended.slice(4), running.id, queued.id]);
		assert.equal(await store.shortOutput(ended[0]!), undefined);
		await store.close();

		store = open(dir, () => time);
		const endedBefore = 1_000_000 + 8000;
		assert.deepEqual((await store.prune('deploy', { runs: 100, endedBefore }, 9)).ids, ended.slice(4, 7));
		assert.deepEqual(
			(await store.prune('deploy', { runs: 1, endedBefore: time + 1 }, 9)).ids,
			ended.slice(7),
		);
		assert.deepEqual((await store.prune('deploy', { runs: 1, endedBefore: time + 1 }, 9)).ids, []);
		assert.deepEqual(await left(), [running.id, queued.id], 'what has not ended stays');
		assert.deepEqual(await store.routesAfter('', 9), []);
		assert.equal((await store.list({ route: 'other', limit: 50 })).length, 10);
		await store.close();
	});

	test(`${engine}: closing writes out what waits, may be repeated, and ends everything`, async () => {
		const dir = directory();
		const store = open(dir);
		const offered = offer();
		const accepting = store.accept([offered]);
		await Promise.all([store.close(), store.close()]);
		await accepting;
		await assert.rejects(store.accept([offer()]), StoreUnavailable);
		await assert.rejects(store.get(offered.id), StoreUnavailable);
		const again = open(dir);
		assert.ok(await again.get(offered.id));
		await again.close();
	});

	test(`${engine}: follows the rules of groups as a simple model does`, async () => {
		const whenBusy = fc.constantFrom<WhenBusy>('queue', 'coalesce', 'reject', 'parallel');
		const accept = fc.record({
			do: fc.constant('accept' as const),
			group: fc.constantFrom('a', 'b'),
			route: fc.constantFrom('r', 's'),
			limit: fc.integer({ min: 1, max: 3 }),
			whenBusy,
		});
		const other = fc.record({
			do: fc.constantFrom('claim', 'settle', 'putBack', 'retry', 'wait', 'cancel', 'recover', 'reopen'),
			n: fc.integer({ min: 0, max: 5 }),
		});
		const steps = fc.array(fc.oneof({ weight: 3, arbitrary: accept }, { weight: 4, arbitrary: other }), {
			maxLength: 40,
		});
		await fc.assert(
			fc.asyncProperty(steps, async (list) => {
				const dir = directory();
				let time = 1_000_000;
				const now = () => time;
				let store = open(dir, now);
				const model = new Model();
				for (const step of list) {
					if (step.do === 'accept') {
						const run = offer(step);
						const [acceptance] = await store.accept([run]);
						assert.deepEqual(
							acceptance!.kind === 'busy' ? ['busy'] : [acceptance!.kind, acceptance!.run.id],
							model.accept(run),
						);
					} else if (step.do === 'claim') {
						assert.deepEqual(ids(await store.claim(step.n)), model.claim(step.n));
					} else if (step.do === 'recover') {
						assert.deepEqual(ids(await store.recover()), model.recover());
					} else if (step.do === 'reopen') {
						await store.close();
						store = open(dir, now);
					} else if (step.do === 'wait') {
						time += 1000;
						model.wait();
					} else {
						const run = model.runs[step.n % Math.max(1, model.runs.length)];
						if (run === undefined) continue;
						const done =
							step.do === 'settle'
								? await settle(store, run.id, run.attempt, success, none)
								: step.do === 'putBack'
									? await putBack(store, run.id, run.attempt)
									: step.do === 'retry'
										? (await store.retry({ ...(await store.get(run.id))!, attempt: run.attempt }, 1000)) !==
											undefined
										: await store.cancelQueued(run.id, cancelled);
						assert.equal(done, model[step.do as 'settle' | 'putBack' | 'retry' | 'cancel'](run), step.do);
					}
					assert.deepEqual(await store.counts(), model.counts());
				}
				await store.close();
			}),
			{ numRuns: 60 },
		);
	});
}

/** The rules of groups, said as plainly as possible: everything is found by looking through a list. */
class Model {
	readonly runs: {
		id: string;
		group: string;
		route: string;
		limit: number;
		whenBusy: WhenBusy;
		attempt: number;
		state: 'later' | 'due' | 'waiting' | 'ready' | 'running' | 'ended';
	}[] = [];

	accept(offered: NewRun): string[] {
		const open = this.#inGroup(offered.group);
		const full = open.some((run) => run.state === 'waiting') || open.length >= offered.limit;
		if (offered.whenBusy === 'reject' && full) return ['busy'];
		if (offered.whenBusy === 'coalesce') {
			const joined = open.find(
				(run) =>
					run.route === offered.route &&
					run.whenBusy === 'coalesce' &&
					run.state !== 'running' &&
					run.attempt === 0,
			);
			if (joined) return ['joined', joined.id];
		}
		const state = full && offered.whenBusy !== 'parallel' ? 'waiting' : 'ready';
		this.runs.push({ ...offered, attempt: 0, state });
		return ['accepted', offered.id];
	}

	claim(limit: number): string[] {
		for (const run of this.runs) {
			if (run.state === 'due') run.state = run.whenBusy === 'parallel' ? 'ready' : 'waiting';
		}
		for (const { group } of this.runs) this.#admit(group);
		const claimed = this.runs.filter((run) => run.state === 'ready').slice(0, limit);
		for (const run of claimed) {
			run.state = 'running';
			run.attempt++;
		}
		return ids(claimed);
	}

	settle(run: Model['runs'][number]): boolean {
		if (run.state !== 'running') return false;
		this.#end(run);
		return true;
	}

	cancel(run: Model['runs'][number]): boolean {
		if (run.state === 'running' || run.state === 'ended') return false;
		this.#end(run);
		return true;
	}

	retry(run: Model['runs'][number]): boolean {
		if (run.state !== 'running') return false;
		run.state = 'later';
		this.#admit(run.group);
		return true;
	}

	wait(): void {
		for (const run of this.runs) if (run.state === 'later') run.state = 'due';
	}

	putBack(run: Model['runs'][number]): boolean {
		if (run.state !== 'running') return false;
		run.state = 'ready';
		return true;
	}

	recover(): string[] {
		const running = this.runs.filter((run) => run.state === 'running');
		for (const run of running) run.state = 'ready';
		return ids(running);
	}

	counts(): { queued: number; running: number } {
		const running = this.runs.filter((run) => run.state === 'running').length;
		const ended = this.runs.filter((run) => run.state === 'ended').length;
		return { queued: this.runs.length - running - ended, running };
	}

	#end(ended: Model['runs'][number]): void {
		ended.state = 'ended';
		this.#admit(ended.group);
	}

	/** Runs that have a place in a group, or wait for one. */
	#inGroup(group: string): Model['runs'] {
		return this.runs.filter((run) => run.group === group && !['ended', 'later', 'due'].includes(run.state));
	}

	#admit(group: string): void {
		for (;;) {
			const open = this.#inGroup(group);
			const next = open.find((run) => run.state === 'waiting');
			const taken = open.filter((run) => run.state !== 'waiting').length;
			if (next === undefined || taken >= next.limit) return;
			next.state = 'ready';
		}
	}
}

test('sqlite: a second listener on one state directory is refused, with the first one named', async () => {
	const dir = temporaryDirectory();
	const first = SqliteStore.open(dir);
	assert.throws(() => SqliteStore.open(dir), {
		name: 'StateError',
		message: new RegExp(`held by another listener \\(process ${process.pid}\\).*--state`),
	});
	await acceptOne(first);
	await first.close();
	await SqliteStore.open(dir).close();
});

test('sqlite: refuses a file of another version, a damaged one, and a directory it cannot write', async () => {
	const newer = temporaryDirectory();
	await SqliteStore.open(newer).close();
	const { DatabaseSync } = await import('node:sqlite');
	const db = new DatabaseSync(path.join(newer, 'runs.db'));
	db.exec('PRAGMA user_version = 99');
	db.close();
	assert.throws(() => SqliteStore.open(newer), { name: 'StateError', message: /newer version.*layout 99/ });

	const older = temporaryDirectory();
	await SqliteStore.open(older).close();
	const olderDb = new DatabaseSync(path.join(older, 'runs.db'));
	olderDb.exec('PRAGMA user_version = 1');
	olderDb.close();
	assert.throws(() => SqliteStore.open(older), {
		name: 'StateError',
		message: /layout 1.*move the directory/,
	});

	const damaged = temporaryDirectory();
	fs.writeFileSync(path.join(damaged, 'runs.db'), 'this is no database, whatever its name says'.repeat(100));
	assert.throws(() => SqliteStore.open(damaged), { name: 'StateError', message: /damaged or not ours/ });

	const file = path.join(temporaryDirectory(), 'file');
	fs.writeFileSync(file, '');
	assert.throws(() => SqliteStore.open(path.join(file, 'state')), StateError);
});

test('sqlite: a disk that takes no more refuses runs, loses none, and works again when there is room', async () => {
	const dir = temporaryDirectory();
	const store = SqliteStore.open(dir);
	const kept = await acceptOne(store);
	const limitFiles = (bytes: string) => {
		const { status, stderr } = spawnSync('prlimit', [`--pid=${process.pid}`, `--fsize=${bytes}:`]);
		assert.equal(status, 0, String(stderr));
	};
	const refused = offer({ stdin: Buffer.alloc(300_000) });
	limitFiles('100000');
	try {
		await assert.rejects(store.accept([refused]), StoreUnavailable);
		assert.equal(await store.get(refused.id), undefined);
		assert.deepEqual(await store.counts(), { queued: 1, running: 0 });
	} finally {
		limitFiles('unlimited');
	}
	await store.accept([refused]);
	assert.deepEqual(ids(await store.claim(1)), [kept.id]);
	await settle(store, kept.id, 1, success, none);
	assert.deepEqual(ids(await store.claim(1)), [refused.id]);
	await store.close();
	const again = SqliteStore.open(dir);
	assert.deepEqual(ids(await again.list({ limit: 10 })), [refused.id, kept.id]);
	await again.close();
});
