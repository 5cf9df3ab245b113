#!/usr/bin/env node
/**
 * The command line. Reads arguments and environment, makes the parts, joins them. Nothing else in the program reads the
 * environment or ends the process.
 */

import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { Argument, Command, CommanderError, InvalidArgumentError } from 'commander';
import { LiveConfig, loadConfig } from './config/config.ts';
import { type PresetName, presetNames, presetRoute, presetText } from './config/presets.ts';
import { parseDuration } from './config/values.ts';
import { ConfigError, WebhookError } from './errors.ts';
import { addExplainCommand } from './explain.ts';
import { createServer } from './http/app.ts';
import { type LogSettings, openLog } from './log.ts';
import { Mask } from './mask.ts';
import { Metrics } from './metrics.ts';
import { addOperatorCommands } from './operator.ts';
import { usualKeep } from './routes/route.ts';
import { History } from './runs/history.ts';
import { Outputs } from './runs/output.ts';
import { Queue } from './runs/queue.ts';
import { Runner } from './runs/runner.ts';
import { SqliteStore } from './stores/sqlite.ts';
import { handedOverSockets, openSupervisor } from './systemd.ts';
import { Triggers } from './triggers/trigger.ts';

/** Exit statuses, fit for scripts: 0 done · 1 it did not work (the reason is on standard error) · 2 called wrongly. */
const exit = { done: 0, failed: 1, usage: 2 } as const;

/** Milliseconds within which two signals are one that came twice. Nobody asks again so fast. */
const sameSignal = 100;

const home = path.resolve(import.meta.dirname, '..');

/** `routes.yaml` beside package.json in a checkout, else the system's. */
function defaultConfig(): string {
	const beside = path.join(home, 'routes.yaml');
	return fs.existsSync(beside) ? beside : '/etc/puppet-webhook/routes.yaml';
}

/** systemd names the directory it made for us; root has the usual place; others keep state in their home. */
function defaultState(): string {
	// systemd separates several StateDirectory= entries by colons; the first is ours.
	const given = process.env.STATE_DIRECTORY?.split(':')[0];
	if (given) return given;
	if (process.getuid?.() === 0) return '/var/lib/puppet-webhook';
	const base = process.env.XDG_STATE_HOME || path.join(os.homedir(), '.local/state');
	return path.join(base, 'puppet-webhook');
}

/**
 * What a command sees of our environment: how to find programs, who and where it is, which language it speaks. Everything
 * else (our own secrets, what an operator's shell had exported) stays here.
 */
function environmentForCommands(): Record<string, string> {
	const names = /^(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR)$/;
	const kept: Record<string, string> = {};
	for (const [name, value] of Object.entries(process.env)) {
		if (names.test(name) && value !== undefined) kept[name] = value;
	}
	// npm puts node_modules/.bin in front for its scripts; a command is to find the host's programs instead.
	const entries = (kept.PATH ?? '').split(':').filter((dir) => dir !== '' && !dir.includes('/node_modules/'));
	kept.PATH =
		entries.length > 0 ? entries.join(':') : '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
	return kept;
}

function ownVersion(): string {
	return JSON.parse(fs.readFileSync(path.join(home, 'package.json'), 'utf8')).version;
}

function defaultLog(): LogSettings {
	return { level: 'info', format: process.stdout.isTTY ? 'text' : 'json', console: true };
}

function coloured(): boolean {
	// https://no-color.org: present and not empty switches colours off.
	return process.stdout.isTTY === true && !process.env.NO_COLOR;
}

/** What `systemctl status` shows while a faulty routes.yaml waits to be mended. */
const refusal = 'routes.yaml was refused, its faults are in the log; serving the one before';

interface ServeOptions {
	config: string;
	state: string;
	drain: number;
}

