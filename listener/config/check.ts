/** Checks values against the schema and says what is wrong in the words of somebody who edits the file. */

import type { z } from 'zod';
import { nearest } from '../spelling.ts';
import type { Key } from './yaml.ts';

export interface Issue {
	/** From the checked value on. */
	readonly key: Key;
	/** Whether the key itself is wrong, or its value. */
	readonly at: 'key' | 'value';
	/** Follows the key's name: `must be …`. */
	readonly message: string;
}

/**
 * Checks a value and finds everything that is wrong.
 * @returns `data` also with issues, then made of what was right, so that further checks can find further faults; undefined
 * when too little is left
 * @param standIns what takes the place of keys that are missing or wrong, in that case
 */
export function check<T>(
	schema: z.ZodType<T>,
	value: unknown,
	standIns: Readonly<Record<string, unknown>> = {},
): { data: T | undefined; issues: Issue[] } {
	const result = schema.safeParse(value, { error: sentence, reportInput: true });
	if (result.success) return { data: result.data, issues: [] };
	const issues = result.error.issues.flatMap((issue) => told(issue, []));
	const rest = issues.reduce((left, { key }) => without(left, key), value);
	const whole = typeof rest === 'object' && !Array.isArray(rest) ? { ...standIns, ...rest } : rest;
	return { data: schema.safeParse(whole).data, issues };
}

/** The value without what is at `key`. A list loses no single item, since its items may belong together. */
function without(value: unknown, [first, ...rest]: Key): unknown {
	if (first === undefined || value === null || typeof value !== 'object' || Array.isArray(value))
		return undefined;
	const { [first]: inner, ...others } = value as Record<string, unknown>;
	const left = rest.length === 0 ? undefined : without(inner, rest);
	return left === undefined ? others : { ...others, [first]: left };
}

type Issued = z.core.$ZodIssue;

function told(issue: Issued, above: Key): Issue[] {
	const key = [...above, ...issue.path.map((part) => (typeof part === 'number' ? part : String(part)))];
	switch (issue.code) {
		case 'unrecognized_keys': {
			const known = issue.message.split(' ');
			return issue.keys.map((name) => {
				// `{ bearer:abc }` is one key to YAML, and what is meant as its value may be a secret.
				const [word = ''] = name.split(':', 1);
				return word === name || !known.includes(word)
					? { key: [...key, name], at: 'key', message: unknownKey(name, known) }
					: { key: [...key, word], at: 'key', message: `needs a blank behind the colon of "${word}:"` };
			});
		}
		case 'invalid_key':
			return issue.issues.map(({ message }) => ({ key, at: 'key', message }));
		case 'invalid_union': {
			const branch = meant(issue.errors);
			const deeper = branch?.some(({ path }) => path.length > 0);
			if (branch && deeper) return branch.flatMap((inner) => told(inner, key));
			const one = branch?.length === 1 && issue.input !== undefined ? branch[0] : undefined;
			// A text that failed as text is told what text must be; anything else, all that is possible.
			if (one && typeof issue.input === 'string' && one.code !== 'invalid_type') return told(one, key);
			return [{ key, at: 'value', message: withInput(issue.message, issue) }];
		}
		default:
			return [{ key, at: 'value', message: withInput(issue.message, issue) }];
	}
}

/**
 * Of a union's branches the one that somebody had in mind: it got furthest into the value, or at least its type is right; of
 * those that are alike the one that knows the most of the keys.
 */
function meant(branches: readonly Issued[][]): Issued[] | undefined {
	const score = (issues: Issued[]) =>
		Math.max(...issues.map((issue) => issue.path.length * 2 + (issue.code === 'invalid_type' ? 0 : 1)));
	const unknown = (issues: Issued[]) =>
		issues.reduce((sum, issue) => sum + (issue.code === 'unrecognized_keys' ? issue.keys.length : 0), 0);
	return [...branches]
		.filter((issues) => issues.length > 0)
		.sort((a, b) => score(b) - score(a) || unknown(a) - unknown(b))[0];
}

