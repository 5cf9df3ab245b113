/**
 * The pure parts between a request and a command: values that are checked, text that is filled, paths that are matched.
 * Properties over generated input; test/config.test.ts and the tests of deliveries meet the same through the front door.
 */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { parseDuration, parseSize } from '../listener/config/values.ts';
import { eventOf, noCertificate } from '../listener/delivery.ts';
import { BadParameters, BadRequest, MethodNotAllowed, NotFound } from '../listener/errors.ts';
import { ExpressionCompiler, type Scope } from '../listener/routes/expressions.ts';
import {
	compileRule,
	type ParameterRules,
	type ParameterSpec,
	Parameters,
	refusedName,
	resolveParameters,
} from '../listener/routes/parameters.ts';
import { compileRoute, type Method, type Route } from '../listener/routes/route.ts';
import { RouteTable } from '../listener/routes/table.ts';
import { compileTemplate, Template } from '../listener/routes/template.ts';
import { nearest } from '../listener/spelling.ts';

function rulesOf(specs: Readonly<Record<string, ParameterSpec>>): ParameterRules {
	return new Map(
		Object.entries(specs).map(([name, spec]) => {
			const compiled = compileRule(name, spec, [], new ExpressionCompiler());
			assert.ok('rule' in compiled, JSON.stringify(compiled));
			return [name, compiled.rule];
		}),
	);
}

const nowhere: Scope = {
	path: {},
	query: {},
	body: undefined,
	event: eventOf({ kind: 'call' }),
	headers: {},
	client: { ip: '127.0.0.1', loopback: true, ...noCertificate },
};

/** What became of one value under one rule: the text that a command would get, or the reason against it. */
function outcome(
	spec: ParameterSpec,
	value: unknown,
): { text?: string | undefined; reason?: string | undefined } {
	try {
		return { text: resolveParameters(rulesOf({ it: spec }), { ...nowhere, body: { it: value } }).values.it };
	} catch (error) {
		assert.ok(error instanceof BadParameters);
		const problems = error.extension.parameters as { parameter: string; reason: string }[];
		assert.equal(problems.length, 1);
		return { reason: problems[0]?.reason };
	}
}

/** Text that is often near what is admitted, so that generated values pass as well as fail. */
const nearText = fc.oneof(
	fc.string({ unit: 'binary', maxLength: 300 }),
	fc.string({ unit: fc.constantFrom(...'aZ09_.:@/+-'), maxLength: 300 }),
	fc.string({ unit: fc.constantFrom(...'a.-/\n\0 "$'), maxLength: 8 }),
);

describe('a value under the default rule', () => {
	test('is admitted exactly when it is 1 to 255 harmless characters, no option, and climbs out of no directory', () => {
		fc.assert(
			fc.property(nearText, (value) => {
				const harmless =
					value.length >= 1 &&
					value.length <= 255 &&
					[...value].every((c) =>
						'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:@/+-'.includes(c),
					) &&
					value[0] !== '-' &&
					!`/${value}/`.includes('/../');
				assert.equal(outcome({}, value).text, harmless ? value : undefined);
			}),
			{ numRuns: 2000 },
		);
	});

	test('never reaches a command with a shell metacharacter, line end, NUL or leading dash', () => {
		for (const value of [
			'$(id)',
			'`id`',
			'a;id',
			'a|id',
			'a&id',
			'a>f',
			'a<f',
			'a\nid',
			'a\rid',
			'a\0b',
			'-rf',
			'--help',
			'a b',
			'a\tb',
			"a'b",
			'a"b',
			'a\\b',
			'a*',
			'a?',
			'a[b]',
			'a{b,c}',
			'~root',
			'a#b',
			'a!b',
			'a(b)',
			'a%s',
			'a=b',
			'a,b',
			'\u2028',
			'ä',
			'\ud800',
			'../etc',
			'a/../../etc',
			'..',
			'a/..',
			'',
		]) {
			assert.match(
				outcome({}, value).reason ?? 'admitted',
				/^(has|is|begins|contains)/,
				JSON.stringify(value),
			);
		}
	});
});

