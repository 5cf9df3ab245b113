/**
 * What a run prints. Offsets count every byte that was written, also those that were not kept: of more than `maxOutput`
 * bytes the first and the last half are kept.
 *
 * A file of output begins with the first half, at its offsets. The last half is a ring behind it, so that a run which prints
 * for days rewrites the same bytes: offset o is found at `head + (o - head) % tail`. Behind the ring stands a number of 8
 * bytes: up to which offset the ring has been written, put there before it is. Who reads a growing file reads that number
 * after the bytes and knows which of them were overwritten meanwhile.
 *
 * Short output of a short run never touches a file; it goes into the store together with the outcome.
 */

import fs from 'node:fs';
import path from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Mask, type MaskedStream } from '../mask.ts';
import type { KeptOutput, Store } from '../stores/store.ts';
import { hasEnded, type Run, runId } from './run.ts';

/** Bytes that go into the store rather than a file. More would make its pages slow to read. */
const mostShort = 16 * 1024;
/** Milliseconds after which output is written to a file however short it is, so that it can be followed. */
const shortTime = 100;
/** Milliseconds between two messages that a file has grown: fluent for people, and few messages. */
const tellEvery = 50;
/** Bytes read from a file at once. */
const readSize = 64 * 1024;
/** Bytes of the newest output that those who follow a run share: enough for all who read at all to find what is next. */
const mostShared = 1024 * 1024;
/** Who are told of more in one go: a millisecond or two of the event loop. */
const toldAtOnce = 50;

/** Where things are in a file that keeps `most` bytes: how much of the beginning and of the end, and the number behind the ring. */
function layout(most: number): { head: number; tail: number; mark: number } {
	const head = Math.ceil(most / 2);
	// At a multiple of its size, so that it is read and written in one piece.
	return { head, tail: most - head, mark: Math.ceil(most / 8) * 8 };
}

/** Keeps the output of one run. */
export class OutputWriter {
	readonly #file: string;
	readonly #head: number;
	readonly #tail: number;
	readonly #mark: number;
	readonly #grown: (size: number) => void;
	readonly #masked: readonly MaskedStream[];
	#size = 0;
	/** What came so far, as long as it may stay short. */
	#memory: Buffer[] | undefined = [];
	#fd: number | undefined;
	#trouble: string | undefined;
	#toFile: NodeJS.Timeout | undefined;
	#tell: NodeJS.Timeout | undefined;

	/**
	 * @param file where output goes unless it stays short; an older file is replaced
	 * @param most bytes to keep
	 * @param grown is told now and then how many bytes have been written, once there is a file
	 * @param secrets of the run, and `mask` what nobody is to read: kept nowhere, not even the file has them
	 */
	constructor(
		file: string,
		most: number,
		grown: (size: number) => void,
		secrets: readonly string[] = [],
		mask: Mask = new Mask(),
	) {
		this.#file = file;
		this.#masked = [mask, new Mask(secrets)].flatMap((one) => (one.empty ? [] : one.stream()));
		const { head, tail, mark } = layout(most);
		this.#head = head;
		this.#tail = tail;
		this.#mark = mark;
		this.#grown = grown;
	}

	/**
	 * Keeps bytes; they may be changed afterwards. Writing into the kernel's cache is quicker than handing the bytes to another
	 * thread, and the ring keeps the same few pages dirty, so the kernel has no reason to make us wait.
	 */
	write(bytes: Buffer): void {
		this.#keep(this.#masked.reduce((piece, stream) => stream.write(piece), bytes));
	}

