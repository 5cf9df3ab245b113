/**
 * The commands of an operator, as one who types them has them: real processes that ask a real listener, their two streams
 * and their exit status; and, by `script`, a terminal.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net, { type AddressInfo, type Socket } from 'node:net';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
	command,
	type Listener,
	root,
	startListener,
	temporaryDirectory,
	until,
} from './helpers/listener.ts';

const program = path.join(root, 'listener/main.ts');

/** Prints, waits until the file `gate` is there, prints again. */
const gated = 'echo one; while [ ! -e gate ]; do sleep 0.05; done; echo two';

const routes = `
routes:
  hello: { method: get, description: Says hello to 日本, command: echo hello }
  deploy:
    description: Takes a build
    params: { role: { required: true }, note: { pattern: "(?s).*" }, version: {} }
    command: [echo, "{{role}}"]
  fails: { method: get, command: "echo about to fail; exit 7" }
  quick: { method: get, concurrency: { when_busy: parallel }, command: ["true"] }
  waits: { method: get, command: "echo started; exec sleep 60" }
  bytes: { method: get, command: "printf 'a\\\\377\\\\033[31mred\\\\033[0m\\\\033]52;c;aGk=\\\\007\\\\033[2J\\\\033[1Aup\\\\r\\\\342\\\\200\\\\256z\\\\n'" }
  long: { method: get, max_output: 1 KiB, command: "head -c 5000 /dev/zero | tr '\\\\0' x" }
  silent: { method: get, command: "true" }
`;

/** A command that goes on, seen while it does. */
class Going {
	readonly process: ChildProcess;
	stdout = '';
	stderr = '';
	readonly ended: Promise<number | null>;

	constructor(args: readonly string[]) {
		this.process = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
		this.process.stdout?.setEncoding('utf8').on('data', (text) => (this.stdout += text));
		this.process.stderr?.setEncoding('utf8').on('data', (text) => (this.stderr += text));
		this.ended = once(this.process, 'close').then(([code]) => code);
		after(() => void this.process.kill('SIGKILL'));
	}

	printed(text: string): Promise<unknown> {
		return until(`"${text}" on standard output`, () => this.stdout.includes(text));
	}
}

/** What a command prints on a terminal so many columns wide. */
function onTerminal(
	columns: number,
	args: readonly string[],
	env: Readonly<Record<string, string>> = {},
): Promise<string> {
	const line = `stty cols ${columns}; exec '${process.execPath}' '${program}' ${args.map((arg) => `'${arg}'`).join(' ')}`;
	const { NO_COLOR: _, ...own } = process.env;
	return new Promise((resolve, reject) => {
		const done = (error: Error | null, stdout: string) =>
			error ? reject(error) : resolve(stdout.replaceAll('\r\n', '\n'));
		execFile('script', ['-qec', line, '/dev/null'], { env: { ...own, ...env } }, done).stdin?.end();
	});
}

/** Starts a run and gives its id. */
async function run(listener: Listener, route: string, body?: object): Promise<string> {
	const answer = body ? await listener.post(`/${route}`, body) : await listener.get(`/${route}`);
	assert.equal(answer.status, 202, answer.text);
	return answer.json.runs[0].id;
}

async function ended(listener: Listener, route: string, body?: object): Promise<string> {
	const id = await run(listener, route, body);
	await listener.ended(id);
	return id;
}

