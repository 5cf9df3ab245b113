/**
 * Nothing a caller sends becomes a program, an argument that was not meant, or shell text. Every value below goes into every
 * place where a value can be, against string and list commands; it arrives exactly as sent, or is refused, and nothing else
 * happens: a canary file stays absent, and only the named command runs.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { type Answer, type Listener, type RequestOptions, startListener } from './helpers/listener.ts';

let listener: Listener;
/** Appears as soon as anything of a value is run. */
let canary: string;

// biome-ignore-start lint/suspicious/noTemplateCurlyInString: they are meant for shells
/** What shells, programs and templates take for more than text; CANARY is replaced by a path. */
const values = [
	'; touch CANARY',
	'& touch CANARY &',
	'&& touch CANARY',
	'| touch CANARY',
	'|| touch CANARY',
	'\ntouch CANARY\n',
	'\r\ntouch CANARY\r\n',
	'$(touch CANARY)',
	'`touch CANARY`',
	'${IFS}touch${IFS}CANARY',
	'"; touch CANARY; "',
	"'; touch CANARY; '",
	'\\"; touch CANARY; \\"',
	'> CANARY',
	'>> CANARY',
	'>| CANARY',
	'<(touch CANARY)',
	'>(touch CANARY)',
	'<<E\n$(touch CANARY)\nE',
	'{touch,CANARY}',
	'() { :;}; touch CANARY',
	'a[$(touch CANARY)]',
	'$((a[$(touch CANARY)]))',
	'!!; touch CANARY',
	'\\$(touch CANARY)',
	"$'\\n'touch CANARY",
	'%24(touch CANARY)',
	'{{role}} {{value}} $value "$value"',
	'#{`touch CANARY`}',
	'<%= `touch CANARY` %>',
	'%{lookup("x")} $env:PATH %PATH% ${PATH} $HOME ~ ~root',
	'* ? [a-z] ../* /etc/*',
	'../../../../etc/passwd',
	'..',
	'-rf',
	'--help',
	'-',
	'--',
	'- e',
	'\t tab and  blanks \t',
	'',
	' ',
	"'",
	'"',
	'\\',
	'\\\\',
	'$',
	'#',
	'!',
	'~',
	'=',
	'a=b',
	'PATH=/tmp',
	'LD_PRELOAD=CANARY',
	'\x01\x02\x07\x08\x0b\x0c\x1b[31m\x7f',
	'\u0085\u00a0\u2028\u2029\ufeff\u202e',
	'ü € 𝄞 日本語 \u0301',
	'true',
	'null',
	'0',
	'1e999',
	'\u00ff\u0100\ud7ff\ue000\uffff',
	'a'.repeat(8000),
];
// biome-ignore-end lint/suspicious/noTemplateCurlyInString: they are meant for shells

/** What the default rule admits, as routes.md says it. */
const admitted = /^(?!-)(?!(?:.*\/)?\.\.(?:\/|$))[A-Za-z0-9_.:@/+-]{1,255}$/;

before(async () => {
	const open = 'params: { value: { pattern: "(?s).*" }, role: { default: web } }';
	const plain = 'params: { value: {}, role: { default: web } }';
	// The count shows that a value is one argument, whatever it holds.
	const shell = `command: 'printf "%s" "$value"; test $# -eq 0'`;
	const list = `command: [/bin/sh, -c, 'printf "%s:%s" "$#" "$1"', sh, "{{value}}", last]`;
	listener = await startListener({
		routes: `
defaults: { method: [get, post] }
routes:
  shell: { ${open}, ${shell} }
  list: { ${open}, ${list} }
  plain/shell: { ${plain}, ${shell} }
  plain/list: { ${plain}, ${list} }
  path/shell/:value: { ${open}, ${shell} }
  path/list/:value: { ${open}, ${list} }
  path/plain/:value: { ${list} }
  option: { ${open}, command: [printf, "%s", "--role={{value}}"] }
  environment: { ${open}, command: "env -0" }
  inside: { ${open}, env: { GIVEN: "<{{value}}>" }, command: 'printf "%s" "$GIVEN"' }
  stdin: { ${open}, stdin: parameters, command: cat }
  group: { ${open}, concurrency: { group: "g-{{value}}" }, ${list} }
`,
	});
	canary = path.join(listener.dir, 'canary');
});

const form = { 'content-type': 'application/x-www-form-urlencoded' };

/** Every place of a request that can hold the value of `value`. */
const places: readonly [place: string, (value: string) => { query?: string } & RequestOptions][] = [
	['query', (value) => ({ query: `&value=${encodeURIComponent(value)}` })],
	['JSON', (value) => ({ method: 'POST', body: { value } })],
	[
		'JSON as `curl -d` sends it',
		(value) => ({ method: 'POST', body: JSON.stringify({ value }), headers: form }),
	],
	['form', (value) => ({ method: 'POST', body: `value=${encodeURIComponent(value)}`, headers: form })],
	[
		'multipart',
		(value) => ({
			method: 'POST',
			body: `--=b=\r\nContent-Disposition: form-data; name="value"\r\n\r\n${value}\r\n--=b=--\r\n`,
			headers: { 'content-type': 'multipart/form-data; boundary="=b="' },
		}),
	],
];

