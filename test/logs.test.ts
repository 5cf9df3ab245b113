/** Where the log goes, and that none of it is lost: to files, to syslog daemons of three kinds, and more or less of it by route. */

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, describe, test } from 'node:test';
import {
	command,
	type Listener,
	root,
	spawnListener,
	startListener,
	temporaryDirectory,
	until,
} from './helpers/listener.ts';

const endings: (() => unknown)[] = [];
after(async () => {
	for (const end of endings.reverse()) await end();
});

/** Prints `lines` lines that name themselves, for each of several runs. */
const counting = `
  count: { method: get, params: { name: {}, lines: { type: integer } }, concurrency: { when_busy: parallel }, command: 'i=0; while [ $i -lt $lines ]; do echo "$name-$i"; i=$((i+1)); done' }
`;

function linesOf(file: string): string[] {
	return fs.existsSync(file) ? fs.readFileSync(file, 'utf8').split('\n').slice(0, -1) : [];
}

/** `path`, `path.1` and so on, the oldest first. */
function filesOf(file: string): string[] {
	const older = fs
		.readdirSync(path.dirname(file))
		.filter((name) => name.startsWith(`${path.basename(file)}.`))
		.sort((a, b) => Number(b.split('.').at(-1)) - Number(a.split('.').at(-1)));
	return [...older.map((name) => path.join(path.dirname(file), name)), file];
}

const countsIn = (lines: readonly string[]) =>
	lines.map((line) => JSON.parse(line).message).filter((message) => /^\w+-\d+$/.test(message));

