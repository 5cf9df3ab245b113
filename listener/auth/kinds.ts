/** The kinds of auth, and what makes checks of what routes.yaml says under `auth`. */

import { z } from 'zod';
import type { SecretSpec, Secrets } from '../secret.ts';
import { basic } from './basic.ts';
import { bearer } from './bearer.ts';
import { body } from './body.ts';
import { certificate } from './certificate.ts';
import { header } from './header.ts';
import { hmac } from './hmac.ts';
import { ip } from './ip.ts';
import { jwt } from './jwt.ts';
import { type AuthKind, admitted, type Check, type Making, type Refused } from './kind.ts';

// biome-ignore lint/suspicious/noExplicitAny: each kind checks its own options before it gets them
const kinds: readonly AuthKind<any>[] = [bearer, basic, header, hmac, jwt, certificate, ip, body];

/** An auth as routes.yaml has it: the options of one kind below its name. */
export type AuthSpec = Readonly<Record<string, unknown>>;

/** Several together: names, or what could have one. */
type AllSpec = readonly (string | AuthSpec)[];

export const authName = z.string().regex(/^(?!(?:none|local)$)[A-Za-z0-9_][\w.-]*$/, {
	error: 'is no name: letters, digits and _ . - only, and neither none nor local',
});

const all = z
	.array(
		z.union([authName, z.lazy(() => authSchema)], {
			error: 'must be a name under "auth", or an auth such as { ip: 10.0.0.0/8 }',
		}),
	)
	.min(2, { error: 'must be several, all of which have to pass' })
	.meta({ description: 'Several together, names or auths: every one has to pass.' });

export const authSchema: z.ZodType<AuthSpec> = z
	.strictObject({
		...Object.fromEntries(kinds.map(({ name, options }) => [name, options.optional()])),
		all: all.optional(),
	})
	.superRefine((spec, context) => {
		const said = Object.values(spec).filter((options) => options !== undefined).length;
		if (said === 1) return;
		context.addIssue({
			code: 'custom',
			input: spec,
			message:
				said === 0
					? `says nothing; it has to say how callers are known: ${kinds.map(({ name }) => name).join(', ')}, all`
					: 'says several ways; write a name for each where one of them suffices, and "all: […]" where all have to pass',
		});
	})
	.meta({ description: 'How callers are known, by one kind of auth.', minProperties: 1, maxProperties: 1 });

/** What checks are made with, for all auths together. */
export interface AuthMaking {
	/** Whether the listener asks callers for certificates. */
	readonly certificates: boolean;
	/** @param key from `auth` on */
	secrets(spec: SecretSpec, key: readonly (string | number)[]): Secrets;
	file(written: string): string;
	fault(key: readonly (string | number)[], message: string): void;
}

/** The checks of all auths, by name. Those that are faulty are told, and let nobody in. */
export function compileAuths(
	specs: Readonly<Record<string, AuthSpec>>,
	making: AuthMaking,
): ReadonlyMap<string, Check> {
	const checks = new Map<string, Check>();
	/** Those whose `all` is being made. */
	const begun = new Set<string>();

	const named = (name: string): Check => {
		const spec = specs[name];
		const known = checks.get(name);
		if (known !== undefined || spec === undefined) return known ?? closed(name);
		begun.add(name);
		const check = compileOne(name, spec, [name]);
		checks.set(name, check);
		return check;
	};
	const compileOne = (name: string, spec: AuthSpec, key: readonly (string | number)[]): Check => {
		if (spec.all !== undefined) return together(name, spec.all as AllSpec, [...key, 'all']);
		const kind = kinds.find((one) => spec[one.name] !== undefined);
		if (kind === undefined) return closed(name);
		const own: Making = {
			name,
			certificates: making.certificates,
			secrets: (written, ...below) => making.secrets(written, [...key, kind.name, ...below]),
			file: making.file,
			fault: (message, ...below) => making.fault([...key, kind.name, ...below], message),
		};
		return kind.compile(spec[kind.name], own);
	};
	const together = (name: string, items: AllSpec, key: readonly (string | number)[]): Check => {
		const parts = items.map((item, index) => {
			const at = [...key, index];
			if (typeof item !== 'string') return compileOne(Object.keys(item)[0] ?? name, item, at);
			if (begun.has(item) && !checks.has(item)) {
				making.fault(at, `"${item}" is made of "${name}" itself`);
				return closed(item);
			}
			if (specs[item] === undefined) making.fault(at, `there is no "${item}" under auth`);
			return named(item);
		});
		return allOf(name, parts);
	};
	for (const name of Object.keys(specs)) named(name);
	return checks;
}

/** In place of one that could not be made. */
function closed(name: string): Check {
	return {
		kind: 'closed',
		name,
		check: () => ({ ok: false, status: 403, challenge: null, reason: 'is faulty' }),
	};
}

/** One that passes when each part does. */
function allOf(name: string, parts: readonly Check[]): Check {
	return {
		kind: 'all',
		name,
		ofBody: parts.some(({ ofBody }) => ofBody === true),
		inBody: parts.some(({ inBody }) => inBody === true),
		async check(delivery) {
			const found: string[] = [];
			const refused: Refused[] = [];
			// Each is asked, so that an address that is not admitted hides from its caller whether the password was right.
			for (const part of parts) {
				const verdict = await part.check(delivery);
				if (verdict.ok) found.push(verdict.who);
				else refused.push({ ...verdict, reason: `${part.name}: ${verdict.reason}` });
			}
			if (refused.length === 0) return admitted(`${name} (${found.join(', ')})`);
			const final = refused.find(({ status }) => status === 403);
			return {
				ok: false,
				status: final === undefined ? 401 : 403,
				challenge:
					final === undefined ? (refused.find((one) => one.challenge !== null)?.challenge ?? null) : null,
				reason: refused.map(({ reason }) => reason).join('; '),
			};
		},
	};
}
