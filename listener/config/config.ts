/**
 * The configuration: files in, one frozen Config out, or every fault. `LiveConfig` keeps the one that is served, and takes
 * up changed files by itself; faulty ones leave the old one serving.
 */

import { EventEmitter } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { ConfigError, faultLine } from '../errors.ts';
import type { Log } from '../log.ts';
import { type Compiled, type Config, compile } from './compile.ts';
import type { Listen } from './listen.ts';
import { contentsOf, type Environment } from './secrets.ts';
import { lookAt, readSources, type Sources, type Watched } from './sources.ts';

export type { Config } from './compile.ts';
export type { Listen } from './listen.ts';

/**
 * Reads a configuration and all that it includes.
 * @param environment where secrets are found; null leaves them unread
 * @throws ConfigError with every fault
 */
export async function loadConfig(file: string, environment: Environment | null): Promise<Config> {
	return configOf(compile(await readSources(file), environment));
}

/**
 * Reads where a listener with this file listens, for who wants to call it. Faults elsewhere in the file do not matter (a
 * listener that runs goes on with the one before), nor does a private key that the caller may not read.
 * @throws ConfigError when the file does not say it
 */
export async function loadListen(file: string): Promise<Listen> {
	const sources = await readSources(file);
	const { listen, faults } = compile(sources, null);
	const { yaml } = sources.main;
	// A text that is no YAML says nothing; of one with a lesser fault, such as a key that is there twice, the rest was read.
	const read = yaml?.faults.length === 0 || Object.hasOwn(yaml?.value ?? {}, 'listen');
	const inTheWay = faults.filter(({ key }) => !read || /^listen(?!\.tls)/.test(key));
	if (inTheWay.length > 0) throw new ConfigError(inTheWay);
	return listen;
}

function configOf({ config, faults }: Compiled): Config {
	if (config === undefined) throw new ConfigError(faults);
	return config;
}

/** What a newly taken up configuration brought. */
export interface Change {
	readonly previous: Config;
	readonly current: Config;
	/** Names of routes. */
	readonly added: readonly string[];
	readonly changed: readonly string[];
	readonly removed: readonly string[];
	/** Keys that were changed and count only after a restart. */
	readonly restart: readonly string[];
	/** Files with secrets that were changed. */
	readonly secrets: readonly string[];
}

/**
 * Milliseconds between looks at the files. Looking is the one way that sees every kind of change: written in place, renamed
 * over, a ConfigMap's symbolic link set elsewhere, a network file system. A look costs a few system calls a file.
 */
const lookEvery = 1000;
/**
 * Milliseconds for which changed files must stay as they are before they are taken up. Editors, git and Puppet write several
 * in a row, and a file that is half written can be a valid, shorter one.
 */
const quietFor = 500;

type Loaded = Pick<Compiled, 'digests' | 'secretFiles'> & { readonly config: Config };

/** The configuration in use. Emits `changed` after each one taken up later than the first, and `refused` for each that is not. */
export class LiveConfig extends EventEmitter<{ changed: [Change]; refused: [] }> {
	readonly #file: string;
	readonly #log: Log;
	readonly #environment: Environment;
	#loaded: Loaded | undefined;
	/** The files as last read, whether they were taken up or refused. */
	#watched: Watched | undefined;
	/** Those with secrets, likewise. */
	#secretFiles: ReadonlyMap<string, string> = new Map();
	/** The addresses that were served first, and are until a restart. */
	#listening: readonly string[] = [];
	#reloading: Promise<unknown> = Promise.resolve();
	#watching: AbortController | undefined;

	/** @param environment where secrets are found that routes.yaml looks for there */
	constructor(file: string, log: Log, environment: Environment) {
		super();
		this.#file = file;
		this.#log = log;
		this.#environment = environment;
	}

