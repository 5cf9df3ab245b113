/**
 * What holds for the repository as a whole: which part may import which, which words name things, that documents agree
 * with what they describe, and that the built package works. The rules are functions over texts, each proved on a text
 * that breaks it.
 */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { runReasons, runStates } from '../listener/runs/run.ts';

const root = path.join(import.meta.dirname, '..');
const read = (file: string) => fs.readFileSync(path.join(root, file), 'utf8');
const manifest = JSON.parse(read('package.json'));

// ---- Who may import whom ----------------------------------------------------------------------------------------

/**
 * Each part of listener/ and the parts it may import beside itself. A part is a folder, or a file of one; the longest name
 * that fits counts. Data flows from the bottom of this table to its top: nothing may import a part that stands below it.
 */
const mayImport: Readonly<Record<string, readonly string[]>> = {
	// The values that travel.
	errors: [],
	delivery: [],
	secret: [],
	spelling: [],
	'steps/step': [],
	'runs/run': ['steps/step'],
	// Parts that stand alone.
	terminal: [],
	logs: [],
	mask: [],
	log: ['logs', 'errors', 'mask'],
	systemd: ['log'],
	stores: ['runs/run', 'errors'],
	// How values are written in routes.yaml, for the parts that say what may be written about them.
	'config/values': [],
	certificates: ['delivery'],
	auth: ['certificates', 'delivery', 'secret', 'errors', 'config/values'],
	// They verify as auth does, and Amazon's needs a certificate fetched.
	sources: ['delivery', 'secret', 'errors', 'auth', 'config/values'],
	// What a request asks for, and what will be done.
	'routes/meter': [],
	'routes/expressions': ['delivery', 'spelling', 'routes/meter'],
	'routes/parameters': ['delivery', 'errors', 'routes/expressions'],
	'routes/template': ['routes/parameters'],
	'triggers/name': [],
	steps: ['steps/step', 'secret', 'triggers/name', 'routes/parameters', 'routes/template', 'log', 'errors'],
	routes: [
		...['delivery', 'errors', 'log', 'auth', 'sources', 'routes/parameters', 'routes/template', 'steps'],
		...['steps/step', 'runs/run', 'secret', 'spelling', 'routes/expressions', 'routes/meter'],
	],
	// Doing it.
	runs: ['runs/run', 'steps', 'steps/step', 'stores', 'log', 'errors', 'mask'],
	triggers: ['triggers/name', 'runs', 'runs/run', 'stores', 'log', 'errors'],
	// The definition of routes.yaml is made of the definitions of its parts.
	config: [
		'config/values',
		'certificates',
		'errors',
		'delivery',
		'secret',
		'runs/run',
		'log',
		'logs',
		'auth',
		'sources',
		'routes',
		'routes/parameters',
		'routes/template',
		'steps',
		'spelling',
		'routes/expressions',
	],
	metrics: ['runs', 'runs/run', 'config'],
	http: [
		...[
			'errors',
			'delivery',
			'certificates',
			'log',
			'metrics',
			'stores',
			'auth',
			'sources',
			'routes',
			'routes/parameters',
			'steps',
		],
		...['runs', 'runs/run', 'triggers', 'config', 'terminal'],
	],
	// A client of what http answers, which it knows by the documents only.
	client: ['errors', 'config', 'terminal'],
	operator: ['errors', 'runs/run', 'terminal', 'client'],
	// What http does with a delivery, without a listener.
	explain: [
		...['errors', 'delivery', 'mask', 'spelling', 'terminal', 'auth', 'config', 'http', 'runs/run'],
		...['routes', 'routes/expressions', 'routes/parameters', 'routes/template', 'steps', 'steps/step'],
	],
	main: [
		'explain',
		...['errors', 'delivery', 'log', 'stores', 'auth', 'sources', 'routes', 'steps', 'runs', 'runs/run'],
		...['triggers', 'config', 'config/values', 'metrics', 'http', 'operator', 'systemd', 'mask'],
	],
};

