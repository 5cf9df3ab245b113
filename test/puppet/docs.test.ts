/**
 * Every manifest in docs/puppet.md is applied against a listener on the shipped routes.yaml, or in noop mode where it needs
 * certificates; every message shown there is one that Puppet wrote meanwhile.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { type Listener, root, startListener, temporaryDirectory } from '../helpers/listener.ts';
import { hostTest, puppet, puppetApply, puppetTest, run } from '../helpers/puppet.ts';

const page = fs.readFileSync(path.join(root, 'docs/puppet.md'), 'utf8');

function blocks(language: string): { line: number; text: string }[] {
	return [...page.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map((match) => ({
		line: page.slice(0, match.index).split('\n').length,
		text: match[1] ?? '',
	}));
}

let listening: Promise<Listener> | undefined;

/** One listener on the shipped routes.yaml for all tests of this file. */
function exampleListener(): Promise<Listener> {
	const routes = fs.readFileSync(path.join(root, 'routes.yaml'), 'utf8').replace('port: 6969', 'port: 0');
	listening ??= startListener({ routes });
	return listening;
}

const dir = temporaryDirectory();

/** What the page says, for the listener of this test and a directory of its own. */
function here(text: string, { port }: Listener): string {
	return text
		.replaceAll('my.puppetmaster.com', '127.0.0.1')
		.replaceAll('my.other-puppetmaster.com', 'localhost')
		.replaceAll('6969', String(port))
		.replaceAll('/etc/', `${dir}/`);
}

let printed = '';

type Block = ReturnType<typeof blocks>[number];

/** The lines that declare what a catalog can hold only once. */
const declarations = ({ text }: Block): readonly string[] =>
	text.match(/^ *(?:class |[a-z:]+ \{ ).*$/gm) ?? [];

/** Manifests that go into one catalog together: a Puppet run costs seconds. */
function together(manifests: readonly Block[]): Block[][] {
	const groups: Block[][] = [];
	for (const block of manifests) {
		// Stages order what is in them after all the rest, and the one that is to fail shows how that reads.
		const alone = /stage|moon/.test(block.text);
		const declared = declarations(block);
		const group = groups.find((others) =>
			others.every(
				(other) =>
					!/stage|moon/.test(other.text) && !declarations(other).some((line) => declared.includes(line)),
			),
		);
		if (alone || group === undefined) groups.push([block]);
		else group.push(block);
	}
	return groups;
}

/** A whole address has its own port. */
function manifestOf(group: readonly Block[], listener: Listener): string {
	const texts = group.map(({ text }) =>
		here(text, listener).replaceAll(/^( *url +=>)/gm, '  port => undef,\n$1'),
	);
	return `Http { port => ${listener.port} }\n${texts.join('\n')}`;
}

const manifests = blocks('puppet');
const withCertificates = manifests.filter(({ text }) => /tls\s+=>/.test(text));
const lines = (group: readonly Block[]) => group.map(({ line }) => line).join(', ');

// The first stands for all of them in what noop mode prints.
for (const group of [manifests.slice(0, 1), ...together(withCertificates)]) {
	puppetTest(
		`docs/puppet.md:${lines(group)}: the manifest says in noop mode what it would send`,
		async () => {
			const listener = await exampleListener();
			const ran = await puppetApply(manifestOf(group, listener), { options: ['--noop'] });
			assert.equal(ran.code, 0, ran.stderr);
			assert.match(ran.stdout, /should be '(GET|POST) https?:/);
			printed += ran.stdout;
		},
	);
}

for (const group of together(manifests.filter((block) => !withCertificates.includes(block)))) {
	puppetTest(`docs/puppet.md:${lines(group)}: the manifests do what they are to do`, async () => {
		const listener = await exampleListener();
		const ran = await puppetApply(manifestOf(group, listener));
		assert.equal(ran.code, group.some(({ text }) => text.includes('moon')) ? 4 : 2, ran.stderr);
		printed += ran.stdout + ran.stderr;
	});
}

puppetTest('docs/puppet.md: Puppet printed the messages shown', async () => {
	const listener = await exampleListener();
	for (const { line, text } of blocks('text')) {
		for (const message of text.trim().split('\n')) {
			const parts = here(message, listener)
				.split('…')
				.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
			assert.match(printed, new RegExp(`^${parts.join('.*')}$`, 'm'), `line ${line}`);
		}
	}
});

puppetTest(
	'README.md: the manifest of its last run stage reaches the listener, with the type taken from the checkout',
	async () => {
		const listener = await exampleListener();
		const before = await listener.runCount('kick_haproxy_app_internal');
		const site = path.join(root, 'docs/examples/last-stage/site.pp');
		const manifest = path.join(temporaryDirectory(), 'site.pp');
		fs.writeFileSync(manifest, fs.readFileSync(site, 'utf8').replaceAll('6969', String(listener.port)));
		const libdir = ['--modulepath', path.dirname(manifest), '--libdir', path.join(root, 'ruby-type/lib')];
		const ran = await puppet(['apply', '--detailed-exitcodes', ...libdir, manifest]);
		assert.equal(ran.code, 2, ran.stderr);
		assert.equal(await listener.runCount('kick_haproxy_app_internal'), before + 1);
	},
);

puppetTest('puppet resource http sends one request, and says why it lists none', async (t) => {
	const listener = await exampleListener();
	const before = await listener.runCount('hello');
	const call = [
		'resource',
		'http',
		'hello',
		'ensure=get',
		'fqdn=127.0.0.1',
		`port=${listener.port}`,
		'wait=true',
	];
	await t.test('with attributes', async () => {
		const ran = await puppet(call);
		assert.match(ran.stdout, /Hello from/);
		assert.equal(await listener.runCount('hello'), before + 1);
	});
	await t.test('without', async () => {
		const ran = await puppet(['resource', 'http']);
		assert.equal(ran.code, 1);
		assert.match(
			ran.stderr,
			/http resources are requests, which leave nothing on a host that could be listed/,
		);
	});
});

puppetTest('puppet describe http tells every attribute', async () => {
	const ran = await puppet(['describe', 'http']);
	assert.equal(ran.code, 0);
	const table = page.slice(page.indexOf('## Which attributes are there?'));
	const documented = [...table.matchAll(/^\| ((?:`\w+` )+)\|/gm)].flatMap(
		(match) => match[1]?.match(/\w+/g) ?? [],
	);
	const described = [...ran.stdout.matchAll(/^- \*\*(\w+)\*\*/gm)].map((match) => match[1] ?? '');
	assert.deepEqual(described.toSorted(), [...documented, 'name'].toSorted());
});

hostTest('puppet-lint', 'puppet-lint finds nothing in the manifests of docs/puppet.md', async () => {
	const dir = temporaryDirectory();
	for (const { line, text } of blocks('puppet')) fs.writeFileSync(path.join(dir, `line${line}.pp`), text);
	// Classes of an example stand in one file, and without the documentation that the page around them is.
	const ran = await run('puppet-lint', [
		'--fail-on-warnings',
		'--no-autoloader_layout-check',
		'--no-documentation-check',
		dir,
	]);
	assert.equal(ran.code, 0, ran.stdout);
});
