/**
 * A route: which requests it takes, which values it admits, and what a run of it will do. Compiled from routes.yaml once;
 * pure, so that the same delivery always gives the same plan.
 */

import type { Access } from '../auth/auth.ts';
import type { RouteLogLevel } from '../log.ts';
import type { Keep, Plan, WhenBusy } from '../runs/run.ts';
import type { SecretSpec } from '../secret.ts';
import type { Source } from '../sources/kind.ts';
import { compileVariables } from '../steps/command.ts';
import { compileStep, type StepSpec } from '../steps/compile.ts';
import type { CompiledStep, StepFile, StepPlace, StepSecret } from '../steps/kind.ts';
import type { SecretPlace } from '../steps/step.ts';
import type { Expression, ExpressionCompiler } from './expressions.ts';
import {
	compileRule,
	type ParameterRule,
	type ParameterRules,
	type ParameterSpec,
	type Parameters,
	refusedName,
} from './parameters.ts';
import { endValues, runValues, Texts } from './template.ts';

export const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const;
export type Method = (typeof methods)[number];

export const outcomes = ['accepted', 'succeeded', 'failed', 'busy', 'ignored'] as const;
/** What became of a delivery, as `respond` names it. */
export type AnswerOutcome = (typeof outcomes)[number];

/** An answer in place of the standard one; what is null stays as the standard answer has it. */
export interface Answer {
	readonly status: number | null;
	readonly body: string | null;
	/** Names in lower case. */
	readonly headers: Readonly<Record<string, string>>;
}

/** What a command reads as standard input: nothing, the body's exact bytes, or the checked parameters as a JSON object. */
export type StdinKind = 'none' | 'body' | 'parameters';

export interface Route {
	/** Its key in routes.yaml. */
	readonly name: string;
	/** With a leading slash and without a trailing one; `:name` segments and `{{fingerprint}}` as written. */
	readonly path: string;
	/** The same with the fingerprint in it, one for each of the route's secrets; only `path` may be shown. */
	readonly paths: readonly string[];
	readonly methods: readonly Method[];
	readonly description: string;
	readonly rules: ParameterRules;
	/** Who may call. */
	readonly access: Access;
	/** How often it may be called. */
	readonly rates: Rates;
	/** Who sends, and so what a delivery tells; null: a delivery is one event of kind `call`. */
	readonly source: Source | null;
	/** Which events it wants; null: all. */
	readonly when: Expression | null;
	/** Answer when the run has ended: never, always, or if it ends within so many milliseconds. */
	readonly wait: boolean | number;
	readonly respond: Readonly<Partial<Record<AnswerOutcome, Answer>>>;
	readonly stdin: StdinKind;
	/** What stands now at a place that a plan refers to; undefined when it is not there any more, or is meant for something else. */
	secret(place: SecretPlace): string | undefined;
	/** What a run with these parameters does. Never fails: what could be wrong was refused at load. */
	plan(parameters: Parameters): Plan;
	/** The group that a run with these parameters belongs to. */
	group(parameters: Parameters): string;
	readonly limit: number;
	readonly whenBusy: WhenBusy;
	/** The least important lines about it that are logged; undefined: as for everything else. */
	readonly log: RouteLogLevel | undefined;
	readonly keep: Keep;
}

/** For routes that say nothing, and for runs of routes that there are no more: a month of history that lists at once. */
export const usualKeep: Keep = Object.freeze({ runs: 1000, age: 30 * 86_400_000 });

/** So many at once, and so many again in as many milliseconds, spread evenly. */
export interface Rate {
	readonly count: number;
	/** Milliseconds. */
	readonly per: number;
}

/** How often a route may be called; null: as often as one likes. */
export interface Rates {
	/** By each client, whoever it is: counted before anything of a delivery is read. */
	readonly client: Rate | null;
	/** By all together: deliveries that were verified. */
	readonly route: Rate | null;
	/** By each client whose deliveries were refused for who it is. */
	readonly failures: Rate;
}

/**
 * Who has an outdated secret tries again some times a minute. Who guesses gets one attempt a second, and would need
 * centuries for a secret of ten letters.
 */
export const usualFailures: Rate = Object.freeze({ count: 60, per: 60_000 });

/** A source as routes.yaml has it, its options already checked. */
export interface SourceSpec {
	readonly name: string;
	readonly options: unknown;
}

export interface RetrySpec {
	readonly attempts: number;
	/** Milliseconds. */
	readonly delay?: number | undefined;
	readonly backoff?: number | undefined;
}

