/**
 * Parameters: what a caller may hand to a command, by declared name and checked value. Every rule here is a wall between a
 * caller and the programs that run; a value that has not passed it cannot become `Parameters`.
 */

import type { RE2JS } from 're2js';
import { BadParameters, type ParameterProblem } from '../errors.ts';
import type { Expression, ExpressionCompiler, Scope } from './expressions.ts';

export const parameterTypes = ['string', 'integer', 'number', 'boolean'] as const;
export type ParameterType = (typeof parameterTypes)[number];

/** What users write under `params.<name>`. */
export interface ParameterSpec {
	readonly description?: string | undefined;
	/** An expression that gives the value, in place of what has the parameter's name. */
	readonly from?: string | undefined;
	/** Default false. A `:name` segment of the path is always required. */
	readonly required?: boolean | undefined;
	/** The value when the caller gives none; it must itself be admitted. */
	readonly default?: string | number | boolean | undefined;
	/** A regular expression (RE2 syntax) that the whole value has to match; it takes the place of the default rule. */
	readonly pattern?: string | undefined;
	/** The values admitted, exactly as written. */
	readonly enum?: readonly (string | number | boolean)[] | undefined;
	/** Default `string`. */
	readonly type?: ParameterType | undefined;
	/** Default false; true: its value is shown nowhere, and is forgotten when the run has ended. */
	readonly secret?: boolean | undefined;
}

/** A parameter as a route has it. */
export interface ParameterRule {
	readonly name: string;
	/** Its value is shown nowhere. */
	readonly secret: boolean;
	readonly description: string;
	/** null: the value is what has the parameter's name. */
	readonly from: Expression | null;
	readonly required: boolean;
	readonly type: ParameterType;
	/** null: none. */
	readonly default: string | null;
	readonly pattern: string | null;
	readonly enum: readonly string[] | null;
	/** The value as text for the command, or why it is not admitted; never both. `value` is as it arrived. */
	check(value: unknown): { text: string } | { reason: string };
}

export type ParameterRules = ReadonlyMap<string, ParameterRule>;

/** Where a parameter's value was found; `nowhere`: it has none. */
export type ParameterOrigin = 'path' | 'query' | 'body' | 'from' | 'default' | 'nowhere';

/** What became of one parameter of a delivery. */
export interface Resolved {
	readonly origin: ParameterOrigin;
	/** undefined: it is absent, or not admitted. */
	readonly text?: string;
	/** Why it is not admitted, as it follows the parameter's name. */
	readonly reason?: string;
}

/** Makes a Parameters. Set by the class below and known to this file alone. */
let admitted: (values: Readonly<Record<string, string>>) => Parameters;

/** Values that were checked. Only `resolveParameters` makes one, so whoever holds one need not check again. */
export class Parameters {
	readonly #values: Readonly<Record<string, string>>;

	private constructor(values: Readonly<Record<string, string>>) {
		this.#values = Object.freeze(values);
	}

	static {
		admitted = (values) => new Parameters(values);
	}

	/** By name. An optional parameter that was not given and has no default is absent. Has no prototype. */
	get values(): Readonly<Record<string, string>> {
		return this.#values;
	}
}

/**
 * Takes each declared parameter's value from its `from`, or else from what has its name, and checks it. What is not declared is
 * left alone.
 * @throws BadParameters naming each one that is missing or not admitted
 */
export function resolveParameters(rules: ParameterRules, scope: Scope): Parameters {
	const values: Record<string, string> = Object.create(null);
	const problems: ParameterProblem[] = [];
	for (const rule of rules.values()) {
		const { text, reason } = resolveParameter(rule, scope);
		if (text !== undefined) values[rule.name] = text;
		else if (reason !== undefined) problems.push({ parameter: rule.name, reason });
	}
	if (problems.length > 0) throw new BadParameters(problems);
	return admitted(values);
}

/** What becomes of one parameter: its value with where it was found, or what is wrong with that. */
export function resolveParameter(rule: ParameterRule, scope: Scope): Resolved {
	const { origin, value, failure } = rule.from === null ? find(rule.name, scope) : made(rule.from, scope);
	if (failure !== undefined) return { origin, reason: `cannot be made of this delivery: ${failure}` };
	if (value === undefined) {
		if (rule.default !== null) return { origin: 'default', text: rule.default };
		return { origin, ...(rule.required ? { reason: 'is missing' } : {}) };
	}
	return { origin, ...rule.check(value) };
}

