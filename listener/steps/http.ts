/**
 * The step `http`: one request to another server, to forward what came in or to tell somebody. It is ok when the answer has an
 * expected status; what was answered becomes output.
 *
 * Values of a caller get no further than the place they stand in: in a url they are parts of its path or query, in JSON they
 * are strings, in a header one line. Who is asked is always written in routes.yaml.
 *
 * The runner loads this file with the first such step.
 */

import { hash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ParameterRules, Parameters } from '../routes/parameters.ts';
import { compileTemplate, completeText, type PlannedText, type Template } from '../routes/template.ts';
import type { SecretSpec } from '../secret.ts';
import type { CompiledStep, StepPlace, StepSecret } from './kind.ts';
import { type Request, type RequestMethod, Requests, type StatusRange } from './request.ts';
import {
	failure,
	type PlannedStep,
	type SecretPlace,
	type StepContext,
	type StepKind,
	stopped,
} from './step.ts';

/** A request as users write it, before any values. */
export interface HttpSpec {
	/** Absent: POST with a body, GET without. */
	readonly method?: RequestMethod | undefined;
	/** Text may hold `{{name}}` behind the server. */
	readonly url: SecretSpec;
	readonly headers?: Readonly<Record<string, SecretSpec>> | undefined;
	/** A token for `Authorization: Bearer`. Of several secrets the first is sent, here as everywhere below. */
	readonly bearer?: SecretSpec | undefined;
	/** For `Authorization: Basic`. */
	readonly basic?: { readonly user: string; readonly password: SecretSpec } | undefined;
	/** Any value of YAML; its texts may hold `{{name}}`. */
	readonly json?: unknown;
	readonly body?: string | undefined;
	/** Statuses that are ok. Absent: 200 to 299. */
	readonly status?: readonly StatusRange[] | undefined;
	/** Milliseconds for one attempt. Absent: 30 s. */
	readonly timeout?: number | undefined;
	/** `delay` in milliseconds; absent: 10 s. */
	readonly retry?: { readonly attempts: number; readonly delay?: number | undefined } | undefined;
	/** Absent: a redirect is an answer like any other. */
	readonly follow_redirects?: boolean | undefined;
	/** A PEM file with the CA certificates that are trusted, instead of those that the system trusts. */
	readonly ca?: string | undefined;
}

/** JSON whose texts are planned. */
type PlannedJson =
	| { readonly text: PlannedText }
	| { readonly value: number | boolean | null }
	| { readonly list: readonly PlannedJson[] }
	| { readonly map: Readonly<Record<string, PlannedJson>> };

/** A request with all parameters filled in. */
export interface PlannedHttp extends PlannedStep {
	readonly kind: 'http';
	readonly method: RequestMethod;
	/** The server, and path and query, whose values of the run are still to be encoded; or the place where all of it stands. */
	readonly url: { readonly server: PlannedText; readonly rest: PlannedText } | { readonly secret: string };
	/** Names in lower case. */
	readonly headers: Readonly<Record<string, PlannedText | { readonly secret: string }>>;
	readonly body: { readonly json: PlannedJson } | { readonly text: PlannedText } | null;
	readonly status: readonly StatusRange[];
	/** Milliseconds for one attempt. */
	readonly limit: number;
	readonly attempts: number;
	/** Milliseconds. */
	readonly delay: number;
	readonly followRedirects: boolean;
	readonly ca: string | null;
}

/**
 * Headers that are kept with a run as they are. Any other that routes.yaml spells out may be a key to something, and stays there.
 */
const harmless = /^(accept(-language)?|content-(type|language)|user-agent|x-request-id)$/;
/** Headers that say of themselves that they are one; they are masked, too, as secrets that stand elsewhere are. */
const telling = /auth|cookie|key|pass|secret|signature|token/;

