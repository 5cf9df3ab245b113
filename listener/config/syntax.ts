/** What is wrong with text that is no YAML, in the words of somebody who edits the file and with the usual cause. */

/**
 * @param reason what js-yaml says
 * @param offset where in the text
 */
export function syntaxSentence(reason: string, text: string, offset: number): string {
	const lineStart = text.lastIndexOf('\n', offset - 1) + 1;
	// The patterns below are made for lines that people write, and slow on one of a million blanks.
	const line = text.slice(lineStart, lineStart + 500).split('\n', 1)[0] ?? '';
	const character = text.charAt(offset);
	const known = syntaxSentences.find(([found]) => reason.includes(found))?.[1];
	if (/(^|[:,[-])\s*\{\{/.test(line))
		return 'is not YAML: text that begins with "{{" must be in quotes: "{{name}}…"';
	if (/^ *\t/.test(line)) return 'is not YAML: a tab indents this line; use spaces only';
	if (reason.startsWith('bad indentation of a mapping')) {
		if (/[@`%]/.test(character)) return `is not YAML: text that begins with "${character}" must be in quotes`;
		if (/^\s*(- )?[^\s:#]+:\s+[^"'|>#]*:(\s|$)/.test(line)) {
			return 'is not YAML: text that contains ": " or ends in ":" must be in quotes';
		}
	}
	return `is not YAML: ${known ?? reason}`;
}

const syntaxSentences: readonly (readonly [string, string])[] = [
	['bad indentation', 'this line is not indented like the lines it belongs to'],
	[
		'deficient indentation',
		'a quote or bracket above this line is not closed, or this line is indented too little',
	],
	['unexpected end of the', 'a quote or bracket is not closed'],
	['multiline key', 'this line is no "key: value"; is the colon missing, or the blank after it?'],
	[
		'end of the stream or a document separator',
		'the lines above are no "key: value"; is a colon missing, or the blank after it?',
	],
	[
		'unknown escape sequence',
		'in double quotes a backslash begins an escape; use single quotes, or write \\\\',
	],
	[
		'valid JSON character',
		'here is a control character; write it as an escape in double quotes, such as "\\x07"',
	],
	['non-printable', 'here is a control character; write it as an escape in double quotes, such as "\\x07"'],
	['null byte', 'here is a NUL byte; is this a text file?'],
	['maxDepth', 'more than 100 levels of nesting'],
];