	/** @throws Error when nothing was loaded yet */
	get current(): Config {
		if (this.#loaded === undefined) throw new Error('the configuration was not loaded yet');
		return this.#loaded.config;
	}

	/** Reads the first configuration. @throws ConfigError with every fault */
	async load(): Promise<Config> {
		const sources = await readSources(this.#file);
		this.#watched = sources.watched;
		const compiled = compile(sources, this.#environment);
		this.#secretFiles = compiled.secretFiles;
		const config = configOf(compiled);
		this.#loaded = { ...compiled, config };
		this.#listening = config.listen.address;
		for (const note of config.notes) this.#log.warn(note);
		return config;
	}

	/**
	 * Reads the files again and takes them up, also when they did not change. Several at a time wait for each other.
	 * @throws ConfigError with every fault; the old configuration stays, and the log says so
	 */
	reload(): Promise<Config> {
		const reloaded = this.#reloading.then(async () => this.#take(await readSources(this.#file)));
		this.#reloading = reloaded.catch(() => {});
		return reloaded;
	}

	/** Takes up changed files from now on: after about a second, once they have stopped changing. */
	watch(): void {
		if (this.#watching) return;
		this.#watching = new AbortController();
		this.#follow(this.#watching.signal).catch(() => {});
	}

	/** Stops watching. */
	close(): void {
		this.#watching?.abort();
		this.#watching = undefined;
	}

	async #follow(signal: AbortSignal): Promise<never> {
		let looked = '';
		let failed = '';
		for (;;) {
			await setTimeout(lookEvery, undefined, { signal, ref: false });
			try {
				looked = await this.#look(looked, signal);
			} catch (error) {
				signal.throwIfAborted();
				if (String(error) !== failed)
					this.#log.error('cannot look for changed files', { error: String(error) });
				failed = String(error);
			}
		}
	}

	/** One look at the files, and what follows from it; gives what they looked like. */
	async #look(looked: string, signal: AbortSignal): Promise<string> {
		const known = this.#watched;
		if (known === undefined) return looked;
		const { signature, settling } = await lookAt(known, this.#secretFiles.keys());
		if (signature === looked && !settling) return looked;
		let before = this.#digest;
		let now = await this.#see(known);
		while (now.digest !== before) {
			await setTimeout(quietFor, undefined, { signal, ref: false });
			before = now.digest;
			now = await this.#see(now.sources.watched);
		}
		const taking = this.#reloading.then(() => {
			// A reload that was asked for meanwhile has taken them already; and what was refused is not refused again.
			if (now.digest !== this.#digest) this.#take(now.sources);
		});
		// Faults have been logged by then; the next look goes on from them.
		this.#reloading = taking.catch(() => {});
		await this.#reloading;
		return signature;
	}

	/** Of all files as last read. */
	get #digest(): string {
		return `${this.#watched?.digest} ${JSON.stringify([...this.#secretFiles])}`;
	}

	/** The files as they are now. */
	async #see(known: Watched): Promise<{ readonly sources: Sources; readonly digest: string }> {
		const sources = await readSources(this.#file, known);
		const secrets = await contentsOf(this.#secretFiles.keys());
		return { sources, digest: `${sources.watched.digest} ${JSON.stringify([...secrets])}` };
	}

	#take(sources: Sources): Config {
		this.#watched = sources.watched;
		const compiled = compile(sources, this.#environment, this.#listening);
		this.#secretFiles = compiled.secretFiles;
		if (compiled.config === undefined) {
			this.#log.error('configuration refused, the one before goes on serving', {
				faults: compiled.faults.length,
			});
			for (const fault of compiled.faults) this.#log.error(faultLine(fault));
			this.emit('refused');
			throw new ConfigError(compiled.faults);
		}
		const before = this.#loaded;
		this.#loaded = { ...compiled, config: compiled.config };
		if (before) this.#tell(changeBetween(before, this.#loaded));
		return compiled.config;
	}

	#tell(change: Change): void {
		const { added, changed, removed, current, secrets } = change;
		this.#log.info('configuration taken up', {
			routes: current.routes.routes.length,
			added: added.length,
			changed: changed.length,
			removed: removed.length,
			secrets: secrets.length === 0 ? undefined : secrets,
		});
		for (const note of current.notes) this.#log.warn(note);
		for (const key of change.restart) {
			this.#log.warn(
				`${key} was changed, which takes a restart of the listener; until then it stays as it was`,
			);
		}
		this.emit('changed', change);
	}
}

function changeBetween(before: Loaded, after: Loaded): Change {
	const old = before.digests;
	const names = [...after.digests.keys()];
	const restart = (['address', 'port', 'tls', 'client_certs', 'header_timeout'] as const).filter(
		(key) => JSON.stringify(before.config.listen[key]) !== JSON.stringify(after.config.listen[key]),
	);
	return {
		previous: before.config,
		current: after.config,
		added: names.filter((name) => !old.has(name)),
		changed: names.filter((name) => old.has(name) && old.get(name) !== after.digests.get(name)),
		removed: [...old.keys()].filter((name) => !after.digests.has(name)),
		restart: restart.map((key) => `listen.${key}`),
		secrets: [...after.secretFiles].flatMap(([file, digest]) =>
			before.secretFiles.get(file) === digest ? [] : file,
		),
	};
}
