/** From files that were read to one frozen Config, or to everything that is wrong with them. */

import crypto from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { z } from 'zod';
import { type Access, isOpen } from '../auth/auth.ts';
import type { AuthSpec } from '../auth/kinds.ts';
import type { Fault } from '../errors.ts';
import type { LogSettings } from '../log.ts';
import { ExpressionCompiler } from '../routes/expressions.ts';
import { compileRoute, type Route, type SharedSpec } from '../routes/route.ts';
import { RouteTable } from '../routes/table.ts';
import { compileTemplate, runValues } from '../routes/template.ts';
import type { Secret } from '../secret.ts';
import { Auths, compileCallers } from './access.ts';
import { check, quoted, unknownKey } from './check.ts';
import { compileListen, isReachable, type Listen } from './listen.ts';
import { compileLog } from './log.ts';
import { isPreset, presetRoute, withPreset } from './presets.ts';
import {
	adminSchema,
	anchorKey,
	authsSchema,
	defaultsSchema,
	includeSchema,
	listenSchema,
	logSchema,
	metricsSchema,
	routeSchema,
	sections,
} from './schema.ts';
import { type Environment, SecretReader } from './secrets.ts';
import type { Source, Sources } from './sources.ts';
import type { Key } from './yaml.ts';

/** Who may use the listener's own endpoints. */
export interface AdminAccess {
	/** Those under `/-/`; null: programs of this host only. */
	readonly endpoints: Access | null;
	/** `/metrics`, likewise. */
	readonly metrics: Access | null;
}

/** A configuration that may be served. */
export interface Config {
	/** Every file that it was read from, as messages name them; the main one first. */
	readonly files: readonly string[];
	readonly listen: Listen;
	/** Only what the file says. */
	readonly log: Partial<LogSettings>;
	readonly routes: RouteTable;
	readonly admin: AdminAccess;
	/** All secrets that it uses, for masking. */
	readonly secrets: readonly Secret[];
	/** What is odd and no fault, for people. */
	readonly notes: readonly string[];
}

export interface Compiled {
	/** There exactly when there are no faults. */
	readonly config: Config | undefined;
	/** With faults: made of what the file says that is right. */
	readonly listen: Listen;
	readonly faults: readonly Fault[];
	/** For each route's name a text that is the same as long as the route does the same. */
	readonly digests: ReadonlyMap<string, string>;
	/** The files that secrets were read from, or could not be, each with a digest of what was there. */
	readonly secretFiles: ReadonlyMap<string, string>;
}

/** More would scroll the first ones, which are often the cause of the others, off the screen. */
const maxFaults = 200;

/**
 * @param environment where secrets are found; null leaves them unread
 * @param listening addresses that a running listener has open: routes have to be fit for them too, whatever the file now
 * says, since addresses change with a restart only
 */
export function compile(
	sources: Sources,
	environment: Environment | null,
	listening: readonly string[] = [],
): Compiled {
	return new Compiler(sources, environment).compile(listening);
}

/** The map at the top of a file. */
type Top = Readonly<Record<string, unknown>>;

/** A route's name with where it was declared; `route` is there unless it is faulty. */
interface Declared {
	readonly source: Source;
	readonly route: Route | undefined;
}

/** What all routes have in common. */
interface Shared {
	readonly defaults: SharedSpec;
	readonly auths: Auths;
	/** The same as long as it is the same. */
	readonly digest: string;
}

class Compiler {
	readonly #sources: Sources;
	readonly #faults: Fault[] = [];
	readonly #notes: string[] = [];
	readonly #routes = new Map<string, Declared>();
	readonly #digests = new Map<string, string>();
	readonly #expressions = new ExpressionCompiler();
	readonly #secrets: SecretReader;
	/** Those that were read, by their names. */
	readonly #presets = new Map<string, Readonly<Record<string, unknown>>>();

	constructor(sources: Sources, environment: Environment | null) {
		this.#sources = sources;
		this.#secrets = new SecretReader(environment);
		this.#faults.push(...sources.faults);
	}