describe('the commands of an operator', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes });
	});
	const ask = (...args: string[]) => command([...args, '--url', listener.url]);

	test('routes shows what is served, one line each', async () => {
		const { code, stdout, stderr } = await ask('routes');
		assert.deepEqual([code, stderr], [0, '']);
		const lines = stdout.split('\n');
		assert.match(lines[0]!, /^ROUTE +METHOD +PATH +AUTH +PARAMETERS +DESCRIPTION$/);
		assert.match(lines[1]!, /^hello +GET +\/hello +local +Says hello to 日本$/);
		assert.match(lines[2]!, /^deploy +POST +\/deploy +local +role \[note\] \[version\] +Takes a build$/);
		assert.equal(lines[0]!.indexOf('DESCRIPTION'), lines[2]!.indexOf('Takes'));
	});

	test('--json gives what the endpoint answers, as one object on one line', async () => {
		const id = await ended(listener, 'hello');
		for (const [args, endpoint] of [
			[['routes'], '/-/routes'],
			[['runs', '--route', 'hello', '--limit', '1'], '/-/runs?route=hello&limit=1'],
			[['runs', id], `/-/runs/${id}`],
		] as const) {
			const { code, stdout } = await ask(...args, '--json');
			assert.equal(code, 0);
			assert.match(stdout, /^\{[^\n]*\}\n$/);
			assert.deepEqual(JSON.parse(stdout), (await listener.get(endpoint)).json);
		}
	});

	test('runs shows the newest first, with age, time taken, parameters and why it failed', async () => {
		const deployed = await ended(listener, 'deploy', { role: 'web', note: 'two words' });
		const failed = await ended(listener, 'fails');
		const { code, stdout } = await ask('runs', '--limit', '2');
		assert.equal(code, 0);
		const [head, first, second, rest] = stdout.split('\n');
		assert.match(head!, /^RUN +ROUTE +STATE +AGE +TOOK +PARAMETERS +WHY$/);
		assert.match(first!, new RegExp(`^${failed} +fails +failed +\\d+s +\\S+s +.*exited with 7$`));
		assert.match(
			second!,
			new RegExp(`^${deployed} +deploy +succeeded +\\d+s +\\S+s +role=web note="two words"$`),
		);
		assert.equal(rest, '');
		assert.equal(first!.indexOf('exited') > head!.indexOf('WHY'), true);
	});

	test('runs takes those of a route or in a state, and says when there are none', async () => {
		await ended(listener, 'fails');
		const failed = await ask('runs', '--route', 'fails', '--state', 'failed');
		assert.match(failed.stdout, /fails +failed/);
		const none = await ask('runs', '--route', 'fails', '--state', 'succeeded');
		assert.deepEqual(none, { code: 0, signal: null, stdout: '', stderr: 'there are no such runs\n' });
	});

	test('runs gives more than a page of the listener when more are asked for', async () => {
		await Promise.all(Array.from({ length: 230 }, () => run(listener, 'quick')));
		const { stdout } = await ask('runs', '--route', 'quick', '--limit', '220', '--json');
		const told = JSON.parse(stdout);
		assert.equal(new Set(told.runs.map(({ id }: { id: string }) => id)).size, 220);
		assert.equal((await listener.get(told.next)).json.runs.length, 10);
	});

	test('runs RUN tells all about one', async () => {
		const id = await ended(listener, 'deploy', { role: 'web', note: 'a\nb' });
		const { stdout } = await ask('runs', id);
		assert.match(stdout, new RegExp(`^run +${id}$`, 'm'));
		assert.match(stdout, /^state +succeeded$/m);
		assert.match(stdout, /^ {2}note +a␊b$/m);
		assert.match(stdout, /^output +4 bytes$/m);
	});

	test('a run may be named by the beginning of its id that no other has, or as the last', async () => {
		const other = await ended(listener, 'fails');
		const id = await ended(listener, 'hello');
		const same = [...id].findIndex((character, index) => character !== other[index]);
		for (const name of ['last', 'LAST', id, id.toUpperCase(), id.slice(0, same + 1)]) {
			assert.deepEqual((await ask('logs', name)).stdout, 'hello\n', name);
		}
		const several = await ask('logs', id.slice(0, same));
		assert.equal(several.code, 1);
		assert.match(several.stderr, /^\d+ runs have an id that begins with .*; give more of it\n$/);
		const none = await ask('logs', 'zzz');
		assert.equal(none.code, 1);
		assert.match(none.stderr, /^there is no run .*begins with zzz/);
	});

	test('logs gives a pipe what is no terminal matter, and with --raw the exact bytes', async () => {
		const id = await ended(listener, 'bytes');
		assert.equal((await ask('logs', id)).stdout, 'a�redup\r\u202ez\n');
		const bytes = execFileSync(process.execPath, [program, 'logs', id, '--raw', '--url', listener.url]);
		assert.deepEqual(
			bytes.toString('latin1'),
			'a\xff\x1b[31mred\x1b[0m\x1b]52;c;aGk=\x07\x1b[2J\x1b[1Aup\r\xe2\x80\xaez\n',
		);
	});

	test('logs shows a terminal colours, and nothing else that it would obey', async () => {
		const id = await ended(listener, 'bytes');
		const args = ['logs', id, '--url', listener.url];
		assert.equal(await onTerminal(80, args), 'a�\x1b[31mred\x1b[0m␛]52;c;aGk=␇up\r�z\n\x1b[0m');
		assert.equal(await onTerminal(80, args, { NO_COLOR: '1' }), 'a�red␛]52;c;aGk=␇up\r�z\n');
	});

	test('logs says what was not kept: on a terminal in its place, else on standard error', async () => {
		const id = await ended(listener, 'long');
		const piped = await ask('logs', id);
		assert.equal(piped.stdout, 'x'.repeat(1024));
		assert.match(piped.stderr, /^3976 bytes between .* were not kept/);
		const shown = await onTerminal(80, ['logs', id, '--url', listener.url]);
		assert.match(shown, /^x{512}\n\[… 3976 bytes were not kept …\]\nx{512}$/);
	});

	test('logs ends quietly when its reader has enough', async () => {
		const id = await ended(listener, 'bytes');
		const line = `'${process.execPath}' '${program}' logs ${id} --url ${listener.url} | true`;
		assert.equal(execFileSync('/bin/sh', ['-c', `${line} 2>&1`], { encoding: 'utf8', stdio: 'pipe' }), '');
	});

	test('a table fits the terminal, with colours unless NO_COLOR says otherwise', async () => {
		await ended(listener, 'fails');
		await ended(listener, 'deploy', { role: 'a'.repeat(100) });
		const args = ['runs', '--limit', '2', '--url', listener.url];
		const coloured = await onTerminal(90, args);
		assert.ok(coloured.includes('\x1b[31mfailed'));
		assert.match(coloured, /these are the newest 2; --limit shows more/);
		const plain = await onTerminal(90, args, { NO_COLOR: '1' });
		assert.ok(!plain.includes('\x1b'));
		assert.match(plain, /role=a+…$/m);
		const widths = plain.split('\n').map((line) => line.length);
		assert.ok(Math.max(...widths) <= 90 && Math.max(...widths) >= 80, String(widths));
		const wide = await onTerminal(60, ['routes', '--url', listener.url], { NO_COLOR: '1' });
		assert.match(wide, /Says hello t…\n/);
	});

	test('logs -f prints as it comes and ends as the run does', async () => {
		const failing = new Going(['logs', '-f', await run(listener, 'fails'), '-u', listener.url]);
		assert.equal(await failing.ended, 3);
		assert.equal(failing.stdout, 'about to fail\n');
		assert.match(failing.stderr, /^run \w{26} failed: .*exited with 7\n$/);
		assert.equal((await ask('logs', '-f', await ended(listener, 'hello'))).code, 0);
		assert.equal((await ask('logs', '-f', await ended(listener, 'silent'))).stdout, '');

		const id = await run(listener, 'waits');
		const going = new Going(['logs', '-f', id, '-u', listener.url]);
		await going.printed('started\n');
		const cancelled = await ask('cancel', id);
		assert.equal(cancelled.code, 0);
		assert.match(cancelled.stdout, new RegExp(`^run ${id} of waits is being ended`));
		assert.equal(await going.ended, 4);
	});

	test('Ctrl-C leaves logs -f, and the run goes on', async () => {
		const id = await run(listener, 'waits');
		const going = new Going(['logs', '-f', id, '-u', listener.url]);
		await going.printed('started\n');
		going.process.kill('SIGINT');
		assert.equal(await going.ended, 130);
		assert.match(going.stderr, new RegExp(`^run ${id} goes on; "puppet-webhook cancel ${id}" ends it\n$`));
		assert.equal((await listener.run(id)).state, 'running');
		await ask('cancel', id);
		await listener.ended(id);
	});

	test('rerun has a run once more with its parameters, and tells the new one', async () => {
		const first = (await listener.post('/deploy?async=false', { role: 'ada' })).json.id;
		const { code, stdout } = await ask('rerun', first);
		assert.equal(code, 0);
		const again = /^run ([0-9a-z]{26}) of deploy is accepted/.exec(stdout)?.[1] ?? '';
		assert.notEqual(again, first);
		assert.equal((await listener.ended(again)).parameters.role, 'ada');
		const unknown = await ask('rerun', 'zzzz');
		assert.equal(unknown.code, 1);
	});

	test('cancel ends a run that waits at once, and says why it cannot end one that has ended', async () => {
		const before = await run(listener, 'waits');
		const id = await run(listener, 'waits');
		const waiting = await ask('logs', id);
		assert.deepEqual([waiting.code, waiting.stdout], [0, '']);
		assert.match(waiting.stderr, /is queued and has printed nothing yet/);
		const { code, stdout } = await ask('cancel', id);
		assert.deepEqual([code, stdout], [0, `run ${id} of waits is cancelled\n`]);
		const again = await ask('cancel', id);
		assert.deepEqual([again.code, again.stdout], [1, '']);
		assert.match(again.stderr, /^the listener answered 409: the run has ended already \(cancelled\)\n$/);
		assert.equal(JSON.parse((await ask('cancel', before, '--json')).stdout).id, before);
		await listener.ended(before);
	});

	test('wrong usage is exit status 2 and says what would be right', async () => {
		const cases = [
			[['runs', '--limit', '0'], /whole number from 1/],
			[['runs', '--state', 'done'], /queued, running, succeeded, failed, cancelled/],
			[['runs', 'last', '--route', 'hello'], /choose among runs/],
			[['logs'], /missing required argument 'run'/],
			[['logs', '../x'], /letters and digits/],
			[['routes', '--url', 'localhost'], /write http:\/\/127\.0\.0\.1:6969/],
			[['cancel', 'a', 'b'], /too many arguments/],
		] as const;
		const refuse = async ([args, message]: (typeof cases)[number]) => {
			const { code, stdout, stderr } = await command(args);
			assert.deepEqual([code, stdout], [2, ''], args.join(' '));
			assert.match(stderr, message);
		};
		await Promise.all(cases.map(refuse));
	});

	test('every command shows its help with an example', async () => {
		const { stdout } = await command(['--help']);
		const names = [...stdout.matchAll(/^ {2}([a-z]+) (?:\[options\]|<)/gm)].map((match) => match[1] ?? '');
		assert.deepEqual(names, [
			'serve',
			'check',
			'explain',
			'routes',
			'runs',
			'logs',
			'cancel',
			'rerun',
			'trigger',
		]);
		const helps = await Promise.all(names.map((name) => command([name, '--help'])));
		for (const [index, { code, stdout }] of helps.entries()) {
			assert.equal(code, 0);
			assert.match(stdout, new RegExp(`^Example:\n {2}\\$ puppet-webhook ${names[index]}`, 'm'));
		}
	});
});