interface Given {
	readonly origin: ParameterOrigin;
	/** undefined: there is none. */
	readonly value?: unknown;
	readonly failure?: string;
}

/** What has the name in the path, else the query, else the body's top level: a caller does not override what the path says. */
function find(name: string, { path, query, body }: Scope): Given {
	if (Object.hasOwn(path, name)) return { origin: 'path', value: path[name] };
	if (Object.hasOwn(query, name)) return { origin: 'query', value: query[name] };
	if (body === undefined || Array.isArray(body) || !Object.hasOwn(body, name)) return { origin: 'nowhere' };
	return { origin: 'body', value: (body as Readonly<Record<string, unknown>>)[name] };
}

function made(from: Expression, scope: Scope): Given {
	const result = from.evaluate(scope);
	if ('error' in result)
		return result.missing ? { origin: 'nowhere' } : { origin: 'from', failure: result.error };
	// What a sender does not tell is the empty text in its event.
	return result.value === '' ? { origin: 'nowhere' } : { origin: 'from', value: result.value };
}

/** Longest value under the default rule: as long as a file's name may be. */
const maxPlainLength = 255;
/** Longest value under a pattern or type: far below the 128 KiB that Linux allows one variable, in any encoding. */
const maxLength = 8192;
const plainCharacters = /^[A-Za-z0-9_.:@/+-]*$/;
/** Numbers as JSON writes them; in particular no leading zero, which some programs take for octal. */
const integerText = /^-?(0|[1-9][0-9]*)$/;
const numberText = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/;

/** Turns what arrived into text. A number or truth value of JSON becomes what JSON writes for it. */
function asText(value: unknown): { text: string } | { reason: string } {
	switch (typeof value) {
		case 'string':
			if (value.includes('\0')) return { reason: 'contains a NUL character' };
			if (!value.isWellFormed()) return { reason: 'is not valid Unicode text' };
			return { text: value };
		case 'boolean':
		case 'bigint':
			return { text: String(value) };
		case 'number':
			if (!Number.isFinite(value)) return { reason: 'is too large for a number' };
			if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
				return { reason: 'is a number beyond 2^53, which JSON readers round; send it as text in quotes' };
			}
			return { text: String(value) };
		default:
			if (value === null) return { reason: 'is null; leave it out, or give a value' };
			if (Array.isArray(value)) return { reason: 'is given more than once or is a list; give one value' };
			return { reason: 'is an object; give one value' };
	}
}

/** What is wrong with a string that has neither pattern nor enum; undefined when it is admitted. */
function plainReason(text: string): string | undefined {
	if (text === '') return 'is empty';
	if (text.length > maxPlainLength) return `is longer than ${maxPlainLength} characters`;
	if (!plainCharacters.test(text)) {
		return 'has a character that is not admitted; letters, digits and _ . : @ / + - are';
	}
	if (text.startsWith('-')) return 'begins with "-", which programs take for an option';
	// A value often ends up in a path such as environments/{{environment}}, which it must not climb out of.
	if (text.split('/').includes('..')) return 'has ".." as a part of a path';
	return undefined;
}

const typeReasons: Readonly<Record<Exclude<ParameterType, 'string'>, (text: string) => string | undefined>> =
	{
		integer: (text) => (integerText.test(text) ? undefined : 'is no whole number such as 42'),
		number: (text) =>
			numberText.test(text) && Number.isFinite(Number(text)) ? undefined : 'is no number such as 42 or 2.5',
		boolean: (text) => (text === 'true' || text === 'false' ? undefined : 'is neither true nor false'),
	};

/**
 * Parameters become environment variables, and these change what a program does before it looks at its arguments. Spelled
 * as programs read them: `PATH` is refused, `path` is an ordinary word. `*` stands for any rest.
 */
