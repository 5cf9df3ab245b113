/**
 * `jwt`: a signed token of an issuer that is trusted (RFC 7519), in `Authorization: Bearer …`: GitLab and GitHub give each CI
 * run one, Kubernetes each pod. Which algorithms are taken says routes.yaml, never the token.
 */

import fs from 'node:fs';
import type { JWTPayload, JWTVerifyOptions } from 'jose';
import { z } from 'zod';
import { duration } from '../config/values.ts';
import { headerOf } from '../delivery.ts';
import { type SecretSpec, type Secrets, secretSchema } from '../secret.ts';
import { bearerToken } from './bearer.ts';
import { matcherOf } from './globs.ts';
import { KeySet, KeysUnavailable, parseKeys } from './jwks.ts';
import { type AuthKind, admitted, forbidden, type Making, unknown } from './kind.ts';

const asymmetric = [
	...['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'],
] as const;
/** With the bytes that RFC 7518 asks of their keys: a shorter one is found by trying, once somebody has seen one token. */
const symmetric = { HS256: 32, HS384: 48, HS512: 64 } as const;
const algorithms = [...asymmetric, ...Object.keys(symmetric)] as [string, ...string[]];

type Wanted = string | number | boolean;

const wanted = z.union([z.string(), z.number(), z.boolean()], {
	error: 'must be a text in which * stands for any characters, a number, true or false; or a list of these',
});

const texts = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)], {
	error: 'must be text, or a list of texts',
});

const options = z
	.strictObject({
		issuer: texts.meta({ description: 'Who has to have made the token (iss).' }),
		audience: texts.meta({ description: 'For whom it has to be made (aud).' }),
		jwks: z.string().min(1).optional().meta({
			description:
				"Where the issuer's public keys are: an https address, or a file relative to this file's own directory.",
		}),
		secret: secretSchema.optional().meta({
			description: 'In place of jwks: the secret that issuer and listener share.',
		}),
		algorithms: z
			.array(z.enum(algorithms, { error: `must be one of ${algorithms.join(', ')}` }))
			.min(1)
			.optional()
			.meta({ description: 'Those taken. Default: all of public keys; with secret, HS256.' }),
		claims: z
			.record(z.string(), z.union([wanted, z.array(wanted).min(1)]))
			.optional()
			.meta({
				description:
					'What the token has to say, by claim: a value, or a list of which one suffices. * in a text stands for any characters. Of a claim that is a list, one suffices.',
			}),
		tolerance: duration(
			'How far the clocks of issuer and listener may differ; at most 10m. Default: 1m.',
			600_000,
		).optional(),
	})
	.meta({ description: 'A JSON Web Token, sent as "Authorization: Bearer …".' });

export const jwt: AuthKind<z.output<typeof options>> = {
	name: 'jwt',
	options,
	compile({ issuer, audience, jwks, secret, claims = {}, tolerance = 60_000, ...spec }, making) {
		const taken = spec.algorithms ?? (jwks === undefined ? ['HS256'] : [...asymmetric]);
		const keys = compileKeys(jwks, secret, taken, making);
		const asked = Object.entries(claims).map(([name, values]) => ({ name, admits: compileClaim(values) }));
		const rules: JWTVerifyOptions = {
			algorithms: taken,
			issuer: [issuer].flat(),
			audience: [audience].flat(),
			clockTolerance: tolerance / 1000,
			// A token without an end would be as good as a password, and nobody would know.
			requiredClaims: ['exp'],
		};
		return {
			kind: 'jwt',
			name: making.name,
			async check(delivery) {
				const token = bearerToken(headerOf(delivery, 'authorization'));
				if (token === undefined) return unknown('there is no "Authorization: Bearer …"', 'Bearer');
				const claimed = await payloadOf(token, keys, {
					...rules,
					currentDate: new Date(delivery.receivedAt),
				});
				if (typeof claimed === 'string') return unknown(claimed, 'Bearer');
				const subject = typeof claimed.sub === 'string' ? claimed.sub : 'without a subject';
				const who = `${making.name}, token of ${claimed.iss} for ${subject}`.slice(0, 300);
				for (const { name, admits } of asked) {
					const value = Object.hasOwn(claimed, name) ? claimed[name] : undefined;
					if (value === undefined) return forbidden(`the token has no claim "${name}"`);
					if (![value].flat().some(admits)) return forbidden(`the token's claim "${name}" is not admitted`);
				}
				return admitted(who);
			},
		};
	},
};