/** The server's part of a url, and the rest. */
const urlParts = /^(https?:\/\/[^/?#\\]*)(.*)$/is;

/** Checks a request once, at load, and gives what makes plans of it. */
export function compileHttp(spec: HttpSpec, place: StepPlace): CompiledStep {
	const texts = place.texts.at('http');
	const use = hash('sha256', JSON.stringify(spec.url)).slice(0, 16);
	const secrets: SecretPlace[] = [];
	const keep = (secret: StepSecret, ...key: string[]) => {
		const at = texts.place(...key);
		place.keep(at, use, secret);
		secrets.push({ place: at, use });
		return { secret: at };
	};
	const read = (written: SecretSpec, ...key: string[]): StepSecret => {
		const { secrets, faults } = place.secrets(written);
		for (const fault of faults) texts.fault(fault.message, ...key, ...fault.key);
		return { reveal: () => secrets.current[0]?.reveal().toString() ?? '' };
	};

	const url =
		typeof spec.url === 'string'
			? compileUrl(spec.url, { ...place, texts })
			: keep(read(spec.url, 'url'), 'url');
	const headers = Object.entries(spec.headers ?? {}).map(([written, value]) => {
		const name = written.toLowerCase();
		if (typeof value !== 'string')
			return [name, keep(read(value, 'headers', written), 'headers', name)] as const;
		const template = texts.compile(value, 'headers', written);
		if (!template.isPlain || harmless.test(name)) return [name, template] as const;
		const masked = telling.test(name) && value !== '';
		return [name, keep(masked ? read(value) : { reveal: () => value }, 'headers', name)] as const;
	});
	if (spec.bearer) {
		const token = read(spec.bearer, 'bearer');
		headers.push(['authorization', keep({ reveal: () => `Bearer ${token.reveal()}` }, 'bearer')]);
	}
	if (spec.basic) {
		const password = read(spec.basic.password, 'basic', 'password').reveal();
		const encoded = read(Buffer.from(`${spec.basic.user}:${password}`).toString('base64'));
		headers.push(['authorization', keep({ reveal: () => `Basic ${encoded.reveal()}` }, 'basic')]);
	}
	checkHeaders(headers, texts);
	const json = spec.json === undefined ? undefined : compileJson(spec.json, texts, ['json']);
	const body = spec.body === undefined ? undefined : texts.compile(spec.body, 'body');
	if (json && body) texts.fault('cannot be there beside "json"; a request has one body', 'body');
	const type = json ? 'application/json' : body ? 'text/plain; charset=utf-8' : undefined;
	const method = spec.method ?? (type === undefined ? 'GET' : 'POST');
	if (type !== undefined && (method === 'GET' || method === 'HEAD'))
		texts.fault(`has no body, so that "json" and "body" have no place here`, 'method');

	const ca = spec.ca === undefined ? null : place.absolute(spec.ca);
	const unusable = ca === null ? undefined : place.noCertificate(ca);
	if (unusable !== undefined) texts.fault(unusable, 'ca');

	const planned = {
		kind: 'http',
		method,
		status: spec.status ?? [[200, 299]],
		limit: spec.timeout ?? 30_000,
		attempts: spec.retry?.attempts ?? 1,
		delay: spec.retry?.delay ?? 10_000,
		followRedirects: spec.follow_redirects ?? false,
		ca,
		...(secrets.length === 0 ? {} : { secrets }),
	} as const;
	return {
		plan: (parameters) => ({
			...planned,
			url: 'secret' in url ? url : url.plan(parameters),
			headers: {
				...(type === undefined ? {} : { 'content-type': type }),
				...Object.fromEntries(
					headers.map(([name, value]) => [name, 'secret' in value ? value : value.plan(parameters)]),
				),
			},
			body: json ? { json: json(parameters) } : body ? { text: body.plan(parameters) } : null,
		}),
	};
}

function checkHeaders(headers: readonly (readonly [string, unknown])[], texts: StepPlace['texts']): void {
	const names = headers.map(([name]) => name);
	for (const name of new Set(names.filter((name, index) => names.indexOf(name) !== index)))
		texts.fault(`"${name}" is given more than once, maybe in another way`, 'headers');
}

/** A url whose server is as routes.yaml writes it, and whose values stay inside path and query. */
function compileUrl(
	written: string,
	{ texts, rules }: StepPlace,
): { plan(parameters: Parameters): PlannedHttp['url'] } {
	const whole = /^\s*\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}\s*$/.exec(written)?.[1];
	if (whole !== undefined) {
		const template = texts.compile(written, 'url');
		const urls = rules.get(whole)?.enum;
		if (rules.has(whole) && !urls)
			texts.fault(
				`{{${whole}}} would let a caller choose whom the request goes to; give the parameter an enum of urls, or write the server out`,
				'url',
			);
		for (const url of urls ?? []) {
			const reason = urlFault(url);
			if (reason) texts.fault(`{{${whole}}} can be ${JSON.stringify(url)}, which ${reason}`, 'url');
		}
		return { plan: (parameters) => ({ server: template.plan(parameters), rest: '' }) };
	}
	const [, server = '', rest = ''] = urlParts.exec(written) ?? [];
	if (server === '') {
		texts.fault(
			'must begin with http:// or https:// and a server, such as https://chat.example.com/hook',
			'url',
		);
		return { plan: () => ({ server: '', rest: '' }) };
	}
	const before = texts.faults.length;
	const serverTemplate = texts.compile(server, 'url');
	const restTemplate = texts.compile(rest, 'url');
	if (texts.faults.length === before) {
		checkServer(serverTemplate, rules, texts);
		const reason = urlFault(sample(serverTemplate, rules) + sample(restTemplate, rules));
		if (reason) texts.fault(reason, 'url');
	}
	return {
		plan: (parameters) => ({
			server: serverTemplate.plan(parameters),
			rest: restTemplate.plan(parameters, encode),
		}),
	};
}

function checkServer(server: Template, rules: ParameterRules, texts: StepPlace['texts']): void {
	if (server.usesRun) texts.fault('a value of the run cannot say which server is asked', 'url');
	for (const name of server.names) {
		const rule = rules.get(name);
		if (rule === undefined) continue;
		if (!rule.enum)
			texts.fault(
				`{{${name}}} stands before the path and would let a caller choose whom the request goes to; give the parameter an enum, or write the server out`,
				'url',
			);
		else if (!rule.enum.every((value) => /^[A-Za-z0-9.-]+$/.test(value)))
			texts.fault(
				`{{${name}}} stands before the path, where its values can have letters, digits, "." and "-" only`,
				'url',
			);
	}
}

/** The text as it may come to be. */
function sample(template: Template, rules: ParameterRules): string {
	const values = Object.fromEntries(template.names.map((name) => [name, rules.get(name)?.enum?.[0] ?? 'x']));
	return template.sample(values);
}

/** What is wrong with a whole url; undefined when it may be asked. */
function urlFault(url: string): string | undefined {
	if (/[\s\p{Cc}\\]/u.test(url))
		return 'has a blank or a backslash, which urls have not; write %20 for a blank';
	if (!URL.canParse(url)) return 'is no url';
	const { protocol, username, password, hash: fragment } = new URL(url);
	if (protocol !== 'http:' && protocol !== 'https:') return 'does not begin with http:// or https://';
	if (username || password) return 'has a user or password in it; give them under "basic"';
	if (fragment || url.endsWith('#')) return 'has a part behind "#", which is never sent';
	if (hasDotParts(url)) return 'has a part "." or "..", which is taken away before it is sent';
	return undefined;
}

function hasDotParts(url: string): boolean {
	const path = (urlParts.exec(url)?.[2] ?? '').split(/[?#]/)[0] ?? '';
	return path.split('/').some((part) => /^(\.|%2e){1,2}$/i.test(part));
}

/** So that a value stays what it is: a part of a path, or a value in a query. */
function encode(value: string): string {
	return encodeURIComponent(value.toWellFormed());
}

function compileJson(
	value: unknown,
	texts: StepPlace['texts'],
	key: (string | number)[],
): (parameters: Parameters) => PlannedJson {
	if (typeof value === 'string') {
		const template = texts.compile(value, ...key);
		return (parameters) => ({ text: template.plan(parameters) });
	}
	if (Array.isArray(value)) {
		const items = value.map((item, i) => compileJson(item, texts, [...key, i]));
		return (parameters) => ({ list: items.map((item) => item(parameters)) });
	}
	if (value !== null && typeof value === 'object') {
		const entries = Object.entries(value).map(([name, inner]) => {
			const template = compileTemplate(name);
			if (typeof template === 'string' || !template.isPlain)
				texts.fault('{{…}} can stand in values, and not in a key', ...key, name);
			return [name, compileJson(inner, texts, [...key, name])] as const;
		});
		return (parameters) => ({
			map: Object.fromEntries(entries.map(([name, inner]) => [name, inner(parameters)])),
		});
	}
	const plain = { value: value as number | boolean | null };
	return () => plain;
}

function completeJson(json: PlannedJson, values: StepContext['values']): unknown {
	if ('text' in json) return completeText(json.text, values);
	if ('list' in json) return json.list.map((item) => completeJson(item, values));
	if ('map' in json)
		return Object.fromEntries(
			Object.entries(json.map).map(([name, inner]) => [name, completeJson(inner, values)]),
		);
	return json.value;
}

/** Gives the kind; it holds what one request has loaded and the next needs as well. */
export function httpKind(): StepKind<PlannedHttp> {
	const requests = new Requests();
	return {
		kind: 'http',
		// No more than the server: tokens stand in paths and queries.
		title: ({ method, url }, { values }) =>
			'secret' in url ? method : `${method} ${serverOf(completeText(url.server, values))}`,
		perform: async (step, context) => {
			const request = completeRequest(step, context);
			if (typeof request === 'string') return failure('spawn', `was not sent: ${request}`);
			for (let attempt = 1; ; attempt++) {
				const result = await requests.send(request, context);
				if (result.ok || context.stop.aborted || attempt >= step.attempts) return result;
				const again = `again in ${step.delay / 1000} s`;
				context.say(`attempt ${attempt} of ${step.attempts} ${result.message}; ${again}`);
				await sleep(step.delay, undefined, { signal: context.stop }).catch(() => {});
				if (context.stop.aborted) return stopped(context.stop.reason);
			}
		},
	};
}

function serverOf(url: string): string {
	return URL.canParse(url) ? new URL(url).origin : url;
}

/** The request with the run's own values and what is secret; or why it cannot be sent. */
function completeRequest(step: PlannedHttp, context: StepContext): Request | string {
	const { values } = context;
	let missing: string | undefined;
	const complete = (text: PlannedText | { readonly secret: string }): string => {
		if (typeof text === 'string' || Array.isArray(text)) return completeText(text as PlannedText, values);
		const { secret: place } = text as { readonly secret: string };
		const value = context.secret(place);
		if (value === undefined) missing ??= place;
		return value ?? '';
	};

	const { url: planned } = step;
	const url =
		'secret' in planned
			? complete(planned).trim()
			: completeText(planned.server, values) + completeText(planned.rest, values, encode);
	const headers: Record<string, string> = {};
	for (const [name, text] of Object.entries(step.headers)) {
		headers[name] = complete(text);
		if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(headers[name]))
			return `its header "${name}" would have a line break, or a character that headers cannot have`;
	}
	if (missing !== undefined)
		return `routes.yaml has no more what was meant for it at routes.${values.WEBHOOK_ROUTE}.${missing}; send what started this run again`;
	const reason = urlFault(url);
	if (reason) return `its url ${reason}`;
	const { body } = step;
	const text =
		body === null
			? undefined
			: 'json' in body
				? JSON.stringify(completeJson(body.json, values))
				: completeText(body.text, values);
	const { method, status, limit, followRedirects, ca } = step;
	return { method, url: new URL(url), headers, body: text, status, limit, followRedirects, ca };
}