	#keep(bytes: Buffer): void {
		if (bytes.length === 0) return;
		const offset = this.#size;
		this.#size += bytes.length;
		if (this.#memory !== undefined && this.#size <= Math.min(mostShort, this.#head + this.#tail)) {
			this.#memory.push(Buffer.from(bytes));
			this.#toFile ??= setTimeout(() => this.#open(), shortTime);
			return;
		}
		this.#open();
		this.#put(bytes, offset);
		this.#tell ??= setTimeout(() => this.#told(), tellEvery);
	}

	/** Ends the output. It is on disk, or in the answer, when this resolves; `trouble` says why not all could be kept. */
	async end(): Promise<KeptOutput & { readonly trouble: string | undefined }> {
		for (const [index, stream] of this.#masked.entries()) {
			const later = this.#masked.slice(index + 1);
			this.#keep(later.reduce((piece, next) => next.write(piece), stream.end()));
		}
		clearTimeout(this.#toFile);
		clearTimeout(this.#tell);
		const size = this.#size;
		if (this.#memory !== undefined) return { size, short: Buffer.concat(this.#memory), trouble: undefined };
		if (this.#fd !== undefined) {
			const error = await flushed(this.#fd, path.dirname(this.#file));
			this.#trouble ??= error?.message;
			fs.closeSync(this.#fd);
		}
		return { size, short: null, trouble: this.#trouble };
	}

	#open(): void {
		if (this.#memory === undefined) return;
		const before = this.#memory;
		this.#memory = undefined;
		clearTimeout(this.#toFile);
		try {
			this.#fd = fs.openSync(this.#file, 'w', 0o600);
		} catch (error) {
			this.#trouble = (error as Error).message;
		}
		let offset = 0;
		for (const bytes of before) {
			this.#put(bytes, offset);
			offset += bytes.length;
		}
		this.#told();
	}

	#told(): void {
		this.#tell = undefined;
		this.#grown(this.#size);
	}

	#put(bytes: Buffer, offset: number): void {
		const head = this.#head;
		const tail = this.#tail;
		const inHead = Math.max(0, Math.min(bytes.length, head - offset));
		this.#putAt(bytes.subarray(0, inHead), offset);
		if (inHead === bytes.length || tail === 0) return;
		const end = offset + bytes.length;
		// Bytes that the rest of the same piece would overwrite need not be written.
		let from = Math.max(offset + inHead, end - tail);
		if (end > head + tail) {
			const written = Buffer.alloc(8);
			written.writeBigUInt64LE(BigInt(end));
			this.#putAt(written, this.#mark);
		}
		while (from < end) {
			const place = (from - head) % tail;
			const length = Math.min(end - from, tail - place);
			this.#putAt(bytes.subarray(from - offset, from - offset + length), head + place);
			from += length;
		}
	}

	#putAt(bytes: Buffer, position: number): void {
		// After a failure nothing more is written: a hole in the middle would look like zeros that the command printed.
		if (this.#fd === undefined || this.#trouble !== undefined) return;
		try {
			for (let done = 0; done < bytes.length; ) {
				done += fs.writeSync(this.#fd, bytes, done, bytes.length - done, position + done);
			}
		} catch (error) {
			this.#trouble = (error as Error).message;
		}
	}
}

/** Resolves when a file and its name would survive power loss; with the error when they might not. */
async function flushed(fd: number, directory: string): Promise<Error | undefined> {
	let handle: fs.promises.FileHandle | undefined;
	try {
		await promisify(fs.fdatasync)(fd);
		handle = await fs.promises.open(directory);
		await handle.sync();
		return undefined;
	} catch (error) {
		return error as Error;
	} finally {
		await handle?.close();
	}
}

/** A piece of output. */
export interface OutputPart {
	/** The offset of its first byte. */
	readonly from: number;
	readonly bytes: Buffer;
	/** The offsets before it that were not kept, from the first to behind the last. */
	readonly cut?: { readonly from: number; readonly to: number };
	/** Of a piece that others get too: what one of them has made of it, for the others to find. By a name of who makes it. */
	readonly made?: Map<string, unknown>;
}

interface Growing {
	readonly attempt: number;
	size: number;
}

/** Reads output, finished or growing. */
export class Outputs {
	/** Where files of output are. */
	readonly directory: string;
	readonly #store: Store;
	readonly #mask: Mask;
	/** Runs under way. */
	readonly #growing = new Map<string, Growing>();
	readonly #waiting = new Map<string, Set<() => void>>();
	/** Of runs that are followed. */
	readonly #tails = new Map<string, Tail>();

	/**
	 * @param state the state directory
	 * @param mask hides what nobody is to read
	 */
	constructor(state: string, store: Store, mask: Mask = new Mask()) {
		this.directory = path.join(state, 'output');
		this.#store = store;
		this.#mask = mask;
		fs.mkdirSync(this.directory, { recursive: true, mode: 0o700 });
	}

	/** A run was started; output of an earlier attempt counts no more. The queue says so, and the two below. */
	started(id: string, attempt: number): void {
		this.#growing.set(id, { attempt, size: 0 });
		this.#changed(id);
	}

	/** So many bytes are in the run's file. */
	grown(id: string, attempt: number, size: number): void {
		const growing = this.#growing.get(id);
		if (growing?.attempt !== attempt) return;
		growing.size = size;
		this.#changed(id);
	}

	/** The output of a run that is lost. */
	soFar(id: string): KeptOutput {
		const size = this.#growing.get(id)?.size ?? 0;
		return { size, short: size === 0 ? Buffer.alloc(0) : null };
	}

	/** The output of a run that an earlier listener was performing, as far as it got into the run's file. */
	async leftOver(run: Run): Promise<KeptOutput> {
		const reader = this.#reader(run);
		try {
			const size = await reader.size();
			return { size, short: size === 0 ? Buffer.alloc(0) : null };
		} finally {
			await reader.close();
		}
	}

	/** The run has ended, is queued again, or was cancelled before it began, and the store has that. */
	ended(id: string): void {
		this.#growing.delete(id);
		this.#changed(id);
	}

	/** Removes the files of runs that the store has removed. What is left of them by a crash goes at the next `sweep`. */
	async remove(ids: readonly string[]): Promise<void> {
		for (const id of ids) {
			// Not rm, which looks at each file while the event loop waits. Output that is short has no file.
			await fs.promises.unlink(path.join(this.directory, id)).catch((error) => {
				if (error.code !== 'ENOENT') throw error;
			});
		}
	}

	/** Removes files of runs that the store does not have, until `signal` aborts. Gives how many. */
	async sweep(signal: AbortSignal): Promise<number> {
		let removed = 0;
		for await (const { name } of await fs.promises.opendir(this.directory)) {
			if (signal.aborted) break;
			// A run is in the store before it has a file.
			if (!runId.test(name) || (await this.#store.get(name)) !== undefined) continue;
			await this.remove([name]);
			removed++;
		}
		return removed;
	}

	/** What is there now, from an offset on, with secrets hidden. */
	read(id: string, from: number): AsyncGenerator<OutputPart, void, undefined> {
		return this.#masked(id, from, (start) => this.#read(id, start));
	}

	/** What is there and what is to come, from an offset on, until the run has ended or `signal` aborts, with secrets hidden. When the run is started again, its output begins again at 0. */
	async *follow(id: string, from: number, signal: AbortSignal): AsyncGenerator<OutputPart, void, undefined> {
		const run = await this.#store.get(id);
		if (run === undefined || hasEnded(run.state)) return yield* this.read(id, from);
		const tail = this.#tail(id);
		tail.followers++;
		try {
			let { round } = tail;
			while (!signal.aborted) {
				if (round !== tail.round) {
					// The run was started again.
					from = 0;
					round = tail.round;
				}
				const part = tail.at(from);
				if (part !== undefined) {
					from = end(part);
					yield part;
					continue;
				}
				// Looked at before reading: when it becomes true meanwhile, there may be more to read.
				const { over } = tail;
				const before = from;
				// What lies before the tail everybody reads by himself; unless the run was started again, and the tail is about to begin anew.
				const growing = this.#growing.get(id);
				const present = growing === undefined || growing.attempt === tail.attempt;
				if (from < tail.from && present) {
					for await (const earlier of this.read(id, from)) {
						from = end(earlier);
						yield earlier;
						if (round !== tail.round || from >= tail.from || signal.aborted) break;
					}
				}
				if (from > before || round !== tail.round) continue;
				if (over) return;
				await tail.more(signal);
			}
		} finally {
			tail.followers--;
			if (tail.followers === 0) this.#letGo(id, tail);
		}
	}

	/** The tail of a run that has not ended, from its present end on. */
	#tail(id: string): Tail {
		let tail = this.#tails.get(id);
		if (tail === undefined || tail.over) {
			const from = this.#growing.get(id)?.size ?? 0;
			const attempt = () => this.#growing.get(id)?.attempt;
			tail = new Tail(from, attempt, (signal) =>
				this.#masked(id, from, (start) => this.#follow(id, start, signal)),
			);
			this.#tails.set(id, tail);
		}
		return tail;
	}

	#letGo(id: string, tail: Tail): void {
		tail.close();
		if (this.#tails.get(id) === tail) this.#tails.delete(id);
	}

	/** Bytes of output with secrets hidden. */
	hidden(bytes: Buffer): Buffer {
		return this.#mask.bytes(bytes);
	}

	async *#masked(
		id: string,
		from: number,
		parts: (from: number) => AsyncGenerator<OutputPart, void, undefined>,
	): AsyncGenerator<OutputPart, void, undefined> {
		if (this.#mask.empty) return yield* parts(from);
		// Asked before anything is read: its end may come while we read, and be in the store before it counts here.
		const run = await this.#store.get(id);
		const goesOn = run !== undefined && !hasEnded(run.state);
		// What lies before decides whether the first bytes are the end of a secret: nobody gets it byte by byte.
		const start = Math.max(0, from - this.#mask.reach);
		let stream = this.#mask.stream();
		/** The offset of what the stream gives next; and behind what it took. */
		let given = start;
		let taken = start;
		const piece = (bytes: Buffer): OutputPart => {
			const before = Math.max(0, Math.min(bytes.length, from - given));
			given += bytes.length;
			return { from: given - bytes.length + before, bytes: bytes.subarray(before) };
		};
		for await (const part of parts(start)) {
			if (part.from !== taken) {
				const last = piece(stream.end(part.cut !== undefined));
				if (last.bytes.length > 0) yield last;
				stream = this.#mask.stream(part.cut !== undefined);
				// The run was started again.
				if (part.from < taken) from = 0;
				given = part.from;
			}
			taken = end(part);
			const cut =
				part.cut && part.cut.to > from ? { ...part.cut, from: Math.max(from, part.cut.from) } : undefined;
			const masked = piece(stream.write(part.bytes));
			if (cut !== undefined) yield { ...masked, cut };
			else if (masked.bytes.length > 0) yield masked;
		}
		// What is held back of a run that goes on is for those who read it later.
		const last = piece(goesOn && this.#growing.has(id) ? Buffer.alloc(0) : stream.end());
		if (last.bytes.length > 0) yield last;
	}

	async *#read(id: string, from: number): AsyncGenerator<OutputPart, void, undefined> {
		const run = await this.#store.get(id);
		if (run === undefined) return;
		const growing = this.#growing.get(id);
		if (growing === undefined || hasEnded(run.state)) return yield* this.#finished(run, from);
		const { size } = growing;
		const reader = this.#reader(run);
		try {
			for (let part = await reader.part(from, size); part; part = await reader.part(end(part), size))
				yield part;
		} finally {
			await reader.close();
		}
	}

	async *#follow(id: string, from: number, signal: AbortSignal): AsyncGenerator<OutputPart, void, undefined> {
		let run = await this.#store.get(id);
		let attempt: number | undefined;
		let reader: FileReader | undefined;
		try {
			while (run !== undefined && !signal.aborted) {
				const growing = this.#growing.get(id);
				if (growing === undefined) {
					// Asked for before looking, so that no change goes unnoticed.
					const change = this.#change(id, signal);
					run = await this.#store.get(id);
					if (run !== undefined && hasEnded(run.state)) {
						const again = attempt !== undefined && attempt !== run.attempt;
						return yield* this.#finished(run, again ? 0 : from);
					}
					if (run !== undefined && !this.#growing.has(id)) await change;
					continue;
				}
				if (attempt !== undefined && attempt !== growing.attempt) from = 0;
				attempt = growing.attempt;
				const { size } = growing;
				reader ??= this.#reader(run);
				const part = from < size ? await reader.part(from, size) : undefined;
				if (part !== undefined) {
					from = end(part);
					yield part;
				} else if (this.#growing.get(id) === growing && growing.size === size) {
					await this.#change(id, signal);
				}
			}
		} finally {
			await reader?.close();
		}
	}

	async *#finished(run: Run, from: number): AsyncGenerator<OutputPart, void, undefined> {
		if (!hasEnded(run.state) || from >= run.outputSize) return;
		const short = await this.#store.shortOutput(run.id);
		if (short) return yield { from, bytes: short.subarray(from) };
		const reader = this.#reader(run);
		try {
			while (from < run.outputSize) {
				const part = await reader.part(from, run.outputSize);
				// Output that could not be kept, because the disk was full, is said like output that was cut.
				yield part ?? { from: run.outputSize, bytes: Buffer.alloc(0), cut: { from, to: run.outputSize } };
				from = part === undefined ? run.outputSize : end(part);
			}
		} finally {
			await reader.close();
		}
	}

	#reader(run: Run): FileReader {
		return new FileReader(path.join(this.directory, run.id), run.plan.maxOutput);
	}

	#changed(id: string): void {
		const waiting = this.#waiting.get(id);
		this.#waiting.delete(id);
		for (const wake of waiting ?? []) wake();
	}

	/** Resolves with the next change of a run's output or state, or when `signal` aborts. */
	#change(id: string, signal: AbortSignal): Promise<void> {
		return new Promise((resolve) => {
			if (signal.aborted) return resolve();
			const waiting = this.#waiting.get(id) ?? new Set();
			this.#waiting.set(id, waiting);
			const done = () => {
				signal.removeEventListener('abort', done);
				waiting.delete(done);
				if (waiting.size === 0 && this.#waiting.get(id) === waiting) this.#waiting.delete(id);
				resolve();
			};
			waiting.add(done);
			signal.addEventListener('abort', done);
		});
	}
}

function end(part: OutputPart): number {
	return part.from + part.bytes.length;
}

/**
 * The newest output of a run that is followed. It is read, and what is secret hidden, once for all who follow, as they ask for
 * more; whoever is further behind than it reaches back reads for himself.
 */
class Tail {
	/** How many follow by it. */
	followers = 0;
	/** How often the run was started again since. */
	round = 0;
	/** True when nothing more comes. */
	over = false;
	/** Of which attempt it is; undefined as long as that is not known. */
	attempt: number | undefined;
	readonly #underWay: () => number | undefined;
	readonly #stop = new AbortController();
	readonly #source: AsyncGenerator<OutputPart, void, undefined>;
	/** Without gaps, but for those that are said as cuts. */
	readonly #parts: OutputPart[] = [];
	#size = 0;
	#from: number;
	#end: number;
	#reading = false;
	#error: unknown;
	readonly #waiting = new Set<() => void>();

	/**
	 * @param attempt the one under way, if there is one
	 * @param source output from `from` on, until its signal aborts
	 */
	constructor(
		from: number,
		attempt: () => number | undefined,
		source: (signal: AbortSignal) => AsyncGenerator<OutputPart, void, undefined>,
	) {
		this.attempt = attempt();
		this.#underWay = attempt;
		this.#from = from;
		this.#end = from;
		this.#source = source(this.#stop.signal);
	}

	/** How far it reaches back. */
	get from(): number {
		return this.#from;
	}

	/** What is there from an offset on; undefined when that is too far back, or to come. The very same for all, unless they begin within it. */
	at(offset: number): OutputPart | undefined {
		if (offset < this.#from || offset >= this.#end) return undefined;
		const part = this.#parts.find((one) => end(one) > offset)!;
		const { from, bytes, cut } = part;
		if (offset > from) return { from: offset, bytes: bytes.subarray(offset - from) };
		if (cut === undefined || cut.from === offset) return part;
		// Who begins behind some of what was not kept misses less of it.
		return offset === from ? { from, bytes } : { from, bytes, cut: { from: offset, to: cut.to } };
	}

	/** Resolves when there is more, or nothing more comes, or `signal` aborts. @throws what reading throws */
	more(signal: AbortSignal): Promise<void> {
		const more = new Promise<void>((resolve, reject) => {
			const done = () => {
				signal.removeEventListener('abort', done);
				this.#waiting.delete(done);
				if (this.#error === undefined) resolve();
				else reject(this.#error);
			};
			this.#waiting.add(done);
			signal.addEventListener('abort', done);
		});
		if (!this.#reading) void this.#read();
		return more;
	}

	/** Stops reading. */
	close(): void {
		this.over = true;
		this.#stop.abort();
		// What it has opened it closes; its errors are nobody's any more.
		this.#source.return().catch(() => {});
	}

	/** Reads as long as somebody waits for more. */
	async #read(): Promise<void> {
		this.#reading = true;
		while (this.#waiting.size > 0) {
			try {
				const { done, value } = await this.#source.next();
				if (done) this.over = true;
				else this.#take(value);
			} catch (error) {
				this.#error = error;
				this.over = true;
			}
			for (const [index, wake] of [...this.#waiting].entries()) {
				// Each sends it at once. Whoever else is served has his turn between.
				if (index > 0 && index % toldAtOnce === 0) await setImmediate();
				wake();
			}
		}
		this.#reading = false;
	}

	#take(part: OutputPart): void {
		if (part.from < this.#end) {
			this.round++;
			this.attempt = undefined;
			this.#parts.length = 0;
			this.#size = 0;
			this.#from = part.from;
		}
		this.attempt ??= this.#underWay();
		this.#parts.push({ ...part, made: new Map() });
		this.#size += part.bytes.length;
		this.#end = end(part);
		while (this.#size > mostShared && this.#parts.length > 1) {
			this.#size -= this.#parts.shift()!.bytes.length;
			this.#from = this.#parts[0]!.from;
		}
	}
}

/** Reads one file of output, also while it is written. */
class FileReader {
	readonly #file: string;
	readonly #head: number;
	readonly #tail: number;
	readonly #mark: number;
	#handle: fs.promises.FileHandle | undefined;

	constructor(file: string, most: number) {
		this.#file = file;
		const { head, tail, mark } = layout(most);
		this.#head = head;
		this.#tail = tail;
		this.#mark = mark;
	}

	/**
	 * The next bytes from an offset on, when `size` were written; a cut that lies there is skipped and said.
	 * @returns undefined when there are none
	 */
	async part(from: number, size: number): Promise<OutputPart | undefined> {
		const asked = from;
		const most = this.#head + this.#tail;
		let oldest = size > most ? size - this.#tail : 0;
		for (;;) {
			if (from >= this.#head) from = Math.max(from, oldest);
			const found = from < size ? await this.#bytes(from, size) : undefined;
			if (found === undefined) return undefined;
			// Where the ring was overwritten while we read, what we have is newer than its offset says.
			const written = from >= this.#head ? await this.#written() : 0;
			if (written > most) oldest = Math.max(oldest, written - this.#tail);
			const lost = from >= this.#head ? Math.max(0, oldest - from) : 0;
			if (lost >= found.length) continue;
			const bytes = found.subarray(lost);
			from += lost;
			return from > asked ? { from, bytes, cut: { from: asked, to: from } } : { from, bytes };
		}
	}

	/** How many bytes were written, as far as the file tells; 0 without one. */
	async size(): Promise<number> {
		const written = await this.#written();
		if (written > 0) return written;
		const stat = await this.#handle?.stat();
		return Math.min(stat?.size ?? 0, this.#head + this.#tail);
	}

	async close(): Promise<void> {
		await this.#handle?.close();
	}

	async #bytes(from: number, size: number): Promise<Buffer | undefined> {
		const inRing = from >= this.#head;
		const position = inRing ? this.#head + ((from - this.#head) % this.#tail) : from;
		const border = inRing ? this.#head + this.#tail : this.#head;
		return this.#read(Math.min(readSize, size - from, border - position), position);
	}

	/** Up to which offset the ring has been overwritten; 0 while it has not gone round. */
	async #written(): Promise<number> {
		const bytes = await this.#read(8, this.#mark);
		return bytes?.length === 8 ? Number(bytes.readBigUInt64LE()) : 0;
	}

	async #read(length: number, position: number): Promise<Buffer | undefined> {
		try {
			this.#handle ??= await fs.promises.open(this.#file);
		} catch {
			// It could not be made, or has been removed: there is nothing to read.
			return undefined;
		}
		const { bytesRead, buffer } = await this.#handle.read(Buffer.allocUnsafe(length), 0, length, position);
		return bytesRead === 0 ? undefined : buffer.subarray(0, bytesRead);
	}
}
