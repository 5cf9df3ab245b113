/** Who may call: what the file says under `auth`, `source` and `secret`, made into checks. */

import crypto from 'node:crypto';
import type { Access } from '../auth/auth.ts';
import { admitted, type Check } from '../auth/kind.ts';
import { type AuthSpec, compileAuths } from '../auth/kinds.ts';
import {
	type Callers,
	fingerprintMark,
	type RouteSpec,
	type SharedSpec,
	type SourceSpec,
} from '../routes/route.ts';
import type { Secret, SecretSpec, Secrets } from '../secret.ts';
import { compileSource, sourceKinds } from '../sources/source.ts';
import { nearest } from '../spelling.ts';
import { quoted } from './check.ts';
import type { SecretReader } from './secrets.ts';
import type { Key } from './yaml.ts';

export interface AccessFault {
	/** From the place on that was compiled. */
	readonly key: Key;
	readonly message: string;
}

/** The auths of a configuration, by name. */
export class Auths {
	readonly faults: readonly AccessFault[];
	readonly #checks: ReadonlyMap<string, Check>;
	/** All that are written, also those that are too faulty to be made. */
	readonly #written: readonly string[];

	/**
	 * @param specs what is under `auth`, as far as its shape is right
	 * @param written the names there
	 * @param absolute a path of the file as it is meant
	 * @param certificates whether the listener asks callers for certificates
	 */
	constructor(
		specs: Readonly<Record<string, AuthSpec>>,
		written: readonly string[],
		reader: SecretReader,
		directory: string,
		absolute: (file: string) => string,
		certificates: boolean,
	) {
		const faults: AccessFault[] = [];
		this.#written = written;
		this.#checks = compileAuths(specs, {
			certificates,
			secrets: (spec, key) => readSecrets(spec, key, reader, directory, faults),
			file: absolute,
			fault: (key, message) => faults.push({ key, message }),
		});
		this.faults = faults;
	}

	/** The checks that some names stand for, and what is wrong with names that stand for none. @param key where they are */
	named(names: readonly string[], key: Key): { checks: readonly Check[]; faults: AccessFault[] } {
		const faults = names.flatMap((name, index) => {
			if (this.#written.includes(name)) return [];
			const near = nearest(name, this.#written);
			const remedy =
				near !== undefined
					? `did you mean "${near}"?`
					: this.#written.length === 0
						? 'there is no "auth" at the top of the file'
						: `there are ${this.#written.join(', ')}`;
			return {
				key: names.length === 1 ? key : [...key, index],
				message: `${quoted(name)} is not under auth, ${remedy}`,
			};
		});
		return { checks: names.flatMap((name) => this.#checks.get(name) ?? []), faults };
	}
}

function readSecrets(
	spec: SecretSpec,
	key: Key,
	reader: SecretReader,
	directory: string,
	faults: AccessFault[],
): Secrets {
	const { secrets, faults: found } = reader.read(spec, directory);
	faults.push(...found.map((fault) => ({ key: [...key, ...fault.key], message: fault.message })));
	return secrets;
}

/**
 * Hexadecimal SHA-256 of the secret's bytes, and after them of the registry that the source names: as flux-recv does it, so that
 * the addresses that senders know stay what they are.
 */
function fingerprintOf(secret: Secret, registry: string): string {
	return crypto.hash('sha256', Buffer.concat([secret.reveal(), Buffer.from(registry)]));
}

function registryOf(source: SourceSpec | undefined): string {
	const options = source?.options;
	const given =
		options !== null && typeof options === 'object' && 'registry' in options ? options.registry : '';
	return typeof given === 'string' ? given : '';
}

/** Who reaches a path that nobody can guess was told it by somebody who knows the secret. */
const byFingerprint: Check = Object.freeze({
	kind: 'fingerprint',
	name: 'fingerprint',
	check: () => admitted('fingerprint'),
});

/**
 * The checks that a route's callers have to pass. With faults it lets nobody in.
 * @param name the route's
 * @param directory where relative paths of its file begin
 */
export function compileCallers(
	name: string,
	spec: Pick<RouteSpec, 'auth' | 'source' | 'secret' | 'path'>,
	defaults: Pick<SharedSpec, 'auth'>,
	auths: Auths,
	reader: SecretReader,
	directory: string,
): Callers & { faults: readonly AccessFault[] } {
	const auth = spec.auth ?? defaults.auth ?? [];
	const { checks: any, faults } = auths.named(auth === 'none' ? [] : auth, ['auth']);
	// Told where they stand, once for all routes.
	if (spec.auth === undefined) faults.length = 0;
	const secrets =
		spec.secret === undefined ? null : readSecrets(spec.secret, ['secret'], reader, directory, faults);
	const fingerprinted = (spec.path ?? name).includes(fingerprintMark);
	if (fingerprinted && secrets === null) {
		const key = spec.path === undefined ? [] : ['path'];
		faults.push({
			key,
			message: `${fingerprintMark} is the hash of a secret, and the route has none: say its "secret"`,
		});
	}
	if (secrets !== null && spec.source === undefined && !fingerprinted) {
		faults.push({
			key: ['secret'],
			message: `verifies nothing without a "source"; for callers of your own, say "auth", or have ${fingerprintMark} in the path`,
		});
	}

	const kind = sourceKinds.find((one) => one.name === spec.source?.name);
	// A secret that the sender has no use for is there for the path.
	const verifying = kind?.secret === 'none' && fingerprinted ? null : secrets;
	const compiled =
		kind === undefined || secrets?.current.length === 0
			? null
			: compileSource(kind, spec.source?.options, verifying);
	if (compiled !== null && 'fault' in compiled) {
		faults.push({ key: secrets === null ? ['source'] : ['secret'], message: compiled.fault });
	}
	const source = compiled !== null && 'source' in compiled ? compiled.source : null;
	const access: Access = {
		open: auth === 'none',
		any,
		source: source?.verification ?? (fingerprinted ? byFingerprint : null),
	};
	const fingerprints = fingerprinted
		? (secrets?.current ?? []).map((secret) => fingerprintOf(secret, registryOf(spec.source)))
		: [];
	for (const fingerprint of fingerprints) reader.keep(fingerprint);
	return { access, source, fingerprints, faults };
}
