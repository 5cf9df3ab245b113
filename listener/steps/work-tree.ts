/**
 * Changing files of a git repository so that nobody sees half of it. All is done in a second work tree, below the repository's own
 * directory: the one that people and Puppet use is touched once, at the end, when the change is where it is to be. Whatever
 * fails before that leaves it as it was, and a listener that dies in between leaves a directory that the next one removes.
 */

import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { failure, type StepContext, type StepResult, stopped } from './step.ts';

/** Where changes are pushed. */
export interface Push {
	readonly remote: string;
	/** undefined: the one with the name of the branch that is checked out. */
	readonly branch: string | undefined;
	/** How many times it is tried when others push at the same time. */
	readonly attempts: number;
}

export interface Change {
	/** The work tree; an absolute path. */
	readonly repo: string;
	/** `Name <address>`. */
	readonly author: string;
	/** undefined: the commit stays here. */
	readonly push: Push | undefined;
	/** For git, beside those of every program. */
	readonly env: Readonly<Record<string, string>>;
	/** Changes files below a directory, and says what it has changed. Throws what it cannot do. */
	edit(directory: string): Promise<Edited>;
}

export interface Edited {
	/** Paths, from the directory on; none when nothing was to be changed. */
	readonly files: readonly string[];
	/** Paragraphs, for the commit. */
	readonly message: readonly string[];
}

/** What keeps a change from being made; its result is the step's. */
export class NotDone extends Error {
	readonly result: StepResult;

	constructor(result: StepResult) {
		super(result.message);
		this.result = result;
	}
}

/** How git ended, with what it printed. */
interface Answer {
	readonly ok: boolean;
	readonly exitCode: number | null;
	readonly text: string;
}

/** The work tree as it was found. */
interface Found {
	readonly top: string;
	/** Of this work tree. */
	readonly gitDirectory: string;
	/** Of the repository, which may have several work trees. */
	readonly commonDirectory: string;
	readonly head: string;
	/** Without `refs/heads/`. */
	readonly branch: string;
	/** Files, from the top on, that are not as they were committed. */
	readonly dirty: readonly string[];
}

/** Milliseconds that another git may go on holding the index; it needs far less, so a lock that stays was left behind. */
const lockPatience = 5_000;
const lookAgain = 100;
/** Milliseconds until a push is tried again, at most for the first time; it grows, and differs from that of others who wait. */
const firstPause = 200;
const longestPause = 3_000;
/** Characters of what git prints that are kept. */
const longestAnswer = 64 * 1024;
/** Milliseconds after which no change can still be under way. */
const oldAfter = 86_400_000;
/** Below the work tree's directory in the repository. */
const directoryName = 'puppet-webhook';

/** git tidies up after each of its commands unless it is told not to. Once for a change is enough, and not in the background, where nobody would end it. */
const noHousekeeping = ['-c', 'gc.auto=0', '-c', 'maintenance.auto=false'];
const housekeeping = ['-c', 'gc.autoDetach=false', '-c', 'maintenance.autoDetach=false'];

/** What git leaves in its directory while something is not finished, and how it is given up. */
const unfinished: Readonly<Record<string, string>> = {
	'rebase-merge': 'a rebase (git rebase --abort gives it up)',
	'rebase-apply': 'a rebase (git rebase --abort gives it up)',
	MERGE_HEAD: 'a merge (git merge --abort gives it up)',
	CHERRY_PICK_HEAD: 'a cherry-pick (git cherry-pick --abort gives it up)',
	REVERT_HEAD: 'a revert (git revert --abort gives it up)',
};

/** Makes a change. @returns the commit; undefined when there was nothing to change @throws NotDone */
export async function changeWorkTree(change: Change, context: StepContext): Promise<string | undefined> {
	return new WorkTree(change, context).make();
}

class WorkTree {
	readonly #change: Change;
	readonly #context: StepContext;
	readonly #env: Readonly<Record<string, string>>;

