/**
 * Text with `{{name}}` parts, as steps, `cwd` and groups hold it. Compiled when the configuration is read, filled once for
 * each run. Filling is one pass: a value that itself contains `{{name}}` stays as it is.
 *
 * `{{run.…}}` stands for a value of the run itself. The dot keeps it apart from parameters, whose names have none. Such values
 * are known only when the run is performed, so a plan keeps their places.
 */

import type { Parameters } from './parameters.ts';

/** Values of a run that its steps may use, by their name in `{{run.…}}`, with the variables in which commands see them. */
export const runValues: Readonly<Record<string, string>> = {
	id: 'WEBHOOK_RUN',
	route: 'WEBHOOK_ROUTE',
	delivery: 'WEBHOOK_DELIVERY',
	event: 'WEBHOOK_EVENT',
	client: 'WEBHOOK_CLIENT',
	certname: 'WEBHOOK_CERTNAME',
};

/** Values that are known only when a run's steps have ended. */
export const endValues: Readonly<Record<string, string>> = {
	state: 'WEBHOOK_STATE',
	reason: 'WEBHOOK_REASON',
	exit_code: 'WEBHOOK_EXIT_CODE',
	message: 'WEBHOOK_MESSAGE',
};

/** Text with all parameters filled in; in place of a value of the run itself stands the variable that holds it. */
export type PlannedText = string | readonly (string | { readonly variable: string })[];

/**
 * The text with the run's own values filled in.
 * @param values by variable; what is absent is empty
 * @param encode what becomes of each value
 */
export function completeText(
	text: PlannedText,
	values: Readonly<Record<string, string>>,
	encode: (value: string) => string = (value) => value,
): string {
	if (typeof text === 'string') return text;
	return text.map((part) => (typeof part === 'string' ? part : encode(values[part.variable] ?? ''))).join('');
}

/** Compiled text; made by `compileTemplate` only. */
export class Template {
	/** The parameters it uses, each once. */
	readonly names: readonly string[];
	readonly #literals: readonly string[];
	readonly #slots: readonly Slot[];

	constructor(literals: readonly string[], slots: readonly Slot[]) {
		this.#literals = literals;
		this.#slots = slots;
		this.names = [...new Set(slots.flatMap(({ name }) => name ?? []))];
	}

	/** True when it uses a value of the run. */
	get usesRun(): boolean {
		return this.#slots.some(({ variable }) => variable !== undefined);
	}

	/** True when it has no `{{…}}` at all. */
	get isPlain(): boolean {
		return this.#slots.length === 0;
	}

	/** The text with every part replaced by its parameter's value; an optional parameter that is absent gives the empty string. */
	fill(parameters: Parameters): string {
		return completeText(this.plan(parameters), {});
	}

	/** The same, with the places of the run's own values kept. @param encode what becomes of each parameter's value */
	plan(
		parameters: Parameters,
		encode: (value: string, name: string) => string = (value) => value,
	): PlannedText {
		const parts: (string | { variable: string })[] = [];
		let text = this.#literals[0] ?? '';
		for (const [index, { name, variable }] of this.#slots.entries()) {
			if (variable === undefined) text += encode(parameters.values[name] ?? '', name);
			else {
				parts.push(text, { variable });
				text = '';
			}
			text += this.#literals[index + 1] ?? '';
		}
		return parts.length === 0 ? text : [...parts, text];
	}

	/** The text as it may come to be, with these values by parameter name; the run's own are `x`. */
	sample(values: Readonly<Record<string, string>>): string {
		return this.#slots.reduce(
			(text, { name }, index) => text + (values[name ?? ''] ?? 'x') + (this.#literals[index + 1] ?? ''),
			this.#literals[0] ?? '',
		);
	}
}

/** What a `{{…}}` stands for: a parameter, or a value of the run. */
type Slot =
	| { readonly name: string; readonly variable?: undefined }
	| { readonly name?: undefined; readonly variable: string };