describe('a value of any kind', () => {
	const specs: ParameterSpec[] = [
		{},
		{ pattern: '(?s).*' },
		{ type: 'integer' },
		{ type: 'number' },
		{ type: 'boolean' },
		{ enum: ['a', '-b', '1', 'true'] },
	];

	test('that is admitted is whole Unicode text without NUL of at most 8192 characters', () => {
		fc.assert(
			fc.property(
				fc.constantFrom(...specs),
				fc.oneof(fc.jsonValue(), nearText, fc.double(), fc.integer()),
				(spec, value) => {
					const { text, reason } = outcome(spec, value);
					if (text === undefined) return assert.ok(reason);
					assert.ok(text.length <= 8192 && !text.includes('\0') && text.isWellFormed());
					assert.ok(typeof value !== 'object', 'lists, maps and null are no values');
				},
			),
			{ numRuns: 2000 },
		);
		assert.equal(outcome({ pattern: 'a*' }, 'a'.repeat(8192)).text?.length, 8192);
		assert.match(outcome({ pattern: 'a*' }, 'a'.repeat(8193)).reason ?? '', /longer than 8192/);
	});

	test('that is refused is never repeated in the reason', () => {
		fc.assert(
			fc.property(
				fc.constantFrom(...specs),
				fc.string({ unit: fc.constantFrom(...'§¶ß'), minLength: 3 }),
				(spec, value) => {
					const { reason } = outcome({ ...spec, ...(spec.pattern ? { pattern: 'x' } : {}) }, value);
					assert.ok(reason !== undefined && !reason.includes(value));
				},
			),
		);
	});

	test('that is a number of JSON becomes the text JSON has for it, as long as that is exact', () => {
		assert.equal(outcome({}, 2.1).text, '2.1');
		assert.equal(outcome({}, 42).text, '42');
		assert.equal(outcome({}, 2 ** 53 - 1).text, '9007199254740991');
		assert.match(outcome({}, 2 ** 53).reason ?? '', /2\^53/);
		assert.match(outcome({}, 1e300).reason ?? '', /2\^53/);
		assert.match(outcome({ type: 'number' }, Number.POSITIVE_INFINITY).reason ?? '', /too large/);
		assert.equal(outcome({}, -5).reason, 'begins with "-", which programs take for an option');
		assert.equal(outcome({ type: 'integer' }, -5).text, '-5');
		assert.equal(outcome({}, true).text, 'true');
	});

	test('that is a list, a map or null is refused', () => {
		assert.match(outcome({}, ['a']).reason ?? '', /more than once or is a list/);
		assert.match(outcome({}, { a: 1 }).reason ?? '', /object/);
		assert.match(outcome({}, null).reason ?? '', /null/);
	});

	test('follows its type', () => {
		const rows: [ParameterSpec['type'], string[], string[]][] = [
			[
				'integer',
				['0', '-1', '42', '123456789012345678901234567890'],
				['', '01', '1.0', '1e3', '0x1f', ' 1', '1\n', '--1', '٣'],
			],
			['number', ['0', '-2.5', '1e3', '0.1'], ['', '.5', '5.', '1e999', 'NaN', 'Infinity', '0x1f', '1_000']],
			['boolean', ['true', 'false'], ['', 'True', '1', 'yes', 'true\n']],
		];
		for (const [type, good, bad] of rows) {
			for (const value of good) assert.equal(outcome({ type }, value).text, value);
			for (const value of bad) assert.ok(outcome({ type }, value).reason, `${type} ${JSON.stringify(value)}`);
		}
		assert.equal(outcome({ type: 'boolean' }, false).text, 'false');
	});

	test('follows its pattern from the first character to the last', () => {
		const spec: ParameterSpec = { pattern: 'a|b+' };
		assert.equal(outcome(spec, 'bb').text, 'bb');
		for (const value of ['ab', 'a\n', '\na', 'xa', 'ax', '', 'bba'])
			assert.ok(outcome(spec, value).reason, value);
		assert.equal(outcome({ pattern: '-.*' }, '-x').text, '-x', 'an own pattern may admit a leading dash');
		assert.ok(outcome({ pattern: '.*' }, 'a\nb').reason, 'a dot is no line end');
	});

	test('is matched in time that grows with its length and no faster', () => {
		const start = performance.now();
		assert.ok(outcome({ pattern: '(a+)+b' }, 'a'.repeat(8192)).reason);
		assert.ok(outcome({ pattern: '(a|a|aa)*(a+)+b' }, 'a'.repeat(8192)).reason);
		// A backtracking matcher needs longer than the age of the universe.
		assert.ok(performance.now() - start < 5000);
	});

	test('is one of the enumerated, exactly', () => {
		const spec: ParameterSpec = { enum: ['qa', 'production', 8] };
		assert.equal(outcome(spec, 'qa').text, 'qa');
		assert.equal(outcome(spec, 8).text, '8');
		for (const value of ['QA', 'qa ', 'q', '', 'toString']) {
			assert.equal(outcome(spec, value).reason, 'is none of qa, production, 8');
		}
	});
});

