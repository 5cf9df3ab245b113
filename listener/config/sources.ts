/** The files of a configuration: which there are, what is in them, and whether that has changed. Reads, and judges nothing. */

import crypto from 'node:crypto';
import fs from 'node:fs/promises';
import path from 'node:path';
import type { Fault } from '../errors.ts';
import { check } from './check.ts';
import { includeSchema } from './schema.ts';
import { unreadable } from './secrets.ts';
import { type Key, YamlFile } from './yaml.ts';

/** A file that was read. Parsed when somebody asks for it, which most looks at unchanged files do not. */
export class Source {
	/** Absolute. */
	readonly path: string;
	/** As messages show it. */
	readonly name: string;
	/** The same for the same content. */
	readonly digest: string;
	#bytes: Buffer | undefined;
	#yaml: YamlFile | undefined;

	/** @param bytes undefined when the file could not be read; then `digest` says why */
	constructor(path: string, name: string, digest: string, bytes: Buffer | undefined) {
		this.path = path;
		this.name = name;
		this.digest = digest;
		this.#bytes = bytes;
	}

	/** Undefined when the file could not be read. */
	get yaml(): YamlFile | undefined {
		if (this.#bytes) {
			this.#yaml = new YamlFile(this.#bytes);
			this.#bytes = undefined;
		}
		return this.#yaml;
	}
}

/** What was found under `include`. */
interface Include {
	readonly pattern: string;
	readonly key: Key;
}

/** What must be known to see that files have changed, or that there are others now. */
export interface Watched {
	/** The same for the same files with the same content. */
	readonly digest: string;
	readonly main: { readonly path: string; readonly digest: string };
	readonly includes: readonly Include[];
	readonly paths: readonly string[];
}

export interface Sources {
	readonly main: Source;
	/** In the order in which their routes count: as `include` lists them, those of one pattern by name. */
	readonly included: readonly Source[];
	/** Everything that could not be read. */
	readonly faults: readonly Fault[];
	/** What is odd and no fault: a pattern that matches no file. */
	readonly notes: readonly string[];
	readonly watched: Watched;
}

/**
 * Bytes of all files together: 8 MiB are some 25,000 routes. The listener answers nobody while it takes them up, and that
 * is about two seconds for so many.
 */
const maxBytes = 8 * 1024 * 1024;
/** Each included file is looked at once a second. */
const maxFiles = 1000;

/**
 * Reads the main file and those that it includes.
 * @param known from an earlier time; a main file that is still the same need not be parsed for what it includes
 */
export async function readSources(file: string, known?: Watched): Promise<Sources> {
	const reading = new Reading();
	const main = await reading.source(path.resolve(file), shownName(file));
	const includes = main.digest === known?.main.digest ? known.includes : includesOf(main);
	const included: Source[] = [];
	for (const { pattern, key } of includes) {
		for (const found of await reading.expand(main, pattern, key)) {
			included.push(await reading.source(found, shownName(found), { main, key }));
		}
	}
	const all = [main, ...included];
	const watched: Watched = {
		digest: crypto.hash('sha256', all.map((source) => `${source.path}\0${source.digest}`).join('\0')),
		main: { path: main.path, digest: main.digest },
		includes,
		paths: all.map((source) => source.path),
	};
	return { main, included, faults: reading.faults, notes: reading.notes, watched };
}

/** From the working directory on when it lies below that, else as it was given. */
function shownName(file: string): string {
	const relative = path.relative('', file);
	return relative === '' || relative.startsWith('..') ? file : relative;
}

/** The patterns under `include`, as far as they can be understood; what cannot is told when the file is checked. */
function includesOf({ yaml }: Source): Include[] {
	const value = yaml?.value;
	if (value === null || typeof value !== 'object' || !('include' in value)) return [];
	const { data } = check(includeSchema, value.include);
	if (typeof data === 'string') return [{ pattern: data, key: ['include'] }];
	return (data ?? []).map((pattern, index) => ({ pattern, key: ['include', index] }));
}

class Reading {
	readonly faults: Fault[] = [];
	readonly notes: string[] = [];
	readonly #seen = new Set<string>();
	#bytes = 0;

