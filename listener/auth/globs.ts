/** Texts in which `*` stands for any characters and `?` for one. */

import { RE2JS } from 're2js';

const wildcards: Readonly<Record<string, string>> = { '*': '.*', '?': '.' };

/** Whether a value is like one of the globs, all of it. Takes time in proportion to its length. */
export function matcherOf(globs: readonly string[]): (value: string) => boolean {
	const pattern = globs
		.map((glob) => glob.replace(/[*?]|[^*?]+/g, (part) => wildcards[part] ?? RE2JS.quote(part)))
		.join('|');
	const compiled = RE2JS.compile(`(?s)(?:${pattern})`);
	return (value) => compiled.matches(value);
}
