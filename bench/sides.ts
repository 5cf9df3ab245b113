/** The two listeners: how each is told the same routes, started, and called. */
import { existsSync } from 'node:fs';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { body, underShell } from './measure.ts';
import { freePort, type Processes, type Program } from './processes.ts';

/** A route as both listeners know it; called with POST. */
export type BenchRoute = {
	/** Its path, one segment. */
	name: string;
	/** A string runs under /bin/sh, a list without a shell. */
	command: string | string[];
	/**
	 * What the caller is answered: `no` 202 at once; `route` 200 when the command has succeeded; `caller` the same
	 * because the request says `?async=false` (webhook's callers have no such say: there the route waits).
	 */
	wait: 'no' | 'route' | 'caller';
	/** How many of its runs may run at one time. webhook has no such limit and runs all it gets. */
	limit: number;
	/** Bytes of output that ours keeps of a run. Default: its own. */
	maxOutput?: number;
};

export type Listener = {
	port: number;
	pid: number;
	/** When it was started, by `performance.now()`. */
	startedAt: number;
	/** What a load plan needs to call a route. */
	call(route: BenchRoute): { port: number; path: string; expect: number; body: string };
	/** Calls a route until it is answered as it should be, also while nobody listens yet. Returns the answer's body. */
	answer(route: BenchRoute): Promise<string>;
	/** Ends it and all it has started, at once: what it keeps is thrown away with its directory. */
	kill(): Promise<void>;
};

export type ListenerSide = {
	name: 'webhook' | 'ours';
	/** Why it cannot be measured here; undefined when it can. */
	missing: string | undefined;
	/** A path that answers 200 as soon as deliveries are taken. */
	healthy: string;
	/** The version it reports. */
	version(processes: Processes): Promise<string>;
	/** Starts it in an empty directory below `dir` and returns at once, before it listens. */
	launch(bench: { processes: Processes; dir: string }, routes: BenchRoute[]): Promise<Listener>;
	/** The same, and returns when it takes deliveries. */
	start(bench: { processes: Processes; dir: string }, routes: BenchRoute[]): Promise<Listener>;
	/** Starts ours on a state directory that is there already, in a directory of its own; returns as `launch` does. */
	resume(bench: { processes: Processes }, dir: string, routes: BenchRoute[]): Promise<Listener>;
};

const READY_WITHIN_MS = 10_000;
const WEBHOOK = '/usr/bin/webhook';
/** The listener as `npm start` runs it. */
export const OURS = join(import.meta.dirname, '..', 'dist', 'main.cjs');

/** Debian's `webhook`. Its responses say 202 where ours do, so that one load plan fits both. */
export const webhook: ListenerSide = side({
	name: 'webhook',
	missing: existsSync(WEBHOOK) ? undefined : `${WEBHOOK} is not there: apt-get install webhook`,
	version: (processes) => processes.run(WEBHOOK, ['-version']),
	healthy: '/',
	path: (route) => `/hooks/${route.name}`,
	async program(dir, port, routes) {
		const hooks = routes.map((route) => {
			const [command, ...args] = Array.isArray(route.command) ? route.command : underShell(route.command);
			return {
				id: route.name,
				'execute-command': command,
				'pass-arguments-to-command': args.map((name) => ({ source: 'string', name })),
				'include-command-output-in-response': route.wait !== 'no',
				'success-http-response-code': route.wait === 'no' ? 202 : 200,
			};
		});
		const file = join(dir, 'hooks.json');
		await writeFile(file, JSON.stringify(hooks));
		return [WEBHOOK, '-hooks', file, '-ip', '127.0.0.1', '-port', String(port)];
	},
});