	constructor(change: Change, context: StepContext) {
		this.#change = change;
		this.#context = context;
		const [, name = '', address = ''] = /^(.*?) *<(.*)>$/.exec(change.author) ?? [];
		this.#env = {
			...change.env,
			GIT_AUTHOR_NAME: name,
			GIT_AUTHOR_EMAIL: address,
			GIT_COMMITTER_NAME: name,
			GIT_COMMITTER_EMAIL: address,
			// Nobody is there to be asked.
			GIT_TERMINAL_PROMPT: '0',
			GIT_EDITOR: 'true',
			// Some of what it says is understood here.
			LC_ALL: 'C',
			LANGUAGE: 'C',
		};
	}

	async make(): Promise<string | undefined> {
		const found = await this.#find();
		const base = path.join(found.gitDirectory, directoryName);
		await removeLeft(base);
		const directory = path.join(base, ownName());
		try {
			return await this.#makeIn(directory, found);
		} finally {
			await removeTree(directory);
		}
	}

	async #makeIn(directory: string, found: Found): Promise<string | undefined> {
		const { edit, push } = this.#change;
		const branch = push?.branch ?? found.branch;
		for (let attempt = 1; ; attempt++) {
			const theirs = push && (await this.#fetch(push.remote, branch, found.top));
			const { base, follows } = await this.#base(directory, found, theirs, attempt);
			const same = (file: string) => sameFile(path.join(found.top, file), path.join(directory, file));
			const dirty = found.dirty.filter((file) => !same(file));
			const { files, message } = await edit(directory);
			this.#refuse(
				found.top,
				dirty.filter((file) => !same(file)),
			);
			if (files.length > 0) {
				await this.#git(directory, 'stage the file', ['--literal-pathspecs', 'add', '--', ...files]);
				const paragraphs = message.flatMap((paragraph) => ['-m', paragraph]);
				await this.#git(directory, 'commit', ['commit', '--quiet', '--no-edit', ...paragraphs], {
					refused: hookHint(found.commonDirectory, ['pre-commit', 'commit-msg', 'prepare-commit-msg']),
				});
			}
			const commit = files.length > 0 ? await this.#commitOf(directory, 'HEAD') : base;
			if (push && commit !== theirs && !(await this.#push(directory, push, branch, attempt, found))) continue;
			await this.#bring(found, directory, commit, files, follows);
			return files.length > 0 ? commit : undefined;
		}
	}

	/** Looks at the work tree, and waits a little for another git. */
	async #find(): Promise<Found> {
		const { repo } = this.#change;
		const stat = fs.statSync(repo, { throwIfNoEntry: false });
		if (!stat?.isDirectory())
			throw this.#failed(
				`${repo} ${stat ? 'is not a directory' : 'does not exist'}; clone the repository there`,
			);
		const asked = ['rev-parse', '--show-toplevel', '--git-dir', '--git-common-dir'];
		const answer = await this.#ask(repo, [...asked, 'HEAD', '--symbolic-full-name', 'HEAD']);
		const places = answer.ok ? answer : await this.#ask(repo, asked);
		const [top = '', own = '', common = '', head, ref] = withoutWarnings(places.text).split('\n');
		if (!places.ok) {
			const why = /dubious ownership/.test(places.text)
				? `belongs to another user; say, as the listener's user, git config --global --add safe.directory ${repo}`
				: `is not a git work tree (${lastLine(places.text)}); clone the repository there`;
			throw this.#failed(`${repo} ${why}`);
		}
		if (top !== fs.realpathSync(repo))
			throw this.#failed(
				`${repo} is not the top of a git work tree; that is ${top || 'nowhere, as it is bare'}`,
			);
		if (!head || !ref) throw this.#failed(`${repo} has no commit yet; make the first one`);
		if (!ref.startsWith('refs/heads/'))
			throw this.#failed(
				`${repo} has no branch checked out (detached HEAD at ${head.slice(0, 10)}); check one out there, or use a clone that nobody else deploys to`,
			);
		const gitDirectory = path.resolve(repo, own);
		for (const [file, what] of Object.entries(unfinished)) {
			if (fs.existsSync(path.join(gitDirectory, file)))
				throw this.#failed(`${repo} is in the middle of ${what}; finish it first`);
		}
		await this.#waitForIndex(path.join(gitDirectory, 'index.lock'));
		const status = ['status', '--porcelain', '-z', '--no-renames', '--untracked-files=no'];
		const { text } = await this.#git(repo, 'look at it', status);
		const entries = withoutWarnings(text).split('\0').filter(Boolean);
		const unmerged = entries.find((entry) => /^(?:U.|.U|AA|DD) /.test(entry));
		if (unmerged) throw this.#failed(`${repo} has a conflict in ${unmerged.slice(3)}; resolve it first`);
		return {
			top,
			gitDirectory,
			commonDirectory: path.resolve(repo, common),
			head,
			branch: ref.slice('refs/heads/'.length),
			dirty: entries.map((entry) => entry.slice(3)),
		};
	}

	async #waitForIndex(lock: string): Promise<void> {
		const end = performance.now() + lockPatience;
		while (fs.existsSync(lock)) {
			if (performance.now() > end)
				throw this.#failed(
					`another git holds ${lock}, or one that died has left it; when no git runs there any more, remove the file`,
				);
			await this.#pause(lookAgain);
		}
	}

	/** The commit that a branch of a remote is at. */
	async #fetch(remote: string, branch: string, top: string): Promise<string> {
		const tracking = `refs/remotes/${remote}/${branch}`;
		const refspec = `+refs/heads/${branch}:${tracking}`;
		const asked = ['fetch', '--quiet', '--no-tags', '--recurse-submodules=no', remote, refspec];
		await this.#git(top, `fetch ${branch} from ${remote}`, asked);
		return this.#commitOf(top, tracking);
	}

	/** Has the second work tree at the commit to begin from: what is here, on top of what is there. `follows`: it comes after what is here. */
	async #base(
		directory: string,
		found: Found,
		theirs: string | undefined,
		attempt: number,
	): Promise<{ readonly base: string; readonly follows: boolean }> {
		const { top, head } = found;
		const behind = theirs !== undefined && (await this.#isIn(top, head, theirs));
		const start = behind ? theirs : head;
		const quiet = ['-c', 'core.hooksPath=/dev/null', '-c', 'advice.detachedHead=false'];
		if (attempt === 1) {
			const asked = ['worktree', 'add', '--quiet', '--force', '--detach', directory, start];
			await this.#git(top, 'make a second work tree', [...quiet, ...asked]);
		} else await this.#git(directory, 'begin anew', [...quiet, 'reset', '--quiet', '--hard', start]);
		if (theirs === undefined || behind) return { base: start, follows: true };
		const rebased = await this.#ask(directory, [...quiet, 'rebase', '--quiet', theirs]);
		if (rebased.ok) {
			const base = await this.#commitOf(directory, 'HEAD');
			return { base, follows: base === head };
		}
		this.#print(rebased.text);
		const what = `commits of ${found.branch} that were never pushed conflict with those of the remote`;
		throw this.#failed(`${what}; rebase them in ${top} by hand`);
	}

	/**
	 * Files that are not as committed are somebody's work. Not those that are as this change begins or ends: a listener that died at
	 * the end of a change has left them.
	 */
	#refuse(top: string, others: readonly string[]): void {
		if (others.length === 0) return;
		const more = others.length > 3 ? ` and ${others.length - 3} more` : '';
		throw this.#failed(
			`${top} has changes that are not committed (${others.slice(0, 3).join(', ')}${more}); commit them or take them back`,
		);
	}

	/** False when others were faster, and it is to be tried again. */
	async #push(
		directory: string,
		{ remote, attempts }: Push,
		branch: string,
		attempt: number,
		{ commonDirectory }: Found,
	): Promise<boolean> {
		const pushed = await this.#ask(directory, ['push', '--porcelain', remote, `HEAD:refs/heads/${branch}`]);
		if (pushed.ok) return true;
		const faster =
			/\((?:fetch first|non-fast-forward|stale info)\)|cannot lock ref|failed to update ref|incorrect old value/;
		const outpaced = faster.test(pushed.text);
		if (outpaced && attempt < attempts) {
			this.#context.say(`somebody else pushed to ${branch} first: once more`);
			await this.#pause(Math.random() * Math.min(firstPause * 2 ** (attempt - 1), longestPause));
			return false;
		}
		this.#print(pushed.text);
		if (outpaced)
			throw this.#failed(
				`others were faster with pushing to ${branch} of ${remote}, ${attempts} time${attempts === 1 ? '' : 's'} of as many; raise "attempts"`,
			);
		const declined = /\[remote rejected\].*\((.*)\)/.exec(pushed.text)?.[1];
		const why = declined
			? `${remote} refused it (${declined}); its reasons are in the output`
			: `git could not push to ${branch} of ${remote}: ${lastLine(pushed.text)}${hookHint(commonDirectory, ['pre-push'])}`;
		throw this.#failed(why);
	}

	/** Brings the work tree that others use to a commit. */
	async #bring(
		found: Found,
		directory: string,
		commit: string,
		files: readonly string[],
		follows: boolean,
	): Promise<void> {
		const { top, head, dirty } = found;
		if (commit === head && dirty.length === 0) return;
		const restore = files.map((file) => replaceFile(found, directory, file));
		// Files that are not there yet are git's to make.
		const staged = [...new Set([...files, ...dirty])].filter((file) => fs.existsSync(path.join(top, file)));
		const keep = follows ? ['merge', '--quiet', '--ff-only', commit] : ['reset', '--quiet', '--keep', commit];
		const add = ['--literal-pathspecs', 'add', '--', ...staged];
		const added = staged.length === 0 ? undefined : await this.#ask(top, add);
		const moved = added?.ok === false ? added : await this.#ask(top, keep);
		if (moved.ok) return;
		for (const back of restore) back();
		if (staged.length > 0) await this.#ask(top, add);
		this.#print(moved.text);
		const where = this.#change.push
			? `pushed ${commit.slice(0, 10)}, but ${top} could not be brought to it`
			: `changed nothing: ${top} could not be brought to the new commit`;
		throw new NotDone(failure('exit', `${where}: ${lastLine(moved.text)}`));
	}

	async #isIn(top: string, ancestor: string, commit: string): Promise<boolean> {
		if (ancestor === commit) return true;
		return (await this.#ask(top, ['merge-base', '--is-ancestor', ancestor, commit])).ok;
	}

	async #commitOf(directory: string, name: string): Promise<string> {
		const { text } = await this.#git(directory, `find ${name}`, [
			'rev-parse',
			'--verify',
			`${name}^{commit}`,
		]);
		return withoutWarnings(text).trim();
	}

	/** Has git do something that must not fail. @param what completes "git could not …" */
	async #git(
		cwd: string,
		what: string,
		args: readonly string[],
		{ refused = '' }: { refused?: string } = {},
	): Promise<Answer> {
		const answer = await this.#ask(cwd, args);
		if (answer.ok) return answer;
		this.#print(answer.text);
		const lock = /Unable to create '(.*\.lock)'/.exec(answer.text)?.[1];
		const remedy = lock
			? `; another git holds ${lock}, or one that died has left it: when no git runs there any more, remove the file`
			: refused;
		throw this.#failed(`git could not ${what}: ${lastLine(answer.text)}${remedy}`);
	}

	/** Runs git, and gives how it ended. @throws NotDone when it could not be run, or was stopped */
	async #ask(cwd: string, args: readonly string[]): Promise<Answer> {
		const chunks: Buffer[] = [];
		let length = 0;
		const result = await this.#context.run({
			argv: ['git', ...(args[0] === 'merge' ? housekeeping : noHousekeeping), ...args],
			cwd,
			env: this.#env,
			stdin: null,
			printed: (bytes) => {
				if (length < longestAnswer) chunks.push(Buffer.from(bytes));
				length += bytes.length;
			},
		});
		const text = Buffer.concat(chunks).toString();
		if (result.reason === 'exit') return { ok: result.ok, exitCode: result.exitCode, text };
		this.#print(text);
		throw new NotDone(result.reason === 'spawn' ? { ...result, message: `git ${result.message}` } : result);
	}

	/** Keeps what git said, without the passwords that urls of remotes may hold. */
	#print(text: string): void {
		const plain = withoutPasswords(text).trimEnd();
		if (plain !== '') this.#context.write(Buffer.from(`${plain}\n`));
	}

	async #pause(ms: number): Promise<void> {
		const { stop } = this.#context;
		await sleep(ms, undefined, { signal: stop }).catch(() => {});
		if (stop.aborted) throw new NotDone(stopped(stop.reason));
	}

	#failed(why: string): NotDone {
		return new NotDone(failure('exit', `changed nothing: ${withoutPasswords(why)}`));
	}
}