describe('following a run', () => {
	const follow = { method: 'get', cwd: '.', command: gated };
	const file = (dir: string) =>
		`listen: { address: [127.0.0.1, "unix:${dir}/listener.sock"], port: 0 }\nroutes: { gated: ${JSON.stringify(follow)} }\n`;

	test('goes on where the connection broke off, and prints nothing twice', async () => {
		const dir = temporaryDirectory();
		const listener = await startListener({ dir, routes: file(dir) });
		const open = new Set<Socket>();
		let connections = 0;
		const between = net.createServer((socket) => {
			connections++;
			const onward = net.connect(listener.port, '127.0.0.1');
			for (const end of [socket, onward]) open.add(end.on('error', () => {}));
			socket.pipe(onward).pipe(socket);
		});
		await once(between.listen(0, '127.0.0.1'), 'listening');
		after(() => between.close());
		const id = await run(listener, 'gated');
		const url = `http://127.0.0.1:${(between.address() as AddressInfo).port}`;
		const going = new Going(['logs', '-f', id, '--url', url]);
		await going.printed('one\n');
		const before = connections;
		for (const socket of open) socket.destroy();
		await until('it to be back', () => connections > before + 1);
		fs.writeFileSync(path.join(dir, 'gate'), '');
		assert.equal(await going.ended, 0, going.stderr);
		assert.equal(going.stdout, 'one\ntwo\n');
	});

	test('waits for a listener that was killed, and prints what the run prints when it is run again', async () => {
		const dir = temporaryDirectory();
		const listener = await startListener({ dir, routes: file(dir) });
		const id = await run(listener, 'gated');
		// By the file, whose port is 0, it is found at its socket.
		const going = new Going(['logs', '-f', id, '--config', listener.config]);
		await going.printed('one\n');
		await listener.stop('SIGKILL');
		await until('it to notice', () => going.stderr.includes('waiting for it to come back'));
		await listener.again();
		await until('the output from the beginning', () => going.stdout === 'one\none\n');
		fs.writeFileSync(path.join(dir, 'gate'), '');
		assert.equal(await going.ended, 0, going.stderr);
		assert.equal(going.stdout, 'one\none\ntwo\n');
		assert.match(going.stderr, new RegExp(`run ${id} was started again; its output from the beginning:`));
	});
});

