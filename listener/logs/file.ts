/**
 * The log in a file. When it is full it is renamed to `path.1`, what was `path.1` to `path.2` and so on, and begun anew, so that
 * `path` always has the newest lines. (winston's own File transport loses lines while it changes files, and writes nothing
 * any more once the disk was full: both measured with 3.19.)
 */

import fs from 'node:fs/promises';
import { Backlog, type Tell, type Way } from './place.ts';

export interface FileSettings {
	/** Absolute. */
	readonly path: string;
	/** Bytes of a file at most; a single longer line is not cut. */
	readonly maxSize: number;
	/** Files at most, the one that is written included; at least 1. */
	readonly keep: number;
}

/** Output of commands is in it: for its owner, and to read for its group. */
const mode = 0o640;
/** Milliseconds between looks whether the file is still there: logrotate, or somebody, may have moved it away. */
const lookEvery = 1_000;

export class FilePlace extends Backlog {
	/** May be changed while it is written, except for the path. */
	settings: FileSettings;

	constructor(settings: FileSettings, tell: Tell) {
		super(settings.path, () => FileWay.open(() => this.settings, tell), tell);
		this.settings = settings;
	}
}

class FileWay implements Way {
	readonly #settings: () => FileSettings;
	readonly #tell: Tell;
	#handle: fs.FileHandle;
	#size = 0;
	#looked = performance.now();
	/** The size at which the file is changed; larger than the settings say after a change that failed. */
	#postponed = 0;

	private constructor(settings: () => FileSettings, handle: fs.FileHandle, tell: Tell) {
		this.#settings = settings;
		this.#handle = handle;
		this.#tell = tell;
	}

	static async open(settings: () => FileSettings, tell: Tell): Promise<FileWay> {
		const handle = await fs.open(settings().path, 'a', mode);
		const way = new FileWay(settings, handle, tell);
		way.#size = (await handle.stat()).size;
		return way;
	}

	async send(lines: readonly string[]): Promise<number> {
		if (performance.now() - this.#looked > lookEvery) await this.#look();
		const { maxSize } = this.#settings();
		const most = Math.max(maxSize, this.#postponed);
		let text = '';
		let size = 0;
		let count = 0;
		for (const line of lines) {
			const length = Buffer.byteLength(line) + 1;
			if (this.#size + size + length > most && this.#size + size > 0) break;
			text += `${line}\n`;
			size += length;
			count++;
		}
		if (count === 0) {
			await this.#change();
			return this.send(lines);
		}
		await this.#write(Buffer.from(text));
		return count;
	}

	async close(): Promise<void> {
		await this.#handle.close().catch(() => {});
	}

	/** Writes all of it, or leaves the file as it was: half a line would be joined with the next one. */
	async #write(bytes: Buffer): Promise<void> {
		let written = 0;
		try {
			while (written < bytes.length) {
				written += (await this.#handle.write(bytes, written)).bytesWritten;
			}
		} catch (error) {
			if (written > 0) await this.#handle.truncate(this.#size).catch(() => {});
			throw error;
		}
		this.#size += bytes.length;
	}

	/** Goes on in a new file when the one that is open is no longer at its path. */
	async #look(): Promise<void> {
		this.#looked = performance.now();
		const [open, found] = await Promise.all([
			this.#handle.stat(),
			fs.stat(this.#settings().path).catch(() => undefined),
		]);
		// Somebody may also have emptied it, as logrotate does with copytruncate.
		if (found !== undefined && found.ino === open.ino && found.dev === open.dev) this.#size = open.size;
		else await this.#reopen();
	}

	async #reopen(): Promise<void> {
		const handle = await fs.open(this.#settings().path, 'a', mode);
		await this.#handle.close();
		this.#handle = handle;
		this.#size = (await handle.stat()).size;
		this.#postponed = 0;
	}

	/** Begins a new file. Where that is refused (the directory was made read-only), the full one goes on. */
	async #change(): Promise<void> {
		const { path, maxSize, keep } = this.#settings();
		try {
			// Also those that are left from a time when more were kept.
			for (let n = Math.max(1, keep - 1); await removed(`${path}.${n}`); n++);
			for (let n = keep - 1; n >= 1; n--) await moved(n === 1 ? path : `${path}.${n - 1}`, `${path}.${n}`);
			if (keep === 1) await this.#handle.truncate(0);
			await this.#reopen();
		} catch (error) {
			if (this.#postponed === 0) {
				this.#tell('warn', `the log ${path} is full and goes on growing, since no new file can be begun`, {
					error: (error as Error).message,
				});
			}
			this.#postponed = this.#size + maxSize;
		}
	}
}

/** False when there is no such file. */
async function removed(path: string): Promise<boolean> {
	return fs.unlink(path).then(() => true, unlessAbsent);
}

async function moved(from: string, to: string): Promise<boolean> {
	return fs.rename(from, to).then(() => true, unlessAbsent);
}

function unlessAbsent(error: NodeJS.ErrnoException): false {
	if (error.code === 'ENOENT') return false;
	throw error;
}