	compile(listening: readonly string[]): Compiled {
		const { main, included } = this.#sources;
		for (const source of [main, ...included]) {
			for (const { line, column, key, message } of source.yaml?.faults ?? []) {
				const secret = key[0] === 'auth' || key.some((part) => secretKeys.has(part));
				const told = secret
					? message.replace(/^.* would be read as the number .*$/s, changingNumber)
					: message;
				this.#faults.push({ ...faultText(source, key, told), line, column });
			}
		}
		const top = this.#top(main, Object.keys(sections));
		if (top && !('routes' in top) && !('include' in top)) this.#fault(main, ['routes'], 'key', 'is missing');
		const listen = this.#listen(this.#section(top, 'listen', listenSchema) ?? {});
		const log = this.#log(this.#section(top, 'log', logSchema) ?? {});
		this.#section(top, 'include', includeSchema);
		const auths = this.#auths(top, listen);
		const admin = this.#admin(top, auths);
		const defaults = this.#defaults(this.#section(top, 'defaults', defaultsSchema) ?? {}, auths);
		const shared = { defaults, auths, digest: JSON.stringify([defaults, top?.auth]) };
		this.#addRoutes(main, top, shared);
		for (const source of included) this.#addRoutes(source, this.#top(source, ['routes']), shared);

		const routes = [...this.#routes.values()].flatMap(({ route }) => route ?? []);
		this.#checkReach(routes, listen, listening);
		const table = new RouteTable(routes);
		for (const { route, other, methods } of table.clashes) {
			const taken = `${methods.join(', ')} ${route.path} is taken already by route "${other.name}" (${this.#where(other)})`;
			this.#routeFault(route, 'path', `${taken}; give one of them another path or method`);
		}

		const files = [main, ...included].map(({ name }) => name);
		const found = { listen, digests: this.#digests, secretFiles: this.#secrets.files };
		if (this.#faults.length > 0) {
			return { ...found, config: undefined, faults: ordered(this.#faults, files) };
		}
		const notes = [
			...this.#sources.notes,
			...this.#notes,
			...this.#secrets.notes,
			...(routes.length === 0 ? [`${main.name}: there are no routes`] : []),
		];
		const config: Config = {
			files,
			listen,
			log,
			routes: table,
			admin,
			secrets: this.#secrets.all,
			notes,
		};
		return { ...found, config: Object.freeze(config), faults: [] };
	}

	/** @param offset into the text that is the value, in characters */
	#fault(source: Source, key: Key, at: 'key' | 'value', message: string, offset = 0): void {
		const place = source.yaml?.place(key, at, offset) ?? { line: 0, column: 0 };
		this.#faults.push({ ...faultText(source, key, message), ...place });
	}

	/** The map at the top of a file; undefined, told, when there is none. */
	#top(source: Source, known: readonly string[]): Top | undefined {
		const value = source.yaml?.value;
		if (value === undefined) return undefined;
		if (value === null || typeof value !== 'object' || Array.isArray(value)) {
			const what = value === null ? 'nothing' : Array.isArray(value) ? 'a list' : 'text';
			this.#fault(
				source,
				[],
				'value',
				`is ${what}; it has to be a map, which begins with a line such as routes:`,
			);
			return undefined;
		}
		for (const key of Object.keys(value)) {
			if (known.includes(key) || anchorKey.test(key)) continue;
			const elsewhere = source !== this.#sources.main && key in sections;
			const message = elsewhere
				? `"${key}" belongs into the main file (${this.#sources.main.name}); an included file holds routes only`
				: unknownKey(key, known);
			this.#fault(source, elsewhere ? [] : [key], 'key', message);
		}
		return value as Top;
	}

	/** A checked section of the main file; undefined when it is not there, or nothing of it can be used. */
	#section<T>(top: Top | undefined, name: keyof typeof sections, schema: z.ZodType<T>): T | undefined {
		if (top === undefined || !(name in top)) return undefined;
		const { data, issues } = check(schema, top[name]);
		for (const { key, at, message } of issues) this.#fault(this.#sources.main, [name, ...key], at, message);
		return data;
	}

