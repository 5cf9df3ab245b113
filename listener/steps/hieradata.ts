/**
 * The step `hieradata`: sets values in a YAML file of a git work tree, commits, and pushes. It is ok when the values are what they
 * should be, where they should be; when they were already, nothing is committed.
 *
 * Which repository, which files and which keys there are is written in routes.yaml. Values of a caller may be a part of these names,
 * and lead nowhere else.
 */

import fs from 'node:fs';
import path from 'node:path';
import { completeText, type PlannedText, type Template } from '../routes/template.ts';
import { compileVariables } from './command.ts';
import { CannotSet, setValue } from './hiera-file.ts';
import type { CompiledStep, StepPlace } from './kind.ts';
import {
	done,
	failure,
	type PlannedStep,
	type StepContext,
	type StepKind,
	type StepResult,
	stopped,
} from './step.ts';
import { changeWorkTree, NotDone, usualAuthor } from './work-tree.ts';

/** A change of Hiera data as users write it, before any values. Any text may hold `{{name}}`. */
export interface HieradataSpec {
	/** The work tree. */
	readonly repo: string;
	/** From the top of the work tree on. */
	readonly file: string;
	/** Values by their keys. One whose value is made of a parameter that is absent is left alone. */
	readonly set: Readonly<Record<string, string>>;
	/** A parameter that holds several values with commas between them: the change is made for each. */
	readonly each?: string | undefined;
	/** Absent: what is not there yet is a failure. */
	readonly create?: boolean | undefined;
	/** Absent: says which values were set. */
	readonly message?: string | undefined;
	/** `Name <address>`. Absent: puppet-webhook. */
	readonly author?: string | undefined;
	/** Absent: the commit stays where it was made. */
	readonly push?: boolean | undefined;
	/** Absent: origin. */
	readonly remote?: string | undefined;
	/** Absent: the one with the name of that which is checked out. */
	readonly branch?: string | undefined;
	/** Absent: 10. */
	readonly attempts?: number | undefined;
	/** Milliseconds, waiting for other changes of the same work tree included. Absent: 5 min. */
	readonly timeout?: number | undefined;
	/** What follows when every value was there already. Absent: the next step. */
	readonly unchanged?: 'continue' | 'stop' | undefined;
}

/** Values of one file. */
interface PlannedFile {
	readonly file: PlannedText;
	readonly set: readonly { readonly key: PlannedText; readonly value: PlannedText }[];
}

/** A change with all parameters filled in. */
export interface PlannedHieradata extends PlannedStep {
	readonly kind: 'hieradata';
	readonly repo: PlannedText;
	readonly files: readonly PlannedFile[];
	readonly create: boolean;
	/** null: which values were set. */
	readonly message: PlannedText | null;
	readonly author: PlannedText | null;
	readonly push: {
		readonly remote: string;
		readonly branch: PlannedText | null;
		readonly attempts: number;
	} | null;
	readonly stopUnchanged: boolean;
	readonly env: Readonly<Record<string, PlannedText>>;
}

