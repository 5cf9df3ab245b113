/** Git repositories for tests: a bare one that takes pushes, and clones of it. */

import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { temporaryDirectory } from './listener.ts';

/** Nothing of this host's git, and a name to commit with. */
const environment = {
	PATH: process.env.PATH,
	HOME: '/nonexistent',
	GIT_CONFIG_GLOBAL: '/dev/null',
	GIT_CONFIG_SYSTEM: '/dev/null',
	GIT_AUTHOR_NAME: 'Ann',
	GIT_AUTHOR_EMAIL: 'ann@example.com',
	GIT_COMMITTER_NAME: 'Ann',
	GIT_COMMITTER_EMAIL: 'ann@example.com',
};

/** Runs git, and gives what it prints, without the last line's end. @throws when it fails */
export function git(cwd: string, ...args: readonly string[]): string {
	const printed = execFileSync('git', args, { cwd, env: environment, encoding: 'utf8', stdio: 'pipe' });
	return printed.replace(/\n$/, '');
}

export interface Repositories {
	/** The bare one. */
	readonly remote: string;
	/** A clone with `production` checked out. */
	readonly clone: string;
	/** A further clone, or the one that was made under this name, as the remote now is. */
	another(name: string): string;
	/** Writes a file into a clone, and commits and pushes it. */
	push(clone: string, file: string, text: string): void;
	/** A file as the remote has it. */
	pushed(file: string): string;
	/** The subjects of what was committed on the remote, the newest first. */
	subjects(): string[];
}

/** A bare repository with these files on its branch `production`, and a clone of it. */
export function makeRepositories(files: Readonly<Record<string, string>>): Repositories {
	const directory = temporaryDirectory();
	const remote = path.join(directory, 'remote.git');
	git(directory, 'init', '--quiet', '--bare', '--initial-branch=production', remote);
	const another = (name: string) => {
		const clone = path.join(directory, name);
		if (fs.existsSync(clone)) git(clone, 'pull', '--quiet', '--rebase');
		else git(directory, 'clone', '--quiet', remote, name);
		return clone;
	};
	const push = (clone: string, file: string, text: string) => {
		fs.mkdirSync(path.dirname(path.join(clone, file)), { recursive: true });
		fs.writeFileSync(path.join(clone, file), text);
		git(clone, 'add', '--', file);
		git(clone, 'commit', '--quiet', '-m', `change ${file}`);
		git(clone, 'push', '--quiet', 'origin', 'HEAD:production');
	};
	const seed = another('seed');
	for (const [file, text] of Object.entries(files)) push(seed, file, text);
	return {
		remote,
		clone: another('control'),
		another,
		push,
		pushed: (file) => `${git(remote, 'show', `production:${file}`)}\n`,
		subjects: () => git(remote, 'log', '--format=%s', 'production').split('\n'),
	};
}

/** Everything of a work tree that somebody could notice: its files, its branch, what git says of it. */
export function stateOf(clone: string): string {
	const files = git(clone, 'ls-files', '-z', '--cached', '--others').split('\0').filter(Boolean);
	const contents = files.map((file) => {
		const stat = fs.lstatSync(path.join(clone, file), { throwIfNoEntry: false });
		return [file, stat?.mode, stat?.isFile() ? fs.readFileSync(path.join(clone, file), 'utf8') : ''];
	});
	return JSON.stringify([
		contents,
		git(clone, 'rev-parse', 'HEAD', '--symbolic-full-name', 'HEAD'),
		git(clone, 'status', '--porcelain'),
		git(clone, 'worktree', 'list', '--porcelain'),
		fs.readdirSync(path.join(clone, '.git')).filter((name) => /puppet-webhook.+|\.lock$/.test(name)),
	]);
}
