/**
 * KILL at random points under load, of the listener, of what starts its programs, and of both at once; then what callers were promised is
 * compared with what ran. Nothing that was answered is lost, nothing that had ended is run again, no run overlaps with what a
 * dead one left of itself, and whoever repeats a delivery because its answer was lost has one run of it.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Listener, processesOf, startListener, until } from './helpers/listener.ts';

/** Numbers that look random and are the same each time. */
function randomOf(seed: number): (below: number) => number {
	let state = seed;
	return (below) => {
		state = (state + 0x6d2b79f5) | 0;
		let mixed = Math.imul(state ^ (state >>> 15), state | 1);
		mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
		return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
	};
}

/**
 * Each start and end is a line. Whoever is still there of an earlier attempt holds the run's lock, also as a child.
 * `group` is one of four with room for two.
 */
const work = `
      exec 9> "locks/$WEBHOOK_RUN"
      flock -n 9 || echo "overlap $n $WEBHOOK_RUN" >> ran
      echo "start $n $WEBHOOK_RUN" >> ran
      sleep "0.0$ms"
      echo "end $n $WEBHOOK_RUN" >> ran`;
const params = '{ n: { type: integer }, ms: { type: integer }, lane: {} }';
const routes = `
log: { format: json, level: info }
defaults: { keep: 1000000 }
routes:
  again:
    params: ${params}
    concurrency: { group: "{{lane}}", limit: 2 }
    command: |${work}
  once:
    params: ${params}
    on_crash: fail
    concurrency: { group: "{{lane}}", limit: 2 }
    command: |${work}
`;

const callers = 6;
const killsEach = 101;

interface Promised {
	readonly run: string;
	/** Its attempt when it was told to have ended; undefined when only its acceptance was told. */
	readonly ended: number | undefined;
}

/** A listener that is killed and started again while callers go on. */
class Victim {
	listener: Listener | undefined;
	dir = '';
	calling = true;
	kills = 0;
	repeated = 0;
	/** What was answered, by the number of the delivery. */
	readonly promised = new Map<number, Promised>();
	readonly #random: (below: number) => number;
	#deliveries = 0;

	constructor(seed: number) {
		this.#random = randomOf(seed);
	}

	async start(): Promise<void> {
		this.listener = await startListener({ routes });
		this.dir = this.listener.dir;
		fs.mkdirSync(path.join(this.dir, 'locks'));
	}

	/** Delivers one after another; each is repeated until it is answered. */
	async call(): Promise<void> {
		while (this.calling) {
			const n = ++this.#deliveries;
			const route = this.#random(4) === 0 ? 'once' : 'again';
			const waits = this.#random(2) === 0;
			const body = { n, ms: 10 + this.#random(50), lane: `lane${this.#random(4)}` };
			for (let tries = 1; ; tries++) {
				const answer = await this.listener
					?.post(`/${route}${waits ? '?async=false' : ''}`, body, { 'idempotency-key': String(n) })
					.catch(() => undefined);
				if (answer === undefined || answer.status === 503) {
					await sleep(20);
					continue;
				}
				assert.ok([200, 202, 500].includes(answer.status), answer.text);
				if (tries > 1) this.repeated++;
				const run = answer.json.runs?.[0] ?? answer.json;
				this.promised.set(n, { run: run.id, ended: answer.status === 202 ? undefined : run.attempt });
				break;
			}
		}
	}

	/** Counts as one, however many they are. */
	#kill(pids: readonly number[]): void {
		for (const pid of pids) {
			try {
				process.kill(pid, 'SIGKILL');
			} catch {
				// It has ended already.
			}
		}
		if (pids.length > 0) this.kills++;
	}