/** What both a route and `defaults` may say; times in milliseconds, sizes in bytes. */
export interface SharedSpec {
	readonly method?: readonly Method[] | undefined;
	/** Names under `auth`, or `none`. */
	readonly auth?: 'none' | readonly string[] | undefined;
	readonly rate?:
		| {
				readonly client?: Rate | undefined;
				readonly route?: Rate | undefined;
				readonly failures?: Rate | undefined;
		  }
		| undefined;
	readonly cwd?: string | undefined;
	readonly env?: Readonly<Record<string, string>> | undefined;
	readonly shell?: string | undefined;
	readonly timeout?: number | undefined;
	readonly kill_after?: number | undefined;
	readonly max_output?: number | undefined;
	readonly wait?: boolean | number | undefined;
	readonly log?: RouteLogLevel | undefined;
	readonly keep?: { readonly runs?: number | undefined; readonly age?: number | undefined } | undefined;
	readonly retry?: RetrySpec | undefined;
	readonly on_crash?: 'rerun' | 'fail' | undefined;
	readonly concurrency?:
		| { readonly limit?: number | undefined; readonly when_busy?: WhenBusy | undefined }
		| undefined;
}

export interface AnswerSpec {
	readonly status?: number | undefined;
	readonly body?: string | undefined;
	readonly headers?: Readonly<Record<string, string>> | undefined;
}

/** A route as routes.yaml has it, its shape already checked. */
export interface RouteSpec extends SharedSpec {
	/** There exactly when `steps` is not. */
	readonly command?: string | readonly string[] | undefined;
	readonly steps?: readonly StepSpec[] | undefined;
	readonly on_success?: StepSpec | readonly StepSpec[] | undefined;
	readonly on_failure?: StepSpec | readonly StepSpec[] | undefined;
	readonly path?: string | undefined;
	readonly when?: string | undefined;
	readonly source?: SourceSpec | undefined;
	readonly secret?: SecretSpec | undefined;
	readonly description?: string | undefined;
	readonly params?: Readonly<Record<string, ParameterSpec>> | undefined;
	readonly stdin?: StdinKind | undefined;
	readonly respond?: { readonly [Outcome in AnswerOutcome]?: AnswerSpec | undefined } | undefined;
	readonly concurrency?:
		| (SharedSpec['concurrency'] & {
				readonly group?: string | undefined;
				readonly lockfile?: string | undefined;
		  })
		| undefined;
}

/** Something wrong with a route; `key` leads from the route on, and is empty for the route as a whole. */
export interface RouteFault {
	readonly key: readonly (string | number)[];
	readonly message: string;
	/** Where in the text that is there, in characters; at its beginning unless it says so. */
	readonly offset?: number;
}

/** What a route says about its callers, compiled where secrets are known. */
export interface Callers {
	readonly access: Access;
	readonly source: Source | null;
	/** What takes the place of `{{fingerprint}}` in the path: a text for each secret; empty when the path has none. */
	readonly fingerprints: readonly string[];
}

/** In a path it stands for the secret's hash, which makes the path a secret too: for senders that can prove nothing. */
export const fingerprintMark = '{{fingerprint}}';

/**
 * Compiles a route. It is there exactly when there are no faults; otherwise every fault is.
 * @param expressions shared by all routes of a configuration
 * @param file the file that the route stands in
 */