	/** @param by where the file is included, for faults that its own text has no place for */
	async source(file: string, name: string, by?: { main: Source; key: Key }): Promise<Source> {
		this.#seen.add(file);
		const outside = (message: string) => {
			if (by) this.#fault(by.main, by.key, `${name} ${message}`);
			else this.faults.push({ file: name, line: 0, column: 0, key: '', message });
			return new Source(file, name, message, undefined);
		};
		let bytes: Buffer;
		try {
			bytes = await readUpTo(file, Math.max(maxBytes + 1 - this.#bytes, 1));
		} catch (error) {
			return outside(unreadable(error as NodeJS.ErrnoException));
		}
		this.#bytes += bytes.length;
		if (this.#bytes > maxBytes) {
			return outside(
				`is too large: at most ${maxBytes / 1024 ** 2} MiB are read, included files counted, since nobody is answered meanwhile`,
			);
		}
		return new Source(file, name, crypto.hash('sha256', bytes), bytes);
	}

	/** The files that a pattern under `include` stands for, without those that were read already. */
	async expand(main: Source, pattern: string, key: Key): Promise<string[]> {
		const found = await filesMatching(pattern, path.dirname(main.path));
		if (found.length === 0) this.notes.push(`${main.name}: include "${pattern}" matches no file`);
		if (found.includes(main.path)) {
			this.#fault(
				main,
				key,
				`"${pattern}" includes the file itself; give the others a directory of their own`,
			);
		}
		const fresh = found.filter((file) => !this.#seen.has(file));
		const room = maxFiles + 1 - this.#seen.size;
		if (fresh.length > room) {
			this.#fault(main, key, `more than ${maxFiles} files are included; put several routes into one file`);
		}
		return fresh.slice(0, Math.max(room, 0));
	}

	#fault(source: Source, key: Key, message: string): void {
		const place = source.yaml?.place(key, 'value') ?? { line: 0, column: 0 };
		this.faults.push({ file: source.name, ...place, key: key.join('.'), message: `include: ${message}` });
	}
}

/** Absolute paths, sorted. A pattern without wildcards is a file, whether it is there or not. */
async function filesMatching(pattern: string, directory: string): Promise<string[]> {
	if (!/[*?[\]{}]/.test(pattern)) return [path.resolve(directory, pattern)];
	const found: string[] = [];
	for await (const entry of fs.glob(pattern, { cwd: directory, withFileTypes: true })) {
		if (!entry.isDirectory()) found.push(path.resolve(directory, entry.parentPath, entry.name));
	}
	return found.sort();
}

/** Reads a file, but not more of it than asked for. Pipes and devices could give bytes without end, or none for ever. */
async function readUpTo(file: string, most: number): Promise<Buffer> {
	const stat = await fs.stat(file);
	if (!stat.isFile()) throw Object.assign(new Error(), { code: stat.isDirectory() ? 'EISDIR' : 'ENOTFILE' });
	const handle = await fs.open(file);
	try {
		const buffer = Buffer.allocUnsafe(Math.min(stat.size + 1, most));
		let length = 0;
		// One byte more than the size says: a file that grows meanwhile is seen to do so by the next look.
		for (;;) {
			const { bytesRead } = await handle.read(buffer, length, buffer.length - length, length);
			length += bytesRead;
			if (bytesRead === 0 || length === buffer.length) return buffer.subarray(0, length);
		}
	} finally {
		await handle.close();
	}
}

/**
 * What the files look like from outside, at the cost of a look: the same text means the same content, unless `settling` is
 * true. Then something was changed so lately that a further change could leave the same times: ext4 counts in steps of 4 ms,
 * some network and memory-card file systems in steps of 2 s.
 * @param others files to look at beside
 */
export async function lookAt(
	watched: Watched,
	others: Iterable<string> = [],
): Promise<{ signature: string; settling: boolean }> {
	const paths = new Set([...watched.paths, ...others]);
	for (const { pattern } of watched.includes) {
		for (const file of await filesMatching(pattern, path.dirname(watched.main.path))) paths.add(file);
	}
	let settling = false;
	const looks: string[] = [];
	for (const file of paths) {
		const stat = await fs.stat(file, { bigint: true }).catch(() => undefined);
		looks.push(
			stat
				? `${file}:${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}`
				: `${file}:absent`,
		);
		// ctime is set by the kernel at every change, also by a tool that sets mtime back to what it was.
		if (stat && Number(stat.ctimeMs) > Date.now() - 2000) settling = true;
	}
	return { signature: looks.join('\n'), settling };
}
