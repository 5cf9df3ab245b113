/**
 * Which process groups a listener has started, on record for whoever comes after its death: a group must be ended before its run
 * is run again.
 *
 * A record need not survive power loss, since processes do not; so it is a plain file that is never flushed, one line of fixed
 * length per group, and costs a few microseconds a run. A process id may have been given to another process meanwhile: it
 * counts only together with the time at which the process began, or with the run's id in its environment.
 */

import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const lineLength = 64;
/** Clock ticks a second in /proc: 100 on every Linux, whatever the kernel's own rate. */
const ticksPerSecond = 100;
/** Ticks that the start of a process may be off from what was noted: the note is made right after. */
const tolerance = 20;
/** Milliseconds between two looks at whether processes that were told to end are gone. */
const look = 20;
/** Milliseconds that processes are given to vanish after KILL, which only the kernel can delay. */
const afterKill = 5_000;

function recordFile(directory: string): string {
	return path.join(directory, 'groups');
}

/** Distinguishes this boot of the machine from others; empty where there is no /proc. */
function bootId(): string {
	return readText('/proc/sys/kernel/random/boot_id').trim();
}

function readText(file: string): string {
	try {
		return fs.readFileSync(file, 'latin1');
	} catch {
		return '';
	}
}

/** What /proc says of a process; undefined when there is none (any more). */
function processState(
	pid: number | string,
): { group: number; session: number; start: number; ended: boolean } | undefined {
	const text = readText(`/proc/${pid}/stat`);
	// The second field is the program's name in brackets, which may itself hold blanks and brackets.
	const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
	if (fields.length < 20) return undefined;
	return {
		ended: fields[0] === 'Z' || fields[0] === 'X',
		group: Number(fields[2]),
		session: Number(fields[3]),
		start: Number(fields[19]),
	};
}

/** True while a process of the group has not ended. One that has may stay for long where nobody takes note of its end. */
export function groupIsAlive(group: number): boolean {
	try {
		process.kill(-group, 0);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
	}
	const all = processIds();
	return all === undefined || all.map(processState).some((state) => state?.group === group && !state.ended);
}

/** Undefined where there is no /proc. */
function processIds(): string[] | undefined {
	try {
		return fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name));
	} catch {
		return undefined;
	}
}

/**
 * Variable in the environment that a listener's shells begin with, holding the name of its directory; what they start does not
 * get it. By it those are found that have not become the program of a run yet: nothing else tells them apart, and when their
 * listener died they may wait for ever for somebody to read their pipe.
 */
export const shellMark = 'WEBHOOK_RUNNER';

/** Notes groups as they are started. */
export class GroupRecord {
	readonly #fd: number;
	readonly #free: number[] = [];
	#slots = 0;
	/** Milliseconds by which the time since boot is ahead of `performance.now()`. */
	readonly #sinceBoot: number;

	/** @param directory this listener's own */
	constructor(directory: string) {
		this.#sinceBoot = Number.parseFloat(readText('/proc/uptime')) * 1000 - performance.now();
		this.#fd = fs.openSync(recordFile(directory), 'w', 0o600);
		this.#write(`${process.pid} ${processState('self')?.start ?? 0} ${bootId()}`);
	}

