/**
 * Text with `{{name}}` parts, as list items of commands, `cwd` and groups hold it. Compiled when the configuration is read,
 * filled once for each run. Filling is one pass: a value that itself contains `{{name}}` stays as it is.
 */

import type { Parameters } from './parameters.ts';

/** Compiled text; made by `compileTemplate` only. */
export class Template {
	/** The parameters it uses, each once. */
	readonly names: readonly string[];
	readonly #literals: readonly string[];
	readonly #slots: readonly string[];

	constructor(literals: readonly string[], slots: readonly string[]) {
		this.#literals = literals;
		this.#slots = slots;
		this.names = [...new Set(slots)];
	}

	/** The text with every part replaced by its parameter's value; an optional parameter that is absent gives the empty string. */
	fill(parameters: Parameters): string {
		let text = this.#literals[0] ?? '';
		for (const [index, name] of this.#slots.entries()) {
			text += (parameters.values[name] ?? '') + (this.#literals[index + 1] ?? '');
		}
		return text;
	}
}

/** In this order: a brace pair meant literally, a whole part, a pair that is never closed. */
const parts = /\\\{\{|\{\{(.*?)\}\}|\{\{/gs;

/**
 * Reads text with `{{name}}` parts. Blanks inside the braces do not count; `\{{` stands for a literal `{{`.
 * @returns the template, or a sentence that says what is wrong and how to mend it
 */
export function compileTemplate(text: string): Template | string {
	const literals = [''];
	const slots: string[] = [];
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
		if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
			return `"{{${name}}}" names no parameter (letters, digits and _, such as {{role}}); write \\{{ for the two braces themselves`;
		}
		slots.push(name);
		literals.push('');
	}
	literals[literals.length - 1] += text.slice(end);
	return new Template(literals, slots);
}
