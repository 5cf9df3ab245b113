/**
 * `puppet-webhook explain`: what would become of a delivery, step by step, and why. The delivery is read from a file; what it
 * meets is what a delivery meets that arrives, in the same functions, up to the run that is shown instead of being written down.
 */

import type { Writable } from 'node:stream';
import type { Command } from 'commander';
import { type Access, isOpen, type VerifiedDelivery, verify } from './auth/auth.ts';
import { admitted, type Check } from './auth/kind.ts';
import type { Config } from './config/config.ts';
import { type Client, type Delivery, type Event, noCertificate } from './delivery.ts';
import { BadParameters, NotFound, WebhookError } from './errors.ts';
import { contentFor, readKept } from './http/body.ts';
import { parseQuery } from './http/forms.ts';
import { Mask } from './mask.ts';
import { decide, read, runOf, scopeOf } from './routes/decision.ts';
import { type Finding, looksSecret, type Scope } from './routes/expressions.ts';
import { type ParameterOrigin, resolveParameter } from './routes/parameters.ts';
import type { Route } from './routes/route.ts';
import type { Match } from './routes/table.ts';
import { completeText } from './routes/template.ts';
import { idMaker, type NewRun, variablesOf } from './runs/run.ts';
import { nearest } from './spelling.ts';
import type { PlannedCommand } from './steps/command.ts';
import type { PlannedStep } from './steps/step.ts';
import { visible } from './terminal.ts';

/** The exit status for a file that holds no request, or is none. */
const calledWrongly = 2;

/** What surrounds the command; only the command line itself knows. */
export interface Surroundings {
	readonly stdout: Writable;
	readonly stderr: Writable;
	readonly defaultConfig: string;
	/** @throws ConfigError */
	load(file: string): Promise<Config>;
	/** The bytes of a file, or of standard input for `-`. */
	read(file: string): Promise<Buffer>;
	/** Gets the exit status that a command line comes to. */
	done(status: Promise<number>): Promise<void>;
}

interface ExplainOptions {
	readonly config: string;
	readonly delivery: string;
	readonly ip?: string;
	readonly certname?: string;
	readonly unverified?: boolean;
	readonly json?: boolean;
}

/** Adds the command to a command line. Its exit status is 0 when something would run, and 1 when nothing would. */
export function addExplainCommand(program: Command, surroundings: Surroundings): void {
	program
		.command('explain')
		.description('say what would become of a delivery, and why; nothing is run')
		.argument('[route]', 'the route that it is meant for; otherwise its path decides')
		.requiredOption('-d, --delivery <file>', 'the request: as HTTP text or as JSON; - for standard input')
		.option('-c, --config <file>', 'the routes', surroundings.defaultConfig)
		.option('--ip <address>', 'who calls, when the file does not say it (default: 127.0.0.1)')
		.option('--certname <name>', 'the name in the certificate that the caller shows')
		.option('--unverified', 'go on as if the caller was known, where it is not')
		.option('--json', 'print a JSON object instead of lines')
		.addHelpText(
			'after',
			'\nThe exit status is 0 when something would run, 1 when nothing would or routes.yaml has faults.\n\n' +
				'Example:\n  $ puppet-webhook explain deploy --delivery request.txt',
		)
		.action((route: string | undefined, options: ExplainOptions) =>
			surroundings.done(run(route, options, surroundings)),
		);
}

async function run(
	route: string | undefined,
	options: ExplainOptions,
	{ stdout, stderr, load, read: readFile }: Surroundings,
): Promise<number> {
	const config = await load(options.config);
	let request: Request;
	try {
		request = parseRequest(await readFile(options.delivery), config, route, options);
	} catch (error) {
		if (!(error instanceof Unreadable) && (error as NodeJS.ErrnoException).code === undefined) throw error;
		stderr.write(`error: ${options.delivery}: ${(error as Error).message}\n`);
		return calledWrongly;
	}
	const explained = masked(await explain(config, request, route, options.unverified === true), config);
	const shown = options.json ? `${JSON.stringify(explained)}\n` : textOf(explained);
	await new Promise((resolve) => stdout.write(shown, resolve));
	return explained.runs > 0 ? 0 : 1;
}

/** The file is no request. */
class Unreadable extends Error {}

/** A request, as a file tells it. */
interface Request {
	readonly method: string;
	/** Still percent-encoded. */
	readonly path: string;
	/** Without the question mark. */
	readonly query: string;
	readonly headers: Readonly<Record<string, string>>;
	readonly body: Buffer;
	readonly client: Client;
	/** What is odd about the file. */
	readonly notes: readonly string[];
}

