/**
 * `npm test`: provides the programs of the host that tests use, then runs every test of test/ but those of test/servers.
 * `npm run test:servers`: the same for test/servers, whose servers take longer to install and to start than all the rest.
 * `-- ARGS` hands ARGS (files, `--test-name-pattern=…`) to Node's test runner.
 */

import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { inCI, provideTools } from './tools.ts';

const root = join(import.meta.dirname, '..');

/** One test; the slowest, with several Puppet runs, take some 20 s on two cores. The first one with a server starts it. */
const testLimits = { usual: 120_000, servers: 180_000 } as const;
/** All tests; Node limits a test but not a file that does not end. CI ends everything after 15 minutes. */
const limits = { usual: 540_000, servers: 360_000 } as const;

const given = process.argv.slice(2);
const suite = given[0] === '--servers' ? 'servers' : 'usual';
const args = suite === 'servers' ? given.slice(1) : given;
const limit = limits[suite];
const all = {
	usual: ['test/*.test.ts', 'test/!(servers)/**/*.test.ts'],
	servers: ['test/servers/**/*.test.ts'],
};
if (!(await provideTools(suite))) process.exit(1);
process.exit(await run());

function run(): Promise<number> {
	const files = args.some((arg) => !arg.startsWith('-')) ? [] : all[suite];
	const runner = spawn(
		process.execPath,
		[
			'--test',
			// TAP ends with `# tests …`, `# pass …`, which CI's readers look for, and should find once; people read the other.
			`--test-reporter=${inCI && suite === 'usual' ? 'tap' : 'spec'}`,
			`--test-timeout=${testLimits[suite]}`,
			// Tests mostly wait for other processes; Node's own default would be one file at a time on two cores.
			`--test-concurrency=${availableParallelism()}`,
			...args,
			...files,
		],
		// A group of its own, so that a test file that hangs can be ended with all it has started.
		{ cwd: root, stdio: ['ignore', 'inherit', 'inherit'], detached: true },
	);
	const end = (signal: NodeJS.Signals) => {
		try {
			process.kill(-runner.pid!, signal);
		} catch {
			// It has ended by itself.
		}
	};
	// At SIGINT the runner says which files it was running.
	const stop = () => {
		runner.kill('SIGINT');
		setTimeout(end, 5_000, 'SIGKILL').unref();
	};
	for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
	const clock = setTimeout(() => {
		console.error(
			`the tests did not end within ${limit / 60_000} minutes; the runner names the files that hang:`,
		);
		stop();
	}, limit);
	return new Promise((resolve) => {
		runner.on('close', (status) => {
			clearTimeout(clock);
			end('SIGKILL');
			resolve(status ?? 1);
		});
	});
}