describe('a log file', () => {
	test('has every one of 20,000 lines, in order, after SIGTERM, though files change under them', async () => {
		const dir = temporaryDirectory();
		const file = path.join(dir, 'listener.log');
		const listener = await startListener({
			routes: `log: { file: { path: ${file}, max_size: 256 KiB, keep: 100 } }\nroutes:${counting}`,
		});
		const runs = ['a', 'b', 'c', 'd'];
		await Promise.all(runs.map((name) => listener.get(`/count?name=${name}&lines=5000&async=false`)));
		assert.deepEqual(await listener.stop(), { code: 0, signal: null });

		const files = filesOf(file);
		assert.ok(files.length > 5, `${files.length} files`);
		for (const name of files) assert.ok(fs.statSync(name).size <= 256 * 1024, name);
		const lines = files.flatMap(linesOf);
		assert.deepEqual(
			lines,
			listener.log().map((line) => JSON.stringify(line)),
			'the console has the same',
		);
		const counts = countsIn(lines);
		assert.equal(counts.length, 20_000);
		for (const name of runs) {
			assert.deepEqual(
				counts.filter((count) => count.startsWith(`${name}-`)),
				Array.from({ length: 5000 }, (_, i) => `${name}-${i}`),
			);
		}
		assert.ok(lines.some((line) => line.includes('"message":"stopping"')));
		assert.equal(fs.statSync(file).mode & 0o777, 0o640);
	});

	test('is kept together with so many older ones, also when fewer are to be kept from now on', async () => {
		const dir = temporaryDirectory();
		const file = path.join(dir, 'listener.log');
		const routes = (keep: number) =>
			`listen: { address: 127.0.0.1, port: 0 }\nlog: { format: json, file: { path: ${file}, max_size: 64 KiB, keep: ${keep} } }\nroutes:${counting}`;
		const listener = await startListener({ routes: routes(4) });
		await listener.get('/count?name=a&lines=4000&async=false');
		await until('four files', () => filesOf(file).length === 4);
		fs.writeFileSync(listener.config, routes(2));
		await listener.request('/-/reload', { method: 'POST' });
		await listener.get('/count?name=b&lines=2000&async=false');
		await listener.stop();
		assert.deepEqual(filesOf(file), [`${file}.1`, file]);
		const lines = filesOf(file).flatMap(linesOf);
		assert.equal(countsIn(lines).at(-1), 'b-1999');
	});

	test('goes on in a new file when somebody has moved it away', async () => {
		const dir = temporaryDirectory();
		const file = path.join(dir, 'listener.log');
		const listener = await startListener({ routes: `log: { file: { path: ${file} } }\nroutes:${counting}` });
		await until('the file', () => linesOf(file).some((line) => line.includes('"listening"')));
		fs.renameSync(file, `${file}-moved`);
		await until('a new file', async () => {
			await listener.get('/count?name=a&lines=1&async=false');
			return fs.existsSync(file);
		});
		await listener.stop();
		const lines = [...linesOf(`${file}-moved`), ...linesOf(file)];
		assert.deepEqual(
			lines,
			listener.log().map((line) => JSON.stringify(line)),
		);
	});

	test('gets what could not be written to it as soon as it can be, and nothing stands still meanwhile', async () => {
		const dir = temporaryDirectory();
		const file = path.join(dir, 'listener.log');
		const listener = await startListener({ routes: `log: { file: { path: ${file} } }\nroutes:${counting}` });
		await until('the file', () => linesOf(file).length > 0);
		const before = `${file}-before`;
		fs.renameSync(file, before);
		fs.mkdirSync(file);
		const failed = until('the failure', async () => {
			const answer = await listener.get('/count?name=a&lines=100&async=false');
			assert.equal(answer.status, 200);
			return listener.log().find((line) => /the log cannot be written to/.test(line.message));
		});
		assert.match(String((await failed).error), /EISDIR/);
		fs.rmdirSync(file);
		await listener.logged('recovery', (line) => line.message === `the log reaches ${file} again`);
		await listener.stop();
		const lines = [...linesOf(before), ...linesOf(file)];
		assert.deepEqual(
			lines,
			listener.log().map((line) => JSON.stringify(line)),
		);
	});

	test('on a disk that is full loses nothing that fits into memory, and no half lines are left', async (t) => {
		const dir = temporaryDirectory();
		if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', dir]).status !== 0) {
			t.skip('mounting is not permitted here');
			return;
		}
		try {
			const file = path.join(dir, 'listener.log');
			const filler = path.join(dir, 'filler');
			fs.writeFileSync(filler, Buffer.alloc(64 * 1024));
			const listener = await startListener({
				routes: `log: { file: { path: ${file} } }\nroutes:${counting}`,
			});
			await listener.get('/count?name=a&lines=1000&async=false');
			const line = await listener.logged('the failure', (l) =>
				/the log cannot be written to/.test(l.message),
			);
			assert.match(String(line.error), /ENOSPC/);
			assert.equal((await listener.get('/count?name=b&lines=1&async=false')).status, 200);
			assert.ok(linesOf(file).every((text) => JSON.parse(text)));
			assert.ok(fs.readFileSync(file, 'utf8').endsWith('}\n'));
			execFileSync('mount', ['-o', 'remount,size=8m', dir]);
			await listener.logged('recovery', (l) => l.message === `the log reaches ${file} again`);
			await listener.stop();
			assert.deepEqual(
				linesOf(file),
				listener.log().map((l) => JSON.stringify(l)),
			);
		} finally {
			execFileSync('umount', [dir]);
		}
	});

	test('can be the only place of the log, in a form of its own', async () => {
		const dir = temporaryDirectory();
		const file = path.join(dir, 'listener.log');
		const listener = spawnListener({
			routes: `log: { console: false, format: json, file: { path: ${file}, format: text } }\nroutes: {}`,
		});
		await until('the file', () => linesOf(file).some((line) => / listening /.test(line)));
		await listener.stop();
		assert.match(linesOf(file).at(-1)!, /^\S+Z info {2}stopping signal=SIGTERM drain=60s$/);
		// What was to be said before the file had been read has nowhere else to go.
		assert.deepEqual(
			listener.log().map((line) => line.message),
			['routes.yaml: there are no routes'],
		);
	});

	const refused: readonly [title: string, log: (dir: string) => string, fault: RegExp][] = [
		[
			'a directory that is not there',
			(dir) => `file: { path: ${dir}/nowhere/a.log }`,
			/:1:\d+: log\.file\.path: make its directory first, for the listener's user to write in: \S+\/nowhere does not exist$/,
		],
		['a path that is a directory', (dir) => `file: { path: ${dir} }`, /is no regular file/],
		[
			'files too small to be of use',
			(dir) => `file: { path: ${dir}/a, max_size: 1 KiB }`,
			/must be at least 64 KiB/,
		],
		[
			'no place at all',
			() => 'console: false',
			/log\.console: is false, and there is neither file nor syslog/,
		],
		['an unknown facility', () => 'syslog: { facility: local8 }', /did you mean "local\d"/],
		[
			'an address that is none',
			() => 'syslog: { address: "log.example.com" }',
			/must be local, unix:\/path, udp:/,
		],
		['a port that is none', () => 'syslog: { address: "udp://h:70000" }', /must be local, unix:\/path, udp:/],
		[
			'a name that syslog has no room for',
			() => 'syslog: { app_name: a b }',
			/1 to 48 visible ASCII characters/,
		],
	];
	for (const [title, log, fault] of refused) {
		test(`is refused with ${title}, and check says what to do`, async () => {
			const dir = temporaryDirectory();
			const file = path.join(dir, 'routes.yaml');
			fs.writeFileSync(file, `log: { ${log(dir)} }\nroutes: {}\n`);
			const checked = await command(['check', '--config', file]);
			assert.equal(checked.code, 1);
			assert.match(checked.stderr.trimEnd(), fault);
		});
	}

	test('is refused with a directory that is not for the listener to write, and check says so', () => {
		const dir = temporaryDirectory();
		const file = path.join(dir, 'routes.yaml');
		fs.writeFileSync(file, 'log: { file: { path: closed/a.log } }\nroutes: {}\n');
		fs.mkdirSync(path.join(dir, 'closed'), { mode: 0o555 });
		// Root may write everywhere, unless it gives that up.
		const like = process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-dac_override'] : ['env'];
		const check = [process.execPath, path.join(root, 'listener/main.ts'), 'check', '--config', file];
		const checked = spawnSync(like[0]!, [...like.slice(1), ...check], { encoding: 'utf8' });
		assert.equal(checked.status, 1);
		assert.match(
			checked.stderr,
			/:1:\d+: log\.file\.path: \S+\/closed may not be written by the user the listener runs as \(EACCES\); give it/,
		);
	});
});