export function compileRoute(
	name: string,
	spec: RouteSpec,
	defaults: SharedSpec,
	expressions: ExpressionCompiler,
	{ access, source, fingerprints }: Callers,
	file: StepFile,
): { route?: Route; faults: RouteFault[] } {
	const faults: RouteFault[] = [];
	const path = parsePath(spec.path ?? name);
	if (typeof path === 'string') faults.push({ key: spec.path === undefined ? [] : ['path'], message: path });
	const segmentNames = typeof path === 'string' ? [] : path.names;

	const rules = compileRules(spec.params ?? {}, segmentNames, expressions, faults);
	const when = spec.when === undefined ? null : expressions.compile(spec.when, 'when', segmentNames);
	if (when !== null && 'faults' in when)
		faults.push(...when.faults.map((fault) => ({ key: ['when'], ...fault })));
	// A rule that was refused is declared all the same: its fault is told once, not again for every use.
	const declared = new Set([...Object.keys(spec.params ?? {}), ...segmentNames]);
	const secret = new Set([...rules.values()].flatMap((rule) => (rule.secret ? rule.name : [])));
	const texts = new Texts(declared, runValues, secret);
	const optional = (text: string | undefined, key: string) =>
		text === undefined ? undefined : texts.where({}).compile(text, 'concurrency', key);
	const group = optional(spec.concurrency?.group, 'group');
	const lockfile = optional(spec.concurrency?.lockfile, 'lockfile');
	const { secrets, ...steps } = compileSteps(spec, defaults, { ...file, texts, rules });
	faults.push(...texts.faults);
	const answers = compileAnswers(spec.respond ?? {}, faults);

	if (faults.length > 0 || typeof path === 'string') return { faults };
	const timeout = spec.timeout ?? defaults.timeout ?? 600_000;
	const killAfter = spec.kill_after ?? defaults.kill_after ?? 10_000;
	const maxOutput = spec.max_output ?? defaults.max_output ?? 10 * 1024 * 1024;
	const again = spec.retry ?? defaults.retry;
	const retry =
		again === undefined || again.attempts === 1
			? {}
			: { retry: { attempts: again.attempts, delay: again.delay ?? 10_000, backoff: again.backoff ?? 2 } };
	const onCrash = (spec.on_crash ?? defaults.on_crash) === 'fail' ? { onCrash: 'fail' as const } : {};
	const stdin = spec.stdin ?? 'none';
	const secretInput = stdin === 'body' && access.any.some(({ inBody }) => inBody === true);
	const route: Route = {
		name,
		path: path.text,
		paths: Object.freeze(
			fingerprints.length === 0
				? [path.text]
				: fingerprints.map((fingerprint) => path.text.replace(fingerprintMark, fingerprint)),
		),
		methods: spec.method ?? defaults.method ?? ['POST'],
		description: spec.description ?? '',
		rules,
		access,
		rates: Object.freeze({
			client: spec.rate?.client ?? defaults.rate?.client ?? null,
			route: spec.rate?.route ?? defaults.rate?.route ?? null,
			failures: spec.rate?.failures ?? defaults.rate?.failures ?? usualFailures,
		}),
		source,
		when: when !== null && 'expression' in when ? when.expression : null,
		wait: spec.wait ?? defaults.wait ?? false,
		respond: answers,
		stdin,
		plan: (parameters) => ({
			steps: steps.own.map((step) => step.plan(parameters)),
			timeout,
			killAfter,
			maxOutput,
			...(steps.onSuccess && { onSuccess: steps.onSuccess.map((step) => step.plan(parameters)) }),
			...(steps.onFailure && { onFailure: steps.onFailure.map((step) => step.plan(parameters)) }),
			...retry,
			...onCrash,
			...(secret.size === 0 && !secretInput ? {} : { secretParameters: [...secret] }),
			...(lockfile === undefined ? {} : { lockfile: lockfile.fill(parameters) }),
		}),
		secret: ({ place, use }) => {
			const found = secrets.get(place);
			return found?.use === use ? found.secret.reveal() : undefined;
		},
		group: (parameters) => (group === undefined ? name : group.fill(parameters)),
		limit: spec.concurrency?.limit ?? defaults.concurrency?.limit ?? 1,
		whenBusy: spec.concurrency?.when_busy ?? defaults.concurrency?.when_busy ?? 'queue',
		keep: Object.freeze({
			runs: spec.keep?.runs ?? defaults.keep?.runs ?? usualKeep.runs,
			age: spec.keep?.age ?? defaults.keep?.age ?? usualKeep.age,
		}),
		log: spec.log ?? defaults.log,
	};
	return { route: Object.freeze(route), faults };
}

function compileRules(
	specs: Readonly<Record<string, ParameterSpec>>,
	segmentNames: readonly string[],
	expressions: ExpressionCompiler,
	faults: RouteFault[],
): ParameterRules {
	const rules = new Map<string, ParameterRule>();
	const undeclaredSegments = segmentNames.filter((name) => !Object.hasOwn(specs, name));
	const all = [...Object.entries(specs), ...undeclaredSegments.map((name) => [name, {}] as const)];
	for (const [name, spec] of all) {
		// Faults of a segment's name are the path's, which parsePath tells.
		const compiled = compileRule(name, spec, segmentNames, expressions);
		if ('rule' in compiled) rules.set(name, compiled.rule);
		else if (Object.hasOwn(specs, name)) {
			faults.push(...compiled.faults.map((fault) => ({ ...fault, key: ['params', ...fault.key] })));
		}
	}
	return rules;
}

/** The steps of a route, and what their plans refer to. */
interface RouteSteps {
	readonly own: readonly CompiledStep[];
	readonly onSuccess: readonly CompiledStep[] | undefined;
	readonly onFailure: readonly CompiledStep[] | undefined;
	/** By place. */
	readonly secrets: ReadonlyMap<string, { readonly use: string; readonly secret: StepSecret }>;
}

