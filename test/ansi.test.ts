/** Escape sequences in what commands print: kept as they are, and left out of the text where the reader is no terminal. */

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import fc from 'fast-check';
import { BareText } from '../listener/terminal.ts';
import { type Listener, startListener } from './helpers/listener.ts';

const bare = (...pieces: string[]) => {
	const text = new BareText();
	return pieces.map((piece) => text.write(piece)).join('');
};

describe('text without escape sequences', () => {
	const cases: readonly [what: string, printed: string, text: string][] = [
		['nothing to take out', 'a\tb\r\nü 😀\n', 'a\tb\r\nü 😀\n'],
		['colours', '\x1b[0;32mNotice: \x1b[38;2;1;2;3mok\x1b[0m', 'Notice: ok'],
		['places and erasing', '50%\x1b[2K\r\x1b[1A100%', '50%\r100%'],
		['a title, ended by BEL or by ST', '\x1b]0;title\x07a\x1b]2;title\x1b\\b', 'ab'],
		['a link', '\x1b]8;;https://example.com\x1b\\text\x1b]8;;\x1b\\', 'text'],
		['the clipboard', '\x1b]52;c;aGk=\x07after', 'after'],
		['character sets and single shifts', '\x1b(B\x1b)0\x1b=\x1b>\x1bMa', 'a'],
		[
			'pictures and device strings',
			'\x1bPq#0;2;0;0;0\x1b\\a\x1b_G..\x1b\\b\x1b^x\x1b\\c\x1bXx\x1b\\d',
			'abcd',
		],
		['the one-character forms', '\x9b31mred\x9b0m \x9d0;title\x9cafter\x85', 'red after'],
		['bells, backspaces and DEL', 'a\x07b\x08\x7fc\x00', 'abc'],
		['a sequence within a sequence', '\x1b[3\x1b[1mx\x1b]0;a\x1b[31mb', 'xb'],
		['a sequence that a line end breaks off', '\x1b[31\nnext\x1b]0;title\nnext', '\nnext\nnext'],
		['a sequence that text breaks off', '\x1b[31ü', 'ü'],
		['an escape at the end', 'a\x1b', 'a'],
	];
	for (const [what, printed, text] of cases) {
		test(`${what}: whole and in pieces`, () => {
			assert.equal(bare(printed), text);
			assert.equal(bare(...printed), text, 'one character at a time');
		});
	}

	test('a sequence that never ends hides no more than a sequence may be long', () => {
		const after = 'x'.repeat(10_000);
		assert.ok(bare(`\x1b]0;${after}`).length > 5_000);
		assert.ok(bare(`\x1b[${'1'.repeat(10_000)}`).length > 9_000);
		assert.ok(bare(`\x1b${' '.repeat(10_000)}`).length > 9_000);
		const strings = bare('\x1b]0;'.repeat(5_000));
		assert.ok(strings.length < 20_000 && !strings.includes('\x1b'));
	});

	test('whatever is printed, in whatever pieces: no control character is left, and the rest is in order', () => {
		const piece = fc.oneof(
			fc.constantFrom(
				'\x1b',
				'\x1b[',
				'\x1b]',
				'\x1b\\',
				'\x07',
				'\x9b',
				'\x9c',
				'31m',
				';',
				'\n',
				'text',
				'ü',
			),
			fc.string({ unit: 'binary', maxLength: 4 }),
		);
		fc.assert(
			fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => {
				const text = bare(...pieces);
				assert.doesNotMatch(text, /(?![\t\n\r])\p{Cc}/u);
				assert.equal(text, bare(pieces.join('')), 'pieces do not matter');
				const lines = (all: string) => all.split('\n').length;
				assert.equal(lines(text), lines(pieces.join('')), 'no line is lost');
			}),
			{ numRuns: 500 },
		);
	});
});

describe('output with escape sequences', () => {
	const printed = '\x1b[32mgreen\x1b[0m \x1b]0;title\x07end\n';
	let listener: Listener;
	let id = '';
	before(async () => {
		listener = await startListener({
			routes: `
routes:
  colours: { method: get, command: "printf '\\\\033[32mgreen\\\\033[0m \\\\033]0;title\\\\007end\\\\n'" }
`,
		});
		id = (await listener.get('/colours?async=false')).json.id;
	});

	test('is kept as it was printed, and told so unless asked otherwise', async () => {
		assert.equal(await listener.output(id), printed);
		assert.equal((await listener.get(`/-/runs/${id}/output?ansi=keep`)).text, printed);
		const bytes = await listener.get(`/-/runs/${id}/output?ansi=strip`, {
			accept: 'application/octet-stream',
		});
		assert.equal(bytes.text, printed, 'bytes are bytes');
	});

	test('is bare text with ?ansi=strip, and with Prefer: ansi=strip', async () => {
		for (const follow of ['', '&follow=true'])
			assert.equal((await listener.get(`/-/runs/${id}/output?ansi=strip${follow}`)).text, 'green end\n');
		const preferred = await listener.get(`/-/runs/${id}/output`, { prefer: 'ansi=strip' });
		assert.equal(preferred.text, 'green end\n');
		assert.equal(preferred.headers['preference-applied'], 'ansi=strip');
		const events = await listener.get(`/-/runs/${id}/output?ansi=strip`, { accept: 'text/event-stream' });
		assert.match(events.text, /^event: output\nid: 29\ndata: green end\n\n/);
		const bad = await listener.get(`/-/runs/${id}/output?ansi=none`);
		assert.equal(bad.status, 422);
		assert.match(bad.json.detail, /"ansi" is neither keep nor strip/);
	});

	test('is bare text in the answer to a caller who waited and prefers that, in every form', async () => {
		const waits = (accept: string) => listener.get('/colours', { prefer: 'wait=10, ansi=strip', accept });
		const { json, headers } = await waits('application/json');
		assert.equal(json.output.text, 'green end\n');
		assert.equal(headers['preference-applied'], 'wait=10, ansi=strip');
		assert.equal((await waits('text/plain')).text, 'green end\n');
		assert.match((await waits('text/event-stream')).text, /data: green end\n/);
		const whole = await listener.get('/colours?async=false', { accept: 'text/plain' });
		assert.equal(whole.text, printed);
	});
});