describe('parameters', () => {
	test('are taken from the path, else the query, else the top level of the body', () => {
		const rules = rulesOf({ a: {}, b: {}, c: {}, d: {} });
		const { values } = resolveParameters(rules, {
			...nowhere,
			path: { a: 'path' },
			query: { a: 'query', b: 'query' },
			body: { a: 'body', b: 'body', c: 'body', nested: { d: 'deep' } },
		});
		assert.deepEqual({ ...values }, { a: 'path', b: 'query', c: 'body' });
	});

	test('are not taken from a body that is a list', () => {
		const list = Object.assign(['x'], { a: 'y' });
		assert.deepEqual(
			{ ...resolveParameters(rulesOf({ a: {}, length: {} }), { ...nowhere, body: list }).values },
			{},
		);
	});

	test('that are missing get their default, or are named, all of them', () => {
		const rules = rulesOf({ a: { required: true }, b: { default: 5 }, c: {}, d: { required: true }, e: {} });
		assert.throws(
			() => resolveParameters(rules, { ...nowhere, query: { e: ['x', 'y'] } }),
			(error: BadParameters) => {
				assert.equal(error.status, 422);
				assert.deepEqual(error.extension.parameters, [
					{ parameter: 'a', reason: 'is missing' },
					{ parameter: 'd', reason: 'is missing' },
					{ parameter: 'e', reason: 'is given more than once or is a list; give one value' },
				]);
				return true;
			},
		);
		const { values } = resolveParameters(rules, { ...nowhere, query: { a: 'x', d: 'y' } });
		assert.deepEqual({ ...values }, { a: 'x', b: '5', d: 'y' });
	});

	test('that are not declared never get through, whatever the body holds', () => {
		fc.assert(
			fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (body) => {
				const { values } = resolveParameters(rulesOf({ declared: { default: 'x' } }), {
					...nowhere,
					body: { ...body, declared: 'y' },
				});
				assert.deepEqual(Object.entries(values), [['declared', 'y']]);
			}),
		);
	});

	test('have no prototype to be poisoned', () => {
		const rules = rulesOf({ constructor: {}, toString: {}, valueOf: {}, hasOwnProperty: {} });
		const body = JSON.parse('{"__proto__": {"toString": "x"}, "constructor": "c"}');
		const { values } = resolveParameters(rules, { ...nowhere, body });
		assert.deepEqual(Object.entries(values), [['constructor', 'c']]);
		assert.equal(Object.getPrototypeOf(values), null);
	});

	test('cannot be made without the checks', () => {
		// @ts-expect-error its constructor is private
		const made = new Parameters({ role: '$(id)' });
		assert.ok(made, 'TypeScript is the wall; at run time nobody but resolveParameters calls it');
		const forged = { values: { role: '$(id)' } };
		// @ts-expect-error what only looks like Parameters is none
		const typed: Parameters = forged;
		assert.ok(typed);
	});

	test('cannot have names that change how programs start', () => {
		const names =
			'PATH LD_PRELOAD LD_X IFS ENV BASH_ENV SHELLOPTS PS4 HOME USER TMPDIR LANG LC_ALL TZ NODE_OPTIONS PYTHONPATH PERL5LIB ' +
			'RUBYOPT GEM_HOME GIT_SSH_COMMAND SSH_AUTH_SOCK JAVA_TOOL_OPTIONS _JAVA_OPTIONS DYLD_X WEBHOOK_RUN FACTER_role https_proxy ' +
			'HTTPS_PROXY CDPATH GLOBIGNORE PROMPT_COMMAND _ EDITOR CURL_HOME NOTIFY_SOCKET async a-b 1a é __proto__.x';
		for (const name of names.split(' ')) assert.ok(refusedName(name), name);
		assert.ok(refusedName(''));
		for (const name of 'role environment version path user home branch git_ref _x Path X PATHS GITHUB tag constructor'.split(
			' ',
		)) {
			assert.equal(refusedName(name), undefined, name);
		}
	});
});

