/** The module's data types, and how it writes routes.yaml: whatever the listener takes, a manifest can say, and nothing else. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { load } from 'js-yaml';
import { jsonSchema } from '../../listener/config/schema.ts';
import { puppetTypes, type Schema } from '../../scripts/puppet-types.ts';
import { root, temporaryDirectory } from '../helpers/listener.ts';
import { puppetApply, puppetTest } from '../helpers/puppet.ts';

const schema: Schema = jsonSchema();
const sections = Object.keys(schema.properties ?? {});

test('types/ is what scripts/schema.ts makes of the definition of routes.yaml', () => {
	for (const [name, text] of Object.entries(puppetTypes(schema))) {
		const file = path.join(root, 'types', name);
		const there = fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : '';
		assert.equal(there, text, `run "node scripts/schema.ts" and commit types/${name}`);
	}
});

test('every section of routes.yaml is a parameter of webhook::listener', () => {
	const manifest = fs.readFileSync(path.join(root, 'manifests/listener.pp'), 'utf8');
	for (const section of sections) {
		const type = `Webhook::${section[0]?.toUpperCase()}${section.slice(1)}`;
		assert.match(
			manifest,
			new RegExp(`^  (Optional\\[)?${type}\\]? \\$${section} = `, 'm'),
			`manifests/listener.pp needs the parameter "$${section}" of type ${type}, and has to write it`,
		);
		assert.match(
			manifest,
			new RegExp(`^    '${section}' +=> `, 'm'),
			`manifests/listener.pp does not write ${section}`,
		);
	}
});

test('no key is lost on the way from the definition to the types', () => {
	const written = Object.values(puppetTypes(schema)).join('\n');
	const keys = new Set<string>();
	const collect = (value: unknown) => {
		if (typeof value !== 'object' || value === null) return;
		const { properties } = value as Schema;
		for (const key of Object.keys(properties ?? {})) if (value !== schema) keys.add(key);
		Object.values(value).forEach(collect);
	};
	collect(schema);
	assert.ok(keys.size > 40, [...keys].join());
	for (const key of keys) assert.ok(written.includes(`'${key}' `), `no type knows "${key}"`);
});

/** A value as Puppet writes it. */
function literal(value: unknown): string {
	if (value === null || value === undefined) return 'undef';
	if (typeof value === 'string') return `'${value.replaceAll(/[\\']/g, '\\$&')}'`;
	if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`;
	if (typeof value === 'object') {
		return `{ ${Object.entries(value)
			.map(([key, each]) => `${literal(key)} => ${literal(each)}`)
			.join(', ')} }`;
	}
	return String(value);
}

/** Texts that readers of YAML take for something else, or that end where they should not. */
const treacherous = [
	...[
		'',
		' ',
		'yes',
		'No',
		'on',
		'null',
		'~',
		'true',
		'0o17',
		'0x1f',
		'1e3',
		'12e4567',
		'.inf',
		'022',
		'1_000',
		'2.10',
	],
	...[
		'2024-01-01',
		'30s',
		'- a',
		'? a',
		'# a',
		'a # b',
		'a: b',
		'a:',
		': a',
		'{{role}}',
		'[a]',
		'{a}',
		'&a',
		'*a',
		'!a',
	],
	...[
		'|',
		'>',
		'%a',
		'@a',
		'`a`',
		'"a"',
		"'a'",
		'\\',
		'\\n',
		'a\\"b',
		'$\u007ba}',
		' a ',
		'a\tb',
		'a\n',
		'a\n\n',
		'\na',
		'a\nb',
	],
	...[
		'a\n  b\nc',
		' a\nb',
		'a \nb',
		'a\n\n\nb\n',
		'ä ö',
		'→',
		'\u{1F600}',
		'\u00a0',
		'\u2028',
		'<<',
		'=',
		'a, b',
		'---',
		'...',
	],
];

puppetTest(
	'everything that docs/routes.md shows can be said in a manifest, and is written as the same',
	async () => {
		const page = fs.readFileSync(path.join(root, 'docs/routes.md'), 'utf8');
		// Anchors are for files that people write.
		const shown = [...page.matchAll(/^```yaml\n(?!# refused)([\s\S]*?)^```$/gm)].filter(
			([text]) => !text.includes('<<:'),
		);
		const examples = shown.map(([, text = '']) => {
			const file = load(text) as Record<string, unknown>;
			return Object.fromEntries(Object.entries(file).filter(([key]) => sections.includes(key)));
		});
		assert.ok(examples.length > 15, 'the page was read');
		const texts = {
			list: treacherous,
			map: Object.fromEntries(treacherous.map((text) => [`${text} `, text])),
		};
		const dir = temporaryDirectory();
		const manifest = [...examples, texts].map((example, index) => {
			const checked = Object.keys(example).filter((key) => sections.includes(key));
			const types = checked.map(
				(key) => `Optional['${key}'] => Webhook::${key[0]?.toUpperCase()}${key.slice(1)}`,
			);
			const data = literal(example);
			return [
				`$data${index} = ${types.length > 0 ? `assert_type(Struct[{${types.join(', ')}}], ${data})` : data}`,
				`file { '${dir}/${index}.yaml': content => webhook::yaml(webhook::unwrap($data${index})) }`,
			].join('\n');
		});
		const ran = await puppetApply(manifest.join('\n'));
		assert.equal(ran.code, 2, ran.stderr);
		for (const [index, example] of [...examples, texts].entries()) {
			const written = fs.readFileSync(path.join(dir, `${index}.yaml`), 'utf8');
			assert.deepEqual(load(written), example, written);
		}
	},
);

puppetTest(
	'what the listener would refuse for its shape does not compile, and the message names the key',
	async () => {
		const refused = [
			['Routes', { a: { command: 'date', timeout: 30 } }],
			['Routes', { a: { command: 'date', method: 'fetch' } }],
			['Listen', { port: 65536 }],
			['Log', { level: 'loud' }],
		].map(
			([type, value]) => `assert_type(Webhook::${type}, ${literal(value)}) |$is, $was| { notice('refused') }`,
		);
		const misspelt = `assert_type(Webhook::Routes, ${literal({ a: { comand: 'date' } })})`;
		const ran = await puppetApply([...refused, misspelt].join('\n'));
		assert.equal(ran.stdout.match(/refused/g)?.length, refused.length, ran.stderr);
		assert.equal(ran.code, 1);
		assert.match(ran.stderr, /entry 'a' unrecognized key 'comand'/);
	},
);