/**
 * Puts a file of the second work tree in the place of the same one in the first, at once: git would remove it and then write it,
 * and a catalog that is compiled meanwhile would lack its data.
 * @returns what puts back what was there
 */
function replaceFile({ top, gitDirectory }: Found, directory: string, file: string): () => void {
	const target = path.join(top, file);
	const beside = path.join(gitDirectory, `puppet-webhook-${process.pid}.new`);
	const before = fs.existsSync(target) ? fs.readFileSync(target) : undefined;
	const put = (bytes: Buffer) => {
		fs.writeFileSync(beside, bytes);
		if (before !== undefined) fs.chmodSync(beside, fs.statSync(target).mode & 0o7777);
		fs.renameSync(beside, target);
	};
	try {
		// A file that is not there yet is nobody's, and git makes it.
		if (before === undefined || fs.realpathSync(target) !== target) return () => {};
		put(fs.readFileSync(path.join(directory, file)));
		return () => put(before);
	} catch {
		// On another file system, or not ours to replace: git tries in its own way, and says why when it cannot.
		fs.rmSync(beside, { force: true });
		return () => {};
	}
}

function sameFile(one: string, other: string): boolean {
	try {
		return fs.lstatSync(one).isFile() && fs.readFileSync(one).equals(fs.readFileSync(other));
	} catch {
		return false;
	}
}

