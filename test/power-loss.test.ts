/**
 * Power loss: what a listener writes is recorded together with the answers it gives (helpers/record-writes.c), and what a disk
 * would hold is made up for many moments: everything that was flushed, and of everything else nothing, all, or any part, down
 * to torn pages. From each of these a store is opened, and every run whose answer had gone out by then has to be in it.
 */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { hasEnded } from '../listener/runs/run.ts';
import { SqliteStore } from '../listener/stores/sqlite.ts';
import { root, startListener, temporaryDirectory } from './helpers/listener.ts';

/** What a disk writes in one piece. */
const sector = 512;

/** One change of a file's bytes; `bytes` is undefined for one that sets its length. */
interface Change {
	readonly offset: number;
	readonly bytes?: Buffer;
	/** Its place in the record. */
	readonly at: number;
}

/** A file: what of it would survive, and what was changed since. */
class RecordedFile {
	durable: Buffer = Buffer.alloc(0);
	pending: Change[] = [];
	/** Where flushes that are under way began. */
	readonly flushing: number[] = [];

	change(change: Change): void {
		this.pending.push(change);
	}

	/** A flush that began at this place of the record is done. */
	flushed(): void {
		const since = this.flushing.shift() ?? 0;
		for (const change of this.pending) if (change.at < since) this.durable = applied(this.durable, change);
		this.pending = this.pending.filter(({ at }) => at >= since);
	}
}

function applied(before: Buffer, { offset, bytes }: Change): Buffer {
	if (bytes === undefined) {
		const cut = Buffer.alloc(offset);
		before.copy(cut, 0, 0, offset);
		return cut;
	}
	const after = before.length >= offset + bytes.length ? before : Buffer.alloc(offset + bytes.length);
	if (after !== before) before.copy(after);
	bytes.copy(after, offset);
	return after;
}

/** Which part of what was not flushed has reached the disk all the same. */
type Luck = 'none' | 'all' | 'any';

/** The recorded files, as they are after some part of the record. */
class Disk {
	/** Names as programs see them, and as they would survive. */
	readonly #names = new Map<string, RecordedFile>();
	readonly #durableNames = new Map<string, RecordedFile>();
	readonly #open = new Map<string, RecordedFile>();
	readonly #below: string;

	constructor(below: string) {
		this.#below = below;
	}

	apply(words: readonly string[], bytes: Buffer | undefined, at: number): void {
		const [what, first = '', second = '', third = ''] = words;
		const file = this.#open.get(first);
		if (what === 'open') this.#opened(first, second, words.slice(3).join(' '), at);
		else if (what === 'write') file?.change({ offset: Number(second), bytes: bytes!, at });
		else if (what === 'cut') file?.change({ offset: Number(second), at });
		else if (what === 'flush') file?.flushing.push(at);
		else if (what === 'flushed') file?.flushed();
		else if (what === 'flushed-directory') this.#flushedDirectory(first);
		else if (what === 'unlink') this.#names.delete(first);
		else if (what === 'rename') {
			this.#names.set(second, this.#names.get(first)!);
			this.#names.delete(first);
		} else assert.match(what ?? '', /^(directory|mkdir|rmdir)$/, `${what} ${third}`);
	}