describe('the listener is found', () => {
	const one = 'routes: { hello: { method: get, command: echo hello } }\n';
	const names = /^ROUTE.*\nhello /;

	/** A port that was free a moment ago. */
	async function freePort(): Promise<number> {
		const server = net.createServer().listen(0, '127.0.0.1');
		await once(server, 'listening');
		const { port } = server.address() as AddressInfo;
		await new Promise((resolve) => server.close(resolve));
		return port;
	}

	test('by the address in its file, also when other parts of that are faulty by now', async () => {
		const port = await freePort();
		const listen = `listen: { address: "::", port: ${port} }\n`;
		const listener = await startListener({
			routes: `${listen}routes: { hello: { auth: none, method: get, command: echo hello } }\n`,
		});
		assert.match((await command(['routes', '-c', listener.config])).stdout, names);
		fs.writeFileSync(listener.config, `${listen}routes: { hello: { comand: x } }\n`);
		assert.match((await command(['routes', '-c', listener.config])).stdout, names);

		fs.writeFileSync(listener.config, `listen: { prot: ${port} }\n${one}`);
		const faulty = await command(['routes', '-c', listener.config]);
		assert.equal(faulty.code, 1);
		assert.match(faulty.stderr, /name the listener itself, such as --url .*\n.*unknown key "prot"/);
		fs.writeFileSync(listener.config, `${listen}routes: {\n`);
		assert.match((await command(['routes', '-c', listener.config])).stderr, /is not YAML/);
	});

	test('at its unix socket', async () => {
		const dir = temporaryDirectory();
		const socket = path.join(dir, 'listener.sock');
		const listener = await startListener({ dir, routes: `listen: { address: "unix:${socket}" }\n${one}` });
		assert.match((await command(['routes', '-c', listener.config])).stdout, names);
		assert.match((await command(['routes', '--url', `unix:${socket}`])).stdout, names);
		await listener.stop();
		const gone = await command(['routes', '--url', `unix:${socket}`]);
		assert.equal(gone.code, 1);
		assert.match(gone.stderr, /^there is no socket unix:.*: is the listener running\? `systemctl status/);
	});

	test('by TLS, and only with the certificate that the file names', async () => {
		const dir = temporaryDirectory();
		for (const name of ['own', 'other']) {
			execFileSync(
				'openssl',
				[
					...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1'],
					...['-subj', '/CN=puppet.example.com', '-keyout', `${name}.key`, '-out', `${name}.pem`],
				],
				{ cwd: dir, stdio: 'ignore' },
			);
		}
		const port = await freePort();
		const file = (name: string) =>
			`listen: { address: 127.0.0.1, port: ${port}, tls: { cert: ${name}.pem, key: ${name}.key } }\n${one}`;
		fs.writeFileSync(path.join(dir, 'other.yaml'), file('other'));
		const listener = await startListener({ dir, routes: file('own') });
		// As for an operator who may not read the key.
		fs.rmSync(path.join(dir, 'own.key'));
		assert.match((await command(['routes', '-c', listener.config])).stdout, names);
		for (const [args, message] of [
			[['-c', path.join(dir, 'other.yaml')], /certificate/],
			[['-u', `https://127.0.0.1:${port}`], /certificate/],
			[['-u', `http://127.0.0.1:${port}`], /does it want https:\/\//],
		] as const) {
			const { code, stdout, stderr } = await command(['routes', ...args]);
			assert.deepEqual([code, stdout], [1, '']);
			assert.match(stderr, message);
			assert.doesNotMatch(stderr, /\n.*at /, 'no stack');
		}
	});

	test('or else its absence is said, and what to do', async () => {
		const port = await freePort();
		const none = await command(['runs', '--url', `http://127.0.0.1:${port}`]);
		assert.deepEqual([none.code, none.stdout], [1, '']);
		assert.match(
			none.stderr,
			new RegExp(
				`^nothing listens on 127\\.0\\.0\\.1:${port}: is the listener running\\? \`systemctl status puppet-webhook\``,
			),
		);
		const dir = temporaryDirectory();
		fs.writeFileSync(path.join(dir, 'any.yaml'), `listen: { port: 0 }\n${one}`);
		const any = await command(['runs', '-c', path.join(dir, 'any.yaml')]);
		assert.equal(any.code, 1);
		assert.match(any.stderr, /listen\.port is 0, .*--url/);
		const missing = await command(['runs', '-c', path.join(dir, 'none.yaml')]);
		assert.equal(missing.code, 1);
		assert.match(missing.stderr, /none\.yaml: does not exist/);
	});

	test('not in another program that answers there', async () => {
		const other = http.createServer((_, answer) => answer.end('<p>hello</p>')).listen(0, '127.0.0.1');
		await once(other, 'listening');
		after(() => other.close());
		const url = `127.0.0.1:${(other.address() as AddressInfo).port}`;
		for (const args of [['routes'], ['runs'], ['logs', 'last'], ['cancel', 'last']]) {
			const { code, stderr } = await command([...args, '--url', `http://${url}`]);
			assert.equal(code, 1);
			assert.match(stderr, new RegExp(`^what answers on ${url} is no puppet-webhook`));
		}
		const plain = await command(['routes', '--url', `https://${url}`]);
		assert.match(plain.stderr, /speaks no TLS: write http:\/\//);
	});
});