type Given = Pick<Request, 'method' | 'headers' | 'body' | 'notes'> & {
	readonly target: string;
	readonly client: Partial<Client>;
};

function parseRequest(
	file: Buffer,
	{ listen, routes }: Config,
	routeName: string | undefined,
	{ ip, certname }: ExplainOptions,
): Request {
	const usual = routeName === undefined ? undefined : routes.named(routeName);
	const first = file.subarray(0, 100).toString().trimStart();
	const given = first.startsWith('{') ? parseJson(file.toString(), usual) : parseHttp(file);
	// A proxy's absolute form counts as its path.
	const target = given.target.replace(/^https?:\/\/[^/?]*/i, '') || '/';
	if (!target.startsWith('/')) throw new Unreadable(`the path "${target}" does not begin with a slash`);
	const mark = target.indexOf('?');
	const address = given.client.ip ?? ip ?? '127.0.0.1';
	const peer: Client = {
		...noCertificate,
		...given.client,
		ip: address,
		loopback: /^(127\.|::1$|unix$)/.test(address),
		certname: given.client.certname ?? certname ?? '',
	};
	return {
		...given,
		path: mark < 0 ? target : target.slice(0, mark),
		query: mark < 0 ? '' : target.slice(mark + 1),
		client: listen.proxies.clientOf(peer, given.headers),
	};
}

/** A request line, headers, an empty line, and the body; also with the `> ` that `curl -v` puts in front. */
function parseHttp(file: Buffer): Given {
	const latin = file.toString('latin1');
	const end = /\r?\n(?:> ?)?\r?\n/.exec(latin);
	const head = (end === null ? latin : latin.slice(0, end.index)).split(/\r?\n/);
	const lines = head.filter((line) => !line.startsWith('* ')).map((line) => line.replace(/^> /, ''));
	const [method, target] = /^([A-Z]+) (\S+)(?: HTTP\/[\d.]+)?\s*$/.exec(lines[0] ?? '')?.slice(1) ?? [];
	if (method === undefined || target === undefined) {
		throw new Unreadable(
			'is neither JSON nor HTTP, which begins with a line such as POST /deploy HTTP/1.1, then headers and an empty line',
		);
	}
	const headers: Record<string, string> = {};
	for (const line of lines.slice(1).filter((line) => line.trim() !== '')) {
		const [name, value] = /^([^\s:]+):\s*(.*?)\s*$/.exec(line)?.slice(1) ?? [];
		if (name === undefined || value === undefined) throw new Unreadable(`"${line}" is no header`);
		addHeader(headers, name, value);
	}
	const rest = end === null ? Buffer.alloc(0) : file.subarray(end.index + end[0].length);
	const length = headers['content-length'];
	const body = length === undefined ? rest : rest.subarray(0, Number(length));
	const missing = Number(length ?? 0) - body.length;
	const notes = missing > 0 ? [`the body is ${missing} bytes shorter than its Content-Length says`] : [];
	// What was kept as text has its line end from an editor.
	const cut = rest.length - body.length;
	if (length !== undefined && cut > 1)
		notes.push(`${cut} bytes after the body's Content-Length are left out`);
	return { method, target, headers, body, client: {}, notes };
}

function parseJson(text: string, usual: Route | undefined): Given {
	let json: Record<string, unknown>;
	try {
		json = JSON.parse(text);
	} catch (error) {
		throw new Unreadable(`is not valid JSON: ${(error as Error).message}`);
	}
	const known = ['method', 'path', 'query', 'headers', 'body', 'client'];
	for (const key of Object.keys(json)) {
		if (known.includes(key)) continue;
		const near = nearest(key, known);
		throw new Unreadable(
			`unknown key "${key}", ${near ? `did you mean "${near}"?` : `known are ${known.join(', ')}`}`,
		);
	}
	const path = json.path ?? (usual?.path.includes(':') ? undefined : usual?.paths[0]);
	if (typeof path !== 'string') throw new Unreadable('"path" is missing');
	const headers: Record<string, string> = {};
	for (const [name, value] of Object.entries((json.headers ?? {}) as object))
		addHeader(headers, name, [value].flat().map(String).join(', '));
	const bytes =
		json.body === undefined ? '' : typeof json.body === 'string' ? json.body : JSON.stringify(json.body);
	if (typeof json.body === 'object') headers['content-type'] ??= 'application/json';
	const query = typeof json.query === 'string' ? json.query : queryText(json.query ?? {});
	return {
		method: String(json.method ?? usual?.methods[0] ?? 'POST').toUpperCase(),
		target: query === '' ? path : `${path}${path.includes('?') ? '&' : '?'}${query}`,
		headers,
		body: Buffer.from(bytes),
		client: (json.client ?? {}) as Partial<Client>,
		notes: [],
	};
}