async function serve(options: ServeOptions): Promise<number> {
	const mask = new Mask();
	const log = openLog(defaultLog(), process.stdout, coloured(), mask);
	// A reader that goes away (`| head`) must not end the listener; its log has nowhere to go, that is all.
	process.stdout.on('error', () => {});
	const systemd = openSupervisor(process.env, process.pid, log);

	const config = new LiveConfig(options.config, log, process.env);
	const follow = () => {
		const { log: settings, routes, secrets } = config.current;
		mask.replace(secrets.map((secret) => secret.reveal()));
		log.configure({ ...defaultLog(), ...settings, routes: routes.logLevels });
	};
	await config.load();
	follow();
	config.on('changed', follow);

	const environment = environmentForCommands();
	const store = SqliteStore.open(options.state);
	const outputs = new Outputs(options.state, store, mask);
	const triggers = new Triggers({ store, log });
	const runner = Runner.start({
		environment,
		state: options.state,
		outputs: outputs.directory,
		log,
		mask,
		count: async (trigger) => (await triggers.count(trigger)).count,
		secret: (route, place) => config.current.routes.named(route)?.secret(place),
	});
	const queue = new Queue({ store, outputs, runner, log });
	const metrics = new Metrics({ queue, config, version: ownVersion() });
	const sockets = handedOverSockets(process.env, process.pid);
	const server = createServer({ config, queue, outputs, triggers, metrics, log, sockets });
	const keep = (route: string) => config.current.routes.named(route)?.keep ?? usualKeep;
	const history = new History({ store, outputs, queue, log, keep });
	config.on('changed', () => history.lookAtAll());

	let addresses = '';
	const serving = () => {
		const count = config.current.routes.routes.length;
		return `serving ${count} route${count === 1 ? '' : 's'} on ${addresses}`;
	};
	const ended = new Promise<number>((resolve) => {
		let stopping = 0;
		const stop = (signal: NodeJS.Signals) => {
			// On a terminal npm hands Ctrl-C on that we have had already, some milliseconds later.
			if (stopping > 0 && performance.now() - stopping < sameSignal) return;
			if (stopping > 0) {
				log.warn('stopping at once, the commands that still run are ended', { signal });
				resolve(exit.done);
				return;
			}
			stopping = performance.now();
			systemd.stopping(`stopping; what runs has up to ${options.drain / 1000} s`);
			log.info('stopping', { signal, drain: `${options.drain / 1000}s` });
			server
				.drain(options.drain)
				.then(() => resolve(exit.done))
				.catch((error) => {
					log.error('stopping failed', { error: String(error) });
					resolve(exit.failed);
				});
		};
		process.on('SIGTERM', stop);
		process.on('SIGINT', stop);
	});
	process.on('SIGHUP', () => {
		log.info('reload asked for by SIGHUP');
		// Until it listens, `ready` would be too early.
		const tell = addresses !== '';
		if (tell) systemd.reloading();
		// A refused file is logged by LiveConfig, with every fault; the old one goes on serving.
		config.reload().then(
			() => tell && systemd.ready(serving()),
			() => tell && systemd.ready(refusal),
		);
	});

	try {
		await queue.start();
		const listening = await server.listen();
		for (const { address, url } of listening) log.info('listening', { address, url });
		addresses = listening.map(({ address }) => address).join(' ');
		systemd.ready(serving());
		config.on('changed', () => systemd.status(serving()));
		config.on('refused', () => systemd.status(refusal));
		config.watch();
		history.start();
		return await ended;
	} finally {
		config.close();
		await server.close();
		await queue.stop();
		await history.stop();
		await store.close();
		await systemd.close();
		await log.close();
	}
}

async function check(options: { config: string; json?: boolean; secrets: boolean }): Promise<number> {
	try {
		const config = await loadConfig(options.config, options.secrets ? process.env : null);
		const { files, notes } = config;
		const routes = config.routes.routes.length;
		if (!options.json) for (const note of notes) console.error(`note: ${note}`);
		if (options.json) console.log(JSON.stringify({ ok: true, files, routes, faults: [], notes }));
		else console.log(`${options.config}: ${routes} route${routes === 1 ? '' : 's'}, no faults`);
		return exit.done;
	} catch (error) {
		if (!(error instanceof ConfigError)) throw error;
		if (options.json) console.log(JSON.stringify({ ok: false, faults: error.faults }));
		else console.error(error.message);
		return exit.failed;
	}
}