	#listen(written: z.output<typeof listenSchema>): Listen {
		const { main } = this.#sources;
		const { listen, faults, notes } = compileListen(written, path.dirname(main.path));
		for (const { key, message } of faults) this.#fault(main, ['listen', ...key], 'value', message);
		this.#notes.push(...notes.map((note) => `${main.name}: ${note}`));
		return listen;
	}

	#log(written: z.output<typeof logSchema>): Partial<LogSettings> {
		const { main } = this.#sources;
		const { log, faults } = compileLog(written, path.dirname(main.path));
		for (const { key, message } of faults) this.#fault(main, ['log', ...key], 'value', message);
		return log;
	}

	#auths(top: Top | undefined, { client_certs }: Listen): Auths {
		const { main } = this.#sources;
		const map = top?.auth;
		const entries = map !== null && typeof map === 'object' && !Array.isArray(map) ? Object.entries(map) : [];
		if (map !== undefined && entries.length === 0) this.#section(top, 'auth', authsSchema);
		const specs: Record<string, AuthSpec> = {};
		// One by one, since what is left of a faulty one is seldom a whole one.
		for (const [name, value] of entries) {
			const { data, issues } = check(authsSchema, { [name]: value });
			// That it says too little is no news of one whose keys are misspelt.
			const deepest = issues.some(({ key }) => key.length > 1)
				? issues.filter(({ key }) => key.length > 1)
				: issues;
			for (const issue of deepest) this.#fault(main, ['auth', ...issue.key], issue.at, issue.message);
			if (issues.length === 0 && data !== undefined) Object.assign(specs, data);
		}
		const written = entries.map(([name]) => name);
		const directory = path.dirname(main.path);
		const absolutePath = (file: string) => path.resolve(directory, file);
		const asking = client_certs !== 'none';
		const auths = new Auths(specs, written, this.#secrets, directory, absolutePath, asking);
		for (const { key, message } of auths.faults) this.#fault(main, ['auth', ...key], 'value', message);
		return auths;
	}

	#admin(top: Top | undefined, auths: Auths): AdminAccess {
		const access = (key: Key, names: readonly string[] | undefined): Access | null => {
			if (names === undefined) return null;
			const { checks, faults } = auths.named(names, key);
			const blind = checks
				.filter(({ ofBody }) => ofBody === true)
				.map(({ name }) => ({
					key,
					message: `"${name}" looks at a body, and requests to endpoints have none`,
				}));
			for (const fault of [...faults, ...blind])
				this.#fault(this.#sources.main, fault.key, 'value', fault.message);
			return { open: false, any: checks, source: null };
		};
		const endpoints = access(['admin', 'auth'], this.#section(top, 'admin', adminSchema)?.auth);
		const forMetrics = this.#section(top, 'metrics', metricsSchema)?.auth;
		if (forMetrics === 'none') return { endpoints, metrics: { open: true, any: [], source: null } };
		return { endpoints, metrics: access(['metrics', 'auth'], forMetrics) ?? endpoints };
	}

	/** Tells what is wrong with templates here, once, instead of for every route that would inherit them. */
	#defaults(written: SharedSpec, auths: Auths): SharedSpec {
		const { main } = this.#sources;
		const { faults } = auths.named(written.auth === 'none' ? [] : (written.auth ?? []), ['defaults', 'auth']);
		for (const { key, message } of faults) this.#fault(main, key, 'value', message);
		const usable = (key: Key, text: string): boolean => {
			const template = compileTemplate(text, runValues);
			if (typeof template === 'string') this.#fault(main, ['defaults', ...key], 'value', template);
			return typeof template !== 'string';
		};
		const { cwd, env, ...others } = written;
		const goodEnv = Object.entries(env ?? {}).filter(([name, text]) => usable(['env', name], text));
		return {
			...others,
			...(cwd !== undefined && usable(['cwd'], cwd) ? { cwd: absolute(main, cwd) } : {}),
			env: Object.fromEntries(goodEnv),
		};
	}

	#addRoutes(source: Source, top: Top | undefined, shared: Shared): void {
		if (top === undefined || !('routes' in top)) return;
		const { routes } = top;
		if (routes === null || typeof routes !== 'object' || Array.isArray(routes)) {
			const message = 'must be a map: the name of each route, and below it what it does; {} for none';
			this.#fault(source, ['routes'], 'key', message);
			return;
		}
		const inherited = crypto.hash('sha256', JSON.stringify([shared.digest, path.dirname(source.path)]));
		for (const [name, value] of Object.entries(routes))
			this.#addRoute(source, name, value, shared, inherited);
	}

	#addRoute(source: Source, name: string, value: unknown, shared: Shared, inherited: string): void {
		const { defaults, auths } = shared;
		const key = ['routes', name];
		const before = this.#routes.get(name);
		if (before) {
			const place = before.source.yaml?.place(key, 'key');
			const where = `${before.source.name}:${place?.line}:${place?.column}`;
			this.#fault(source, key, 'key', `is there already (${where}); give one of them another name`);
		}
		const whole = this.#whole(value);
		// A misspelt command must not hide what is wrong with the parameters.
		const { data, issues } = check(routeSchema, whole, standIns(whole));
		for (const issue of issues) this.#fault(source, [...key, ...issue.key], issue.at, issue.message);
		let route: Route | undefined;
		if (data) {
			const cwd = data.cwd === undefined ? {} : { cwd: absolute(source, data.cwd) };
			const lockfile = data.concurrency?.lockfile;
			const concurrency =
				lockfile === undefined
					? {}
					: { concurrency: { ...data.concurrency, lockfile: absolute(source, lockfile) } };
			const directory = path.dirname(source.path);
			const callers = compileCallers(name, data, defaults, auths, this.#secrets, directory);
			const compiled = compileRoute(
				name,
				{ ...data, ...cwd, ...concurrency },
				defaults,
				this.#expressions,
				callers,
				{
					absolute: (file) => absolute(source, file),
					secrets: (spec) => this.#secrets.read(spec, directory),
					noCertificate,
				},
			);
			for (const fault of [...callers.faults, ...compiled.faults]) {
				const offset = 'offset' in fault ? (fault.offset as number) : 0;
				const at = fault.key.length === 0 ? 'key' : 'value';
				this.#fault(source, [...key, ...fault.key], at, fault.message, offset);
			}
			// Who may call is not known of a route that says it wrongly, and so is whether that is too many.
			const unsure = issues.some(({ key: [first] }) => first === 'auth' || first === 'source');
			if (callers.faults.length === 0 && !unsure) route = compiled.route;
		}
		if (before) return;
		this.#routes.set(name, { source, route });
		this.#digests.set(name, crypto.hash('sha256', inherited + JSON.stringify(value)));
	}

	/** What a route says, with what its preset says. */
	#whole(value: unknown): unknown {
		if (typeof value !== 'object' || value === null || !('preset' in value)) return value;
		const { preset, ...route } = value;
		if (!isPreset(preset)) return value;
		let known = this.#presets.get(preset);
		if (known === undefined) {
			known = presetRoute(preset);
			this.#presets.set(preset, known);
		}
		return { ...withPreset(known, route), preset };
	}

	/** At the route's `key`, or at the route when it does not have that. */
	#routeFault(route: Route, key: string, message: string): void {
		const { source } = this.#routes.get(route.name)!;
		const { line, column } = source.yaml?.place(['routes', route.name, key], 'key') ?? { line: 0, column: 0 };
		this.#faults.push({ ...faultText(source, ['routes', route.name], message), line, column });
	}

	#where({ name }: Route): string {
		const { source } = this.#routes.get(name)!;
		const place = source.yaml?.place(['routes', name], 'key');
		return `${source.name}:${place?.line}:${place?.column}`;
	}

	/** Who can reach a route must be somebody that the route says may call it. */
	#checkReach(routes: readonly Route[], listen: Listen, listening: readonly string[]): void {
		const written = listen.address.find(isReachable);
		const open = written ?? listening.find(isReachable);
		if (open === undefined) return;
		for (const route of routes) {
			if (!isOpen(route.access) || route.access.open) continue;
			const why = written
				? `listen.address is "${open}"; say who may, by "auth" or a source that verifies, say "auth: none" if anybody may, or listen on 127.0.0.1 only`
				: `the running listener still has the address "${open}", which changes with a restart; say who may call, or restart`;
			const proves =
				route.source === null
					? ''
					: `, and nothing that "${route.source.name}" sends proves that it comes from there`;
			this.#routeFault(route, 'auth', `other hosts can call it${proves}, as ${why}`);
		}
	}
}