describe('a rule', () => {
	const faults = (spec: ParameterSpec, inPath = false) => {
		const compiled = compileRule('it', spec, inPath ? ['it'] : [], new ExpressionCompiler());
		return 'faults' in compiled
			? compiled.faults.map(({ key, message }) => `${key.join('.')}: ${message}`)
			: [];
	};

	test('whose default it would refuse itself is refused', () => {
		assert.match(faults({ default: 'a b' })[0] ?? '', /^it\.default: .*would be refused/);
		assert.match(faults({ default: 'c', enum: ['a', 'b'] })[0] ?? '', /none of a, b/);
		assert.match(faults({ default: 1.5, type: 'integer' })[0] ?? '', /no whole number/);
		assert.deepEqual(faults({ default: 3, type: 'integer' }), []);
	});

	test('that contradicts itself is refused', () => {
		assert.match(faults({ default: 'a', required: true })[0] ?? '', /never be used/);
		assert.match(faults({ default: 'a' }, true)[0] ?? '', /path always gives a value/);
		assert.match(faults({ required: false }, true)[0] ?? '', /always required/);
		assert.match(faults({ type: 'boolean', enum: ['yes'] })[0] ?? '', /neither true nor false/);
	});

	test('with a pattern that could take for ever, or is none, is refused with the reason', () => {
		assert.match(faults({ pattern: '(a' })[0] ?? '', /missing closing \)/);
		assert.match(faults({ pattern: '(?=a)b' })[0] ?? '', /look-ahead/);
		assert.match(faults({ pattern: '(a)\\1' })[0] ?? '', /back-references/);
		assert.match(faults({ pattern: '(a{1000}){1000}' })[0] ?? '', /repeat count/);
	});
});