/** What only some places may use; places are beginnings of paths below listener/. */
const reserved: readonly { what: string; used: (file: Source) => boolean; only: readonly string[] }[] = [
	{ what: 'Koa', used: imports(/^(koa|@koa\/.*|koa-.*)$/), only: ['http/'] },
	{
		what: 'node:child_process',
		used: imports(/^(node:)?child_process$/),
		// Starting a program stands the whole process still, so deliveries must not. logs/local starts one, when the log is opened.
		// systemd likewise.
		only: ['runs/runner', 'steps/', 'logs/local', 'systemd'],
	},
	{ what: 'process.env', used: contains(/\bprocess\s*(\.|\[['"])env\b/), only: ['main.ts'] },
	{ what: 'process.exit', used: contains(/\bprocess\s*(\.|\[['"])exit\b/), only: ['main.ts'] },
	{ what: 'node:process', used: imports(/^(node:)?process$/), only: ['main.ts'] },
	{
		what: 'input and output',
		used: (file) =>
			imports(/^(node:)?(fs|http|https|http2|tls|dgram|dns|sqlite|readline)(\/promises)?$|^got$/)(file) ||
			contains(/\bfetch\(/)(file),
		// auth fetches the keys that tokens are signed with.
		only: [
			...['auth/', 'config/', 'http/', 'logs/', 'main.ts', 'client.ts', 'runs/', 'steps/', 'stores/'],
			'triggers/',
		],
	},
];

/** Words that mean something else here, or nothing: in the names of files and of what they export. */
const unwanted = /^(jobs?|tasks?|hooks?|workers?|providers?|utils?|utilities|helpers?|misc|common|manager)$/;

interface Source {
	/** Path below listener/. */
	readonly name: string;
	/** Without comments. */
	readonly text: string;
	/** What it imports: paths below listener/, or names of packages and of Node's modules. */
	readonly imports: readonly string[];
}

function imports(pattern: RegExp): (file: Source) => boolean {
	return (file) => file.imports.some((name) => pattern.test(name));
}

function contains(pattern: RegExp): (file: Source) => boolean {
	return (file) => pattern.test(file.text);
}

/** Statements as the formatter leaves them: an `import` or `export … from` begins its line. */
const staticImport = /^(?:import|export)\b(?:[^'";]*?\bfrom)?\s*['"]([^'"]+)['"]/gm;
const dynamicImport = /\bimport\(\s*(?:['"]([^'"]+)['"]\s*\))?/g;

function source(name: string, written: string): Source {
	const text = written.replace(/\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gm, '');
	const found = [...text.matchAll(staticImport), ...text.matchAll(dynamicImport)].map(
		(match) => match[1] ?? '',
	);
	const resolved = found.map((to) => (to.startsWith('.') ? path.join(path.dirname(name), to) : to));
	return { name, text, imports: resolved };
}

function partOf(name: string): string | undefined {
	const plain = name.replace(/\.ts$/, '');
	return Object.keys(mayImport)
		.filter((part) => plain === part || plain.startsWith(`${part}/`))
		.sort((a, b) => b.length - a.length)[0];
}

/** Everything in which the files break the rules; `written` holds texts by path below listener/. */
function violations(written: Readonly<Record<string, string>>): string[] {
	const files = Object.entries(written).map(([name, text]) => source(name, text));
	return [...files.flatMap(importFaults), ...files.flatMap(nameFaults), ...circles(files)];
}

function importFaults(file: Source): string[] {
	const faults: string[] = [];
	const part = partOf(file.name);
	if (part === undefined) faults.push(`${file.name}: belongs to no part; give it a row in mayImport`);
	for (const to of file.imports) {
		if (to === '') faults.push(`${file.name}: imports what only turns out when it runs; write the path out`);
		if (!to.endsWith('.ts')) continue;
		const other = partOf(to);
		if (part === undefined || other === undefined || other === part) continue;
		if (!mayImport[part]?.includes(other)) faults.push(`${file.name}: ${part} may not import ${to}`);
	}
	for (const { what, used, only } of reserved) {
		if (used(file) && !only.some((place) => file.name.startsWith(place))) {
			faults.push(`${file.name}: only ${only.join(', ')} may use ${what}`);
		}
	}
	if (/\b(require|createRequire|getBuiltinModule)\(/.test(file.text)) {
		faults.push(`${file.name}: modules are imported, not required`);
	}
	const rest = file.text.replace(/^export\b[^;]*?\bfrom\s*['"][^'"]+['"];?/gm, '');
	if (rest.trim() === '') faults.push(`${file.name}: only exports what others define; import it from there`);
	return faults;
}

function nameFaults(file: Source): string[] {
	const exported = file.text.matchAll(
		/^export (?:default )?(?:async |abstract )*(?:const|let|function\*?|class|interface|type) (\w+)/gm,
	);
	const listed = [...file.text.matchAll(/^export (?:type )?\{([^}]*)\}/gm)].flatMap((match) =>
		(match[1] ?? '').split(',').map((item) => item.trim().split(' ').at(-1) ?? ''),
	);
	const names = [
		...file.name.replace(/\.ts$/, '').split('/'),
		...[...exported].map((m) => m[1] ?? ''),
		...listed,
	];
	return names.flatMap((name) =>
		name
			.split(/[^A-Za-z]|(?<=[a-z])(?=[A-Z])/)
			.filter((word) => unwanted.test(word.toLowerCase()))
			.map((word) => `${file.name}: "${name}": "${word}" is not a word of docs/glossary.md`),
	);
}

/** Files that import each other, by whatever way round. */
function circles(files: readonly Source[]): string[] {
	const byName = new Map(files.map((file) => [file.name, file]));
	const done = new Set<string>();
	const found: string[] = [];
	function follow(name: string, way: readonly string[]): void {
		const start = way.indexOf(name);
		if (start >= 0) {
			found.push(`circle: ${[...way.slice(start), name].join(' → ')}`);
			return;
		}
		if (done.has(name)) return;
		for (const to of byName.get(name)?.imports ?? []) if (byName.has(to)) follow(to, [...way, name]);
		done.add(name);
	}
	for (const file of files) follow(file.name, []);
	return found;
}

describe('the parts of the listener', () => {
	test('import only what their row allows, use only what is theirs, and have names of the glossary', () => {
		const names = fs.globSync('**/*.ts', { cwd: path.join(root, 'listener') });
		assert.ok(names.length > 10, 'listener/ was read');
		assert.deepEqual(
			violations(Object.fromEntries(names.map((name) => [name, read(`listener/${name}`)]))),
			[],
		);
	});

	test('stand in the table in the order in which they build on each other', () => {
		const order = Object.keys(mayImport);
		for (const [part, others] of Object.entries(mayImport)) {
			for (const other of others) {
				assert.ok(order.includes(other), `${part}: "${other}" is no part`);
				assert.ok(
					order.indexOf(other) < order.indexOf(part),
					`${part} stands above ${other}, which it imports`,
				);
			}
		}
	});

	const broken: readonly [string, Readonly<Record<string, string>>, readonly RegExp[]][] = [
		[
			'an import from a part further down',
			{ 'stores/sqlite.ts': "import { Queue } from '../runs/queue.ts';\nconst a = 1;" },
			[/stores may not import runs\/queue\.ts/],
		],
		[
			'an import over several lines, of a type, and for its effect',
			{
				'log.ts': "import type {\n\tA,\n\tB,\n} from './http/app.ts';\nimport './main.ts';\nconst a = 1;",
			},
			[/log may not import http\/app\.ts/, /log may not import main\.ts/],
		],
		[
			'an import at run time',
			{ 'log.ts': "const a = await import('./main.ts');\nconst b = await import(name);" },
			[/may not import main\.ts/, /imports what only turns out when it runs/],
		],
		[
			'two files that import each other',
			{
				'http/a.ts': "import { b } from './b.ts';\nconst a = 1;",
				'http/b.ts': "import { a } from './a.ts';\nconst b = 1;",
			},
			[/circle: http\/a\.ts → http\/b\.ts → http\/a\.ts/],
		],
		['a file of no part', { 'extras/a.ts': 'const a = 1;' }, [/belongs to no part/]],
		[
			'Koa outside http/',
			{ 'runs/queue.ts': "import Router from '@koa/router';\nconst a = 1;" },
			[/only http\/ may use Koa/],
		],
		[
			'programs started elsewhere',
			{ 'http/app.ts': "import { spawn } from 'node:child_process';\nconst a = 1;" },
			[/only runs\/runner, steps\/, logs\/local, systemd may use node:child_process/],
		],
		[
			'the environment read and the process ended elsewhere',
			{ 'log.ts': "const a = process.env.HOME ?? process['env'].A;\nprocess.exit(1);" },
			[/may use process\.env/, /may use process\.exit/],
		],
		[
			'input and output in what is to be pure',
			{
				'routes/route.ts': "import fs from 'node:fs';\nconst a = 1;",
				'sources/a.ts': "const a = fetch('/');",
			},
			[/routes\/route\.ts.*may use input and output/, /sources\/a\.ts.*may use input and output/],
		],
		[
			'a file that only hands on',
			{ 'runs/all.ts': "export { a } from './a.ts';\nexport * from './b.ts';" },
			[/only exports what others define/],
		],
		[
			'words that are not ours',
			{
				'runs/jobs.ts': 'export class Queue {}',
				'runs/a.ts': 'export async function startWorker() {}\nconst b = 1;\nexport { b as taskList };',
			},
			[/jobs\.ts: "jobs"/, /"startWorker": "Worker"/, /"taskList": "task"/],
		],
	];
	for (const [what, files, expected] of broken) {
		test(`are refused ${what}`, () => {
			const found = violations(files);
			assert.equal(found.length, expected.length, found.join('\n'));
			for (const pattern of expected)
				assert.ok(
					found.some((fault) => pattern.test(fault)),
					found.join('\n'),
				);
		});
	}

	test('may say in comments and exit codes what they may not do', () => {
		const text =
			'// process.env is read in main\n/* import(x) */\nprocess.exitCode = 1;\nexport const webhook = 1;';
		assert.deepEqual(violations({ 'log.ts': text }), []);
	});
});

// ---- Documents --------------------------------------------------------------------------------------------------

/** Lines of a list, `- \`name\`: text`, below a heading. */
function listBelow(markdown: string, heading: string): Map<string, string> {
	const below = markdown.split(new RegExp(`^#+ ${heading}$`, 'm'))[1]?.split(/^#/m)[0] ?? '';
	return new Map(
		[...below.matchAll(/^- `([^`]+)`: (.+)$/gm)].map((match) => [match[1] ?? '', match[2] ?? '']),
	);
}

/** What is wrong with the top of a changelog, for a version that is not released yet. */
function changelogFaults(markdown: string): string[] {
	const [, first = '', second = ''] = markdown.split(/^## /m);
	if (!first.startsWith('Unreleased\n')) return ['the first section is not "Unreleased"'];
	const faults: string[] = [];
	if (!/^- \S/m.test(first)) faults.push('"Unreleased" is empty');
	if (second.startsWith('Unreleased')) faults.push('"Unreleased" is there twice');
	return faults;
}

/** npm scripts that a text names and package.json does not have. */
function unknownScripts(markdown: string): string[] {
	return [...markdown.matchAll(/\bnpm run ([\w:-]+)/g)]
		.map((match) => match[1] ?? '')
		.filter((script) => !(script in manifest.scripts));
}

describe('the documents', () => {
	test('give the reason for every dependency, and for none that is gone', () => {
		const reasons = listBelow(read('docs/contributing.md'), 'Dependencies');
		const dependencies = { ...manifest.dependencies, ...manifest.devDependencies };
		assert.deepEqual([...reasons.keys()].sort(), Object.keys(dependencies).sort());
		assert.deepEqual(
			[...listBelow('# A\n\n- `x`: no\n\n## B\n\n- `y`: yes\n\n# C\n- `z`: no', 'B').keys()],
			['y'],
		);
	});

	test('name the same version everywhere', () => {
		const locked = JSON.parse(read('package-lock.json'));
		assert.equal(JSON.parse(read('metadata.json')).version, manifest.version);
		assert.equal(locked.version, manifest.version);
	});

	test('say what has changed since the last release', () => {
		assert.deepEqual(changelogFaults(read('CHANGELOG.md')), []);
		assert.deepEqual(changelogFaults('# C\n\n## Unreleased\n\n### Added\n\n- A.\n\n## 0.1.0\n'), []);
		assert.deepEqual(changelogFaults('# C\n\n## 0.1.0\n\n- A.\n'), ['the first section is not "Unreleased"']);
		assert.deepEqual(changelogFaults('# C\n\n## Unreleased\n\n### Added\n'), ['"Unreleased" is empty']);
		assert.deepEqual(changelogFaults('# C\n\n## Unreleased\n\n- A.\n\n## Unreleased\n\n- B.\n'), [
			'"Unreleased" is there twice',
		]);
	});

	test('explain exactly the states and reasons there are', () => {
		const glossary = read('docs/glossary.md');
		assert.deepEqual([...listBelow(glossary, 'States').keys()], [...runStates]);
		assert.deepEqual([...listBelow(glossary, 'Reasons').keys()], [...runReasons]);
	});

	test('name npm scripts that exist', () => {
		const documents = ['README.md', 'CHANGELOG.md', ...fs.globSync('docs/**/*.md', { cwd: root })];
		assert.deepEqual(
			documents.flatMap((file) => unknownScripts(read(file))),
			[],
		);
		assert.deepEqual(unknownScripts('`npm run check` and `npm run chekc`'), ['chekc']);
	});
});

// ---- The package ------------------------------------------------------------------------------------------------

describe('the built package', () => {
	const home = fs.mkdtempSync(path.join(os.tmpdir(), 'puppet-webhook-built-'));
	const program = path.join(home, 'dist/main.cjs');
	// The program's first line asks for the first `node` on PATH.
	const env = { ...process.env, PATH: `${path.dirname(process.execPath)}:${process.env.PATH}` };
	before(() => {
		fs.copyFileSync(path.join(root, 'package.json'), path.join(home, 'package.json'));
		fs.symlinkSync(path.join(root, 'node_modules'), path.join(home, 'node_modules'));
		execFileSync(process.execPath, [path.join(root, 'scripts/build.ts'), path.join(home, 'dist')], { env });
	});
	after(() => fs.rmSync(home, { recursive: true, force: true }));

	test('has the command as a program that shows its help', () => {
		assert.equal(manifest.bin['puppet-webhook'], 'dist/main.cjs');
		assert.match(execFileSync(program, ['--help'], { encoding: 'utf8', env }), /^Usage: puppet-webhook /);
	});

	test('serves routes and runs commands without the TypeScript sources', async () => {
		const config = path.join(home, 'routes.yaml');
		fs.writeFileSync(
			config,
			'listen: { address: 127.0.0.1, port: 0 }\nlog: { format: json }\nroutes:\n  hello: { method: get, command: echo from the package }\n',
		);
		const listener = spawn(program, ['serve', '--config', config, '--state', path.join(home, 'state')], {
			env,
			stdio: ['ignore', 'pipe', 'inherit'],
		});
		const ended = once(listener, 'exit');
		try {
			const url = await new Promise<string>((resolve) => {
				createInterface(listener.stdout).on('line', (line) => {
					const entry = JSON.parse(line);
					if (entry.message === 'listening') resolve(entry.url);
				});
			});
			const answer = await fetch(`${url}/hello?async=false`);
			assert.equal(answer.status, 200);
			assert.match(await answer.text(), /from the package/);
		} finally {
			listener.kill();
		}
		assert.deepEqual(await ended, [0, null]);
	});
});

test('the script of CI is a program that bash understands', () => {
	fs.accessSync(path.join(root, '.ci/run'), fs.constants.X_OK);
	execFileSync('bash', ['-n', path.join(root, '.ci/run')]);
});
