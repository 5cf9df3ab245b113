/** What a kind of auth is: something that looks at a delivery, its exact bytes included, and says whether its sender may call. */

import type { z } from 'zod';
import type { Delivery } from '../delivery.ts';
import type { SecretSpec, Secrets } from '../secret.ts';

/** What a check found. */
export type Verdict = Admitted | Refused;

export interface Admitted {
	readonly ok: true;
	/** Who it is, for the log: `basic user iamgood`, `certificate node1.example.com`. Never holds a secret. */
	readonly who: string;
}

export interface Refused {
	readonly ok: false;
	/** 401: who calls is not known, another proof may help. 403: the caller is known, or needs not be, and may not call. */
	readonly status: 401 | 403;
	/** For `WWW-Authenticate`, such as `Bearer`; null when there is no scheme for it. */
	readonly challenge: string | null;
	/** What was wrong, for the log alone: what callers get does not tell which check failed. Never holds a secret. */
	readonly reason: string;
}

/** One way to prove who calls, compiled from routes.yaml. */
export interface Check {
	/** Such as `bearer`, or the source's name. */
	readonly kind: string;
	/** As routes.yaml names it under `auth`; the kind for what has no name there. */
	readonly name: string;
	/** True when it looks at the body, so that it is of no use where there is none. */
	readonly ofBody?: boolean;
	/** True when the secret itself stands in the body. */
	readonly inBody?: boolean;
	check(delivery: Delivery): Verdict | Promise<Verdict>;
}

/** What a check is made with. What is found to be wrong is told by it, and the configuration is refused then. */
export interface Making {
	/** As routes.yaml names the auth. */
	readonly name: string;
	/** Whether the listener asks callers for certificates (`listen.client_certs`). */
	readonly certificates: boolean;
	/** Reads a secret; one that cannot be read matches nothing. @param key where it is written, from the kind's own key on */
	secrets(spec: SecretSpec, ...key: readonly string[]): Secrets;
	/** The absolute path of a file that routes.yaml names. */
	file(written: string): string;
	/** Tells what is wrong. @param message follows the key's name */
	fault(message: string, ...key: readonly string[]): void;
}

/** A kind of auth, one a file; the table of them is in kinds.ts. */
export interface AuthKind<Options = unknown> {
	/** As routes.yaml names it. */
	readonly name: string;
	/** What is written below that name. */
	readonly options: z.ZodType<Options>;
	compile(options: Options, making: Making): Check;
}

export function admitted(who: string): Admitted {
	return { ok: true, who };
}

/** @param challenge for `WWW-Authenticate` */
export function unknown(reason: string, challenge: string | null = null): Refused {
	return { ok: false, status: 401, challenge, reason };
}

export function forbidden(reason: string): Refused {
	return { ok: false, status: 403, challenge: null, reason };
}