async function presets(name: PresetName | undefined): Promise<number> {
	if (name !== undefined) process.stdout.write(presetText(name));
	else for (const one of presetNames) console.log(`${one}: ${presetRoute(one).description}`);
	return exit.done;
}

function duration(text: string): number {
	const parsed = parseDuration(text);
	if (parsed === undefined)
		throw new InvalidArgumentError('write a number with its unit, such as 500ms, 30s, 10m or 1h');
	return parsed;
}

function commandLine(run: (done: Promise<number>) => Promise<void>): Command {
	const program = new Command('puppet-webhook')
		.description('Maps HTTP requests to commands, as routes.yaml says: durable, logged, verified.')
		.version(ownVersion())
		.showHelpAfterError('(puppet-webhook --help tells what there is)')
		.addHelpText('after', '\nExample:\n  $ puppet-webhook runs --help')
		.exitOverride();
	program
		.command('serve', { isDefault: true })
		.description('serve the routes of routes.yaml (the default)')
		.option('-c, --config <file>', 'the routes to serve', defaultConfig())
		.option('-s, --state <directory>', 'where runs and their output are kept', defaultState())
		.option(
			'--drain <duration>',
			'how long running commands may still take after SIGTERM',
			duration,
			// systemd kills a service 90 s after asking it to stop, unless told otherwise; we want to be done before.
			60_000,
		)
		.addHelpText('after', '\nExample:\n  $ puppet-webhook serve --config /etc/puppet-webhook/routes.yaml')
		.action((options: ServeOptions) => run(serve(options)));
	program
		.command('check')
		.description('say whether routes.yaml would be taken: exit status 0, or 1 with every fault')
		.option('-c, --config <file>', 'the file to check', defaultConfig())
		.option('--json', 'print a JSON object instead of lines')
		.option('--no-secrets', 'leave secrets unread, where only the listener itself has or may read them')
		.addHelpText('after', '\nExample:\n  $ puppet-webhook check --config routes.yaml')
		.action((options) => run(check(options)));
	program
		.command('presets')
		.description('name the routes that come with the listener, or print one of them, to be read and copied')
		.addArgument(new Argument('[name]', 'the one to print').choices(presetNames))
		.addHelpText('after', '\nExample:\n  $ puppet-webhook presets jenkins-deploy')
		.action((name?: PresetName) => run(presets(name)));
	addExplainCommand(program, {
		stdout: process.stdout,
		stderr: process.stderr,
		defaultConfig: defaultConfig(),
		load: (file) => loadConfig(file, process.env),
		read: (file) => (file === '-' ? buffer(process.stdin) : fs.promises.readFile(file)),
		done: run,
	});
	addOperatorCommands(program, {
		stdout: process.stdout,
		stderr: process.stderr,
		colour: coloured(),
		defaultConfig: defaultConfig(),
		token: process.env.PUPPET_WEBHOOK_TOKEN,
		interrupt: () => {
			const asked = new AbortController();
			process.once('SIGINT', () => asked.abort());
			return asked.signal;
		},
		done: run,
	});
	return program;
}

/** Ends the process with what a command line returned, or tells people why it could not. */
async function main(): Promise<void> {
	const program = commandLine(async (done) => process.exit(await done));
	try {
		await program.parseAsync();
	} catch (error) {
		if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? exit.done : exit.usage);
		// Our own errors say what to do; anything else is a fault of ours, and its stack helps whoever reports it.
		console.error(error instanceof WebhookError ? error.message : error);
		process.exit(exit.failed);
	}
}

void main();