/** Why there is no certificate in PEM form in a file; undefined when there is one. */
function noCertificate(file: string): string | undefined {
	try {
		new crypto.X509Certificate(fs.readFileSync(file));
		return undefined;
	} catch (error) {
		const { code, syscall, message } = error as NodeJS.ErrnoException;
		if (code === 'ENOENT') return `${file} does not exist`;
		if (syscall !== undefined) return `${file} cannot be read by the user the listener runs as (${code})`;
		return `${file} holds no certificate in PEM form (${message})`;
	}
}

/** Below these a value may be a secret. */
const secretKeys: ReadonlySet<Key[number]> = new Set(['secret', 'headers', 'bearer', 'password']);

/** What a route is taken to run as long as that part of it is wrong. */
function standIns(value: unknown): Readonly<Record<string, unknown>> {
	const written = typeof value === 'object' && value !== null ? value : {};
	if ('steps' in written) return { steps: [{ command: 'true' }] };
	return 'command' in written || 'preset' in written ? { command: 'true' } : {};
}

/** In place of a sentence that shows the number, where it may be a secret. */
const changingNumber = 'would be read as a number, and another one than is written; write it in quotes';

/** Relative paths in a file are meant from where the file is, whoever starts the listener from wherever. */
function absolute(source: Source, file: string): string {
	// Not joined by node:path, which would resolve `{{name}}/..` before there is a value.
	return path.isAbsolute(file) ? file : `${path.dirname(source.path)}/${file}`;
}