/** A message of RFC 5424 taken apart; throws when it is none. */
function parsed(message: string) {
	const found =
		/^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\S{1,255}) (\S{1,48}) (\d{1,128}) - (-|\[(?:[^\]\\]|\\.)*\]) (.*)$/s.exec(
			message,
		);
	assert.ok(found, message);
	const [, pri, , , app, pid, data, text] = found;
	return { pri: Number(pri), app, pid: Number(pid), data, text: text! };
}

/** A syslog server that takes counted messages, and cuts its connections when told. */
class TcpReceiver {
	readonly messages: string[] = [];
	readonly #server: net.Server;
	readonly #sockets = new Set<net.Socket>();
	port = 0;

	constructor() {
		this.#server = net.createServer((socket) => {
			let rest = Buffer.alloc(0);
			this.#sockets.add(socket);
			socket.on('error', () => {});
			socket.on('data', (bytes) => {
				rest = Buffer.concat([rest, bytes]);
				for (;;) {
					const space = rest.indexOf(' ');
					if (space < 0) return;
					const length = Number(rest.toString('latin1', 0, space));
					assert.ok(Number.isInteger(length), rest.toString('latin1', 0, 40));
					if (rest.length < space + 1 + length) return;
					this.messages.push(rest.toString('utf8', space + 1, space + 1 + length));
					rest = rest.subarray(space + 1 + length);
				}
			});
		});
		endings.push(() => this.close());
	}

	async listen(port = 0): Promise<this> {
		this.#server.listen(port, '127.0.0.1');
		await once(this.#server, 'listening');
		this.port = (this.#server.address() as net.AddressInfo).port;
		return this;
	}

	close(): void {
		if (this.#server.listening) this.#server.close();
		for (const socket of this.#sockets) socket.destroy();
	}
}

describe('syslog over TCP', () => {
	test('gets every line counted, as RFC 5424, with severity, run, route and delivery', async () => {
		const server = await new TcpReceiver().listen();
		const listener = await startListener({
			routes: `log: { level: debug, syslog: { facility: local3, address: "tcp://127.0.0.1:${server.port}", app_name: hooks } }
routes:
  says: { method: get, command: 'echo "grün \\"]\\\\ ✓"; printf "a\\033[31mb"' }
  fails: { method: get, command: exit 3 }
`,
		});
		const { json } = await listener.get('/says?async=false');
		await listener.get('/fails?async=false');
		await listener.get('/nowhere');
		await listener.stop();

		const messages = server.messages.map(parsed);
		assert.deepEqual(
			messages.map(({ text }) => text.split(' ')[0]),
			listener.log().map(({ message }) => message.replaceAll('\x1b', '\\x1b').split(' ')[0]),
		);
		for (const { app, pid } of messages) assert.deepEqual([app, pid], ['hooks', listener.process.pid]);
		const line = messages.find(({ text }) => text.startsWith('grün'));
		assert.equal(line?.text, `grün "]\\ ✓ run=${json.id} route=says`);
		assert.equal(line?.data, `[puppet-webhook@32473 run="${json.id}" route="says"]`);
		assert.ok(messages.some(({ text }) => text.startsWith('a\\x1b[31mb run=')));
		const delivery = messages.find(({ text }) => text.startsWith('delivery ') && text.includes('route=says'));
		assert.match(delivery?.data ?? '', /^\[puppet-webhook@32473 route="says" delivery="\w{26}"\]$/);
		const local3 = 19 * 8;
		const level = (start: string) => messages.find(({ text }) => text.startsWith(start))!.pri - local3;
		assert.deepEqual([level('run started'), level('listening')], [7, 6]);
		assert.equal(messages.find(({ text }) => /^run finished .*route=fails/.test(text))!.pri, local3 + 4);
	});

	test('gets every line though the server goes away and comes back; the console says so once', async () => {
		const first = await new TcpReceiver().listen();
		const { port } = first;
		const listener = await startListener({
			routes: `log: { syslog: { address: "tcp://127.0.0.1:${port}" } }\nroutes:${counting}`,
		});
		await until('the first line', () => first.messages.length > 0);
		first.close();
		const failure = /^the log cannot be written to syslog tcp:/;
		await until('the failure', async () => {
			await listener.get('/count?name=a&lines=10&async=false');
			return listener.log().some(({ message }) => failure.test(message));
		});
		await listener.get('/count?name=b&lines=1000&async=false');
		const second = await new TcpReceiver().listen(port);
		await listener.logged('recovery', ({ message }) => /^the log reaches syslog tcp:/.test(message));
		await listener.stop();
		const texts = second.messages.map((message) => parsed(message).text.split(' ')[0]);
		for (let i = 0; i < 1000; i++) assert.ok(texts.includes(`b-${i}`), `b-${i}`);
		assert.equal(listener.log().filter(({ message }) => failure.test(message)).length, 1);
		assert.equal(texts.at(-1), 'stopping');
	});

	test('that nobody answers keeps the listener from nothing, not even from ending', async () => {
		const unused = await new TcpReceiver().listen();
		unused.close();
		const listener = await startListener({
			routes: `log: { syslog: { address: "tcp://127.0.0.1:${unused.port}" } }\nroutes:${counting}`,
		});
		assert.equal((await listener.get('/count?name=a&lines=1&async=false')).status, 200);
		const began = performance.now();
		assert.deepEqual(await listener.stop(), { code: 0, signal: null });
		assert.ok(performance.now() - began < 10_000);
		const last = listener.log().at(-1);
		assert.match(String(last?.message), /ends with lines that could not be handed over$/);
		assert.ok(Number(last?.lost) > 3, String(last?.lost));
	});

	test('says how many lines were lost when more wait than may', async () => {
		const server = await new TcpReceiver().listen();
		const { port } = server;
		server.close();
		const listener = await startListener({
			routes: `log: { syslog: { address: "tcp://127.0.0.1:${port}" } }\nroutes:
  long: { method: get, max_output: 64 MiB, command: "yes $(head -c 4000 /dev/zero | tr '\\\\0' x) | head -3000" }`,
		});
		await listener.get('/long?async=false');
		await listener.logged('the loss', ({ message }) => /loses lines: too many wait/.test(message));
		const back = await new TcpReceiver().listen(port);
		const line = await listener.logged('recovery', ({ message }) => /^the log reaches syslog/.test(message));
		await listener.stop();
		const printed = back.messages.filter((message) => / xxxx/.test(message)).length;
		assert.ok(printed > 1000 && printed < 3000, String(printed));
		// The line about the loss itself is among what had no room.
		assert.ok(Number(line.lost) >= 3000 - printed, `${line.lost} lost, ${printed} arrived`);
	});
});

describe('syslog over UDP', () => {
	test('is a datagram a message, cut between two characters where receivers need not take more', async () => {
		const socket = dgram.createSocket('udp4');
		endings.push(() => socket.close());
		const messages: Buffer[] = [];
		socket.on('message', (bytes) => messages.push(bytes));
		socket.bind(0, '127.0.0.1');
		await once(socket, 'listening');
		const listener = await startListener({
			routes: `log: { syslog: { facility: ntp, address: "udp://localhost:${socket.address().port}" } }
routes:
  long: { method: get, command: "head -c 4000 /dev/zero | tr '\\\\0' x | sed 's/x/ü/g'" }`,
		});
		await listener.get('/long?async=false');
		await listener.stop();
		await until('the last message', () => messages.some((bytes) => bytes.includes('stopping')));
		const long = messages.find((bytes) => bytes.includes('üüü'));
		assert.ok(long && long.length <= 2048 && long.length > 2040, String(long?.length));
		assert.match(parsed(long.toString()).text, /^ü+…$/);
		assert.equal(parsed(messages[0]!.toString()).pri, 12 * 8 + 6);
	});
});

/** A datagram socket in the file system, which Node has none of: a program of test/helpers reads it. */
async function unixReceiver(socket: string): Promise<{ messages: string[]; end: () => Promise<void> }> {
	const program = path.join(import.meta.dirname, 'helpers/receive.py');
	const child: ChildProcess = spawn('python3', [program, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
	const messages: string[] = [];
	const ready = new Promise<void>((resolve) => {
		createInterface(child.stdout!).on('line', (line) => {
			if (line === 'ready') resolve();
			else messages.push(JSON.parse(line));
		});
	});
	const end = async () => {
		if (child.exitCode !== null || child.signalCode !== null) return;
		child.kill('SIGKILL');
		await once(child, 'close');
	};
	endings.push(end);
	await ready;
	return { messages, end };
}

const missing = ['python3', 'logger'].filter((name) => spawnSync(name, ['--version']).error);

describe('syslog of this host', { skip: missing.length > 0 && `${missing} not found` }, () => {
	/** Processes that hand on the lines of this listener. */
	const loggers = ({ process: { pid } }: Listener) =>
		fs.readdirSync('/proc').filter((entry) => {
			try {
				const words = fs.readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0');
				return words[0] === 'logger' && words.includes(`--id=${pid}`);
			} catch {
				// It is no process, or has ended while we looked.
				return false;
			}
		});

	test('RK-V5: gets every line as its programs send them, also the last ones, though the signal reaches all', async () => {
		const socket = path.join(temporaryDirectory(), 'log');
		const daemon = await unixReceiver(socket);
		const listener = await startListener({
			routes: `log: { level: debug, syslog: { facility: local0, address: "unix:${socket}" } }\nroutes:${counting}`,
		});
		await listener.get('/count?name=grün&lines=1&async=false');
		const { json } = await listener.get('/count?name=a&lines=2000&async=false');
		// systemd and terminals send it to every process of the service.
		const handingOn = loggers(listener);
		assert.equal(handingOn.length, 1);
		for (const pid of handingOn) process.kill(Number(pid), 'SIGTERM');
		await listener.stop();
		await until('the last line', () => daemon.messages.some((message) => message.includes(': stopping ')));
		const local0 = 16 * 8;
		const form = /^<(\d+)>(\w{3} [ \d]\d \d\d:\d\d:\d\d) puppet-webhook\[(\d+)\]: (.*)$/;
		const taken = daemon.messages.map((message) => form.exec(message) ?? assert.fail(message));
		assert.equal(taken.length, listener.log().length);
		for (const [, pri, , pid] of taken) {
			assert.ok(Number(pri) > local0 && Number(pri) < local0 + 8);
			assert.equal(Number(pid), listener.process.pid);
		}
		const counts = taken.map(([, , , , text]) => text!).filter((text) => text.startsWith('a-'));
		assert.deepEqual(
			counts,
			Array.from({ length: 2000 }, (_, i) => `a-${i} run=${json.id} route=count`),
		);
		assert.deepEqual(loggers(listener), []);
	});

	test('is tried again when there is no daemon yet, which the console says once', async () => {
		const socket = path.join(temporaryDirectory(), 'log');
		const listener = await startListener({
			routes: `log: { syslog: { address: "unix:${socket}" } }\nroutes:${counting}`,
		});
		const failure = /^the log cannot be written to syslog unix:/;
		const line = await listener.logged('the failure', ({ message }) => failure.test(message));
		assert.match(String(line.error), /^logger\(1\): .*No such file or directory/);
		const daemon = await unixReceiver(socket);
		await listener.logged('recovery', ({ message }) => /^the log reaches syslog unix:/.test(message));
		await listener.get('/count?name=a&lines=1&async=false');
		await listener.stop();
		await until('the line', () => daemon.messages.some((message) => message.includes(': a-0 ')));
		assert.equal(listener.log().filter(({ message }) => failure.test(message)).length, 1);
	});
});

describe('a reload', () => {
	test('opens and closes places and changes levels without losing a line that runs print meanwhile', async () => {
		const dir = temporaryDirectory();
		const [first, second] = [path.join(dir, 'first.log'), path.join(dir, 'second.log')];
		const routes = (file: string) =>
			`listen: { address: 127.0.0.1, port: 0 }\nlog: { format: json, file: { path: ${file} } }\nroutes:${counting}`;
		const listener = await startListener({ routes: routes(first) });
		const names = ['a', 'b', 'c', 'd', 'e', 'f'];
		const running = names.map((name) => listener.get(`/count?name=${name}&lines=3000&async=false`));
		for (let n = 0; n < 10; n++) {
			fs.writeFileSync(listener.config, routes(n % 2 === 0 ? second : first));
			assert.equal((await listener.request('/-/reload', { method: 'POST' })).status, 200);
		}
		await Promise.all(running);
		await listener.stop();
		assert.ok(linesOf(second).length > 0);
		assert.deepEqual(
			[...linesOf(first), ...linesOf(second)].sort(),
			listener
				.log()
				.map((line) => JSON.stringify(line))
				.sort(),
		);
	});
});

describe("a route's own level", () => {
	const routes = (quiet: string) => `listen: { address: 127.0.0.1, port: 0 }
log: { format: json }
defaults: { method: get }
routes:
  usual: { command: echo usual }
  quiet: { command: "echo quiet; exit $code", params: { code: { default: 0 } }, log: ${quiet} }
  silent: { command: "echo silent; exit 1", log: none }
  chatty: { command: echo chatty, log: debug }
`;
	const about = (listener: Listener, route: string) =>
		listener
			.log()
			.filter((line) => line.route === route)
			.map(({ level, message }) => `${level} ${message}`);

	test('decides which lines about it are logged, more or fewer than for the others', async () => {
		const listener = await startListener({ routes: routes('warn') });
		for (const url of ['/silent', '/quiet', '/quiet?code=4', '/chatty', '/usual'])
			await listener.get(`${url}${url.includes('?') ? '&' : '?'}async=false`);
		await listener.logged('the last', (line) => line.message === 'delivery' && line.route === 'usual');
		assert.deepEqual(about(listener, 'usual'), ['info usual', 'info run finished', 'info delivery']);
		assert.deepEqual(about(listener, 'quiet'), ['warn run finished']);
		assert.deepEqual(about(listener, 'silent'), []);
		assert.deepEqual(about(listener, 'chatty'), [
			'debug run started',
			'info chatty',
			'info run finished',
			'info delivery',
		]);

		fs.writeFileSync(listener.config, routes('info'));
		await listener.request('/-/reload', { method: 'POST' });
		await listener.get('/quiet?async=false');
		await listener.logged('its delivery', (line) => line.message === 'delivery' && line.route === 'quiet');
		await listener.stop();
	});

	test('can be one for all routes, in defaults', async () => {
		const listener = await startListener({
			routes:
				'defaults: { method: get, log: none }\nroutes:\n  a: { command: echo a }\n  b: { command: echo b, log: info }\n',
		});
		await listener.get('/a?async=false');
		await listener.get('/b?async=false');
		await listener.stop();
		assert.deepEqual(about(listener, 'a'), []);
		assert.deepEqual(about(listener, 'b'), ['info b', 'info run finished', 'info delivery']);
	});
});
