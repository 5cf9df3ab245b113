/**
 * Lock files of other programs, such as the one that every Puppet run holds: a run that names one is not started while a live
 * process holds it. Two ways of holding are known: the file holds the id of the process (Puppet's `agent_catalog_run.lock`
 * and most daemons), or the process has locked the file itself (flock(1)).
 */

import fs from 'node:fs/promises';

/**
 * Milliseconds for which a lock file that a command was never seen to hold is waited for after the command has ended well.
 * `puppet agent --onetime` leaves itself in the background, where it takes the lock within a second or so; without this the
 * next run would slip through before.
 */
const settling = 5_000;
/** Milliseconds within which whoever has just made an empty file writes its process id. */
const writing = 2_000;
/** Milliseconds by which the start of a process and the time of a file may be off from each other. */
const tolerance = 2_000;
/** Clock ticks a second in /proc: 100 on every Linux, whatever the kernel's own rate. */
const ticksPerSecond = 100;

interface LockFile {
	/** A run of ours that names it is under way. */
	taken: boolean;
	/** Somebody was seen to hold it since then. */
	seen: boolean;
	/** By `performance.now()`; until then a command that has ended may still be about to take it. */
	settlesAt: number;
}

/** The lock files that runs of ours name, and whether they may be started. */
export class LockFiles {
	readonly #files = new Map<string, LockFile>();

	/** Why a run that names this file cannot be started now, as in `process 412 holds it`; undefined when it can. */
	async busy(file: string): Promise<string | undefined> {
		const holder = await holderOf(file);
		const ours = this.#files.get(file);
		if (ours === undefined) return holder;
		if (holder !== undefined) {
			ours.seen = true;
			ours.settlesAt = 0;
			return holder;
		}
		if (ours.taken) return 'another run that names it is under way';
		if (performance.now() < ours.settlesAt) return 'the command of the last run may be about to take it';
		this.#files.delete(file);
		return undefined;
	}

	/** A run that names it is about to be started; false when another one is under way. */
	take(file: string): boolean {
		if (this.#files.get(file)?.taken) return false;
		this.#files.set(file, { taken: true, seen: false, settlesAt: 0 });
		return true;
	}

	/** That run has ended, or was not started after all. @param well its command succeeded */
	leave(file: string, well: boolean): void {
		const ours = this.#files.get(file);
		if (ours === undefined) return;
		ours.taken = false;
		ours.settlesAt = well && !ours.seen ? performance.now() + settling : 0;
	}

	/** Those that have to be looked at now and then: only who looks while a command runs sees that it holds the lock itself. */
	get inUse(): readonly string[] {
		return [...this.#files.keys()];
	}
}

/** Who holds a lock file, as in `process 412 holds it`; undefined when nobody does, or there is no such file. */
export async function holderOf(file: string): Promise<string | undefined> {
	try {
		// Not to wait for the other end, should it be a pipe.
		const handle = await fs.open(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
		try {
			const stat = await handle.stat({ bigint: true });
			if (!stat.isFile()) return undefined;
			const { buffer, bytesRead } = await handle.read(Buffer.alloc(32), 0, 32, 0);
			const [, pid] = /^\s*(\d{1,10})\s*$/.exec(buffer.toString('latin1', 0, bytesRead)) ?? [];
			const writtenAt = Number(stat.mtimeMs);
			if (pid !== undefined && Number(pid) > 0 && (await isWriter(Number(pid), writtenAt)))
				return `process ${pid} holds it`;
			const age = Date.now() - writtenAt;
			if (bytesRead === 0 && age >= 0 && age < writing) return 'it has just been made';
			return await lockerOf(stat.dev, stat.ino);
		} finally {
			await handle.close();
		}
	} catch (error) {
		const { code, message } = error as NodeJS.ErrnoException;
		if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
		// Nobody can tell, so nothing is started that might not be; people read why.
		return `it cannot be read (${message})`;
	}
}

/** True while the process lives that wrote its id into a file at this time, and not only another one that has the same id by now. */
async function isWriter(pid: number, writtenAt: number): Promise<boolean> {
	try {
		process.kill(pid, 0);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
	}
	const [stat, uptime] = await Promise.all([
		fs.readFile(`/proc/${pid}/stat`, 'latin1').catch(() => ''),
		fs.readFile('/proc/uptime', 'latin1').catch(() => ''),
	]);
	// The second field is the program's name in brackets, which may itself hold blanks and brackets.
	const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
	// Other users' processes may be hidden here.
	if (fields.length < 20 || uptime === '') return true;
	if (fields[0] === 'Z' || fields[0] === 'X') return false;
	const age = Number.parseFloat(uptime) - Number(fields[19]) / ticksPerSecond;
	return Date.now() - age * 1000 <= writtenAt + tolerance;
}

/** Who has locked a file; undefined when nobody has. */
async function lockerOf(dev: bigint, inode: bigint): Promise<string | undefined> {
	const locks = await fs.readFile('/proc/locks', 'latin1').catch(() => '');
	const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
	const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
	const place = `${hex(major)}:${hex(minor)}:${inode}`;
	for (const line of locks.split('\n')) {
		// Those that wait for a lock have an arrow in front.
		const [, kind, , , pid, at] = line.split(/\s+/);
		if (at !== place || kind === '->') continue;
		return Number(pid) > 0 ? `process ${pid} has locked it` : 'a process has locked it';
	}
	return undefined;
}

function hex(number: bigint): string {
	return number.toString(16).padStart(2, '0');
}