	/** Notes a group whose first process was started just now. Gives what `remove` takes. */
	add(pid: number, run: string): number {
		const slot = this.#free.pop() ?? ++this.#slots;
		const start = Math.round(((performance.now() + this.#sinceBoot) / 1000) * ticksPerSecond);
		this.#write(`${pid} ${start} ${run}`, slot);
		return slot;
	}

	/** Lets the place be used again. What stands there does no harm: it belongs to a run that has ended. */
	remove(slot: number): void {
		this.#free.push(slot);
	}

	#write(text: string, slot = 0): void {
		try {
			fs.writeSync(this.#fd, `${text.padEnd(lineLength - 1)}\n`, slot * lineLength);
		} catch {
			// The disk is full. The environment still tells most left-over processes.
		}
	}
}

interface RecordedGroup {
	readonly pid: number;
	readonly start: number;
	readonly run: string;
}

/** What a listener that is gone left on record. */
export interface RunnerRecord {
	readonly directory: string;
	/** The listener itself; 0 when it is not to be ended. */
	readonly pid: number;
	readonly start: number;
	readonly groups: readonly RecordedGroup[];
}

/** Reads what is on record below a directory that holds a directory for each listener. Of an earlier boot only the directory counts. */
export function readRecords(runners: string): RunnerRecord[] {
	const boot = bootId();
	return fs.readdirSync(runners).map((name) => {
		const directory = path.join(runners, name);
		const [first = '', ...lines] = readText(recordFile(directory)).split('\n');
		const [pid, start, id] = first.trim().split(' ');
		const groups = lines.map((line) => line.trim().split(' ')).filter((fields) => fields.length === 3);
		const current = boot !== '' && id === boot;
		return {
			directory,
			pid: current ? Number(pid) : 0,
			start: current ? Number(start) : 0,
			groups: current
				? groups.map(([pid, start, run]) => ({ pid: Number(pid), start: Number(start), run: run! }))
				: [],
		};
	});
}

/**
 * Ends every process that runs left behind: by TERM, then by KILL.
 * @param records of listeners that are to start nothing any more; those still alive are ended first
 * @param runs ids whose processes are meant, each with its milliseconds from TERM to KILL
 * @returns ids of processes that even KILL did not end in time
 */
export async function endLeftovers(
	records: readonly RunnerRecord[],
	runs: ReadonlyMap<string, number>,
): Promise<number[]> {
	for (const { pid, start } of records) {
		if (pid > 0 && processState(pid)?.start === start) signal(pid, 'SIGKILL');
	}
	if (runs.size === 0) return [];
	const groups = provenGroups(records, runs);
	const began = Date.now();
	const told = new Map<string, { killed: boolean }>();
	for (;;) {
		// Looked for anew each time: what is told to end may start something once more before it does.
		const found = leftovers(groups, runs);
		if (found.length === 0) return [];
		const waited = Date.now() - began;
		if (waited > Math.max(...runs.values()) + afterKill) return found.map(({ pid }) => pid);
		for (const { pid, start, run } of found) {
			const key = `${pid} ${start}`;
			const before = told.get(key);
			const kill = waited >= runs.get(run)!;
			if (before === undefined || (kill && !before.killed)) signal(pid, kill ? 'SIGKILL' : 'SIGTERM');
			told.set(key, { killed: kill });
		}
		await sleep(look);
	}
}

/**
 * Ends the shells of listeners that are gone. Before anything else is looked for, since one may still become a program.
 * @param listeners names of their directories
 * @param session when only those of one session are meant
 */
export async function endShells(listeners: ReadonlySet<string>, session?: number): Promise<void> {
	for (const began = Date.now(); Date.now() - began < afterKill; await sleep(look)) {
		const shells = (processIds() ?? []).filter((pid) => {
			const listener = inEnvironment(pid, shellMark);
			if (listener === undefined || !listeners.has(listener)) return false;
			const state = processState(pid);
			return state?.ended === false && (session === undefined || state.session === session);
		});
		if (shells.length === 0) return;
		for (const pid of shells) signal(Number(pid), 'SIGKILL');
	}
}

/** Process groups on record whose first process is there and is the one that was noted, by the run they belong to. */
function provenGroups(
	records: readonly RunnerRecord[],
	runs: ReadonlyMap<string, number>,
): Map<number, string> {
	const proven = new Map<number, string>();
	for (const { pid, start, run } of records.flatMap((record) => record.groups)) {
		const leader = runs.has(run) ? processState(pid) : undefined;
		if (leader !== undefined && Math.abs(leader.start - start) <= tolerance) proven.set(pid, run);
	}
	return proven;
}

/** Processes of these runs: members of their groups, and those that carry the run's id in their environment. */
function leftovers(
	groups: ReadonlyMap<number, string>,
	runs: ReadonlyMap<string, number>,
): { pid: number; start: number; run: string }[] {
	// A run may have started the very listener that we are.
	const own = processState('self')?.group;
	const found = [];
	for (const name of processIds() ?? []) {
		const state = processState(name);
		if (state === undefined || state.ended || state.group === own) continue;
		const run = groups.get(state.group) ?? inEnvironment(name, 'WEBHOOK_RUN');
		if (run !== undefined && runs.has(run)) found.push({ pid: Number(name), start: state.start, run });
	}
	return found;
}

/** A variable of the environment that a process began with. */
function inEnvironment(pid: string, name: string): string | undefined {
	const prefix = `${name}=`;
	const variables = readText(`/proc/${pid}/environ`).split('\0');
	return variables.find((variable) => variable.startsWith(prefix))?.slice(prefix.length);
}

function signal(pid: number, name: NodeJS.Signals): void {
	try {
		process.kill(pid, name);
	} catch {
		// It ended meanwhile, or is another user's.
	}
}
