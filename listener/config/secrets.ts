/**
 * The secrets of a configuration: found where routes.yaml says they are. One that is missing or empty is a fault, since it
 * would let everybody in or nobody. No message holds a secret, or a part of one.
 */

import crypto from 'node:crypto';
import fs from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { type OneSecretSpec, Secret, type SecretSpec, type Secrets } from '../secret.ts';
import type { Key } from './yaml.ts';

/** Variables by name, among them CREDENTIALS_DIRECTORY, which systemd sets. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Bytes: a key in PEM has 3 KiB; more is another file, named by mistake. */
const largest = 64 * 1024;

export interface SecretFault {
	/** From where the secret is written on: empty, or the item of a list. */
	readonly key: Key;
	/** Follows the key's name. */
	readonly message: string;
}

/** Reads the secrets of one configuration. */
export class SecretReader {
	readonly #environment: Environment | null;
	readonly #all: Secret[] = [];
	readonly #files = new Map<string, string>();
	readonly #notes: string[] = [];

	/**
	 * @param environment null leaves all secrets unread that are elsewhere, and takes what they are called in their place: for who
	 * wants to know whether the file is right on a host, or as a user, that does not have them
	 */
	constructor(environment: Environment | null) {
		this.#environment = environment;
	}

	/** Has a text masked that is as good as a secret. */
	keep(text: string): void {
		this.#all.push(new Secret(text));
	}

	/** Every secret that was read or kept, for masking. */
	get all(): readonly Secret[] {
		return this.#all;
	}

	/** The files that secrets came from, or were to come from, with a digest of what was there. */
	get files(): ReadonlyMap<string, string> {
		return this.#files;
	}

	/** What is odd and no fault: a file that every user of the host may read. */
	get notes(): readonly string[] {
		return this.#notes;
	}

	/**
	 * Reads a secret.
	 * @param directory where relative paths begin
	 * @returns what was read, and everything that is wrong; with faults, `secrets` may hold none and then matches nothing
	 */
	read(spec: SecretSpec, directory: string): { secrets: Secrets; faults: readonly SecretFault[] } {
		const faults: SecretFault[] = [];
		const list = Array.isArray(spec) ? (spec as readonly OneSecretSpec[]) : [spec as OneSecretSpec];
		const current: Secret[] = [];
		for (const [index, one] of list.entries()) {
			const value = this.#value(one, directory);
			if (value instanceof Secret) current.push(value);
			else faults.push({ key: list === spec ? [index] : [], message: value });
		}
		this.#all.push(...current);
		return { secrets: Object.freeze({ current: Object.freeze(current) }), faults };
	}

	/** The secret, or what is wrong. */
	#value(spec: OneSecretSpec, directory: string): Secret | string {
		if (typeof spec === 'string') return spec === '' ? 'is empty' : new Secret(spec);
		if (this.#environment === null) return new Secret(digestOf(JSON.stringify(spec)));
		if ('env' in spec) {
			const value = this.#environment[spec.env];
			if (value === undefined) {
				return `the environment variable ${spec.env} is not set; set it where the listener is started (systemd: EnvironmentFile=)`;
			}
			return value === '' ? `the environment variable ${spec.env} is empty` : new Secret(value);
		}
		if ('file' in spec) return this.#fromFile(path.resolve(directory, spec.file), spec.exact === true);
		const credentials = this.#environment.CREDENTIALS_DIRECTORY;
		if (!credentials) {
			return `there are no credentials ($CREDENTIALS_DIRECTORY is not set), as the listener was not started by systemd with LoadCredential=${spec.credential}:/path`;
		}
		return this.#fromFile(path.join(credentials, spec.credential), spec.exact === true);
	}

	#fromFile(file: string, exact: boolean): Secret | string {
		let bytes: Buffer;
		try {
			const found = fs.statSync(file);
			// Reading a pipe would stop the listener until somebody writes to it.
			if (!found.isFile()) throw withCode(found.isDirectory() ? 'EISDIR' : 'ENOTFILE');
			if (found.size > largest) throw withCode('EFBIG');
			bytes = fs.readFileSync(file);
			this.#files.set(file, digestOf(bytes));
			if ((found.mode & 0o004) !== 0) {
				const note = `${file} holds a secret that every user of this host may read; \`chmod o= ${file}\` mends that`;
				if (!this.#notes.includes(note)) this.#notes.push(note);
			}
		} catch (error) {
			this.#files.set(file, codeOf(error));
			return `${file} ${unreadable(error as NodeJS.ErrnoException)}`;
		}
		const value = exact ? bytes : withoutLineEnd(bytes);
		return value.length === 0 ? `${file} is empty` : new Secret(value);
	}
}

/** Editors and `echo` end a file with a line end that nobody means. */
function withoutLineEnd(bytes: Buffer): Buffer {
	const end = bytes.at(-1) === 0x0a ? (bytes.at(-2) === 0x0d ? 2 : 1) : 0;
	return bytes.subarray(0, bytes.length - end);
}

function digestOf(bytes: Buffer | string): string {
	return crypto.hash('sha256', bytes);
}

function withCode(code: string): Error {
	return Object.assign(new Error(), { code });
}

function codeOf(error: unknown): string {
	return (error as NodeJS.ErrnoException).code ?? String(error);
}

/** Why a file cannot be read, and what to do; follows the file's name. */
export function unreadable(error: NodeJS.ErrnoException): string {
	switch (error.code) {
		case 'ENOENT':
			return 'does not exist';
		case 'EACCES':
		case 'EPERM':
			return 'may not be read by the user the listener runs as; give that user, or its group, the right to';
		case 'EISDIR':
			return 'is a directory; name a file in it';
		case 'ENOTFILE':
			return 'is no regular file';
		case 'EFBIG':
			return `has more than ${largest / 1024} KiB; is it the right file?`;
		default:
			return `cannot be read (${codeOf(error)})`;
	}
}

/** What is in the files now, as `SecretReader.files` tells it. */
export async function contentsOf(files: Iterable<string>): Promise<ReadonlyMap<string, string>> {
	const contents = new Map<string, string>();
	for (const file of files) contents.set(file, await lookInto(file));
	return contents;
}

/** What reading the file would come to: the content's digest, or why there is none. */
async function lookInto(file: string): Promise<string> {
	try {
		const found = await stat(file);
		if (!found.isFile()) return found.isDirectory() ? 'EISDIR' : 'ENOTFILE';
		return found.size > largest ? 'EFBIG' : digestOf(await readFile(file));
	} catch (error) {
		return codeOf(error);
	}
}
