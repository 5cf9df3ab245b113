/**
 * routes.yaml: taken whole or refused whole, and taken up again when it changes. `check` and `serve` are shown to say what
 * `loadConfig` says; the many kinds of file are then given to that, which saves a process for each.
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { CORE_SCHEMA, dump, load, mergeTag } from 'js-yaml';
import { loadConfig } from '../listener/config/config.ts';
import { jsonSchema } from '../listener/config/schema.ts';
import { YamlFile } from '../listener/config/yaml.ts';
import { ConfigError } from '../listener/errors.ts';
import {
	command,
	type Listener,
	root,
	spawnListener,
	startListener,
	temporaryDirectory,
	until,
} from './helpers/listener.ts';

type Files = Readonly<Record<string, string | Buffer>>;

function directoryOf(files: Files): string {
	const dir = temporaryDirectory();
	for (const [name, content] of Object.entries(files)) {
		fs.mkdirSync(path.dirname(path.join(dir, name)), { recursive: true });
		fs.writeFileSync(path.join(dir, name), content);
	}
	return dir;
}

/** What the command says about a file: its lines, and its exit status. */
async function checkedByCommand(routes: string | Buffer): Promise<{ code: number | null; lines: string[] }> {
	const dir = directoryOf({ 'routes.yaml': routes });
	const { code, stdout, stderr } = await command(['check', '--config', 'routes.yaml'], { cwd: dir });
	return { code, lines: (code === 0 ? stdout : stderr).trimEnd().split('\n') };
}

/** The same without a process. */
async function checked(
	routes: string | Buffer,
	files: Files = {},
): Promise<{ code: number; lines: string[] }> {
	const dir = directoryOf({ ...files, 'routes.yaml': routes });
	try {
		const config = await loadConfig(path.join(dir, 'routes.yaml'), process.env);
		const count = config.routes.routes.length;
		return { code: 0, lines: [`routes.yaml: ${count} route${count === 1 ? '' : 's'}, no faults`] };
	} catch (error) {
		assert.ok(error instanceof ConfigError, String(error));
		return { code: 1, lines: error.message.split('\n').map((line) => line.replaceAll(`${dir}/`, '')) };
	}
}

async function refused(
	routes: string | Buffer,
	lines: readonly (string | RegExp)[],
	files: Files = {},
	by: (routes: string | Buffer, files: Files) => Promise<{ code: number | null; lines: string[] }> = checked,
): Promise<void> {
	const said = await by(routes, files);
	assert.equal(said.code, 1, said.lines.join('\n'));
	for (const [index, line] of lines.entries()) {
		if (typeof line === 'string') assert.equal(said.lines[index], line);
		else assert.match(said.lines[index] ?? '', line);
	}
	assert.equal(said.lines.length, lines.length, said.lines.join('\n'));
}

async function taken(routes: string | Buffer, count: number, files: Files = {}): Promise<void> {
	const said = await checked(routes, files);
	assert.deepEqual(said, {
		code: 0,
		lines: [`routes.yaml: ${count} route${count === 1 ? '' : 's'}, no faults`],
	});
}

const one = 'routes:\n  a: { command: "true" }\n';