describe('a template', () => {
	const filled = (text: string, values: Record<string, string>) => {
		const template = compileTemplate(text);
		assert.ok(template instanceof Template, String(template));
		const specs = Object.fromEntries(template.names.map((name) => [name, { pattern: '(?s).*' }]));
		return template.fill(resolveParameters(rulesOf(specs), { ...nowhere, body: values }));
	};

	test('without parts is its text', () => {
		fc.assert(
			fc.property(fc.string({ unit: 'binary' }), (text) => {
				fc.pre(!text.includes('{{'));
				assert.equal(filled(text, {}), text);
			}),
		);
	});

	test('is filled in one pass: values with braces stay as they are', () => {
		const part = fc.constantFrom('{{a}}', '{{b}}', '}}', '{', '\\', '$1', '$&', 'x', '');
		fc.assert(
			fc.property(
				fc.string({ unit: part }),
				fc.string({ unit: part }),
				fc.string({ unit: part }),
				(before, a, b) => {
					const literal = before.replaceAll('{', '').replaceAll('\\', '');
					assert.equal(filled(`${literal}{{a}}-{{ b }}{{a}}`, { a, b }), `${literal}${a}-${b}${a}`);
				},
			),
		);
	});

	test('has the empty string for an optional parameter that is absent', () => {
		assert.equal(filled('[{{a}}]', {}), '[]');
	});

	test('can hold two braces that are meant', () => {
		assert.equal(filled('\\{{.Names}} {{a}}', { a: 'x' }), '{{.Names}} x');
	});

	test('that is not closed, or names nothing, is refused with the remedy', () => {
		assert.match(String(compileTemplate('a {{role')), /never closed/);
		assert.match(String(compileTemplate('{{.Names}}')), /names no parameter .*write \\\{\{/);
		assert.match(String(compileTemplate('{{}}')), /names no parameter/);
	});
});

describe('matching', () => {
	const routeAt = (path: string, methods: readonly Method[] = ['POST'], name = path): Route => {
		const callers = { access: { open: true, any: [], source: null }, source: null, fingerprints: [] };
		const spec = { path, command: 'true', method: methods };
		const file = {
			absolute: (named: string) => named,
			secrets: () => ({ secrets: { current: [] }, faults: [] }),
			noCertificate: () => undefined,
		};
		const { route, faults } = compileRoute(name, spec, {}, new ExpressionCompiler(), callers, file);
		assert.deepEqual(faults, []);
		return route!;
	};

	test('finds the same route as comparing with each one does', () => {
		const segment = fc.constantFrom('a', 'b', ':x', ':y');
		const paths = fc.uniqueArray(
			fc
				.array(segment, { maxLength: 4 })
				.filter((p) => new Set(p.filter((s) => s[0] === ':')).size === p.filter((s) => s[0] === ':').length),
			{
				selector: (p) => p.map((s) => (s[0] === ':' ? ':' : s)).join('/'),
				maxLength: 12,
			},
		);
		fc.assert(
			fc.property(paths, fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 4 }), (all, asked) => {
				const table = new RouteTable(all.map((path) => routeAt(`/${path.join('/')}`)));
				assert.deepEqual(table.clashes, []);
				const fits = all.filter(
					(path) => path.length === asked.length && path.every((s, i) => s[0] === ':' || s === asked[i]),
				);
				// Literal segments win from the left.
				const best = fits.sort((p, q) =>
					p.map((s) => (s[0] === ':' ? '1' : '0')).join('') <
					q.map((s) => (s[0] === ':' ? '1' : '0')).join('')
						? -1
						: 1,
				)[0];
				const path = `/${asked.join('/')}`;
				if (best === undefined) assert.throws(() => table.match('POST', path), NotFound);
				else assert.equal(table.match('POST', path).route.path, `/${best.join('/')}`);
			}),
			{ numRuns: 500 },
		);
	});

	test('gives a segment back as it was before encoding, with slashes, dots and every letter', () => {
		const table = new RouteTable([routeAt('/a/:name')]);
		fc.assert(
			fc.property(fc.string({ unit: 'grapheme', minLength: 1 }), (value) => {
				fc.pre(value.isWellFormed() && !value.includes('\0'));
				const { segments } = table.match('POST', `/a/${encodeURIComponent(value)}`);
				assert.deepEqual(Object.entries(segments), [['name', value]]);
			}),
		);
		assert.equal(table.match('POST', '/a/b%2Fc').segments.name, 'b/c');
		assert.equal(table.match('POST', '/a/..').segments.name, '..', 'dots are not resolved');
		assert.throws(() => table.match('POST', '/a/b/c'), NotFound);
	});

	test('refuses a path that is no text', () => {
		const table = new RouteTable([routeAt('/a/:name')]);
		for (const path of [
			'/a/%',
			'/a/%2',
			'/a/%zz',
			'/a/%ff',
			'/a/%c3%28',
			'/a/%00',
			'/a/\xc3\xbc',
			'/%ed%a0%80',
		]) {
			assert.throws(() => table.match('POST', path), BadRequest, path);
		}
	});

	test('takes one trailing slash, and cares for case', () => {
		const table = new RouteTable([routeAt('/a/b'), routeAt('/')]);
		assert.equal(table.match('POST', '/a/b/').route.path, '/a/b');
		assert.equal(table.match('POST', '/').route.path, '/');
		for (const path of ['/a/b//', '/a//b', '/A/b', '//a/b', '/a'])
			assert.throws(() => table.match('POST', path), NotFound, path);
	});

	test('of a path for another method says which methods there are', () => {
		const table = new RouteTable([
			routeAt('/a', ['GET', 'PUT']),
			routeAt('/:x', ['DELETE']),
			routeAt('/b', ['POST']),
		]);
		assert.throws(
			() => table.match('PATCH', '/a'),
			(error: MethodNotAllowed) =>
				error instanceof MethodNotAllowed && error.headers.Allow === 'GET, HEAD, PUT, DELETE, OPTIONS',
		);
		assert.equal(
			table.match('DELETE', '/a').route.path,
			'/:x',
			'a literal path that lacks the method hides no other',
		);
		assert.deepEqual(table.allowed('/b'), ['POST', 'DELETE', 'OPTIONS']);
		assert.deepEqual(table.allowed('/b/c'), []);
	});

	test('names both of two routes that would take the same requests', () => {
		const table = new RouteTable([
			routeAt('/a/:x', ['GET', 'POST'], 'one'),
			routeAt('/a/:y', ['POST', 'PUT'], 'two'),
		]);
		assert.deepEqual(
			table.clashes.map(({ route, other, methods }) => [route.name, other.name, methods]),
			[['two', 'one', ['POST']]],
		);
	});

	test('among 10,000 routes is as fast as among 10', () => {
		const timeAmong = (count: number) => {
			const paths = Array.from({ length: count }, (_, i) => `/team${i % 100}/deploy${i}/:name`);
			const table = new RouteTable(paths.map((path) => routeAt(path)));
			let best = Number.POSITIVE_INFINITY;
			for (let round = 0; round < 20; round++) {
				const start = performance.now();
				for (let i = 0; i < 2000; i++) table.match('POST', `/team${(i % count) % 100}/deploy${i % count}/x`);
				best = Math.min(best, performance.now() - start);
			}
			return best;
		};
		const few = timeAmong(10);
		const many = timeAmong(10_000);
		// Looking at each route would take a thousand times as long; caches and a busy machine do not.
		assert.ok(many < few * 20, `${few} ms for 2,000 among 10, ${many} ms among 10,000`);
	});
});