type Keys = KeySet | Secrets;

function compileKeys(
	jwks: string | undefined,
	secret: SecretSpec | undefined,
	taken: readonly string[],
	making: Making,
): Keys {
	const none: Keys = { current: [] };
	if ((jwks === undefined) === (secret === undefined)) {
		making.fault(
			'must say either "jwks", where the public keys of the issuer are, or "secret", which both share',
		);
		return none;
	}
	const wrong = taken.find((algorithm) => algorithm in symmetric === (jwks !== undefined));
	if (wrong !== undefined) {
		// Else the public key, which everybody has, could serve as the secret.
		making.fault(
			`${wrong} is an algorithm for ${jwks === undefined ? '"jwks"' : '"secret"'}, which is not said`,
			'algorithms',
		);
	}
	if (secret !== undefined) {
		const secrets = making.secrets(secret, 'secret');
		const least = Math.max(...taken.map((algorithm) => symmetric[algorithm as keyof typeof symmetric] ?? 0));
		if (secrets.current.some((one) => one.reveal().length < least)) {
			making.fault(
				`is shorter than ${least} bytes, so that it can be found by trying; make one: openssl rand -base64 48`,
				'secret',
			);
		}
		return secrets;
	}
	return new KeySet(keysPlace(jwks ?? '', making));
}

/** Where the keys are, tried out as far as one can without fetching them. */
function keysPlace(jwks: string, making: Making): string {
	if (/^[a-z]+:/i.test(jwks)) {
		const url = URL.canParse(jwks) ? new URL(jwks) : undefined;
		const local = /^(localhost|127\.[\d.]+|\[::1\])$/.test(url?.hostname ?? '');
		if (url?.protocol !== 'https:' && !(url?.protocol === 'http:' && local)) {
			making.fault(
				'must be an https address, or a file: over plain http anybody on the way could put keys of his own',
				'jwks',
			);
		}
		return jwks;
	}
	const file = making.file(jwks);
	try {
		parseKeys(fs.readFileSync(file, 'utf8'));
	} catch (error) {
		const { code, message } = error as NodeJS.ErrnoException;
		const why =
			code === 'ENOENT' ? 'does not exist' : code === undefined ? message : `cannot be read (${code})`;
		making.fault(`${file} ${why}`, 'jwks');
	}
	return file;
}

function compileClaim(values: Wanted | readonly Wanted[]): (value: unknown) => boolean {
	const list = [values].flat() as Wanted[];
	const globs = list.filter((value) => typeof value === 'string');
	const matches = globs.length === 0 ? () => false : matcherOf(globs);
	return (value) => (typeof value === 'string' ? matches(value) : list.includes(value as Wanted));
}

/** What a good token says; of another, as a text, why it is not taken. */
export async function payloadOf(
	token: string,
	keys: Keys,
	rules: JWTVerifyOptions,
): Promise<JWTPayload | string> {
	// Loading it takes some 20 ms, by which the listener would start later for who needs it not.
	const { errors, jwtVerify } = await import('jose');
	try {
		if (keys instanceof KeySet) {
			return (await jwtVerify(token, (header, jws) => keys.keyFor(header, jws), rules)).payload;
		}
		let failure: unknown;
		for (const secret of keys.current) {
			try {
				return (await jwtVerify(token, secret.reveal(), rules)).payload;
			} catch (error) {
				if (!(error instanceof errors.JWSSignatureVerificationFailed)) throw error;
				failure = error;
			}
		}
		throw failure ?? new errors.JWSSignatureVerificationFailed();
	} catch (error) {
		if (error instanceof errors.JOSEError) return `the token: ${error.message}`;
		if (error instanceof KeysUnavailable) return error.message;
		// What is malformed beyond what jose has an error for, such as a key of the wrong type.
		return `the token cannot be checked: ${(error as Error).message}`;
	}
}