const refusedNames: readonly (readonly [reason: string, names: string])[] = [
	['the listener itself sets', 'WEBHOOK_*'],
	[
		'the dynamic linker and the C library obey',
		'LD_* DYLD_* _RLD* GLIBC_TUNABLES MALLOC_* GCONV_PATH GETCONF_DIR RES_OPTIONS RESOLV_* LOCALDOMAIN HOSTALIASES NIS_PATH',
	],
	[
		'tells programs who and where they are',
		'PATH HOME SHELL USER USERNAME LOGNAME UID EUID GID PPID PWD OLDPWD SHLVL TMPDIR TMP TEMP TEMPDIR MAIL TERM _',
	],
	[
		'changes how programs read and write text',
		'LANG LANGUAGE LC_* TZ TZDIR LOCPATH NLSPATH TERMINFO TERMINFO_DIRS TERMCAP POSIXLY_CORRECT COLUMNS LINES',
	],
	[
		'shells obey',
		'IFS ENV SHELLOPTS BASHOPTS BASH BASHPID BASH_* PS0 PS1 PS2 PS3 PS4 CDPATH FPATH ZDOTDIR GLOBIGNORE EXECIGNORE FIGNORE ' +
			'FUNCNEST PROMPT_* OPTIND OPTARG OPTERR HIST* INPUTRC TIMEFORMAT TMOUT MAILPATH MAILCHECK FCEDIT COMP_*',
	],
	[
		'names programs to start',
		'EDITOR VISUAL PAGER MANPAGER BROWSER LESS LESSOPEN LESSCLOSE SUDO_* DOAS_* PKEXEC_*',
	],
	[
		'the service manager sets',
		'LISTEN_FDS LISTEN_PID LISTEN_FDNAMES NOTIFY_SOCKET WATCHDOG_* INVOCATION_ID JOURNAL_STREAM CREDENTIALS_DIRECTORY ' +
			'SYSTEMD_* DBUS_* XDG_*',
	],
	['Node.js obeys', 'NODE_* NPM_* npm_* COREPACK_*'],
	['Python obeys', 'PYTHON* PIP_* VIRTUAL_ENV CONDA_*'],
	['Perl obeys', 'PERL*'],
	['Ruby, and so Puppet, obeys', 'RUBY* GEM_* BUNDLE_* BUNDLER_* RBENV_* RAKE*'],
	['Java obeys', 'JAVA_* _JAVA* JDK_* CLASSPATH MAVEN_* GRADLE_*'],
	[
		'programs of other languages obey',
		'GOFLAGS GODEBUG GOPATH GOROOT GOPROXY RUST_* RUSTFLAGS CARGO_* LUA_* PHPRC PHP_* TCLLIBPATH R_HOME R_LIBS* R_PROFILE* R_ENVIRON*',
	],
	[
		'git, ssh, TLS or transfer programs obey',
		'GIT_* SSH_* SSL_* OPENSSL_* GPG_* GNUPGHOME CURL_* CVS_* SVN_* HG* RSYNC_* WGETRC KRB5*',
	],
	[
		'sends network traffic elsewhere',
		'http_proxy https_proxy ftp_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY NO_PROXY RSYNC_PROXY',
	],
	[
		"Puppet's programs obey",
		'PUPPET_* FACTER_* HIERA_* MCOLLECTIVE_* MCO_* CHORIA_* R10K_* BOLT_* PT_* OPENVOX_*',
	],
	[
		'says which account, cluster or server a program works on',
		'AWS_* AZURE_* GOOGLE_* CLOUDSDK_* BOTO_CONFIG VAULT_* CONSUL_* NOMAD_* TF_* KUBECONFIG KUBE_* HELM_* DOCKER_* PODMAN_* ' +
			'CONTAINER_* CONTAINERS_* COMPOSE_* ANSIBLE_*',
	],
	[
		'standard tools obey',
		'MAKE MAKEFLAGS MAKEFILES MFLAGS CC CXX CFLAGS LDFLAGS AWKPATH AWKLIBPATH GREP_OPTIONS TAR_OPTIONS GZIP BZIP BZIP2 XZ_OPT ' +
			'XZ_DEFAULTS ZIPOPT UNZIP M4PATH PKG_CONFIG_* DEBIAN_FRONTEND DPKG_* APT_*',
	],
];

const refused = refusedNames.map(([reason, names]) => ({
	reason,
	pattern: new RegExp(`^(?:${names.replaceAll('*', '.*').replaceAll(' ', '|')})$`),
}));

/** Why no parameter may have this name; undefined when it is free to use. */
export function refusedName(name: string): string | undefined {
	if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
		return 'is no name: letters, digits and _ only, and no digit first';
	if (name === 'async') return 'belongs to the listener (?async=false); choose another name';
	const found = refused.find(({ pattern }) => pattern.test(name));
	return found && `would be an environment variable that ${found.reason}; choose another name`;
}

/** Something wrong with a parameter; `key` leads from `params` on, `offset` into the text that is there. */
export interface ParameterFault {
	readonly key: (string | number)[];
	readonly message: string;
	readonly offset?: number;
}