test('durations and sizes are read with their units only', () => {
	const durations: [string, number | undefined][] = [
		['500ms', 500],
		['30s', 30_000],
		['10m', 600_000],
		['1h', 3_600_000],
		['1.5h', 5_400_000],
		['7 d', 604_800_000],
		['24d', 2_073_600_000],
		['0s', undefined],
		['25d', undefined],
		['30', undefined],
		['s', undefined],
		['-1s', undefined],
		['1e3s', undefined],
		['1 week', undefined],
		['0.1ms', undefined],
		['', undefined],
	];
	for (const [text, ms] of durations) assert.equal(parseDuration(text), ms, text);
	const sizes: [string | number, number | undefined][] = [
		['10 MiB', 10_485_760],
		['64KiB', 65_536],
		['1GB', 1_000_000_000],
		['1.5 kB', 1500],
		['7B', 7],
		[0, 0],
		[1024, 1024],
		['1M', undefined],
		['10', undefined],
		[-1, undefined],
		[1.5, undefined],
		['MiB', undefined],
	];
	for (const [text, bytes] of sizes) assert.equal(parseSize(text), bytes, String(text));
});

test('a slip in a word finds the word that was meant, and another word finds none', () => {
	const known = ['method', 'path', 'params', 'command', 'timeout', 'kill_after', 'max_output', 'description'];
	fc.assert(
		fc.property(
			fc.constantFrom(...known),
			fc.nat(),
			fc.constantFrom('drop', 'double', 'swap', 'case'),
			(word, at, slip) => {
				const i = at % (word.length - 1);
				const slipped = {
					drop: word.slice(0, i) + word.slice(i + 1),
					double: word.slice(0, i) + word[i] + word.slice(i),
					swap: word.slice(0, i) + word[i + 1] + word[i] + word.slice(i + 2),
					case: word.toUpperCase().replace('_', '-'),
				}[slip]!;
				assert.equal(nearest(slipped, known), word, slipped);
			},
		),
	);
	for (const other of ['x', 'hieradata', 'source', 'zzzzzzzz'])
		assert.equal(nearest(other, known), undefined, other);
});