function queryText(query: object): string {
	const pairs = Object.entries(query).flatMap(([name, values]) =>
		[values].flat().map((value) => `${encodeURIComponent(name)}=${encodeURIComponent(String(value))}`),
	);
	return pairs.join('&');
}

function addHeader(headers: Record<string, string>, name: string, value: string): void {
	const key = name.toLowerCase();
	headers[key] = headers[key] === undefined ? value : `${headers[key]}, ${value}`;
}

/** What would become of a delivery. Fields are null from where it would have been refused. */
export interface Explanation {
	readonly request: {
		readonly method: string;
		readonly path: string;
		readonly client: string;
		readonly certname: string;
	};
	readonly notes: readonly string[];
	readonly route: string | null;
	readonly callers: {
		readonly admitted: boolean;
		/** True when the rest is told as if it was. */
		readonly unverified: boolean;
		/** Every check that the route has, also those that need not pass because another has. */
		readonly checks: readonly ExplainedCheck[];
	} | null;
	readonly events: readonly ExplainedEvent[];
	/** How many runs there would be. */
	readonly runs: number;
	/** Why there would be none; empty when there would. */
	readonly reason: string;
}

interface ExplainedCheck {
	readonly name: string;
	readonly passes: boolean;
	/** Who it was found to be, or what was wrong. */
	readonly why: string;
}

interface ExplainedEvent {
	readonly event: Event;
	readonly when: readonly Finding[];
	/** null when the condition says no. */
	readonly parameters:
		| readonly {
				readonly name: string;
				readonly from: string;
				readonly value: string | null;
				readonly reason: string | null;
		  }[]
		| null;
	/** null when there would be none. */
	readonly run: {
		readonly group: string;
		readonly limit: number;
		readonly whenBusy: string;
		readonly lockfile: string | null;
		readonly steps: readonly object[];
		/** The parameters and what the listener adds; a command sees them besides PATH, HOME and their like. */
		readonly variables: Readonly<Record<string, string>>;
	} | null;
}

type Findings = { -readonly [Key in keyof Explanation]: Explanation[Key] };

/** Follows a delivery to where it would be refused or written down. */
async function explain(
	config: Config,
	request: Request,
	routeName: string | undefined,
	unverified: boolean,
): Promise<Explanation> {
	const { method, path, client } = request;
	const findings: Findings = {
		request: { method, path, client: client.ip, certname: client.certname },
		notes: request.notes,
		route: null,
		callers: null,
		events: [],
		runs: 0,
		reason: '',
	};
	try {
		const { route, segments } = matchOf(config, request, routeName);
		findings.route = route.name;
		const delivery: Delivery = {
			...request,
			id: idMaker()(),
			receivedAt: Date.now(),
			query: parseQuery(request.query),
		};
		const body = await readKept(delivery, config.listen.max_body);
		const verified = await callerOf(delivery, route, unverified, findings);
		const content = await contentFor(route, body);
		const reading = read(verified, route, content);
		if (reading.kind === 'ignored') throw new Nothing(reading.reason);
		if (reading.kind === 'answer')
			throw new Nothing(`it is answered ${reading.status} and asks for nothing to be run`);
		if (reading.kind === 'confirm')
			throw new Nothing('the sender asks to be confirmed, by a request to a URL of its own');
		const scope = scopeOf(verified, segments, reading.body ?? content);
		findings.events = reading.events.map((event) => explainEvent(verified, route, scope(event)));
		findings.runs = findings.events.filter(({ run }) => run !== null).length;
		// One bad parameter refuses the whole delivery.
		const bad = findings.events
			.flatMap(({ parameters }) => parameters ?? [])
			.filter(({ reason }) => reason !== null);
		if (bad.length > 0) {
			findings.runs = 0;
			throw new BadParameters(bad.map(({ name, reason }) => ({ parameter: name, reason: reason ?? '' })));
		}
		if (findings.runs === 0) {
			const said = findings.events.flatMap(({ when }) => when.find(({ holds }) => !holds)?.reason ?? []);
			findings.reason = `when: ${[...new Set(said)].join('; ')}`;
		}
	} catch (error) {
		if (error instanceof Nothing) findings.reason = error.message;
		else if (error instanceof WebhookError && error.status < 500)
			findings.reason = `${error.status}: ${error.why}`;
		else throw error;
	}
	return findings;
}