/**
 * A parameter rule compiled, or every fault in it.
 * @param pathNames the `:name` parts of the route's path
 * @param expressions shared by all routes of a configuration
 */
export function compileRule(
	name: string,
	spec: ParameterSpec,
	pathNames: readonly string[],
	expressions: ExpressionCompiler,
): { rule: ParameterRule } | { faults: ParameterFault[] } {
	const faults: ParameterFault[] = [];
	const inPath = pathNames.includes(name);
	const refusal = refusedName(name);
	if (refusal) faults.push({ key: [name], message: refusal });

	const type = spec.type ?? 'string';
	let pattern: RE2JS | undefined;
	if (spec.pattern !== undefined) {
		try {
			pattern = expressions.pattern(spec.pattern);
		} catch (error) {
			faults.push({ key: [name, 'pattern'], message: patternFault(spec.pattern, error) });
		}
	}
	const values = spec.enum && new Set(spec.enum.map(String));
	const reasonFor = (text: string): string | undefined => {
		if (type !== 'string') {
			const reason = typeReasons[type](text);
			if (reason) return reason;
		}
		if (values && !values.has(text)) return `is none of ${listed([...values])}`;
		if (text.length > maxLength) return `is longer than ${maxLength} characters`;
		if (pattern && !pattern.testExact(text)) return `does not match ${spec.pattern}`;
		return type === 'string' && !values && !pattern ? plainReason(text) : undefined;
	};

	for (const [index, item] of (spec.enum ?? []).entries()) {
		const text = String(item);
		const odd = type === 'string' ? undefined : typeReasons[type](text);
		if (odd)
			faults.push({ key: [name, 'enum', index], message: `"${text}" ${odd}, as type: ${type} demands` });
	}
	if (spec.default !== undefined && faults.length === 0) {
		const text = asText(spec.default);
		const reason = 'text' in text ? reasonFor(text.text) : text.reason;
		if (reason)
			faults.push({ key: [name, 'default'], message: `the default itself would be refused: it ${reason}` });
	}
	if (spec.default !== undefined && (spec.required || inPath)) {
		const why = inPath ? 'the path always gives a value' : '"required: true" makes the caller give one';
		faults.push({ key: [name, 'default'], message: `can never be used: ${why}; remove one of the two` });
	}
	let from: Expression | null = null;
	if (spec.from !== undefined) {
		const compiled = expressions.compile(spec.from, 'from', pathNames);
		if ('expression' in compiled) from = compiled.expression;
		else faults.push(...compiled.faults.map((fault) => ({ key: [name, 'from'], ...fault })));
	}
	if (inPath && spec.from !== undefined) {
		const message = `can never be used: the path gives the value; name the parameter otherwise, or say from: path.${name} there`;
		faults.push({ key: [name, 'from'], message });
	}
	if (inPath && spec.secret) {
		faults.push({
			key: [name, 'secret'],
			message: `:${name} is a part of the path, and paths stand in logs; take it from the body instead`,
		});
	}
	if (inPath && spec.required === false) {
		faults.push({
			key: [name, 'required'],
			message: `:${name} is a part of the path and so always required`,
		});
	}
	if (faults.length > 0) return { faults };

	const rule: ParameterRule = {
		name,
		secret: spec.secret ?? false,
		description: spec.description ?? '',
		from,
		required: inPath || (spec.required ?? false),
		type,
		default: spec.default === undefined ? null : String(spec.default),
		pattern: spec.pattern ?? null,
		enum: values ? [...values] : null,
		check(value) {
			const text = asText(value);
			if ('reason' in text) return text;
			const reason = reasonFor(text.text);
			return reason === undefined ? text : { reason };
		},
	};
	return { rule: Object.freeze(rule) };
}

/** At most twenty, so that a long list does not fill a caller's screen. */
function listed(values: readonly string[]): string {
	const shown = values.slice(0, 20).join(', ');
	return values.length > 20 ? `${shown} and ${values.length - 20} more` : shown;
}

function patternFault(pattern: string, error: unknown): string {
	const said = error instanceof Error ? error.message.replace(/^error parsing regexp: /, '') : String(error);
	const backtracking = /\(\?[=!<]|\\[1-9]/.test(pattern)
		? '; look-ahead, look-behind and back-references do not exist here, as they could make matching take for ever'
		: '';
	return `is no regular expression that the listener reads (RE2 syntax): ${said}${backtracking}`;
}