describe('a file that is refused', { concurrency: 2 }, () => {
	test('XC-6: is refused with every fault at once, each with its place and remedy', async () => {
		await refused(
			`listen:
  prot: 5
  address: [localhost, "::", 127.0.0.1, 127.0.0.1]
  port: 65536
  tls: { cert: nope.pem }
  max_body: 10 Mib
  header_timeout: 30
routs: 1
log: { level: infos, format: 5 }
defaults:
  timeout: 5 minutes
  env: { 1X: a, FOO: "{{" }
  method: [get, pots]
routes:
  deploy:
    comand: x
    method: pots
    params:
      role: { requird: true, pattern: "(a" }
      PATH: {}
  wrong: { command: 5, wait: soon }
  shellish: { auth: none, params: { role: {} }, command: "echo {{role}}" }
  undeclared: { auth: none, command: [echo, "{{rol}}"], cwd: "/x/{{dir}}", params: { role: {} } }
  first: { auth: none, path: /x/:id, command: x }
  second: { auth: none, method: [get, post], path: x/:name/, command: x }
  nothing:
  listed: [a]
  answers:
    auth: none
    command: x
    respond: { accepted: { status: 204, body: hi, headers: { Content-Length: 5, X-A: "a\\nb" } }, done: {} }
  "-/x": { auth: none, command: x }
  "a/{id}": { auth: none, command: x }
  limited: { command: "", auth: jenkins, stdin: all, concurrency: { limit: 0, when_busy: wait } }
  open: { command: x }
`,
			[
				'routes.yaml:2:3: listen: unknown key "prot", did you mean "port"?',
				/^routes\.yaml:3:13: listen\.address item 1: must be an IP address, .*, not "localhost"$/,
				'routes.yaml:4:9: listen.port: must be at most 65535, not 65536',
				'routes.yaml:5:3: listen.tls: "key" is missing',
				/^routes\.yaml:6:13: listen\.max_body: must be a size: .*, not "10 Mib"$/,
				'routes.yaml:7:19: listen.header_timeout: has no unit: write "30s" for seconds, or ms, m, h, d',
				'routes.yaml:8:1: unknown key "routs", did you mean "routes"?',
				'routes.yaml:9:15: log.level: must be error, warn, info or debug, not "infos"; did you mean "info"?',
				'routes.yaml:9:30: log.format: must be text or json, not 5',
				/^routes\.yaml:11:12: defaults\.timeout: must be a duration: .*, not "5 minutes"$/,
				/^routes\.yaml:12:10: defaults\.env\.1X: is no name for an environment variable/,
				/^routes\.yaml:12:22: defaults\.env\.FOO: "\{\{" is never closed/,
				/^routes\.yaml:13:17: defaults\.method item 2: must be .*, not "pots"; did you mean "post"\?$/,
				'routes.yaml:15:3: route "deploy": "command" is missing',
				'routes.yaml:16:5: route "deploy": unknown key "comand", did you mean "command"?',
				/^routes\.yaml:17:13: route "deploy": method: must be .*, not "pots"; did you mean "post"\?$/,
				'routes.yaml:19:15: route "deploy": params.role: unknown key "requird", did you mean "required"?',
				/^routes\.yaml:19:39: route "deploy": params\.role\.pattern: is no regular expression .*missing closing \)/,
				/^routes\.yaml:20:7: route "deploy": params\.PATH: would be an environment variable/,
				/^routes\.yaml:21:21: route "wrong": command: must be a string .*not 5$/,
				/^routes\.yaml:21:30: route "wrong": wait: must be .*, not "soon"$/,
				/^routes\.yaml:22:58: route "shellish": command: \{\{role\}\} inside a shell string .*use "\$role"/,
				'routes.yaml:23:45: route "undeclared": command item 2: {{rol}} is used but not declared under params; declared are role',
				'routes.yaml:23:62: route "undeclared": cwd: {{dir}} is used but not declared under params; declared are role',
				/^routes\.yaml:25:46: route "second": POST \/x\/:name is taken already by route "first" \(routes\.yaml:24:3\)/,
				'routes.yaml:26:3: route "nothing": must be a map (lines of "key: value"); here is nothing',
				'routes.yaml:27:3: route "listed": must be a map (lines of "key: value"), not a list',
				'routes.yaml:31:47: route "answers": respond.accepted.body: cannot be sent: an answer 204 has no body',
				'routes.yaml:31:62: route "answers": respond.accepted.headers.Content-Length: is set by the listener itself',
				'routes.yaml:31:86: route "answers": respond.accepted.headers.X-A: has to be one line of Latin letters',
				'routes.yaml:31:98: route "answers": respond: unknown key "done", known here are accepted, succeeded, failed, busy, ignored',
				/^routes\.yaml:32:3: route "-\/x": path "-\/x" is below \/-\//,
				/^routes\.yaml:33:3: route "a\/\{id\}": path "a\/\{id\}" holds "\{": a part that callers choose is written :name$/,
				'routes.yaml:34:23: route "limited": command: must not be empty',
				'routes.yaml:34:33: route "limited": auth: "jenkins" is not under auth, there is no "auth" at the top of the file',
				'routes.yaml:34:49: route "limited": stdin: must be none, body or parameters, not "all"',
				'routes.yaml:34:76: route "limited": concurrency.limit: must be at least 1, not 0',
				'routes.yaml:34:90: route "limited": concurrency.when_busy: must be queue, coalesce, reject or parallel, not "wait"',
			],
			{},
			checkedByCommand,
		);
	});

	test('is refused alike by check and serve', async () => {
		const routes = 'routes:\n  deploy:\n    comand: x\n';
		const dir = directoryOf({ 'routes.yaml': routes });
		const { code, stderr } = await command(['check', '--config', 'routes.yaml'], { cwd: dir });
		const listener = spawnListener({ dir, args: ['--config', 'routes.yaml'] });
		assert.deepEqual([code, await listener.exited()], [1, { code: 1, signal: null }]);
		assert.equal(listener.stderr, stderr);
		assert.ok(!fs.existsSync(path.join(dir, 'state/runs.db')), 'nothing was begun');
	});

	const table: [what: string, text: string | Buffer, ...lines: (string | RegExp)[]][] = [
		['is empty', '', /^routes\.yaml:1:1: is empty; it needs at least: routes:$/],
		['holds only a comment', '# routes:\n', /^routes\.yaml:1:1: is empty/],
		[
			'is a list',
			'- a\n',
			'routes.yaml:1:1: is a list; it has to be a map, which begins with a line such as routes:',
		],
		['is a page of text', '<html>\n<b>no</b>\n', /^routes\.yaml:1:1: is text; it has to be a map/],
		['has neither routes nor include', 'log: {}\n', 'routes.yaml:1:1: "routes" is missing'],
		['has no map of routes', 'routes:\n', /^routes\.yaml:1:1: routes: must be a map: the name of each route/],
		[
			'is indented by tabs',
			'routes:\n\ta:\n\t\tcommand: x\n',
			'routes.yaml:2:1: is not YAML: a tab indents this line; use spaces only',
		],
		[
			'is indented unevenly',
			'routes:\n  a:\n    command: x\n   method: get\n',
			/^routes\.yaml:4:4: is not YAML: this line is not indented like/,
		],
		[
			'has an open quote',
			'routes:\n  a:\n    command: "x\n  b:\n    command: y\n',
			/^routes\.yaml:\d:\d: is not YAML: a quote or bracket/,
		],
		[
			'has ": " in text',
			'routes:\n  a:\n    command: echo a: b\n',
			/^routes\.yaml:3:\d+: is not YAML: text that contains ": "/,
		],
		[
			'has text that begins with @',
			'routes:\n  a:\n    command: @x\n',
			/^routes\.yaml:3:14: is not YAML: text that begins with "@" must be in quotes/,
		],
		[
			'has a bad escape',
			'routes:\n  a:\n    command: "\\d"\n',
			/^routes\.yaml:3:16: is not YAML: in double quotes a backslash/,
		],
		[
			'has an unquoted {{name}}',
			'routes:\n  a:\n    cwd: {{dir}}\n    params: { dir: {} }\n    command: x\n',
			'routes.yaml:3:10: route "a": cwd: text that begins with "{{" must be in quotes: "{{dir}}"',
		],
		[
			'has an unquoted {{name}} and more',
			'routes:\n  a:\n    cwd: {{dir}}/x\n',
			/^routes\.yaml:3:\d+: is not YAML: text that begins with "\{\{" must be in quotes/,
		],
		[
			'has a control character',
			'routes:\n  a: { command: "\x07" }\n',
			/^routes\.yaml:2:\d+: is not YAML: here is a control character/,
		],
		['has a NUL byte', 'routes:\0', /^routes\.yaml:1:8: is not YAML: here is a NUL byte/],
		[
			'has an escaped NUL',
			'routes:\n  a: { command: ["x\\0"], cwd: "\\0" }\n',
			/command item 1: must not contain a NUL/,
			/cwd: must not contain a NUL/,
		],
		[
			'is UTF-16',
			Buffer.from('\ufeffroutes:\n', 'utf16le'),
			/^routes\.yaml:1:1: is not UTF-8 text: it looks like UTF-16; save it as UTF-8$/,
		],
		[
			'is Latin-1',
			Buffer.from(
				'# \ufffd is fine\nroutes:\n  a: { description: \xe4, command: x }\n'.replace('\ufffd', ''),
				'latin1',
			),
			/^routes\.yaml:3:21: is not UTF-8 text/,
		],
		[
			'has two documents',
			`${one}---\n${one}`,
			'routes.yaml:4:1: begins a second document; one file is one document, take the "---" away',
		],
		[
			'has duplicate keys',
			'routes:\n  a: { command: x, method: get, command: y }\n  b: { command: x }\n  a: { command: z }\n',
			'routes.yaml:2:33: route "a": duplicate key "command"; it is already in line 2',
			'routes.yaml:4:3: routes: duplicate key "a"; it is already in line 2',
		],
		[
			'has keys that are no text',
			'routes:\n  5: { command: x }\n  true: { command: x }\n  ? [a]\n  : { command: x }\n  : { command: x }\n',
			/^routes\.yaml:2:3: routes: the key 5 is a number to YAML; write "5" in quotes$/,
			/^routes\.yaml:2:3: routes: a key is missing/,
			/^routes\.yaml:3:3: routes: the key true is a truth value/,
			/^routes\.yaml:4:5: routes: a list or map cannot be a key/,
		],
		[
			'has __proto__ keys',
			'routes:\n  __proto__: { command: x }\n  a: { command: x, env: { __proto__: { b: c } }, __proto__: { method: get } }\n',
			/^routes\.yaml:2:3: routes: "__proto__" cannot be a key/,
			/^routes\.yaml:3:27: route "a": env: "__proto__" cannot/,
			/^routes\.yaml:3:50: route "a": "__proto__" cannot/,
		],
		[
			'has an alias of nothing',
			'routes:\n  a: *b\n',
			/^routes\.yaml:2:6: route "a": \* stands for an anchor \(&\) above, and there is none of that name; .* goes in quotes/,
			/^routes\.yaml:2:6: route "a": must be a map/,
		],
		[
			'has an alias of itself',
			'x-a: &a [*a]\nroutes: {}\n',
			'routes.yaml:1:10: x-a item 1: *a stands inside of &a, so it would have no end',
		],
		[
			'has a merge key of no map',
			'routes:\n  a: { <<: 5, command: x }\n',
			/^routes\.yaml:2:8: route "a": .*merge key << needs a map/,
		],
		[
			'has tags',
			'routes:\n  a: !route { command: !!binary x }\n',
			/^routes\.yaml:2:6: route "a": a tag \(!\) means nothing here/,
			/^routes\.yaml:2:24: route "a": command: a tag \(!\) means nothing/,
		],
		[
			'has numbers that would change',
			'routes:\n  a: { command: x, env: { V: 2.10, M: 022, H: 0x1f, N: 12345678901234567890 } }\n',
			/^routes\.yaml:2:30: route "a": env\.V: 2\.10 would be read as the number 2\.1; write "2\.10" in quotes/,
			/022 .* 22;/,
			/0x1f .* 31;/,
			/12345678901234567890 .* 12345678901234567000;/,
		],
		[
			'is nested too deeply',
			`x-a: ${'['.repeat(200)}${']'.repeat(200)}\n${one}`,
			/^routes\.yaml:1:\d+: is not YAML: more than 100 levels of nesting/,
		],
		[
			'is far too large',
			`#${'x'.repeat(1023)}\n`.repeat(10 * 1024),
			'routes.yaml: is too large: at most 8 MiB are read, included files counted, since nobody is answered meanwhile',
		],
		[
			'lists more faults than anybody reads',
			`routes:\n${Array.from({ length: 1000 }, (_, i) => `  a${i}: { comand: x }\n`).join('')}`,
			...Array(200).fill(/^routes\.yaml:\d+:\d+: route "a\d+": /),
			'routes.yaml: and 1800 more; mend these first',
		],
		[
			'has an unusable unix socket',
			`listen: { address: [unix:run/x.sock, "unix:/${'x'.repeat(107)}"] }\n${one}`,
			/absolute path, such as unix:\/run/,
			/more than 107 bytes/,
		],
		[
			'has a shell with arguments',
			'routes:\n  a: { command: x, shell: "bash -e" }\n',
			/shell: must be a program without arguments/,
		],
		[
			'has an odd time or size',
			'routes:\n  a: { command: x, timeout: 0s, kill_after: 25d, max_output: 10 B }\n',
			/timeout: must be more than 0 and at most 24d/,
			/kill_after: must be more than 0/,
			/max_output: must be at least 1 KiB/,
		],
		[
			'has odd paths',
			'routes:\n  a//b: { command: x }\n  a/../b: { command: x }\n  a/*: { command: x }\n  a%20b: { command: x }\n  "a?b": { command: x }\n  ":a/:a": { command: x }\n  ":PATH": { command: x }\n',
			/empty part/,
			/"\." or "\.\."/,
			/:name/,
			/character itself/,
			/before it/,
			/":a" twice/,
			/":PATH" would be an environment variable/,
		],
		[
			'names a route and its path after JavaScript',
			'routes:\n  constructor: { comand: x }\n',
			/route "constructor": "command" is missing/,
			/unknown key "comand"/,
		],
		[
			'knows keys by the names of other tools',
			'routes:\n  a: { cmd: x, workdir: /, parameters: {}, "http-methods": [] }\n',
			/"command" is missing/,
			/"cmd", did you mean "command"/,
			/"workdir", did you mean "cwd"/,
			/"parameters", did you mean "params"/,
			/did you mean "method"/,
		],
	];
	for (const [what, text, ...lines] of table) test(what, () => refused(text, lines));

	test('is bounded when nested aliases stand for billions of values', async () => {
		const levels = Array.from(
			{ length: 12 },
			(_, i) => `x-${i}: &a${i} [${Array(10).fill(i === 0 ? 'lol' : `*a${i - 1}`)}]\n`,
		);
		const start = performance.now();
		await refused(`${levels.join('')}${one}`, [
			/^routes\.yaml:\d+:\d+: x-\d+ item \d+: here are more than 1000000 values/,
		]);
		assert.ok(performance.now() - start < 20_000);
	});

	test('is no file: absent, a directory, a pipe, or not to be read', async () => {
		const dir = directoryOf({});
		const said = async (file: string) =>
			(await command(['check', '--config', file], { cwd: dir })).stderr.trimEnd();
		assert.equal(await said('absent.yaml'), 'absent.yaml: does not exist');
		assert.equal(await said('.'), '.: is a directory; name a file in it');
		execFileSync('mkfifo', [path.join(dir, 'pipe')]);
		assert.equal(await said('pipe'), 'pipe: is no regular file');
		assert.equal(
			await said(path.join(dir, 'absent.yaml')),
			'absent.yaml: does not exist',
			'named as shortly as it can be',
		);
	});
});