/** The listener of this checkout, as `npm start` runs it, with a state directory of its own. */
export const ours: ListenerSide = side({
	name: 'ours',
	missing: existsSync(OURS) ? undefined : `${OURS} is not there`,
	version: (processes) => processes.run(process.execPath, [OURS, '--version']),
	healthy: '/-/healthy',
	path: (route) => `/${route.name}${route.wait === 'caller' ? '?async=false' : ''}`,
	async program(dir, port, routes) {
		const config = {
			listen: { address: '127.0.0.1', port },
			routes: Object.fromEntries(
				routes.map(({ name, command, wait, limit, maxOutput }) => [
					name,
					{
						...{ method: 'post', command, concurrency: { limit } },
						...(wait === 'route' ? { wait: true } : {}),
						...(maxOutput === undefined ? {} : { max_output: maxOutput }),
					},
				]),
			),
		};
		const file = join(dir, 'routes.yaml');
		await writeFile(file, JSON.stringify(config));
		return [process.execPath, OURS, 'serve', '--config', file, '--state', join(dir, 'state')];
	},
});

function side(kind: {
	name: ListenerSide['name'];
	missing: string | undefined;
	version(processes: Processes): Promise<string>;
	/** A path that answers 200 as soon as deliveries are taken. */
	healthy: string;
	path(route: BenchRoute): string;
	/** Writes the configuration and returns the command line. */
	program(dir: string, port: number, routes: BenchRoute[]): Promise<string[]>;
}): ListenerSide {
	async function launchIn(
		processes: Processes,
		dir: string,
		routes: BenchRoute[],
	): Promise<Listener & { ready(): Promise<string> }> {
		const port = await freePort();
		const [command, ...args] = await kind.program(dir, port, routes);
		const startedAt = performance.now();
		const program = await processes.start(command!, args);
		const until = (method: string, path: string, expect: number) =>
			untilAnswered(kind.name, program, { port, method, path, expect });
		const call = (route: BenchRoute) => ({
			port,
			path: kind.path(route),
			expect: route.wait === 'no' ? 202 : 200,
			body,
		});
		return {
			port,
			pid: program.pid,
			startedAt,
			call,
			answer: (route) => until('POST', call(route).path, call(route).expect),
			ready: () => until('GET', kind.healthy, 200),
			kill: program.kill,
		};
	}
	const launch = async (bench: { processes: Processes; dir: string }, routes: BenchRoute[]) =>
		launchIn(bench.processes, await mkdtemp(join(bench.dir, `${kind.name}-`)), routes);
	return {
		name: kind.name,
		missing: kind.missing,
		healthy: kind.healthy,
		resume: ({ processes }, dir, routes) => launchIn(processes, dir, routes),
		version: async (processes) => (await kind.version(processes)).trim().replace(/^.*version /, ''),
		launch,
		async start(bench, routes) {
			const listener = await launch(bench, routes);
			await listener.ready();
			return listener;
		},
	};
}

/** Asks until the answer has the expected status. Rejects with what was seen last. */
async function untilAnswered(
	name: string,
	program: Program,
	what: { port: number; method: string; path: string; expect: number },
): Promise<string> {
	let ended = false;
	let last = 'nobody listens';
	void program.ended.then(() => {
		ended = true;
	});
	for (const deadline = performance.now() + READY_WITHIN_MS; performance.now() < deadline; await sleep(1)) {
		if (ended) throw new Error(`${name} ended before it answered`);
		try {
			const answer = await ask(what);
			if (answer.status === what.expect) return answer.body;
			last = `${answer.status} ${answer.body}`;
		} catch (error) {
			last = (error as Error).message;
		}
	}
	throw new Error(
		`${name}: ${what.method} ${what.path} not answered ${what.expect} in 10 s; last: ${last}; it printed: ${program.printed()}`,
	);
}

async function ask(what: {
	port: number;
	method: string;
	path: string;
}): Promise<{ status: number; body: string }> {
	const { promise, resolve, reject } = Promise.withResolvers<{ status: number; body: string }>();
	const headers = what.method === 'POST' ? { 'Content-Type': 'application/json' } : {};
	const request = httpRequest({ ...what, host: '127.0.0.1', agent: false, headers }, (response) => {
		text(response).then((body) => resolve({ status: response.statusCode ?? 0, body }), reject);
	});
	request.once('error', reject);
	request.setTimeout(READY_WITHIN_MS, () => request.destroy(new Error('no answer within 10 s')));
	request.end(what.method === 'POST' ? body : undefined);
	return promise;
}