/** The delivery is fine, and nothing is to be run for it. */
class Nothing extends Error {}

/** The route that takes the request. @throws NotFound · MethodNotAllowed · BadRequest · Nothing */
function matchOf({ routes }: Config, { method, path }: Request, routeName: string | undefined): Match {
	if (method === 'OPTIONS') throw new Nothing('OPTIONS asks what there is, and runs nothing');
	const wanted = routeName === undefined ? undefined : routes.named(routeName);
	if (routeName !== undefined && wanted === undefined) {
		const names = routes.routes.map(({ name }) => name);
		const near = nearest(routeName, names);
		throw new NotFound(
			`there is no route "${routeName}"${near === undefined ? '' : `, did you mean "${near}"?`}`,
		);
	}
	let match: Match;
	try {
		match = routes.match(method === 'HEAD' ? 'GET' : method, path);
	} catch (error) {
		if (!(error instanceof NotFound)) throw error;
		const near =
			wanted?.path ??
			nearest(
				path,
				routes.routes.map((route) => route.path),
			);
		throw new NotFound(
			near === undefined
				? error.message
				: `${error.message}; ${wanted ? 'its path is' : 'did you mean'} ${near}${wanted ? '' : '?'}`,
		);
	}
	if (method === 'HEAD') throw new Nothing('HEAD asks whether a GET would be taken, and runs nothing');
	if (wanted !== undefined && match.route !== wanted)
		throw new Nothing(
			`${method} ${path} is taken by route "${match.route.name}" and not by "${wanted.name}"`,
		);
	return match;
}

/** Checks the caller. @throws Unauthorized · Forbidden */
async function callerOf(
	delivery: Delivery,
	{ access }: Route,
	unverified: boolean,
	findings: Findings,
): Promise<VerifiedDelivery> {
	const all = [...access.any, ...(access.source === null ? [] : [access.source])];
	const checks: ExplainedCheck[] = [];
	for (const check of all) {
		const verdict = await check.check(delivery);
		checks.push({ name: check.name, passes: verdict.ok, why: verdict.ok ? verdict.who : verdict.reason });
	}
	try {
		const verified = await verify(delivery, access);
		findings.callers = {
			admitted: true,
			unverified: false,
			checks: isOpen(access) ? [openTo(access)] : checks,
		};
		return verified;
	} catch (error) {
		if (!(error instanceof WebhookError)) throw error;
		const refused = isOpen(access) ? [{ ...openTo(access), passes: false, why: error.why }] : checks;
		findings.callers = { admitted: false, unverified, checks: refused };
		if (!unverified) throw error;
		return verify(delivery, { open: false, any: [takenForVerified], source: null });
	}
}

function openTo({ open }: Access): ExplainedCheck {
	return open
		? { name: 'none', passes: true, why: 'anybody may call the route (auth: none)' }
		: { name: 'none', passes: true, why: 'programs of this host may call the route, which names no auth' };
}

const takenForVerified: Check = {
	kind: 'unverified',
	name: '--unverified',
	check: () => admitted('somebody unverified'),
};

function explainEvent(verified: VerifiedDelivery, route: Route, scope: Scope): ExplainedEvent {
	const when = [...(route.when?.review(scope) ?? [])];
	const told = [...route.rules.values()].map((rule) => {
		const { origin, text, reason } = resolveParameter(rule, scope);
		const value = text === undefined ? null : looksSecret(rule.name) ? '[secret]' : text;
		const from = origin === 'from' ? (rule.from?.text ?? '') : origins[origin](rule.name);
		return { name: rule.name, from, value, reason: reason ?? null };
	});
	const event = scope.event;
	try {
		const decision = decide(route, scope);
		if (decision.kind === 'ignored') return { event, when, parameters: null, run: null };
		const run = runOf(verified, route, decision, { id: '(its id)', stdin: null });
		return { event, when, parameters: told, run: explainRun(run) };
	} catch (error) {
		if (!(error instanceof BadParameters)) throw error;
		return { event, when, parameters: told, run: null };
	}
}

const origins: Readonly<Record<Exclude<ParameterOrigin, 'from'>, (name: string) => string>> = {
	path: (name) => `:${name} of the path`,
	query: (name) => `"${name}" of the query`,
	body: (name) => `"${name}" of the body`,
	default: () => 'its default',
	nowhere: () => 'nowhere',
};

