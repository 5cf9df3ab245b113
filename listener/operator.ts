/**
 * The commands of an operator: what the listener on this host serves, what ran, what it said, and to end it or run it again.
 * They ask it through client.ts, as a user of the same host may.
 */

import type { Writable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { Client, type PlaceOptions, placeOf, tokenOf, usualUrl } from './client.ts';
import { ListenerRefused, ListenerUnreachable, OutputLost } from './errors.ts';
import { hasEnded, type RunState, runStates, type WaitsFor } from './runs/run.ts';
import { age, BareText, type Field, SafeText, span, type TableForm, table, visible } from './terminal.ts';

/** Exit statuses of `logs -f`, which tell what became of the run: 0 it succeeded. They differ from 1, "could not follow". */
const outcomes: Partial<Record<RunState, number>> = { succeeded: 0, failed: 3, cancelled: 4 };
/** What shells say of a program that Ctrl-C ended. */
const interrupted = 130;

/** Milliseconds between attempts to reach a listener that is restarting: the first, doubled each time, and the longest. */
const firstPause = 100;
const longestPause = 2000;
/** Milliseconds for which a follower looks for the listener again: it may drain for a minute, and be upgraded meanwhile. */
const patience = 5 * 60_000;

/** Runs asked for at once, the most that there is on a page; and how many an abbreviated id is looked for in: some seconds. */
const pageSize = 200;
const lookedThrough = 10_000;
/** Runs shown unless `--limit` says otherwise: those fit on a screen. */
const shownRuns = 20;
const idLength = 26;

/** A run as the listener tells it; docs/runs.md says what each key means. */
interface ToldRun {
	readonly id: string;
	readonly route: string;
	readonly group: string;
	readonly delivery: string;
	readonly state: RunState;
	readonly reason: string | null;
	readonly exitCode: number | null;
	readonly signal: string | null;
	readonly message: string;
	readonly attempt: number;
	readonly waitsFor: WaitsFor | null;
	readonly parameters: Readonly<Record<string, string>>;
	readonly acceptedAt: string;
	readonly startedAt: string | null;
	readonly endedAt: string | null;
	readonly output: { readonly size: number | null };
}

interface ToldRuns {
	readonly runs: readonly ToldRun[];
	readonly next: string | null;
}

interface ToldRoutes {
	readonly routes: readonly {
		readonly name: string;
		readonly path: string;
		readonly methods: readonly string[];
		readonly description?: string;
		readonly auth: readonly string[];
		readonly parameters: readonly { readonly name: string; readonly required: boolean }[];
	}[];
}

/** What surrounds the commands; only the command line itself knows. */
export interface Surroundings {
	readonly stdout: Writable & { readonly isTTY?: boolean; readonly columns?: number };
	readonly stderr: Writable;
	/** Whether colours are wanted on standard output. */
	readonly colour: boolean;
	/** The routes.yaml that counts when none is named. It need not exist. */
	readonly defaultConfig: string;
	/** The token for the listener's endpoints that the environment has. */
	readonly token: string | undefined;
	/** Called by a command that does not end by itself; aborts at Ctrl-C. */
	interrupt(): AbortSignal;
	/** Gets the exit status that a command line comes to. */
	done(status: Promise<number>): Promise<void>;
}

interface AskOptions extends PlaceOptions {
	readonly json?: boolean;
}

interface RunsOptions extends AskOptions {
	readonly route?: string;
	readonly state?: RunState;
	readonly limit?: number;
}

interface LogsOptions {
	readonly follow?: boolean;
	readonly raw?: boolean;
}

/** Adds the commands to a command line. They throw ListenerUnreachable and ListenerRefused. */
export function addOperatorCommands(program: Command, surroundings: Surroundings): void {
	const add = (usage: string, description: string, examples: string) =>
		program
			.command(usage)
			.description(description)
			.option('-c, --config <file>', `whose listener to ask (default: ${surroundings.defaultConfig})`)
			.option('-u, --url <url>', `the listener itself: ${usualUrl}, https://…, unix:/path`, urlArgument)
			.option(
				'--token-file <file>',
				'the token for it, where admin.auth asks for one (or PUPPET_WEBHOOK_TOKEN)',
			)
			.addHelpText('after', `\nExample:\n${examples}`);
	const act = (options: AskOptions, command: (operator: Operator) => Promise<number>) =>
		surroundings.done(
			placeOf(options, surroundings.defaultConfig)
				.then((place) => Client.open(place, tokenOf(options, surroundings.token)))
				.then((client) => command(new Operator(client, options.json === true, surroundings))),
		);
	const json = ['--json', "print the listener's answer, one JSON object"] as const;
	const theRun = 'its id, a beginning of the id that no other has, or "last"';

	add('routes', 'show the routes that are served', '  $ puppet-webhook routes')
		.option(...json)
		.action((options) => act(options, (operator) => operator.routes()));

	const runs = add(
		'runs',
		'show the latest runs, or all about one',
		'  $ puppet-webhook runs --route deploy --state failed\n  $ puppet-webhook runs last',
	)
		.argument('[run]', `one run: ${theRun}`, runArgument)
		.option('--route <name>', 'only those of a route')
		.addOption(new Option('--state <state>', 'only those in a state').choices(runStates))
		.option('-n, --limit <number>', `how many, the newest (default: ${shownRuns})`, wholeNumber)
		.option(...json)
		.action((run: string | undefined, options: RunsOptions) => {
			if (run === undefined) return act(options, (operator) => operator.runs(options));
			const { route, state, limit } = options;
			if ((route ?? state ?? limit) !== undefined)
				runs.error('error: --route, --state and --limit choose among runs; leave them out, or the run');
			return act(options, (operator) => operator.run(run));
		});

	add(
		'logs',
		'print what a run has printed',
		'  $ puppet-webhook logs -f last\n\nWith --follow the exit status is 0 when the run succeeded, 3 when it failed, 4 when it was cancelled,\nand 1 when it could not be followed to its end.',
	)
		.argument('<run>', theRun, runArgument)
		.option('-f, --follow', 'go on until the run has ended, also over a restart of the listener')
		.option('--raw', 'print the bytes exactly as the run did, whatever they do to a terminal')
		.action((run: string, options: AskOptions & LogsOptions) =>
			act(options, (operator) => operator.logs(run, options)),
		);

	add('cancel', 'end a run that waits or is under way', '  $ puppet-webhook cancel last')
		.argument('<run>', theRun, runArgument)
		.option(...json)
		.action((run: string, options) => act(options, (operator) => operator.cancel(run)));

	add('rerun', 'have a run once more, with what it was given then', '  $ puppet-webhook rerun last')
		.argument('<run>', theRun, runArgument)
		.option(...json)
		.action((run: string, options) => act(options, (operator) => operator.rerun(run)));

	add('trigger', 'count a trigger up by one', '  $ puppet-webhook trigger deploy-shop')
		.argument('<name>', 'its name; one that is new begins at 0')
		.option(...json)
		.action((name: string, options) => act(options, (operator) => operator.trigger(name)));
}

function runArgument(text: string): string {
	const id = text.toLowerCase();
	if (id === 'last' || (/^[0-9a-z]+$/.test(id) && id.length <= idLength)) return id;
	throw new InvalidArgumentError(`a run is named by the ${idLength} letters and digits that "runs" shows.`);
}

function urlArgument(text: string): string {
	if (/^unix:\/./.test(text)) return text;
	const url = URL.canParse(text) ? new URL(text) : undefined;
	if (url && /^https?:$/.test(url.protocol) && url.pathname === '/' && url.search === '') return text;
	throw new InvalidArgumentError(`write ${usualUrl}, https://host:port or unix:/path.`);
}

function wholeNumber(text: string): number {
	if (/^\d{1,6}$/.test(text) && Number(text) > 0) return Number(text);
	throw new InvalidArgumentError('write a whole number from 1 to 999999.');
}

const waitsForText: Readonly<Record<WaitsFor, string>> = {
	retry: 'its next attempt',
	group: 'a place in its group',
	lockfile: 'its lock file, which the log says who holds',
	turn: 'its turn',
};

const stateColours = {
	queued: undefined,
	running: 'cyan',
	succeeded: 'green',
	failed: 'red',
	cancelled: 'yellow',
} as const;

class Operator {
	readonly #client: Client;
	readonly #json: boolean;
	readonly #surroundings: Surroundings;

	constructor(client: Client, json: boolean, surroundings: Surroundings) {
		this.#client = client;
		this.#json = json;
		this.#surroundings = surroundings;
		// `write` tells of it as well; unheard it would end the program.
		surroundings.stdout.on('error', () => {});
	}

	async routes(): Promise<number> {
		const told = await this.#client.ask<ToldRoutes>('/-/routes');
		if (this.#json) return this.#print(told);
		const columns = [
			{ title: 'ROUTE' },
			{ title: 'METHOD' },
			{ title: 'PATH', flexible: true },
			{ title: 'AUTH' },
			{ title: 'PARAMETERS', flexible: true },
			{ title: 'DESCRIPTION', flexible: true },
		] as const;
		const rows = told.routes.map(({ name, methods, path, auth, parameters, description = '' }) => [
			name,
			methods.join(','),
			path,
			auth.join(', '),
			parameters.map((one) => (one.required ? one.name : `[${one.name}]`)).join(' '),
			description,
		]);
		return rows.length === 0
			? this.#say('there are no routes')
			: this.#print(table(columns, rows, this.#form()));
	}

	async runs({ route, state, limit = shownRuns }: RunsOptions): Promise<number> {
		const runs: ToldRun[] = [];
		const query = new URLSearchParams({
			...(route === undefined ? {} : { route }),
			...(state === undefined ? {} : { state }),
		});
		let next: string | null = null;
		for await (const page of this.#pages(query, limit)) {
			runs.push(...page.runs);
			next = page.next;
		}
		if (this.#json) return this.#print({ runs, next });
		if (runs.length === 0) return this.#say('there are no such runs');
		const columns = [
			{ title: 'RUN' },
			{ title: 'ROUTE', flexible: true },
			{ title: 'STATE' },
			{ title: 'AGE' },
			{ title: 'TOOK' },
			{ title: 'PARAMETERS', flexible: true },
			{ title: 'WHY', flexible: true },
		] as const;
		const now = Date.now();
		const rows = runs.map((run) => [
			run.id,
			run.route,
			stateField(run),
			age(now - Date.parse(run.acceptedAt)),
			took(run, now),
			parametersText(run),
			run.message,
		]);
		await this.#print(table(columns, rows, this.#form()));
		if (next !== null && this.#surroundings.stdout.isTTY)
			return this.#say(`these are the newest ${limit}; --limit shows more`);
		return 0;
	}

	async run(given: string): Promise<number> {
		const run = await this.#run(given);
		if (this.#json) return this.#print(run);
		const now = Date.now();
		const time = (at: string | null) => (at === null ? '' : `${at} (${age(now - Date.parse(at))} ago)`);
		const rows: [string, Field][] = [
			['run', run.id],
			['route', run.route],
			['state', stateField(run)],
			['reason', run.reason ?? ''],
			['why', run.message],
			['waits for', run.waitsFor === null ? '' : waitsForText[run.waitsFor]],
			['group', run.group],
			['delivery', run.delivery],
			['attempt', run.attempt > 1 ? String(run.attempt) : ''],
			['accepted', time(run.acceptedAt)],
			['started', time(run.startedAt)],
			['ended', time(run.endedAt)],
			['took', took(run, now)],
			...Object.entries(run.parameters).map(([name, value]): [string, Field] => [`  ${name}`, value]),
			['output', run.output.size === null ? '' : `${run.output.size} bytes`],
		];
		const present = rows.filter(([, field]) => field !== '');
		return this.#print(table([{ title: '' }, { title: '' }], present, { ...this.#form(), width: undefined }));
	}

	async cancel(given: string): Promise<number> {
		const id = await this.#find(given);
		const run = await this.#client.ask<ToldRun>(`/-/runs/${id}/cancel`, 'POST');
		if (this.#json) return this.#print(run);
		if (hasEnded(run.state)) return this.#print(`run ${run.id} of ${visible(run.route)} is cancelled\n`);
		return this.#print(
			`run ${run.id} of ${visible(run.route)} is being ended; "puppet-webhook logs -f ${run.id}" goes on until it is\n`,
		);
	}

	async trigger(given: string): Promise<number> {
		const answer = await this.#client.ask<{ name: string; count: number }>(
			`/-/triggers/${encodeURIComponent(given)}`,
			'POST',
		);
		if (this.#json) return this.#print(answer);
		return this.#print(`trigger ${answer.name} is at ${answer.count}\n`);
	}

	async rerun(given: string): Promise<number> {
		const id = await this.#find(given);
		const answer = await this.#client.ask<{ runs: readonly [Pick<ToldRun, 'id' | 'route'>] }>(
			`/-/runs/${id}/rerun`,
			'POST',
		);
		if (this.#json) return this.#print(answer);
		const [run] = answer.runs;
		return this.#print(
			`run ${run.id} of ${visible(run.route)} is accepted; "puppet-webhook logs -f ${run.id}" follows it\n`,
		);
	}

	/** Gives what became of the run when it is followed, see `outcomes`. */
	async logs(given: string, { follow = false, raw = false }: LogsOptions): Promise<number> {
		const run = await this.#run(given);
		const { stdout, colour } = this.#surroundings;
		const text = raw ? undefined : stdout.isTTY ? new SafeText(colour) : new PipedText();
		const live = follow && !hasEnded(run.state);
		const interrupt = live ? this.#surroundings.interrupt() : undefined;
		if (!follow && run.state === 'queued') this.#say(`run ${run.id} is queued and has printed nothing yet`);
		try {
			const parts = interrupt ? this.#follow(run, interrupt) : this.#kept(run, stdout.isTTY === true && !raw);
			for (;;) {
				const { done, value } = await parts.next();
				if (done) return follow ? this.#outcome(value) : 0;
				if (!(await this.#write(text?.write(value) ?? value))) return 0;
			}
		} catch (error) {
			if (!interrupt?.aborted) throw error;
			this.#say(`run ${run.id} goes on; "puppet-webhook cancel ${run.id}" ends it`);
			return interrupted;
		} finally {
			if (text) await this.#write(text.end());
		}
	}

	#outcome({ id, state, message }: ToldRun): number {
		if (state !== 'succeeded') this.#say(`run ${id} ${state}: ${visible(message)}`);
		return outcomes[state] ?? 1;
	}

	/** What there is of a run's output. @param asText a text, which says in its place what was not kept, or else the bytes */
	async *#kept(run: ToldRun, asText: boolean): AsyncGenerator<Buffer, ToldRun, undefined> {
		let received = 0;
		for await (const bytes of this.#client.output(run.id, { asText })) {
			received += bytes.length;
			yield bytes;
		}
		if (!asText) this.#tellCut(run, received);
		return run;
	}

	/** A run's output until the run has ended, with what the listener and the connection do in the meantime. */
	async *#follow(run: ToldRun, signal: AbortSignal): AsyncGenerator<Buffer, ToldRun, undefined> {
		let attempt = attemptOf(run);
		let from = 0;
		for (;;) {
			let broken = false;
			try {
				for await (const bytes of this.#client.output(run.id, { from, follow: true, signal })) {
					from += bytes.length;
					yield bytes;
				}
			} catch (error) {
				if (!(error instanceof ListenerUnreachable) || signal.aborted) throw error;
				broken = true;
			}
			const now = await this.#client.ask<ToldRun>(`/-/runs/${run.id}`).catch((error) => {
				broken = true;
				return this.#later(run.id, error, signal);
			});
			const same = attemptOf(now) === attempt;
			if (hasEnded(now.state) && !broken) {
				if (same) this.#tellCut(now, from);
				return now;
			}
			if (!same) {
				// It is another output, which begins at 0 again; how much of it has come already cannot be told.
				if (from > 0) this.#say(`run ${run.id} was started again; its output from the beginning:`);
				from = 0;
				attempt = attemptOf(now);
			}
			// A listener that is about to stop lets its followers go while it still answers.
			await sleep(firstPause, undefined, { signal });
		}
	}

	/** A run, as soon as its listener can be asked again. @param error why it could not */
	async #later(id: string, error: unknown, signal: AbortSignal): Promise<ToldRun> {
		this.#say('the listener is gone; waiting for it to come back');
		const end = performance.now() + patience;
		for (let pause = firstPause; ; pause = Math.min(2 * pause, longestPause)) {
			if (!(error instanceof ListenerUnreachable) || performance.now() > end) throw error;
			await sleep(pause, undefined, { signal });
			try {
				return await this.#client.ask<ToldRun>(`/-/runs/${id}`);
			} catch (again) {
				error = again;
			}
		}
	}

	#tellCut({ output: { size } }: ToldRun, received: number): void {
		const missing = (size ?? 0) - received;
		if (missing > 0)
			this.#say(`${missing} bytes between its beginning and its end were not kept (max_output)`);
	}

	/** The run that an operator means. */
	async #run(given: string): Promise<ToldRun> {
		return this.#client.ask(`/-/runs/${await this.#find(given)}`);
	}

	async #find(given: string): Promise<string> {
		if (given.length === idLength) return given;
		const found: string[] = [];
		const last = given === 'last';
		for await (const { runs } of this.#pages(new URLSearchParams(), last ? 1 : lookedThrough)) {
			found.push(...runs.flatMap(({ id }) => (last || id.startsWith(given) ? id : [])));
			// Ids are in the order of time, as this list is: what comes now is older than what is looked for.
			if ((runs.at(-1)?.id ?? '') < given) break;
		}
		const [id, ...others] = found;
		if (id === undefined) {
			const where = last
				? ''
				: ` among the latest ${lookedThrough} whose id begins with ${given}; older ones need the whole id`;
			throw new ListenerRefused(`there is no run${where}`);
		}
		if (others.length === 0) return id;
		throw new ListenerRefused(
			`${found.length} runs have an id that begins with ${given}, among them ${found.slice(0, 3).join(', ')}; give more of it`,
		);
	}

	/** The newest runs, by pages. @param query which ones @param most how many */
	async *#pages(query: URLSearchParams, most: number): AsyncGenerator<ToldRuns, void, undefined> {
		let next: string | null = `/-/runs?${query}`;
		for (let left = most; next !== null && left > 0; ) {
			const [path, rest] = next.split('?');
			const page = new URLSearchParams(rest);
			page.set('limit', String(Math.min(left, pageSize)));
			const told: ToldRuns = await this.#client.ask(`${path}?${page}`);
			yield told;
			left -= told.runs.length;
			next = told.next;
		}
	}

	#form(): TableForm {
		const { stdout, colour } = this.#surroundings;
		// A terminal that does not tell its width has that of old.
		return { width: stdout.isTTY ? stdout.columns || 80 : undefined, colour };
	}

	async #print(shown: string | object): Promise<number> {
		await this.#write(typeof shown === 'string' ? shown : `${JSON.stringify(shown)}\n`);
		return 0;
	}

	/** Says something to the person who waits; what others read goes to standard output. */
	#say(text: string): number {
		this.#surroundings.stderr.write(`${text}\n`);
		return 0;
	}

	/** @returns false when the reader has had enough, as `head` has after some lines */
	#write(data: string | Buffer): Promise<boolean> {
		return new Promise((resolve, reject) => {
			this.#surroundings.stdout.write(data, (error) => {
				if (!error) resolve(true);
				else if ((error as NodeJS.ErrnoException).code === 'EPIPE') resolve(false);
				else reject(new OutputLost(`standard output cannot be written: ${error.message}`));
			});
		});
	}
}

/** Output for a file or another program, which no escape sequence means anything to. */
class PipedText {
	readonly #decoder = new StringDecoder('utf8');
	readonly #bare = new BareText();

	write(bytes: Buffer): string {
		return this.#bare.write(this.#decoder.write(bytes));
	}

	end(): string {
		return this.#bare.write(this.#decoder.end());
	}
}

/** Which start of the run its output is of, or will be. */
function attemptOf({ state, attempt }: ToldRun): number {
	return state === 'queued' ? attempt + 1 : attempt;
}

function stateField({ state }: ToldRun): Field {
	const colour = stateColours[state];
	return colour === undefined ? state : { text: state, colour };
}

function took({ state, startedAt, endedAt }: ToldRun, now: number): string {
	if (startedAt === null || state === 'queued') return '';
	return span((endedAt === null ? now : Date.parse(endedAt)) - Date.parse(startedAt));
}

function parametersText({ parameters }: ToldRun): string {
	const shown = (value: string) => (/^[^\s"]+$/.test(value) ? value : JSON.stringify(value));
	return Object.entries(parameters)
		.map(([name, value]) => `${name}=${shown(value)}`)
		.join(' ');
}
