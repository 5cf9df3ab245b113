/**
 * Starts a command again and again in one of the ways that are open to a program on Node. Reads a {@link WayPlan} as JSON from
 * standard input and prints a {@link WayResult}:
 *
 *     echo '{"way":"spawn","ballast":440,"command":["/bin/true"],"inFlight":8,"seconds":1}' | node bench/ways.ts
 *
 * Every way gives the command a process group of its own and /dev/null as input, reads what it prints, and waits for its end.
 */
import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { Shells } from '../listener/runs/runner-shells.ts';

export type WayPlan = {
	/** By this process itself; by a small process of Node that it has forked; by shells that it has made before. */
	way: 'spawn' | 'forked' | 'shells';
	/** Megabytes that this process holds beside what Node itself needs. */
	ballast: number;
	command: string[];
	inFlight: number;
	seconds: number;
};

export type WayResult = {
	perSecond: number;
	/** How long the event loop stood still at most, in milliseconds. */
	stall: number;
};

/** Starts the command once; resolves when it has ended and its output was read. Rejects unless it exited with 0. */
type Start = (command: string[]) => Promise<void>;

/** Seconds that are not measured: shells are begun, and code is compiled. */
const WARM_SECONDS = 0.5;
const LOOK_EVERY = 1;

async function spawned([file, ...args]: string[]): Promise<void> {
	const child = spawn(file!, args, { detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
	child.stdout.resume();
	child.stderr.resume();
	const [code] = await once(child, 'close');
	if (code !== 0) throw new Error(`${file} exited with ${code}`);
}

/** Has another process start commands; a message for each, and one back. */
function startByForked(forked: ChildProcess): Start {
	const waiting = new Map<number, () => void>();
	let number = 0;
	forked.on('message', (done: number) => {
		waiting.get(done)?.();
		waiting.delete(done);
	});
	return (command) =>
		new Promise((resolve) => {
			waiting.set(++number, resolve);
			forked.send({ number, command });
		});
}

function startInShells(shells: Shells): Start {
	return async (command) => {
		for (;;) {
			const begun = shells.start(
				{ argv: command, cwd: null, variables: {} },
				() => {},
				() => {},
			);
			if (begun === undefined) {
				await sleep(1);
				continue;
			}
			const ending = await begun.exited;
			await begun.kept;
			if (ending === 'lost' || ending.exitCode !== 0)
				throw new Error(`${command} ended otherwise than with 0`);
			return;
		}
	};
}

async function measure({ command, inFlight, seconds }: WayPlan, start: Start): Promise<WayResult> {
	const keepStarting = async (until: number) => {
		let runs = 0;
		for (; performance.now() < until; runs++) await start(command);
		return runs;
	};
	const phase = async (length: number) => {
		const began = performance.now();
		const until = began + length * 1000;
		const runs = await Promise.all(Array.from({ length: inFlight }, () => keepStarting(until)));
		return runs.reduce((a, b) => a + b, 0) / ((performance.now() - began) / 1000);
	};
	await phase(WARM_SECONDS);
	const delay = monitorEventLoopDelay({ resolution: LOOK_EVERY });
	delay.enable();
	const perSecond = await phase(seconds);
	delay.disable();
	return { perSecond, stall: Math.max(0, delay.max / 1e6 - LOOK_EVERY) };
}

async function main(): Promise<void> {
	const plan = JSON.parse(await text(process.stdin)) as WayPlan;
	const ballast = Buffer.alloc(plan.ballast * 1e6, 1);
	const dir = mkdtempSync(join(tmpdir(), 'puppet-webhook-ways-'));
	let start: Start = spawned;
	let end = () => {};
	if (plan.way === 'forked') {
		const forked = fork(import.meta.filename, ['forked'], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
		start = startByForked(forked);
		end = () => forked.disconnect();
	} else if (plan.way === 'shells') {
		const shells = new Shells(dir, { PATH: '/usr/bin:/bin' }, Buffer.allocUnsafeSlow(64 * 1024));
		await shells.prepare();
		start = startInShells(shells);
		end = () => shells.close();
	}
	try {
		console.log(JSON.stringify(await measure(plan, start)));
	} finally {
		end();
		rmSync(dir, { recursive: true, force: true });
	}
	// Held until here.
	ballast.fill(0);
}

if (process.argv[2] === 'forked') {
	process.on('message', ({ number, command }: { number: number; command: string[] }) => {
		void spawned(command).then(() => process.send?.(number));
	});
} else {
	await main();
}
