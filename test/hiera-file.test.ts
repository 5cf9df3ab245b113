/** Setting one value in the text of a YAML file: what it writes, what it leaves alone, and what it refuses. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { load, YAML11_SCHEMA } from 'js-yaml';
import { CannotSet, setValue } from '../listener/steps/hiera-file.ts';

/** Everything that a rewriting of the file would lose; `@` is where the value stands that is set. */
const around = `---
# A comment, and an anchor.
defaults: &defaults
    port:   80      # four columns
    hosts: [ "a", 'b' , c ]
version: @
merged:
  <<: *defaults
  "quoted" : 'it''s'
folded: >-
  one
  line

  another
literal: |+
  kept

secret: >
  ENC[PKCS7,MIIBeQYJKoZIhvcNAQcDoIIBajCCAWYCAQAxggEhMIIBHQIBADAFMAACAQEw
  KoZIhvcNAQEBBQAEggEA]
list:
- first
-   second: 2
? complex
: value
last: { flow: yes, text: "tab\\t" } # end`;

describe('a value in a file of Hiera data', () => {
	const written: [before: string, value: string, after: string][] = [
		['2.1.3', '2.1.4', '2.1.4'],
		['2.1.3   # ours', '2.1.4', '2.1.4   # ours'],
		['"2.1.3"', '2.1.4', '"2.1.4"'],
		["'2.1.3' # it's", "o'clock", "'o''clock' # it's"],
		['&v 2.1.3', '2.1.4', '&v 2.1.4'],
		['!!str 2.1', '2.2', "!!str '2.2'"],
		// Text stays text, whatever other readers of YAML would make of it.
		['2.1.3', '2.2', "'2.2'"],
		['2.1.3', '012', "'012'"],
		['2.1.3', 'yes', "'yes'"],
		['2.1.3', 'null', "'null'"],
		['2.1.3', '1e3', "'1e3'"],
		['2.1.3', '2026-11-20', "'2026-11-20'"],
		['2.1.3', '12:30:45', "'12:30:45'"],
		['2.1.3', 'a: b # c', "'a: b # c'"],
		['2.1.3', '', "''"],
		['2.1.3', 'two\nlines', '"two\\nlines"'],
		['2.1.3', '*alias', "'*alias'"],
		// A number that is one in the same way stays one, which 2.10 would not.
		['2.1', '2.2', '2.2'],
		['2.9', '2.10', "'2.10'"],
		['80', '8080', '8080'],
		['80', 'http', 'http'],
		['true', 'false', 'false'],
		['true', 'maybe', 'maybe'],
		// Nothing, aliases and blocks.
		['', '2.1.4', ' 2.1.4'],
		['~', '2.1.4', '2.1.4'],
		['*defaults', '2.1.4', '2.1.4'],
		['>\n  folded\n  text', '2.1.4', "'2.1.4'"],
		['|- # why\n  literal', '2.1.4', "'2.1.4'"],
		['several\n  lines', '2.1.4', '2.1.4'],
	];
	for (const [before, value, after] of written) {
		test(`${JSON.stringify(before)} set to ${JSON.stringify(value)} is ${after}, and all around it stays`, () => {
			const text = around.replace(/ ?@/, before === '' ? '' : ` ${before}`);
			const expected = around.replace(' @', before === '' ? after : ` ${after}`);
			assert.equal(setValue(text, 'version', value, false).text, expected);
		});
	}

	test('that is there already leaves the file as it is, unless 2.10 was written as a number', () => {
		for (const same of ['2.1.4', '"2.1.4"', "'2.1.4'", '2.1'])
			assert.equal(setValue(`a: ${same}\n`, 'a', same.replaceAll(/["']/g, ''), false).text, `a: ${same}\n`);
		assert.equal(setValue('a: 2.10\n', 'a', '2.10', false).text, "a: '2.10'\n");
	});

	test('is found by its key as it is written, else by keys and numbers with dots between', () => {
		const text = 'a.b: 1.0.0\na:\n  b: 2.0.0\n  c.d: 3.0.0\n  e:\n  - f: 4.0.0\nx::y: 5.0.0\n"12": 6.0.0\n';
		const set = (key: string, from: string) =>
			assert.equal(setValue(text, key, '9.9.9', false).text, text.replace(from, '9.9.9'));
		set('a.b', '1.0.0');
		set('a.c.d', '3.0.0');
		set('a.e.0.f', '4.0.0');
		set('x::y', '5.0.0');
		set('12', '6.0.0');
	});

	const refused: [text: string, key: string, why: RegExp][] = [
		['a: 1\n', 'b', /has no key b; add it by hand, or say "create: true"/],
		['a: {}\n', 'a', /has a map under a/],
		['a: [1]\n', 'a', /has a list under a/],
		['a: 1\na: 2\n', 'a', /has the key a more than once/],
		['a: ENC[PKCS7,x]\n', 'a', /has an encrypted value under a/],
		['a: >\n  ENC[PKCS7,\n  x]\n', 'a', /has an encrypted value under a/],
		['a: !ruby/sym b\n', 'a', /has a value of the type !ruby\/sym under a/],
		['a: 1\n---\na: 2\n', 'a', /several documents/],
		['a: "1\n', 'a', /is no YAML that can be read/],
		['', 'a', /has no key a/],
		['- 1\n', 'a', /has no key a/],
	];
	for (const [text, key, why] of refused) {
		test(`is not set in ${JSON.stringify(text)}: ${why.source}`, () => {
			assert.throws(
				() => setValue(text, key, 'x', false),
				(error) => error instanceof CannotSet && why.test(error.message),
			);
		});
	}

	const created: [text: string, key: string, after: string][] = [
		['', 'a', '---\na: 1.2.3\n'],
		['---\n', 'a::b', '---\na::b: 1.2.3\n'],
		['# why\na: 1', 'b', '# why\na: 1\nb: 1.2.3\n'],
		['a:\n    # why\n    b: 1\nc: 2\n', 'a.d', 'a:\n    # why\n    d: 1.2.3\n    b: 1\nc: 2\n'],
		['a: 1\n', 'b.c', 'a: 1\nb:\n  c: 1.2.3\n'],
		['a: |+\n  x\n\n', 'b', 'a: |+\n  x\n\nb: 1.2.3\n'],
		['a: {b: 1}\n', 'a.c', "a: {c: '1.2.3', b: 1}\n"],
		['a: 1\r\n', 'b', 'a: 1\r\nb: 1.2.3\r\n'],
	];
	for (const [text, key, after] of created) {
		test(`is made in ${JSON.stringify(text)} as ${key} when it may be`, () => {
			assert.equal(setValue(text, key, '1.2.3', true).text, after);
		});
	}

	test('of any text is read as that text, by YAML 1.2 and 1.1, and nothing else of any file changes', () => {
		const scalar = fc.constantFrom(
			'1',
			'2.10',
			'yes',
			'"a b"',
			"'it''s'",
			'>\n    folded\n    text',
			'|-\n    x',
			'',
			'~',
			'!!str 5',
		);
		const comment = fc.constantFrom('', '  # a comment', '\n\n# own line: yes');
		const line = fc
			.tuple(scalar, comment)
			.map(([value, behind]) => (/[>|]/.test(value) ? ` ${value}` : ` ${value}${behind}`));
		const value = fc.oneof(
			fc.string({ unit: 'grapheme', maxLength: 30 }),
			fc.stringMatching(/^[0-9.eExXob:_+-]{1,8}$/),
			fc.constantFrom(
				'on',
				'Off',
				'.inf',
				'0b1',
				'0o7',
				'1_000',
				'190:20:30',
				'2026-11-20T00:00:00Z',
				'=',
				'<<',
				'- a',
				'? a',
			),
		);
		fc.assert(
			fc.property(fc.array(line, { minLength: 1, maxLength: 6 }), fc.nat(), value, (lines, pick, next) => {
				const at = pick % lines.length;
				const text = `---\ntop:\n${lines.map((each, index) => `  k${index}:${each}`).join('\n')}\nend: true\n`;
				const edited = setValue(text, `top.k${at}`, next, false).text;
				// All but the one line, and what goes with it, is where it was.
				const start = text.indexOf(`  k${at}:`);
				const rest = text.slice(text.indexOf(at + 1 < lines.length ? `\n  k${at + 1}:` : '\nend:', start));
				assert.ok(edited.startsWith(text.slice(0, start + 5)) && edited.endsWith(rest));
				for (const options of [{}, { schema: YAML11_SCHEMA }]) {
					const before = load(text, options) as { top: Record<string, unknown> };
					const after = load(edited, options) as { top: Record<string, unknown> };
					const found = after.top[`k${at}`];
					// A number or truth value takes the place of one; everything else is text.
					if (edited !== text) assert.equal(String(found), next);
					if (typeof found !== 'string') assert.equal(typeof found, typeof before.top[`k${at}`]);
					assert.deepEqual({ ...after.top, [`k${at}`]: 0 }, { ...before.top, [`k${at}`]: 0 });
				}
			}),
			{ numRuns: 2000 },
		);
	});
});