describe('YAML', () => {
	const schema = CORE_SCHEMA.withTags(mergeTag);
	/** Maps here have no prototype, those of js-yaml do; both are compared as what they hold. */
	const plain = (value: unknown) => JSON.parse(JSON.stringify(value ?? null));
	const read = (text: string) => new YamlFile(Buffer.from(text));

	test('that is taken is read as js-yaml reads it, whatever stands in it', () => {
		const bits = fc.constantFrom(
			...[
				'a',
				'b: ',
				'- ',
				'\n',
				'\n  ',
				'\n    ',
				': ',
				'{',
				'}',
				'[',
				']',
				', ',
				'"',
				"'",
				'&a ',
				'*a',
				'<<: ',
				'? ',
				'| ',
				'>\n',
				'#',
				'!!str ',
			],
			...[
				'1',
				'2.5',
				'0x1',
				'true',
				'null',
				'~',
				'---\n',
				'\t',
				'\r\n',
				'\\',
				'\ufeff',
				'__proto__',
				'é',
				'\u2028',
				'%',
				'@',
			],
		);
		let taken = 0;
		fc.assert(
			fc.property(fc.string({ unit: bits, maxLength: 30 }), (text) => {
				const file = read(text);
				for (const { line, column } of file.faults) assert.ok(line >= 1 && column >= 1);
				if (file.faults.length > 0) return;
				taken++;
				assert.deepEqual(plain(file.value), plain(load(text.replace(/^\ufeff/, ''), { schema })));
			}),
			{ numRuns: 5000 },
		);
		assert.ok(taken > 200, `only ${taken} texts were YAML`);
	});

	test('that js-yaml writes is read back, and every value in it is found at its place', () => {
		const value = fc.letrec((tie) => ({
			any: fc.oneof(
				{ maxDepth: 4 },
				fc.string(),
				fc.integer(),
				fc.boolean(),
				fc.constant(null),
				fc.array(tie('any'), { maxLength: 4 }),
				tie('map'),
			),
			map: fc.dictionary(
				fc.string().filter((key) => key !== '__proto__' && key !== '<<'),
				tie('any'),
				{ maxKeys: 4 },
			),
		})).map;
		fc.assert(
			fc.property(value, fc.constantFrom(-1, 0, 2), (given, flowLevel) => {
				const text = dump(given, { flowLevel });
				const file = read(text);
				assert.deepEqual(file.faults, []);
				assert.deepEqual(plain(file.value), plain(given));
				const lines = text.split('\n');
				for (const key of Object.keys(given as object)) {
					const { line, column } = file.place([key], 'key');
					const rest = [lines[line - 1]?.slice(column - 1), ...lines.slice(line)].join('\n');
					assert.ok(
						/^["'?|>]/.test(rest) || rest.startsWith(key),
						`${JSON.stringify(key)} is not at ${line}:${column} of\n${text}`,
					);
				}
			}),
		);
	});
});

describe('a file that is taken', { concurrency: 2 }, () => {
	test('may have a byte order mark, CRLF line ends, and letters of any language', async () => {
		await taken(`\ufeff${one.replaceAll('\n', '\r\n')}`, 1);
		await taken('routes:\n  größe: { description: "\ufffd 日本", command: "true" }\n', 1);
		await refused('\ufeffroutes:\r\n  a:\r\n    comand: x\r\n', [
			/^routes\.yaml:2:3: /,
			/^routes\.yaml:3:5: /,
		]);
	});

	test('may have anchors and merge keys, whose own keys win', async () => {
		await taken(
			'x-d: &d { method: pots, command: x }\nroutes:\n  a: { <<: *d, method: get }\n  b: { method: put, <<: [*d, { cwd: / }] }\n',
			2,
		);
		await refused('x-d: &d\n  method: pots\nroutes:\n  a: { <<: *d, command: x }\n', [
			/^routes\.yaml:2:11: route "a": method: must be/,
		]);
	});

	test('may be JSON', () => taken('{"routes": {"a": {"command": ["x"], "env": {"A": 1}}}}', 1));

	test('may take text as programs write it: dates, versions, yes and no', () =>
		taken(
			'routes:\n  a: { command: x, params: { v: { enum: [1.2.3, 2024-01-01, yes, off, 8, true] } }, env: { A: 1, B: true, C: no } }\n',
			1,
		));

	test('may have routes that differ by method, by a literal part, or by length', () =>
		taken(
			'routes:\n  a: { command: x }\n  b: { command: x, path: /a, method: get }\n  ":c": { command: x }\n  a/b: { command: x }\n  /: { command: x }\n',
			5,
		));

	test('PW-L5: may have any number of routes: 10,000 are read in about a second', async () => {
		const routes = Array.from(
			{ length: 10_000 },
			(_, i) => `  team${i}/deploy: { params: { v: { pattern: "[a-z]+" } }, command: [echo, "{{v}}"] }\n`,
		);
		const start = performance.now();
		await taken(`routes:\n${routes.join('')}`, 10_000);
		// Generous: the machine may be busy. Something quadratic would take minutes.
		assert.ok(performance.now() - start < 20_000);
	});

	test('says by JSON what there is, for programs', async () => {
		const dir = directoryOf({ 'routes.yaml': 'routes:\n  a: { comand: x }\n' });
		const { code, stdout } = await command(['check', '--json', '--config', 'routes.yaml'], { cwd: dir });
		const { ok, faults } = JSON.parse(stdout);
		assert.deepEqual([code, ok], [1, false]);
		assert.deepEqual(faults[1], {
			file: 'routes.yaml',
			line: 2,
			column: 8,
			key: 'routes.a.comand',
			message: 'route "a": unknown key "comand", did you mean "command"?',
		});
	});
});

describe('included files', { concurrency: 2 }, () => {
	const include = 'include: [routes.d/*.yaml, more.yaml]\n';

	test('add their routes, with the defaults of the main file', () =>
		taken(`${include}defaults: { method: get }\nroutes: { a: { command: x } }\n`, 4, {
			'routes.d/b.yaml': 'routes: { b: { command: x }, a2: { path: a, method: post, command: x } }',
			'routes.d/.hidden.yaml': 'not read',
			'more.yaml': 'routes: { c: { command: x, cwd: sub } }',
		}));

	test('have their faults told with their own names and places, beside those of the main file', () =>
		refused(
			`${include}listen: { prot: 1 }\n`,
			[
				'routes.yaml:1:28: include: more.yaml does not exist',
				'routes.yaml:2:11: listen: unknown key "prot", did you mean "port"?',
				/^routes\.d\/a\.yaml:1:14: route "a": "?unknown key|^routes\.d\/a\.yaml:1:11: route "a": "command" is missing/,
				/^routes\.d\/a\.yaml:1:\d+: route "a": unknown key "comand"/,
				/^routes\.d\/b\.yaml:1:1: "listen" belongs into the main file \(routes\.yaml\); an included file holds routes only$/,
				/^routes\.d\/c\.yaml:2:1: is not YAML: a tab/,
			],
			{
				'routes.d/a.yaml': 'routes: { a: { comand: x } }',
				'routes.d/b.yaml': 'listen: {}\nroutes: {}\n',
				'routes.d/c.yaml': 'routes:\n\ta: {}\n',
			},
		));

	test('cannot have the same route, or the same path and method, as another file', () =>
		refused(
			`${include}routes: { a: { command: x } }\n`,
			[
				'routes.d/b.yaml:1:11: route "a": is there already (routes.yaml:2:11); give one of them another name',
				/^more\.yaml:1:16: route "z": POST \/a is taken already by route "a" \(routes\.yaml:2:11\)/,
			],
			{
				'routes.d/b.yaml': 'routes: { a: { command: x } }',
				'more.yaml': 'routes: { z: { path: /a, command: x } }',
			},
		));

	test('cannot include: neither the file itself nor each other', () =>
		refused(
			'include: "*.yaml"\nroutes: {}\n',
			[
				/^routes\.yaml:1:10: include: "\*\.yaml" includes the file itself/,
				/^b\.yaml:1:1: "include" belongs into the main file/,
			],
			{ 'b.yaml': 'include: routes.yaml\nroutes: {}\n' },
		));

	test('FX-C5: are told when a pattern matches none of them, and no routes are no fault', async () => {
		const listener = await startListener({ routes: 'include: routes.d/*.yaml\n' });
		await listener.logged('the pattern', (line) =>
			/include "routes\.d\/\*\.yaml" matches no file/.test(line.message),
		);
		await listener.logged('no routes', (line) => /there are no routes/.test(line.message));
	});
});

describe('who can reach a route', { concurrency: 2 }, () => {
	for (const address of [
		'127.0.0.1',
		'127.8.0.1',
		'"::1"',
		'"::ffff:127.0.0.1"',
		'unix:/tmp/x.sock',
		'[127.0.0.1, "::1"]',
	]) {
		test(`does not matter at ${address}`, () => taken(`listen: { address: ${address} }\n${one}`, 1));
	}
	for (const address of ['0.0.0.0', '"::"', '192.0.2.1', '"fe80::1"', '[127.0.0.1, 10.0.0.1]']) {
		test(`has to be said at ${address}`, async () => {
			await refused(`listen: { address: ${address} }\n${one}`, [
				/^routes\.yaml:3:3: route "a": other hosts can call it, as listen\.address is .*say "auth: none"/,
			]);
		});
	}
	test('may be said for all routes at once', () =>
		taken(`listen: { address: "::" }\ndefaults: { auth: none }\n${one}`, 1));
});

describe('TLS files', { concurrency: 2 }, () => {
	const pem: Record<string, string> = {};
	before(() => {
		const dir = directoryOf({});
		for (const name of ['a', 'b']) {
			execFileSync(
				'openssl',
				[
					'req',
					'-x509',
					'-newkey',
					'ec',
					'-pkeyopt',
					'ec_paramgen_curve:prime256v1',
					'-nodes',
					'-subj',
					`/CN=${name}`,
					'-days',
					'2',
					'-keyout',
					`${name}.key`,
					'-out',
					`${name}.pem`,
				],
				{ cwd: dir, stdio: 'ignore' },
			);
		}
		execFileSync(
			'openssl',
			['ec', '-in', 'a.key', '-aes256', '-passout', 'pass:secret', '-out', 'locked.key'],
			{ cwd: dir, stdio: 'ignore' },
		);
		for (const name of fs.readdirSync(dir)) pem[name] = fs.readFileSync(path.join(dir, name), 'utf8');
	});
	const withTls = (tls: string) => `listen: { tls: ${tls} }\n${one}`;

	test('are taken when certificate and key belong together', () =>
		taken(withTls('{ cert: tls/a.pem, key: tls/a.key, ca: tls/b.pem }'), 1, {
			'tls/a.pem': pem['a.pem']!,
			'tls/a.key': pem['a.key']!,
			'tls/b.pem': pem['b.pem']!,
		}));
	test('are refused when they do not', () =>
		refused(
			withTls('{ cert: a.pem, key: b.key }'),
			[/^routes\.yaml:1:36: listen\.tls\.key: b\.key is not the key of the certificate a\.pem/],
			pem,
		));
	test('are refused when one is absent, or no PEM', () =>
		refused(withTls('{ cert: nope.pem, key: routes.yaml }'), [
			/^routes\.yaml:1:24: listen\.tls\.cert: .*nope\.pem does not exist$/,
			/^routes\.yaml:1:39: listen\.tls\.key: .*routes\.yaml holds no private key in PEM form/,
		]));
	test('are refused when the key needs a passphrase', () =>
		refused(
			withTls('{ cert: a.pem, key: locked.key }'),
			[/listen\.tls\.key: .*locked\.key is encrypted/],
			pem,
		));
	test('RK-C9: are refused by halves', () =>
		refused(withTls('{ key: a.key }'), ['routes.yaml:1:11: listen.tls: "cert" is missing'], pem));
});

describe('a changed file', { concurrency: 4 }, () => {
	const routes = (...names: string[]) =>
		`listen: { address: 127.0.0.1, port: 0 }\nlog: { format: json }\nroutes:\n${names.map((name) => `  ${name}: { method: get, command: "true" }\n`).join('')}`;
	const taken = (listener: Listener) =>
		listener.log().filter((line) => line.message === 'configuration taken up').length;
	const serves = (listener: Listener, name: string, status = 202) =>
		until(`${name} to answer ${status}`, async () => (await listener.get(`/${name}`)).status === status);
	/** Changes the file, and waits until the named route is served. */
	async function changed(
		listener: Listener,
		name: string,
		change: () => void | Promise<void>,
	): Promise<void> {
		const before = taken(listener);
		await change();
		await serves(listener, name);
		assert.equal(taken(listener), before + 1, 'taken up once');
	}

	test('is taken up when it is written in place, renamed over, and a second time', async () => {
		const listener = await startListener({ routes: routes('a') });
		await changed(listener, 'b', () => fs.writeFileSync(listener.config, routes('a', 'b')));
		for (const name of ['c', 'd']) {
			await changed(listener, name, () => {
				fs.writeFileSync(`${listener.config}.new`, routes('a', name));
				fs.renameSync(`${listener.config}.new`, listener.config);
			});
		}
		const line = listener.log().findLast((l) => l.message === 'configuration taken up');
		assert.deepEqual([line?.routes, line?.added, line?.changed, line?.removed], [2, 1, 0, 1]);
		assert.equal((await listener.get('/b')).status, 404);
	});

	test('is taken up when a ConfigMap is swapped below it', async () => {
		const dir = directoryOf({ '..1/routes.yaml': routes('a'), '..2/routes.yaml': routes('b') });
		fs.symlinkSync('..1', path.join(dir, '..data'));
		fs.symlinkSync('..data/routes.yaml', path.join(dir, 'routes.yaml'));
		const listener = await startListener({ dir });
		await changed(listener, 'b', () => {
			fs.symlinkSync('..2', path.join(dir, '..new'));
			fs.renameSync(path.join(dir, '..new'), path.join(dir, '..data'));
		});
	});

	test('is taken up when size and time of modification stay the same', async () => {
		const listener = await startListener({ routes: routes('a') });
		await changed(listener, 'b', () => {
			const { atime, mtime } = fs.statSync(listener.config);
			fs.writeFileSync(listener.config, routes('b'));
			fs.utimesSync(listener.config, atime, mtime);
		});
	});

	test('is taken up once when it is written many times in a burst, and never half', async () => {
		const listener = await startListener({ routes: routes('a') });
		const whole = routes('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
		await changed(listener, 'h', async () => {
			fs.writeFileSync(listener.config, '');
			// A writer that takes longer than a look, never pauses for long, and passes through many valid files.
			for (const piece of whole.match(/.{1,8}/gs) ?? []) {
				fs.appendFileSync(listener.config, piece);
				await sleep(20);
			}
		});
		assert.deepEqual(
			listener.log().filter((line) => line.level === 'error'),
			[],
		);
	});

	test('leaves the old one serving when it is faulty, which is logged once, and is taken up when mended', async () => {
		const listener = await startListener({ routes: routes('a') });
		fs.writeFileSync(listener.config, `${routes('a', 'b')}  c: { comand: x }\n`);
		const isRefusal = (line: { message: string }) =>
			line.message === 'configuration refused, the one before goes on serving';
		await listener.logged('the refusal', isRefusal);
		await listener.logged('the fault', (line) =>
			/:6:8: route "c": unknown key "comand", did you mean "command"\?$/.test(line.message),
		);
		assert.equal((await listener.get('/a')).status, 202);
		assert.equal((await listener.get('/b')).status, 404);
		// The same content again, by other means, says nothing new; other content does.
		fs.utimesSync(listener.config, new Date(), new Date());
		fs.rmSync(listener.config);
		await listener.logged('the absence', (line) => /routes\.yaml: does not exist$/.test(line.message));
		assert.equal(listener.log().filter(isRefusal).length, 2);
		await changed(listener, 'c', () => fs.writeFileSync(listener.config, routes('c')));
	});

	test('counts when it is an included one, also when it appears and goes away', async () => {
		const listener = await startListener({
			routes: `include: routes.d/*.yaml\n${routes('a')}`,
			files: { 'routes.d/b.yaml': 'routes: { b: { method: get, command: "true" } }' },
		});
		const file = (name: string) => path.join(listener.dir, 'routes.d', name);
		await changed(listener, 'b2', () =>
			fs.writeFileSync(file('b.yaml'), 'routes: { b2: { method: get, command: "true" } }'),
		);
		await changed(listener, 'c', () =>
			fs.writeFileSync(file('c.yaml'), 'routes: { c: { method: get, command: "true" } }'),
		);
		fs.rmSync(file('b.yaml'));
		await serves(listener, 'b2', 404);
		assert.equal((await listener.get('/c')).status, 202);
	});

	test('drops no request while it is taken up', async () => {
		const listener = await startListener({ routes: routes('a', 'b0') });
		const statuses = new Map<number, number>();
		let done = false;
		const callers = Array.from({ length: 4 }, async () => {
			while (!done) {
				const { status } = await listener.get('/a');
				statuses.set(status, (statuses.get(status) ?? 0) + 1);
			}
		});
		for (let i = 1; i <= 5; i++) {
			fs.writeFileSync(listener.config, routes('a', `b${i}`));
			assert.equal((await listener.post('/-/reload')).status, 200);
		}
		done = true;
		await Promise.all(callers);
		assert.deepEqual([...statuses.keys()], [202]);
	});

	test('is answered to by POST /-/reload, with every fault or what came of it', async () => {
		const listener = await startListener({ routes: routes('a') });
		fs.writeFileSync(listener.config, 'routes: { a: { comand: x } }');
		const bad = await listener.post('/-/reload');
		assert.ok(bad.status >= 400, bad.text);
		assert.match(bad.text, /unknown key \\"comand\\", did you mean \\"command\\"/);
		assert.equal((await listener.get('/a')).status, 202);
		fs.writeFileSync(listener.config, routes('b'));
		assert.equal((await listener.post('/-/reload')).status, 200);
		assert.equal((await listener.get('/b')).status, 202);
	});

	test('RK-V12: is taken up on SIGHUP', async () => {
		const listener = await startListener({ routes: routes('a') });
		fs.writeFileSync(listener.config, routes('b'));
		listener.process.kill('SIGHUP');
		await serves(listener, 'b');
	});

	test('cannot move the listener, which is said; and no route is opened to the old addresses by it', async () => {
		const listener = await startListener({
			routes:
				'listen: { address: [127.0.0.1, 0.0.0.0], port: 0 }\nlog: { format: json }\ndefaults: { auth: none }\nroutes:\n  a: { method: get, command: "true" }\n',
		});
		fs.writeFileSync(listener.config, routes('b'));
		await listener.logged('the fault', (line) =>
			/route "b": other hosts can call it, as the running listener still has the address "0\.0\.0\.0"/.test(
				line.message,
			),
		);
		fs.writeFileSync(listener.config, `defaults: { auth: none }\n${routes('b')}`);
		await serves(listener, 'b');
		await listener.logged('the restart', (line) =>
			/^listen\.address was changed, which takes a restart/.test(line.message),
		);
	});
});

describe('the JSON Schema', () => {
	const file = path.join(root, 'listener/routes.schema.json');
	const shipped = JSON.parse(fs.readFileSync(file, 'utf8'));
	const validate = new Ajv2020({ strict: true, strictRequired: false, allowUnionTypes: true }).compile(
		shipped,
	);

	test('is the one that the definition gives', () => {
		assert.deepEqual(shipped, JSON.parse(JSON.stringify(jsonSchema())), 'run: node scripts/schema.ts');
	});

	test('describes every key', () => {
		const walk = (schema: Record<string, unknown>, at: string): void => {
			for (const [key, inner] of Object.entries(
				(schema.properties ?? {}) as Record<string, Record<string, unknown>>,
			)) {
				assert.ok(inner.description, `${at}.${key} has no description`);
				walk(inner, `${at}.${key}`);
			}
			if (typeof schema.additionalProperties === 'object')
				walk(schema.additionalProperties as Record<string, unknown>, `${at}.*`);
			for (const [name, inner] of Object.entries(
				(schema.$defs ?? {}) as Record<string, Record<string, unknown>>,
			))
				walk(inner, name);
		};
		walk(shipped, '');
	});

	test('takes the shipped routes.yaml', () => {
		assert.ok(
			validate(load(fs.readFileSync(path.join(root, 'routes.yaml'), 'utf8'))),
			JSON.stringify(validate.errors),
		);
	});

	test('agrees with the listener about files of either kind', async () => {
		const good = [
			one,
			'include: a*.yaml\n',
			'x-any: [1]\nroutes: {}\n',
			'listen: { address: ["::1", "unix:/x"], port: 0, max_body: 5 MiB, body_timeout: 1.5m }\nroutes: {}\n',
			'routes:\n  a/:b: { command: [x], method: [get, put], params: { b: { type: integer }, c: { default: 2.5 } }, env: { A: 1, B: true }, wait: 5s, concurrency: { limit: 2 }, respond: { busy: { status: 503, headers: { retry-after: 5 } } } }\n',
			'routes: { a: { command: x, wait: true, max_output: 4096, stdin: body, auth: none } }\n',
			'auth: { a: { bearer: [x, y] }, b: { all: [a, { ip: 10.0.0.0/8 }] } }\nadmin: { auth: a }\nmetrics: { auth: none }\nlisten: { trusted_proxies: [unix, 10.0.0.1] }\nroutes: { a: { command: x, auth: [a, b], rate: 60/m }, b: { command: x, source: { hmac: { prefix: v1 } }, secret: abc, rate: { route: 5/s } } }\n',
			'routes: { a: { steps: [{ command: x, timeout: 5s }, { http: { url: "http://h/", json: [1], status: [200, 3xx, 404-410], bearer: x } }, { trigger: t }], on_success: { command: x }, on_failure: [{ trigger: t }] } }\n',
		];
		const bad = [
			'log: {}\n',
			'routes: []\n',
			'routes: { a: {} }\n',
			'routes: { a: { comand: x } }\n',
			'routes: { a: { command: x, steps: [{ command: x }] } }\n',
			'routes: { a: { steps: [] } }\n',
			'routes: { a: { steps: [{}] } }\n',
			'routes: { a: { steps: [{ command: x, trigger: t }] } }\n',
			'routes: { a: { steps: [{ http: {} }] } }\n',
			'routes: { a: { steps: [{ http: { url: "http://h/", status: 2000 } }] } }\n',
			'routes: { a: { command: x, on_failure: [] } }\n',
			'routes: { a: { command: 5 } }\n',
			'routes: { a: { command: [] } }\n',
			'routes: { a: { command: "" } }\n',
			'routes: { a: { command: x, timeout: 30 } }\n',
			'routes: { a: { command: x, timeout: 30x } }\n',
			'routes: { a: { command: x, method: pots } }\n',
			'routes: { a: { command: x, params: { a-b: {} } } }\n',
			'routes: { a: { command: x, params: { a: { enum: [] } } } }\n',
			'routes: { a: { command: x, env: { A: [] } } }\n',
			'routes: { a: { command: x, auth: [] } }\n',
			'auth: { a: {} }\nroutes: {}\n',
			'auth: { a: { bearer: x, ip: 10.0.0.1 } }\nroutes: {}\n',
			'auth: { a: { bearer: { files: x } } }\nroutes: {}\n',
			'routes: { a: { command: x, rate: 60 } }\n',
			'routes: { a: { command: x, source: nobody } }\n',
			'admin: { auth: none }\nroutes: {}\n',
			'routes: { a: { command: x, concurrency: { limit: 0 } } }\n',
			'routes: { a: { command: x, respond: { accepted: { status: 99 } } } }\n',
			'listen: { port: 65536 }\nroutes: {}\n',
			'listen: { tls: { cert: x } }\nroutes: {}\n',
			'log: { level: loud }\nroutes: {}\n',
			'any: 1\nroutes: {}\n',
		];
		for (const text of good) assert.ok(validate(load(text)), `${text}${JSON.stringify(validate.errors)}`);
		for (const text of bad) assert.ok(!validate(load(text)), text);
		const said = await Promise.all([...good, ...bad].map(async (text) => (await checked(text)).code));
		assert.deepEqual(said, [...good.map(() => 0), ...bad.map(() => 1)]);
	});
});

describe('docs/routes.md', { concurrency: 2 }, () => {
	const page = fs.readFileSync(path.join(root, 'docs/routes.md'), 'utf8');
	const examples = [...page.matchAll(/^```yaml\n([\s\S]*?)^```$/gm)].map((match) => ({
		text: match[1]!,
		line: page.slice(0, match.index).split('\n').length,
		after: page.slice(match.index + match[0].length),
	}));
	for (const { text, line, after } of examples) {
		if (text.startsWith('# refused')) {
			test(`line ${line}: the example is refused as the page says`, async () => {
				const expected = /^```text\n([\s\S]*?)^```$/m.exec(after)?.[1];
				assert.deepEqual((await checked(text)).lines, expected?.trimEnd().split('\n'));
			});
		} else if (text.startsWith('# needs files')) {
			test(`line ${line}: nothing but the files is missing to the example`, async () => {
				const { lines } = await checked(text);
				// Nor do all hosts have a certificate of Puppet's.
				const faults = lines.filter((line) => !/ does not exist$|: certname is not set/.test(line));
				assert.equal(faults.join('\n'), '');
			});
		} else {
			test(`line ${line}: the example is taken`, async () => {
				const { code, lines } = await checked(text);
				assert.equal(code, 0, lines.join('\n'));
			});
		}
	}

	test('explains every key', () => {
		const keys = new Set<string>();
		const walk = (schema: Record<string, unknown>): void => {
			for (const [key, inner] of Object.entries(
				(schema.properties ?? {}) as Record<string, Record<string, unknown>>,
			)) {
				keys.add(key);
				walk(inner);
			}
			if (typeof schema.additionalProperties === 'object')
				walk(schema.additionalProperties as Record<string, unknown>);
			for (const inner of Object.values((schema.$defs ?? {}) as Record<string, Record<string, unknown>>))
				walk(inner);
		};
		walk(jsonSchema());
		for (const key of keys) assert.match(page, new RegExp(`^\\| (\\[?\`|.*\`)(\\w+\\.)?${key}\``, 'm'), key);
	});
});
