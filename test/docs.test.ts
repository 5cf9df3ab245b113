/**
 * What README and docs show is run. A `console` block holds `$ command` lines, each followed by what it prints, where `…`
 * stands for anything; an `sh` block that starts with `curl` has to succeed. Both meet a listener on the shipped routes.yaml,
 * which `puppet-webhook`, this checkout's, asks without being told where it is.
 */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { type Listener, root, startListener, until } from './helpers/listener.ts';

interface Block {
	readonly language: string;
	readonly line: number;
	readonly text: string;
}

function blocksOf(markdown: string): Block[] {
	const blocks: Block[] = [];
	for (const match of markdown.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)) {
		blocks.push({
			language: match[1] ?? '',
			line: markdown.slice(0, match.index).split('\n').length,
			text: match[2] ?? '',
		});
	}
	return blocks;
}

/** The commands of a console block, each with the lines that are to be printed. A command goes on after a trailing `\`. */
function conversations(text: string): { command: string; printed: string }[] {
	const found: { command: string; printed: string }[] = [];
	let goesOn = false;
	for (const line of text.split('\n')) {
		const last = found.at(-1);
		if (line.startsWith('$ ')) found.push({ command: line.slice(2), printed: '' });
		else if (goesOn && last) last.command += `\n${line}`;
		else if (last) last.printed += `${line}\n`;
		goesOn = line.endsWith('\\');
	}
	return found;
}

function pattern(printed: string): RegExp {
	const parts = printed
		.trim()
		.split('…')
		.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
	return new RegExp(`^${parts.join('[\\s\\S]*?')}$`);
}

/** Runs one line as a reader would paste it, against this test's listener instead of port 6969. */
function paste(line: string, listener: Listener): Promise<{ code: number; stdout: string; stderr: string }> {
	return new Promise((resolve) => {
		execFile(
			'/bin/sh',
			['-c', line.replaceAll('127.0.0.1:6969', `127.0.0.1:${listener.port}`)],
			{
				cwd: root,
				timeout: 60_000,
				env: { ...process.env, PATH: `${listener.dir}/bin:${process.env.PATH}` },
			},
			(error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? 1) : 0, stdout, stderr }),
		);
	});
}

/** Puts `puppet-webhook` where `paste` finds it. Unlike the shipped routes.yaml, this listener has any port, so it is told which. */
function installCommand({ dir, url }: Listener): void {
	const program = `'${process.execPath}' '${root}/listener/main.ts'`;
	fs.mkdirSync(path.join(dir, 'bin'));
	fs.writeFileSync(
		path.join(dir, 'bin/puppet-webhook'),
		`#!/bin/sh\ncase $1 in check | explain | presets) exec ${program} "$@" ;; esac\nname=$1\nshift\nexec ${program} "$name" --url ${url} "$@"\n`,
		{ mode: 0o755 },
	);
}

const pages = ['README.md', ...fs.readdirSync(path.join(root, 'docs')).map((name) => `docs/${name}`)].filter(
	(name) => name.endsWith('.md'),
);

/** Lines that belong to other tests: they start or install the whole, or need Puppet (test/puppet). */
const elsewhere = /^(git clone|cd |npm |puppet |.*\bpuppet apply\b)/;

describe('documentation', () => {
	let listener: Listener;
	before(async () => {
		const routes = fs.readFileSync(path.join(root, 'routes.yaml'), 'utf8').replace('port: 6969', 'port: 0');
		assert.match(routes, /port: 0/);
		listener = await startListener({ routes });
		installCommand(listener);
	});

	for (const page of pages) {
		const blocks = blocksOf(fs.readFileSync(path.join(root, page), 'utf8'));
		for (const { language, line, text } of blocks) {
			if (language === 'console') {
				for (const { command, printed } of conversations(text)) {
					if (elsewhere.test(command)) continue;
					test(`${page}:${line}: ${command.split('\n')[0]} prints what is shown`, async () => {
						const ran = await paste(command, listener);
						assert.match(ran.stdout.trim(), pattern(printed), ran.stderr);
					});
				}
			} else if (language === 'sh' && text.startsWith('curl')) {
				test(`${page}:${line}: the curl example works`, async () => {
					const ran = await paste(text, listener);
					assert.equal(ran.code, 0, `${ran.stdout}\n${ran.stderr}`);
				});
			}
		}

		test(`${page}: links to files lead somewhere`, () => {
			const markdown = fs.readFileSync(path.join(root, page), 'utf8');
			for (const [, target = ''] of markdown.matchAll(/\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)/g)) {
				const file = path.join(root, path.dirname(page), target);
				assert.ok(fs.existsSync(file), `${page} links to ${target}`);
			}
		});
	}

	test('the output of an accepted run is in the log, line by line, as README says', async () => {
		const answer = await listener.get('/hello');
		const id = answer.json.runs[0].id;
		await listener.logged('the output', (line) => line.run === id && line.message.startsWith('Hello from'));
		await until('the run to end', async () => (await listener.run(id)).state === 'succeeded');
	});
});