/** File, key and sentence of a fault. */
function faultText(source: Source, key: Key, message: string): Pick<Fault, 'file' | 'key' | 'message'> {
	// These two name the last key themselves.
	const missing = message === 'is missing';
	const above = missing || message.startsWith('unknown key') ? key.slice(0, -1) : key;
	const inRoute = above[0] === 'routes' && above.length > 1;
	const way = (inRoute ? above.slice(2) : above).reduce<string>((text, part) => {
		if (typeof part === 'number') return `${text} item ${part + 1}`;
		const shown = /^[\w./:-]{1,60}$/.test(part) ? part : quoted(part);
		return text === '' ? shown : `${text}.${shown}`;
	}, '');
	const subject = `${inRoute ? `route ${quoted(String(above[1]))}: ` : ''}${way === '' ? '' : `${way}: `}`;
	const sentence = missing ? `"${key.at(-1)}" is missing` : message;
	return { file: source.name, key: key.join('.'), message: `${subject}${sentence}` };
}

/** By file, then from top to bottom. */
function ordered(faults: readonly Fault[], files: readonly string[]): Fault[] {
	const rank = (fault: Fault) => files.indexOf(fault.file);
	const sorted = [...faults].sort((a, b) => rank(a) - rank(b) || a.line - b.line || a.column - b.column);
	if (sorted.length <= maxFaults) return sorted;
	const left = sorted.length - maxFaults;
	const rest = {
		file: files[0] ?? '',
		line: 0,
		column: 0,
		key: '',
		message: `and ${left} more; mend these first`,
	};
	return [...sorted.slice(0, maxFaults), rest];
}