/** In this order: a brace pair meant literally, a whole part, a pair that is never closed. */
const parts = /\\\{\{|\{\{(.*?)\}\}|\{\{/gs;

/**
 * Reads text with `{{name}}` parts. Blanks inside the braces do not count; `\{{` stands for a literal `{{`.
 * @param own which values of the run may be used, by their names
 * @returns the template, or a sentence that says what is wrong and how to mend it
 */
export function compileTemplate(text: string, own: Readonly<Record<string, string>> = {}): Template | string {
	const literals = [''];
	const slots: Slot[] = [];
	let end = 0;
	for (const match of text.matchAll(parts)) {
		literals[literals.length - 1] += text.slice(end, match.index);
		end = match.index + match[0].length;
		if (match[0] === '\\{{') {
			literals[literals.length - 1] += '{{';
			continue;
		}
		const name = match[1]?.trim();
		if (name === undefined) return `"{{" is never closed by "}}"; write \\{{ for the two braces themselves`;
		if (name.startsWith('run.')) {
			const variable = Object.hasOwn(own, name.slice(4)) ? own[name.slice(4)] : undefined;
			if (variable === undefined) return unknownRunValue(name, own);
			slots.push({ variable });
		} else if (/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) slots.push({ name });
		else
			return `"{{${name}}}" names no parameter (letters, digits and _, such as {{role}}); write \\{{ for the two braces themselves`;
		literals.push('');
	}
	literals[literals.length - 1] += text.slice(end);
	return new Template(literals, slots);
}

function unknownRunValue(name: string, own: Readonly<Record<string, string>>): string {
	const known = Object.keys(own);
	if (known.length === 0) return `{{${name}}} is known only when the run is performed: use it in steps`;
	if (Object.hasOwn(endValues, name.slice(4)))
		return `{{${name}}} is known only when the run's steps have ended: use it in on_success or on_failure`;
	return `{{${name}}} is no value of a run; there are ${known.map((one) => `run.${one}`).join(', ')}`;
}

/** Something wrong with a text, or with what it is a part of. */
export interface TextFault {
	/** Where, from the route on, such as `['steps', 1, 'http', 'url']`. */
	readonly key: readonly (string | number)[];
	readonly message: string;
}

const nothing = new Template([''], []);

/** Compiles the texts of one route, and gathers everything that is wrong with them. */
export class Texts {
	readonly faults: TextFault[];
	readonly #declared: ReadonlySet<string>;
	readonly #secret: ReadonlySet<string>;
	readonly #own: Readonly<Record<string, string>>;
	readonly #at: readonly (string | number)[];

	/**
	 * @param declared the parameters that the route declares
	 * @param own which values of the run may be used
	 * @param secret those of the parameters that may stand nowhere, since texts are seen and kept
	 */
	constructor(
		declared: ReadonlySet<string>,
		own: Readonly<Record<string, string>>,
		secret: ReadonlySet<string>,
		at: readonly (string | number)[] = [],
		faults: TextFault[] = [],
	) {
		this.#declared = declared;
		this.#own = own;
		this.#secret = secret;
		this.#at = at;
		this.faults = faults;
	}

	/** Those below a key; their faults are gathered here. */
	at(...key: (string | number)[]): Texts {
		return new Texts(this.#declared, this.#own, this.#secret, [...this.#at, ...key], this.faults);
	}

	/** The same, where other values of the run are known. */
	where(own: Readonly<Record<string, string>>): Texts {
		return new Texts(this.#declared, own, this.#secret, this.#at, this.faults);
	}

	/** The name of a place of the route: `steps.1.http.url`. */
	place(...key: (string | number)[]): string {
		return [...this.#at, ...key].join('.');
	}

	fault(message: string, ...key: (string | number)[]): void {
		this.faults.push({ key: [...this.#at, ...key], message });
	}

	/** Compiles a text; what is wrong with it becomes a fault, and the empty text takes its place. */
	compile(text: string, ...key: (string | number)[]): Template {
		if (text.includes('\0')) this.fault('must not contain a NUL character', ...key);
		const template = compileTemplate(text, this.#own);
		if (typeof template === 'string') {
			this.fault(template, ...key);
			return nothing;
		}
		for (const name of template.names) {
			if (this.#secret.has(name))
				this.fault(
					`{{${name}}} is a secret parameter, and would be seen here; commands have it in their environment, so write "$${name}" in a command that is text`,
					...key,
				);
			if (this.#declared.has(name)) continue;
			const known =
				this.#declared.size === 0
					? 'the route declares none'
					: `declared are ${[...this.#declared].join(', ')}`;
			this.fault(`{{${name}}} is used but not declared under params; ${known}`, ...key);
		}
		return template;
	}
}