	#killStarters(): void {
		const starters = processesOf(this.dir).filter(({ command }) =>
			/runner-starter|^\/bin\/sh -s/.test(command),
		);
		this.#kill(starters.map(({ pid }) => pid));
	}

	async kill(): Promise<void> {
		while (this.kills < killsEach) {
			const { listener } = this;
			assert.ok(listener);
			// Random in what has been done, so that a slow machine is killed in the middle of it too.
			const enough = this.promised.size + 3 + this.#random(12);
			await until('answers', () => this.promised.size >= enough);
			await sleep(this.#random(40));
			// A run that was lost three times is taken to kill what starts it; so no more than once a life.
			const how = this.#random(4);
			if (how > 0) this.#killStarters();
			if (how < 3) await sleep(this.#random(60));
			this.#kill([listener.process.pid!]);
			this.listener = undefined;
			await listener.exited();
			this.listener = await listener.again();
		}
	}
}

const victims = [new Victim(1), new Victim(2)];
after(() => {
	for (const victim of victims) victim.calling = false;
});

async function compare({
	promised,
	dir,
	listener,
}: Victim): Promise<{ starts: number; runs: number; twice: number }> {
	assert.ok(listener);
	await until('every run to end', async () => {
		const open = await Promise.all(
			['queued', 'running'].map((state) => listener.get(`/-/runs?limit=1&state=${state}`)),
		);
		return open.every(({ json }) => json.runs.length === 0);
	});
	// biome-ignore lint/suspicious/noExplicitAny: tests read answers freely
	const runs = new Map<string, any>();
	for (let next = '/-/runs?limit=200'; next; ) {
		const { json } = await listener.get(next);
		for (const run of json.runs) runs.set(run.id, run);
		next = json.next;
	}
	const lines = fs.readFileSync(path.join(dir, 'ran'), 'utf8').trim().split('\n');
	const count = (what: string) => {
		const found = new Map<string, number>();
		for (const line of lines) {
			const [kind, , id = ''] = line.split(' ');
			if (kind === what) found.set(id, (found.get(id) ?? 0) + 1);
		}
		return found;
	};
	const [starts, ends] = [count('start'), count('end')];
	assert.deepEqual([...count('overlap')], [], 'a run was started beside what was left of it');

	const runOf = new Map<string, string>();
	for (const line of lines) {
		const [, n = '', id = ''] = line.split(' ');
		assert.equal(runOf.get(n) ?? id, id, `delivery ${n} was run as two runs`);
		runOf.set(n, id);
	}
	assert.equal(new Set([...promised.values()].map(({ run }) => run)).size, promised.size, 'one run each');
	for (const [n, { run: id, ended }] of promised) {
		const run = runs.get(id);
		assert.ok(run, `delivery ${n} was answered, and its run ${id} is lost`);
		assert.equal(Number(run.parameters.n), n);
		if (run.state === 'succeeded') assert.ok(ends.has(id), `run ${id} succeeded without having ended`);
		else
			assert.deepEqual([run.route, run.state, run.reason], ['once', 'failed', 'lost'], JSON.stringify(run));
		if (ended !== undefined) assert.equal(run.attempt, ended, `run ${id} had ended, and was started again`);
	}
	for (const [id, started] of starts) {
		const run = runs.get(id);
		assert.ok(run, `run ${id} was started, and is not in the store`);
		assert.ok(started <= run.attempt, `run ${id} was started ${started} times in ${run.attempt} attempts`);
		if (run.route === 'once') assert.equal(started, 1, `run ${id} must not be started twice`);
	}
	const times = [...starts.values()];
	return {
		starts: times.reduce((sum, each) => sum + each, 0),
		runs: runs.size,
		twice: times.filter((each) => each > 1).length,
	};
}

test(`after ${victims.length * killsEach} kills at random points under load, every promise is kept`, async (t) => {
	await Promise.all(victims.map((victim) => victim.start()));
	const calling = victims.flatMap((victim) => Array.from({ length: callers }, () => victim.call()));
	await Promise.all(victims.map((victim) => victim.kill()));
	for (const victim of victims) victim.calling = false;
	await Promise.all(calling);
	let [again, repetitions] = [0, 0];
	for (const victim of victims) {
		const { starts, runs, twice } = await compare(victim);
		again += twice;
		repetitions += victim.repeated;
		const { kills, promised, repeated } = victim;
		t.diagnostic(
			`${kills} kills, ${promised.size} promises, ${repeated} of them asked for again, ${runs} runs, ${starts} starts`,
		);
		assert.ok(kills >= killsEach);
	}
	assert.ok(again > 0 && repetitions > 0, 'the kills met runs and deliveries under way');
});

test('a shell that was about to start a program when its listener died starts none, and is gone', async () => {
	const listener = await startListener({
		routes: 'routes:\n  work: { command: "echo ran >> ran; sleep 0.01" }\n',
	});
	assert.equal((await listener.post('/work?async=false')).status, 200);
	const processes = (what: string) =>
		processesOf(listener.dir).filter(({ command }) => command.includes(what));
	// The next program is told to one of these, which cannot listen.
	const shells = await until('shells', () => {
		const found = processes('/bin/sh -s');
		return found.length > 0 ? found : undefined;
	});
	for (const { pid } of shells) process.kill(pid, 'SIGSTOP');
	const id = (await listener.post('/work')).json.runs[0].id;
	await until('it to be told', async () => (await listener.run(id)).state === 'running');
	await listener.stop('SIGKILL');
	const next = await listener.again();
	assert.equal((await next.ended(id)).state, 'succeeded');
	const left = processes('/bin/sh -s').filter(({ pid }) => shells.some((shell) => shell.pid === pid));
	for (const { pid } of left) process.kill(pid, 'SIGCONT');
	assert.deepEqual(left, []);
	assert.equal(fs.readFileSync(path.join(listener.dir, 'ran'), 'utf8'), 'ran\nran\n');
});