function compileSteps(
	spec: RouteSpec,
	defaults: SharedSpec,
	{ texts, ...around }: Omit<StepPlace, 'commands' | 'keep'>,
): RouteSteps {
	const secrets = new Map<string, { use: string; secret: StepSecret }>();
	const cwd = spec.cwd ?? defaults.cwd;
	const place = {
		...around,
		commands: {
			cwd: cwd === undefined ? undefined : texts.compile(cwd, 'cwd'),
			env: compileVariables({ ...defaults.env, ...spec.env }, texts),
			shell: spec.shell ?? defaults.shell ?? '/bin/sh',
		},
		keep: (place: string, use: string, secret: StepSecret) => secrets.set(place, { use, secret }),
	};
	const listed = (steps: readonly StepSpec[], at: Texts) =>
		steps.map((step, i) => compileStep(step, { ...place, texts: at.at(i) }));
	const following = (key: 'on_success' | 'on_failure') => {
		const steps = spec[key];
		if (steps === undefined) return undefined;
		const at = texts.where({ ...runValues, ...endValues }).at(key);
		return isList(steps) ? listed(steps, at) : [compileStep(steps, { ...place, texts: at })];
	};

	if (spec.command === undefined && spec.steps === undefined) texts.fault('"command" is missing');
	if (spec.command !== undefined && spec.steps !== undefined)
		texts.fault('cannot be there beside "command"; make the command one of the steps', 'steps');
	const command =
		spec.command === undefined ? [] : [compileStep({ command: spec.command }, { ...place, texts })];
	return {
		own: [...command, ...listed(spec.steps ?? [], texts.at('steps'))],
		onSuccess: following('on_success'),
		onFailure: following('on_failure'),
		secrets,
	};
}

function isList<Item>(given: Item | readonly Item[]): given is readonly Item[] {
	return Array.isArray(given);
}

/** Statuses that by definition carry no body; with one, clients would take it for the next answer's beginning. */
const bodiless = new Set([204, 205, 304]);

function compileAnswers(specs: NonNullable<RouteSpec['respond']>, faults: RouteFault[]): Route['respond'] {
	const answers: Partial<Record<AnswerOutcome, Answer>> = {};
	for (const outcome of outcomes) {
		const spec = specs[outcome];
		if (spec === undefined) continue;
		if (spec.body && spec.status !== undefined && bodiless.has(spec.status)) {
			faults.push({
				key: ['respond', outcome, 'body'],
				message: `cannot be sent: an answer ${spec.status} has no body`,
			});
		}
		const headers = Object.entries(spec.headers ?? {}).map(([name, value]) => [name.toLowerCase(), value]);
		answers[outcome] = Object.freeze({
			status: spec.status ?? null,
			body: spec.body ?? null,
			headers: Object.freeze(Object.fromEntries(headers)),
		});
	}
	return Object.freeze(answers);
}

interface Path {
	/** With a leading slash and without a trailing one. */
	readonly text: string;
	/** The names of its `:name` segments, in order. */
	readonly names: readonly string[];
}

/** Reads a path of routes.yaml; gives a sentence when it is none. */
function parsePath(written: string): Path | string {
	const text = written.replace(/^\//, '').replace(/\/$/, '');
	const shown = `path "${written}"`;
	const odd = /[\s\p{Cc}?#%*{}<>\\]/u.exec(text.replace(fingerprintMark, 'fingerprint'))?.[0];
	if (odd !== undefined) return `${shown} holds ${JSON.stringify(odd)}: ${pathRemedy(odd)}`;
	const segments = text === '' ? [] : text.split('/');
	if (segments.includes('')) return `${shown} has an empty part; write one slash between parts`;
	if (segments.includes('.') || segments.includes('..')) {
		return `${shown} has a part "." or "..", which clients take away before they send`;
	}
	if (segments[0] === '-')
		return `${shown} is below /-/, where the listener's own endpoints are; choose another path`;
	if (text === 'metrics') return `${shown} is where the listener's own metrics are; choose another path`;
	const names = segments.filter((segment) => segment.startsWith(':')).map((segment) => segment.slice(1));
	for (const name of names) {
		const refusal = refusedName(name);
		if (refusal) return `${shown}: the parameter ":${name}" ${refusal}`;
	}
	const double = names.find((name, index) => names.indexOf(name) !== index);
	if (double !== undefined) return `${shown} has the parameter ":${double}" twice`;
	return { text: `/${segments.join('/')}`, names };
}

function pathRemedy(character: string): string {
	if ('*{}<>'.includes(character)) return 'a part that callers choose is written :name';
	if (character === '%') return 'write the character itself, callers may encode it';
	if (character === '?' || character === '#') return 'a path ends before it; declare values under params';
	return 'use letters, digits and - _ . ~ between slashes';
}