/** What is there instead belongs into the sentence, unless the sentence tells already or could give something away. */
function withInput(message: string, issue: Issued): string {
	const { input } = issue;
	if (input === undefined) return 'is missing';
	if (!message.startsWith('must be ')) return message;
	if (input === null) return `${message}; here is nothing`;
	if (Array.isArray(input)) return `${message}, not a list`;
	if (typeof input === 'object') return `${message}, not a map`;
	if (typeof input !== 'string') return `${message}, not ${input}`;
	// `bearer:abc` is text to YAML, and may have a secret in it.
	if (issue.code === 'invalid_type')
		return `${message}, not text${/^\w+:\S/.test(input) ? '; a blank is missing behind the colon' : ''}`;
	const near = issue.code === 'invalid_value' ? nearest(input, issue.values.map(String)) : undefined;
	return `${message}, not ${quoted(input)}${near === undefined ? '' : `; did you mean "${near}"?`}`;
}

/** Text of the file inside a sentence: on one line, and not too long. */
export function quoted(text: string): string {
	return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}

/** For issues whose schema has no sentence of its own. */
function sentence(issue: z.core.$ZodRawIssue): string {
	switch (issue.code) {
		case 'invalid_type':
			return typeSentences[issue.expected] ?? `must be ${issue.expected}`;
		case 'invalid_value':
			return `must be ${either(issue.values.map(String))}`;
		case 'too_small':
			if (issue.origin === 'string') return 'must not be empty';
			if (issue.origin === 'array') return 'must not be an empty list';
			return `must be at least ${issue.minimum}`;
		case 'too_big':
			return `must be at most ${issue.maximum}`;
		case 'unrecognized_keys':
			// Not a sentence: the keys that are known there, from which `told` makes one sentence for each unknown key.
			return Object.keys((issue.inst as z.ZodObject | undefined)?.shape ?? {}).join(' ');
		default:
			return 'is not as it has to be';
	}
}

const typeSentences: Readonly<Record<string, string>> = {
	string: 'must be text (in quotes, when it looks like a number)',
	number: 'must be a number',
	int: 'must be a whole number',
	boolean: 'must be true or false',
	object: 'must be a map (lines of "key: value")',
	record: 'must be a map (lines of "key: value")',
	array: 'must be a list',
};

function either(words: readonly string[]): string {
	return words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
}

/** What people write who come from other tools, and what it is called here. */
const otherNames: Readonly<Record<string, readonly string[]>> = {
	address: ['bind', 'bind_address', 'host', 'ip', 'listen_addr'],
	port: ['listen_port'],
	cert: ['cert_path', 'certificate', 'ssl_cert'],
	key: ['key_path', 'private_key', 'ssl_key'],
	steps: ['actions', 'commands', 'jobs', 'stages', 'tasks'],
	on_success: ['after', 'on_ok', 'then'],
	on_failure: ['on_error', 'on_fail', 'rescue'],
	http: ['request', 'webhook', 'notify'],
	json: ['data', 'payload'],
	body: ['content', 'text'],
	status: ['expect', 'expected', 'status_code', 'expected_status'],
	command: ['cmd', 'exec', 'execute', 'execute-command', 'run', 'script', 'shell_command'],
	cwd: ['chdir', 'cd', 'dir', 'directory', 'workdir', 'working_directory', 'command-working-directory'],
	env: ['environment', 'environment_variables', 'vars'],
	method: ['http_method', 'http-methods', 'methods', 'verb'],
	params: ['parameters', 'arguments', 'args', 'pass-environment-to-command'],
	description: ['desc', 'comment', 'title'],
	timeout: ['time_limit', 'max_runtime'],
	wait: ['async', 'sync', 'synchronous', 'include-command-output-in-response'],
	path: ['url', 'uri', 'route', 'endpoint'],
	pattern: ['regex', 'regexp', 'match'],
	enum: ['values', 'choices', 'options', 'allowed'],
	respond: ['response', 'response-message', 'answer'],
	when_busy: ['on_busy', 'policy'],
	routes: ['hooks'],
};

/** The sentence about a key that is not known, with the one that was probably meant. */
export function unknownKey(name: string, known: readonly string[]): string {
	const other = known.find((key) => otherNames[key]?.includes(name));
	const near = other ?? nearest(name, known);
	const remedy = near === undefined ? `known here are ${known.join(', ')}` : `did you mean "${near}"?`;
	return `unknown key ${quoted(name)}, ${remedy}`;
}