function call(
	route: string,
	{ query = '', ...options }: { query?: string } & RequestOptions,
): Promise<Answer> {
	return listener.request(`/${route}?async=false${query}`, options);
}

/** What a command prints that got the value, and got it as one argument. */
const exactly = (route: string, value: string) => (route.endsWith('shell') ? value : `2:${value}`);

const shown = (value: string) => JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);

function nothingElseRan(): void {
	assert.ok(!fs.existsSync(canary), 'a value was run');
}

for (const template of values) {
	describe(`the value ${shown(template)}`, () => {
		const value = () => template.replaceAll('CANARY', canary);

		for (const [place, build] of places) {
			test(`in ${place} reaches a command exactly, and as one argument`, async () => {
				const [shell, list] = await Promise.all(
					['shell', 'list'].map((route) => call(route, build(value()))),
				);
				assert.equal(shell?.json.output?.text, exactly('shell', value()), shell?.text);
				assert.equal(list?.json.output?.text, exactly('list', value()), list?.text);
				nothingElseRan();
			});

			test(`in ${place} is refused by the default rule, unless that admits it`, async () => {
				for (const route of ['plain/shell', 'plain/list']) {
					const answer = await call(route, build(value()));
					if (admitted.test(value()))
						assert.equal(answer.json.output?.text, exactly(route, value()), answer.text);
					else assert.equal(answer.status, 422, answer.text);
				}
				nothingElseRan();
			});
		}

		test('in the path reaches a command exactly, or is refused', async () => {
			for (const route of ['path/shell', 'path/list', 'path/plain']) {
				const answer = await call(`${route}/${encodeURIComponent(value())}`, {});
				const refusal = value() === '' ? 404 : 422;
				const taken = value() !== '' && (route !== 'path/plain' || admitted.test(value()));
				if (taken) assert.equal(answer.json.output?.text, exactly(route, value()), answer.text);
				else assert.equal(answer.status, refusal, answer.text);
			}
			nothingElseRan();
		});

		test('inside an argument, a variable, standard input or a group stays a value', async () => {
			const json = { method: 'POST', body: { value: value() } };
			assert.equal((await call('option', json)).json.output.text, `--role=${value()}`);
			assert.equal((await call('inside', json)).json.output.text, `<${value()}>`);
			assert.equal(JSON.parse((await call('stdin', json)).json.output.text).value, value());
			const run = (await call('group', json)).json;
			assert.equal(run.group, `g-${value()}`);
			assert.equal(run.output.text, exactly('group', value()));
			nothingElseRan();
		});

		test('in places that hold no parameter does nothing', async () => {
			const header = value()
				.slice(0, 1000)
				.replace(/[^\t\x20-\x7e]/g, ' ');
			const names = ['x-value', 'user-agent', 'cookie', 'content-language', 'x-request-id', 'value'];
			const headers = Object.fromEntries(names.map((name) => [name, header]));
			const unknown = await call('list', {
				method: 'POST',
				body: { value: 'ok', [value() || 'x']: value(), PATH: value() },
				headers,
			});
			assert.equal(unknown.json.output.text, '2:ok', unknown.text);
			assert.equal((await listener.get(`/${encodeURIComponent(value())}`)).status === 202, false);
			nothingElseRan();
		});
	});
}

test('names of parameters that are not declared do not become variables', async () => {
	const body = {
		value: 'ok',
		role: 'web',
		PATH: '/tmp',
		LD_PRELOAD: '/tmp/x.so',
		BASH_ENV: '/tmp/x',
		IFS: '/',
		other: 'x',
	};
	const answer = await call('environment', { method: 'POST', body });
	const variables = new Map(
		answer.json.output.text.split('\0').map((pair: string) => pair.split(/=(.*)/s).slice(0, 2)),
	);
	assert.equal(variables.get('value'), 'ok');
	for (const name of ['LD_PRELOAD', 'BASH_ENV', 'IFS', 'other'])
		assert.equal(variables.has(name), false, name);
	assert.notEqual(variables.get('PATH'), '/tmp');
});

test('a NUL is refused everywhere', async () => {
	for (const [place, build] of places) {
		assert.equal((await call('shell', build('a\0b'))).status, 422, place);
	}
	assert.equal((await call('path/shell/a%00b', {})).status, 400);
});

test('after all this no run failed that was accepted', async () => {
	assert.deepEqual((await listener.get('/-/runs?state=failed')).json.runs, []);
	assert.equal(listener.process.exitCode, null);
});