const authorShape = /^[^<>\p{Cc}]*[^<>\p{Cc}\s] <[^<>\s\p{Cc}]+>$/u;
/** What git admits as a branch's name, as far as it could be taken for something else. */
const branchShape =
	/^(?!-)(?!.*(?:\.\.|@\{|\/\/|\/\.|\.lock(?:\/|$)))[^\s\p{Cc}~^:?*[\\./][^\s\p{Cc}~^:?*[\\]*$/u;
/** A hieradata file of megabytes is none. */
const largestFile = 8 * 1024 * 1024;

/** Checks a change once, at load, and gives what makes plans of it. */
export function compileHieradata(spec: HieradataSpec, place: StepPlace): CompiledStep {
	const texts = place.texts.at('hieradata');
	const optional = (text: string | undefined, key: string) =>
		text === undefined ? undefined : texts.compile(text, key);
	const repo = texts.compile(place.absolute(spec.repo), 'repo');
	if (!repo.isPlain && climbs(spec.repo))
		texts.fault('must have no part ".." beside {{…}}; write the whole path', 'repo');
	const file = texts.compile(spec.file, 'file');
	const refusal = file.isPlain ? refusedFile(spec.file) : undefined;
	if (refusal !== undefined) texts.fault(refusal, 'file');
	const set = Object.entries(spec.set).map(([key, value]) => {
		if (key.trim() === '') texts.fault('must have a key', 'set');
		return { key: texts.compile(key, 'set', key), value: texts.compile(value, 'set', key) };
	});
	const message = optional(spec.message, 'message');
	const author = optional(spec.author, 'author');
	if (author?.isPlain && !authorShape.test(spec.author!))
		texts.fault('must be a name and an address, such as Jenkins <jenkins@example.com>', 'author');
	const branch = optional(spec.branch, 'branch');
	if (branch?.isPlain && !branchShape.test(spec.branch!)) texts.fault('is no name of a branch', 'branch');
	for (const key of ['remote', 'branch', 'attempts'] as const) {
		if (spec[key] !== undefined && !spec.push) texts.fault('is for "push: true", which is not there', key);
	}
	const { each } = spec;
	if (each !== undefined) texts.compile(`{{${each}}}`, 'each');
	if (each !== undefined && !file.names.includes(each) && !set.some(({ key }) => key.names.includes(each)))
		texts.fault(`must stand in "file" or in a key, as {{${each}}}, or each time is the same`, 'each');
	const variables = Object.entries({ ...place.commands.env, ...compileVariables({}, texts) });

	return {
		plan: (parameters) => {
			const absent = (template: Template) =>
				template.names.some((name) => parameters.values[name] === undefined);
			const given = set.filter(({ value }) => !absent(value));
			const items = each === undefined ? [undefined] : (parameters.values[each] ?? '').split(',');
			const planned = (template: Template, item: string | undefined) =>
				template.plan(parameters, (value, name) => (name === each && item !== undefined ? item : value));
			return {
				kind: 'hieradata',
				repo: repo.plan(parameters),
				files:
					given.length === 0
						? []
						: items.map((item) => ({
								file: planned(file, item),
								set: given.map(({ key, value }) => ({
									key: planned(key, item),
									value: planned(value, item),
								})),
							})),
				create: spec.create ?? false,
				message: message?.plan(parameters) ?? null,
				author: author?.plan(parameters) ?? null,
				push: spec.push
					? {
							remote: spec.remote ?? 'origin',
							branch: branch?.plan(parameters) ?? null,
							attempts: spec.attempts ?? 10,
						}
					: null,
				timeout: spec.timeout ?? 300_000,
				stopUnchanged: spec.unchanged === 'stop',
				env: Object.fromEntries(variables.map(([name, value]) => [name, value.plan(parameters)])),
			};
		},
	};
}

/** Changes in one repository come one after the other; this holds who is the last. */
export function hieradataKind(): StepKind<PlannedHieradata> {
	const last = new Map<string, Promise<StepResult>>();
	return {
		kind: 'hieradata',
		title: ({ repo, files }, { values }) => {
			const names = files.map(({ file }) => completeText(file, values));
			return names.length === 0 ? '' : `${names.join(', ')} in ${completeText(repo, values)}`;
		},
		perform: (step, context) => {
			const { stop } = context;
			const repo = completeText(step.repo, context.values);
			const name = realPath(repo) ?? repo;
			return new Promise((resolve) => {
				let begun = false;
				const leave = () => {
					if (!begun) resolve(stopped(stop.reason));
				};
				stop.addEventListener('abort', leave, { once: true });
				const mine = Promise.resolve(last.get(name)).then(async () => {
					begun = true;
					const result = stop.aborted ? stopped(stop.reason) : await perform(step, repo, context);
					stop.removeEventListener('abort', leave);
					if (last.get(name) === mine) last.delete(name);
					resolve(result);
					return result;
				});
				last.set(name, mine);
			});
		},
	};
}

/** Never rejects but for faults of this program. */
async function perform(step: PlannedHieradata, repo: string, context: StepContext): Promise<StepResult> {
	const complete = (text: PlannedText) => completeText(text, context.values);
	const files = step.files.map(({ file, set }) => ({
		file: complete(file),
		set: set.map(({ key, value }) => ({ key: complete(key), value: complete(value) })),
	}));
	if (files.length === 0) {
		context.say('nothing to set, as the caller gave no value');
		return done;
	}
	const author = step.author === null ? usualAuthor() : complete(step.author);
	const branch = step.push?.branch ? complete(step.push.branch) : undefined;
	const refusal =
		(climbs(repo) ? `the work tree ${repo} has a part ".."` : undefined) ??
		files
			.map(({ file }) => refusedFile(file) && `the file ${JSON.stringify(file)} ${refusedFile(file)}`)
			.find(Boolean) ??
		(authorShape.test(author) ? undefined : `the author ${JSON.stringify(author)} is no name and address`) ??
		(branch === undefined || branchShape.test(branch)
			? undefined
			: `${JSON.stringify(branch)} is no name of a branch`);
	if (refusal) return failure('spawn', `changed nothing: ${refusal}`);

	let changes: readonly string[] = [];
	try {
		const commit = await changeWorkTree(
			{
				repo,
				author,
				env: Object.fromEntries(Object.entries(step.env).map(([name, text]) => [name, complete(text)])),
				push: step.push ? { ...step.push, branch } : undefined,
				edit: async (directory) => {
					const edited = files.map(({ file, set }) => setIn(directory, file, set, step.create));
					changes = edited.flatMap((one) => one.changes);
					const subject = step.message === null ? changes.join('; ') : complete(step.message).trim();
					return {
						files: edited.flatMap(({ changes, path }) => (changes.length > 0 ? path : [])),
						message: [subject || changes.join('; '), `Webhook-Run: ${context.values.WEBHOOK_RUN}`],
					};
				},
			},
			context,
		);
		if (commit !== undefined) {
			for (const change of changes) context.say(change);
			const { push } = step;
			context.say(`committed as ${commit.slice(0, 10)}${push ? ` and pushed to ${push.remote}` : ''}`);
			return done;
		}
	} catch (error) {
		if (error instanceof NotDone) return error.result;
		if (error instanceof CannotSet) return failure('exit', `changed nothing: ${error.message}`);
		throw error;
	}
	// An attempt before this one may have made the change, and then have failed over what follows.
	const enough = step.stopUnchanged && context.attempt === 1;
	context.say(`nothing to change: every value is there already${enough ? ', so no step follows' : ''}`);
	return enough ? { ...done, enough } : done;
}

interface EditedFile {
	/** From the directory on; of the file itself, when the name leads to it by a symbolic link. */
	readonly path: string;
	/** For people, such as `data/web.yaml: set version to 2.1.4 (was 2.1.3)`; none when every value was there already. */
	readonly changes: readonly string[];
}

/** Sets values in a file below a directory that nobody else uses. @throws CannotSet */
function setIn(
	directory: string,
	file: string,
	set: readonly { readonly key: string; readonly value: string }[],
	create: boolean,
): EditedFile {
	const cannot = (why: string) => new CannotSet(`${file} ${why}`);
	const found = within(directory, file);
	if (found === undefined)
		throw cannot('leads out of the repository by a symbolic link; name the file itself');
	const stat = fs.statSync(found, { throwIfNoEntry: false });
	if (stat === undefined && !create) throw cannot('does not exist; commit it by hand, or say "create: true"');
	if (stat && !stat.isFile()) throw cannot('is no file');
	if (stat && stat.size > largestFile)
		throw cannot(`is larger than ${largestFile / 1024 ** 2} MiB, which no file of Hiera data is`);
	let text = '';
	try {
		if (stat)
			text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(fs.readFileSync(found));
	} catch {
		throw cannot('is not UTF-8 text; save it as UTF-8');
	}
	const mark = text.startsWith('\ufeff') ? '\ufeff' : '';
	let now = text.slice(mark.length);
	const changes: string[] = [];
	for (const { key, value } of set) {
		try {
			const edit = setValue(now, key, value, create);
			if (edit.text === now) continue;
			const was = edit.before === undefined || edit.before === '' ? '' : ` (was ${shown(edit.before)})`;
			changes.push(`${file}: set ${shown(key)} to ${shown(value)}${was}`);
			now = edit.text;
		} catch (error) {
			throw error instanceof CannotSet ? cannot(error.message) : error;
		}
	}
	if (changes.length > 0) {
		fs.mkdirSync(path.dirname(found), { recursive: true });
		fs.writeFileSync(found, mark + now);
	}
	return { path: path.relative(realPath(directory) ?? directory, found), changes };
}

/** The place that a name below a directory leads to; undefined when that is not below it. */
function within(directory: string, file: string): string | undefined {
	const top = fs.realpathSync(directory);
	let there = path.join(top, file);
	const missing: string[] = [];
	// What is not there yet is nowhere else.
	while (fs.lstatSync(there, { throwIfNoEntry: false }) === undefined) {
		missing.unshift(path.basename(there));
		there = path.dirname(there);
	}
	const real = realPath(there);
	if (real === undefined || (real !== top && !real.startsWith(`${top}/`)) || real === `${top}/.git`)
		return undefined;
	return path.join(real, ...missing);
}

function realPath(file: string): string | undefined {
	try {
		return fs.realpathSync(file);
	} catch {
		return undefined;
	}
}

function climbs(written: string): boolean {
	return written.includes('\0') || written.split('/').includes('..');
}

/** What is wrong with the name of a file; undefined when it stays below the work tree. */
function refusedFile(file: string): string | undefined {
	const parts = file.split('/');
	if (file.startsWith('/')) return 'must begin at the top of the work tree, without a slash';
	if (/[\0\r\n]/.test(file)) return 'has a character that no file of Hiera data has in its name';
	if (parts.some((part) => part === '' || part === '.' || part === '..'))
		return 'has an empty part, or one that is "." or ".."';
	if (parts.some((part) => part.toLowerCase() === '.git')) return "is git's own";
	return undefined;
}

/** Text of a file or a caller, inside a line. */
function shown(text: string): string {
	const short = text.length > 60 ? `${text.slice(0, 60)}…` : text;
	return /^[\x21-\x7e]+$/.test(short) ? short : JSON.stringify(short);
}