/** Says whose a second work tree is. There is one at a time, as changes of a work tree wait for each other. */
function ownName(): string {
	return `${process.pid}@${os.hostname()}`;
}

/** Removes what listeners that died left behind. */
async function removeLeft(base: string): Promise<void> {
	for (const name of await fs.promises.readdir(base).catch(() => [])) {
		const directory = path.join(base, name);
		const [pid, host] = name.split('@');
		const stat = await fs.promises.stat(directory).catch(() => undefined);
		// Of another host, or container, that has the same files nobody knows whether it lives.
		const old = stat === undefined || Date.now() - stat.mtimeMs > oldAfter;
		if (name === ownName() || old || (host === os.hostname() && !isAlive(Number(pid))))
			await removeTree(directory);
	}
}

function isAlive(pid: number): boolean {
	try {
		process.kill(pid, 0);
		return true;
	} catch (error) {
		return (error as NodeJS.ErrnoException).code === 'EPERM';
	}
}

/** Removes a second work tree and what the repository keeps about it. By hand, as it has to work when no program may be started any more. */
async function removeTree(directory: string): Promise<void> {
	const link = await fs.promises.readFile(path.join(directory, '.git'), 'utf8').catch(() => '');
	const kept = /^gitdir: (.*)$/m.exec(link)?.[1];
	const all = { recursive: true, force: true } as const;
	if (kept !== undefined && path.basename(path.dirname(kept)) === 'worktrees')
		await fs.promises.rm(kept, all);
	await fs.promises.rm(directory, all);
}

/** Names hooks that are there, since git does not say that it was one of them that refused. */
function hookHint(commonDirectory: string, names: readonly string[]): string {
	const there = names.filter((name) => fs.existsSync(path.join(commonDirectory, 'hooks', name)));
	return there.length === 0
		? ''
		: `; maybe a git hook refused (${there.join(', ')}), whose reasons are in the output`;
}

/** What git was asked for, without what it has to say about this host's configuration. */
function withoutWarnings(text: string): string {
	return text.replace(/^(?:warning|hint): .*\n/gm, '');
}

function withoutPasswords(text: string): string {
	return text.replace(/:\/\/[^/@\s]+@/g, '://***@');
}

/** The line of what git printed that says most. */
function lastLine(text: string): string {
	const lines = text.split('\n').filter((line) => line.trim() !== '');
	const line = lines.find((one) => /^(?:fatal|error):/.test(one)) ?? lines.at(-1) ?? 'it said nothing';
	return line.replace(/^(?:fatal|error): /, '').slice(0, 300);
}

/** Who commits when routes.yaml names nobody: git refuses to commit for users it has no name for. */
export function usualAuthor(): string {
	return `puppet-webhook <puppet-webhook@${os.hostname()}>`;
}