	#opened(number: string, mode: string, name: string, at: number): void {
		let file = this.#names.get(name);
		if (file === undefined) {
			file = new RecordedFile();
			this.#names.set(name, file);
		} else if (mode === 't') file.change({ offset: 0, at });
		this.#open.set(number, file);
	}

	#flushedDirectory(directory: string): void {
		for (const names of [this.#names, this.#durableNames]) {
			for (const name of [...names.keys()]) {
				if (path.dirname(name) !== directory) continue;
				const file = this.#names.get(name);
				if (file) this.#durableNames.set(name, file);
				else this.#durableNames.delete(name);
			}
		}
	}

	/** Writes what the disk would hold into a directory. */
	survive(into: string, luck: Luck, random: () => number): void {
		const names = luck === 'none' ? this.#durableNames : new Map(this.#names);
		if (luck === 'any') {
			for (const [name, file] of this.#durableNames) if (random() < 0.5) names.set(name, file);
			for (const name of [...names.keys()])
				if (!this.#durableNames.has(name) && random() < 0.5) names.delete(name);
		}
		for (const [name, file] of names) {
			const below = path.relative(this.#below, name);
			// Only these are the store's.
			if (!below.startsWith('runs.db')) continue;
			let bytes: Buffer = Buffer.from(file.durable);
			for (const change of luck === 'none' ? [] : file.pending) {
				if (luck === 'all') bytes = applied(bytes, change);
				else for (const piece of torn(change, random)) bytes = applied(bytes, piece);
			}
			fs.mkdirSync(into, { recursive: true });
			fs.writeFileSync(path.join(into, below), bytes);
		}
	}
}

/** Sectors of a change that reached the disk. */
function torn(change: Change, random: () => number): Change[] {
	const { offset, bytes, at } = change;
	const luck = random();
	if (luck < 0.4) return [];
	if (bytes === undefined || luck < 0.7) return [change];
	const pieces: Change[] = [];
	for (let from = 0; from < bytes.length; ) {
		const to = Math.min(bytes.length, from + sector - ((offset + from) % sector));
		if (random() < 0.5) pieces.push({ offset: offset + from, bytes: bytes.subarray(from, to), at });
		from = to;
	}
	return pieces;
}

interface Entry {
	readonly words: readonly string[];
	readonly bytes: Buffer | undefined;
}

function* entries(record: Buffer): Generator<Entry> {
	for (let from = 0; from < record.length; ) {
		const end = record.indexOf(10, from);
		const words = record.toString('utf8', from, end).split(' ');
		const length = words[0] === 'write' || words[0] === 'answer' ? Number(words.at(-1)) : 0;
		from = end + 1 + length;
		yield { words, bytes: length > 0 ? record.subarray(end + 1, from) : undefined };
	}
}

/** Numbers from 0 to 1 that look random and are the same each time. */
function randomOf(seed: number): () => number {
	let state = seed;
	return () => {
		state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
		return state / 2 ** 32;
	};
}

test('what was answered survives power loss at any moment, whatever of the rest reached the disk', async (t) => {
	const dir = temporaryDirectory();
	const library = path.join(dir, 'record-writes.so');
	const source = path.join(root, 'test/helpers/record-writes.c');
	const made = spawnSync('cc', ['-O1', '-shared', '-fPIC', '-o', library, source, '-ldl', '-lpthread']);
	if (made.error && !process.env.CI) return t.skip('cc not found');
	assert.equal(made.status, 0, String(made.error ?? made.stderr));

	const state = path.join(dir, 'state');
	const listener = await startListener({
		dir,
		routes: `
log: { format: json, level: info }
routes:
  work: { params: { n: {}, text: { pattern: ".*" } }, command: "true", concurrency: { limit: 8 } }
`,
		env: { LD_PRELOAD: library, RECORD_TO: path.join(dir, 'record'), RECORD_BELOW: state },
	});
	// Enough for the log to be moved into the file some times, with long texts to have it sooner.
	let n = 0;
	const call = async () => {
		while (n < 400) {
			const answer = await listener.post(`/work${n % 3 === 0 ? '?async=false' : ''}`, {
				n: String(++n),
				text: 'x'.repeat(8000),
			});
			assert.ok([200, 202].includes(answer.status), answer.text);
		}
	};
	await Promise.all(Array.from({ length: 6 }, call));
	await listener.stop('SIGKILL');

	assert.ok(fs.statSync(path.join(state, 'runs.db')).size > 1_000_000, 'the log was moved into the file');

	const record = fs.readFileSync(path.join(dir, 'record'));
	const random = randomOf(7);
	const disk = new Disk(state);
	const accepted = new Set<string>();
	const ended = new Set<string>();
	const into = path.join(dir, 'survived');
	let moments = 0;
	let sinceLast = 0;
	let at = 0;
	for (const { words, bytes } of entries(record)) {
		at++;
		if (words[0] === 'answer') {
			const text = bytes!.toString('latin1');
			const id = /Location: \/-\/runs\/(\w{26})/i.exec(text)?.[1];
			if (id !== undefined) (words[1] === '200' ? ended : accepted).add(id);
		} else disk.apply(words, bytes, at);
		// Right after an answer the most has been promised, and the least has happened since.
		sinceLast++;
		const wanted = words[0] === 'answer' ? 0.12 : sinceLast > 20 ? 0.02 : 0.002;
		if (random() > wanted) continue;
		sinceLast = 0;
		const luck: Luck = (['none', 'none', 'all', 'any', 'any', 'any'] as const)[Math.floor(random() * 6)]!;
		fs.rmSync(into, { recursive: true, force: true });
		disk.survive(into, luck, random);
		moments++;
		if (accepted.size + ended.size === 0 && !fs.existsSync(into)) continue;
		const store = SqliteStore.open(into);
		try {
			for (const id of accepted) assert.ok(await store.get(id), `run ${id} is lost (record ${at}, ${luck})`);
			for (const id of ended) {
				const run = await store.get(id);
				assert.ok(run && hasEnded(run.state), `the end of run ${id} is lost (record ${at}, ${luck})`);
			}
			// What is left can be gone on with.
			await store.recover();
			await store.claim(1);
		} finally {
			await store.close();
		}
	}
	t.diagnostic(
		`${at} records, ${accepted.size} runs accepted, ${ended.size} told to have ended, ${moments} losses of power`,
	);
	assert.equal(accepted.size + ended.size, 400);
	assert.ok(moments > 60);
});