function explainRun(run: NewRun): ExplainedEvent['run'] {
	const variables = variablesOf(run);
	const { plan, group, limit, whenBusy } = run;
	const shown = (steps: readonly PlannedStep[]) => steps.map((step) => explainStep(step, variables));
	return {
		group,
		limit,
		whenBusy,
		lockfile: plan.lockfile ?? null,
		steps: [
			...shown(plan.steps),
			...shown(plan.onSuccess ?? []).map((step) => ({ after: 'success', ...step })),
			...shown(plan.onFailure ?? []).map((step) => ({ after: 'failure', ...step })),
		],
		variables: withoutSecrets({ ...variables, WEBHOOK_DELIVERY: '(its id)' }),
	};
}

/** A step as it would be performed. What only a runner gets to know, such as secrets, stays the place where it stands. */
function explainStep(step: PlannedStep, variables: Readonly<Record<string, string>>): object {
	if (step.kind !== 'command') return step;
	const { argv, cwd, env } = step as PlannedCommand;
	const complete = (text: PlannedCommand['argv'][number]) => completeText(text, variables);
	return {
		kind: step.kind,
		argv: argv.map(complete),
		cwd: cwd === null ? null : complete(cwd),
		env: withoutSecrets(
			Object.fromEntries(Object.entries(env).map(([name, value]) => [name, complete(value)])),
		),
	};
}

function withoutSecrets(variables: Readonly<Record<string, string>>): Record<string, string> {
	return Object.fromEntries(
		Object.entries(variables).map(([name, value]) => [
			name,
			looksSecret(name) && value !== '' ? '[secret]' : value,
		]),
	);
}

/** What `{{fingerprint}}` stands for: who reads this must not be able to call the route. */
const fingerprint = /[0-9a-f]{64,}/gi;

/** The same without the secrets of routes.yaml, wherever they have got to. */
function masked(explained: Explanation, { secrets }: Config): Explanation {
	const mask = new Mask(secrets.map((secret) => secret.reveal()));
	const { request, reason, ...others } = mask.value(explained) as Explanation;
	const cut = (text: string) => text.replace(fingerprint, (digits) => `${digits.slice(0, 8)}…`);
	return { request: { ...request, path: cut(request.path) }, ...others, reason: cut(reason) };
}

/** For people: a line a fact, its name in front. */
function textOf({ request, notes, route, callers, events, runs, reason }: Explanation): string {
	const lines: string[] = [];
	const say = (name: string, fact: string) => lines.push(`${name.padEnd(12)}${visible(fact)}`.trimEnd());
	const more = (fact: string) => say('', `  ${fact}`);
	const certificate = request.certname === '' ? '' : `, certificate ${request.certname}`;
	say('request', `${request.method} ${request.path} from ${request.client}${certificate}`);
	for (const note of notes) say('note', note);
	if (route !== null) say('route', route);
	if (callers !== null) {
		const taken = callers.unverified ? '; the rest is as if it was' : '';
		say('caller', callers.admitted ? 'is admitted' : `is not admitted${taken}`);
		for (const { name, passes, why } of callers.checks) more(`${passes ? 'yes' : 'no '}  ${name}: ${why}`);
	}
	for (const { event, when, parameters, run } of events) {
		say('event', [event.kind, event.action, event.ref, event.image.tag].filter(Boolean).join(' '));
		for (const [index, { text, holds, reason, values }] of when.entries()) {
			say(index === 0 ? 'when' : '', `  ${holds ? 'yes' : 'no '}  ${holds ? text : reason}`);
			for (const { text, value } of values) more(`       ${text} = ${value}`);
		}
		for (const [index, { name, from, value, reason }] of (parameters ?? []).entries()) {
			const fact = reason === null ? (value === null ? 'is absent' : `= ${value}`) : reason;
			say(index === 0 ? 'parameters' : '', `  ${name} ${fact}, from ${from}`);
		}
		if (run === null) continue;
		const busy = `limit ${run.limit}, when_busy ${run.whenBusy}`;
		say('run', `group ${run.group}, ${busy}${run.lockfile === null ? '' : `, lock file ${run.lockfile}`}`);
		for (const step of run.steps) more(JSON.stringify(step));
		say('variables', '');
		for (const [name, value] of Object.entries(run.variables)) more(`${name}=${value}`);
	}
	const count = runs === 1 ? 'one run' : `${runs} runs`;
	say('so', runs > 0 ? `${count} would be accepted` : `nothing would run: ${reason}`);
	return `${lines.join('\n')}\n`;
}
