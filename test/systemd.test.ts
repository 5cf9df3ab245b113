/**
 * The listener as a service of systemd: sockets that were opened for it, and what it tells of itself. systemd's own programs
 * hand the sockets over and carry the messages; a receiver stands in for the service manager, which is not there in tests.
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, test } from 'node:test';
import { root, send, startListener, temporaryDirectory, until } from './helpers/listener.ts';
import { hostTest } from './helpers/puppet.ts';

const children: ChildProcess[] = [];
after(async () => {
	for (const child of children) {
		if (child.exitCode !== null || child.signalCode !== null) continue;
		child.kill('SIGKILL');
		await once(child, 'close');
	}
});

/** A service manager that hears what it is told, without the barriers with which systemd-notify makes sure of that. */
async function serviceManager(): Promise<{ socket: string; messages: string[] }> {
	const socket = path.join(temporaryDirectory(), 'notify');
	const child = spawn('python3', [path.join(root, 'test/helpers/receive.py'), socket], {
		stdio: ['ignore', 'pipe', 'inherit'],
	});
	children.push(child);
	const messages: string[] = [];
	createInterface(child.stdout).on('line', (line) => {
		if (line === 'ready') return;
		const said = JSON.parse(line);
		if (said !== 'BARRIER=1') messages.push(said);
	});
	await until('the receiver to listen', () => fs.existsSync(socket));
	return { socket, messages };
}

function notified(title: string, body: () => Promise<void>): void {
	hostTest('systemd-notify', title, body);
}

const hello = 'routes:\n  hello: { method: get, command: echo hello }\n';

notified('tells systemd when it serves, reloads and stops, each with a line for people', async () => {
	const { socket, messages } = await serviceManager();
	const listener = await startListener({ routes: hello, env: { NOTIFY_SOCKET: socket } });
	const said = (what: RegExp) => until(String(what), () => messages.some((message) => what.test(message)));
	await said(/^READY=1\nSTATUS=serving 1 route on 127\.0\.0\.1:\d+$/);

	fs.appendFileSync(listener.config, '  bye: { command: echo bye }\n');
	listener.process.kill('SIGHUP');
	await said(/^READY=1\nSTATUS=serving 2 routes on /);
	const reloading = messages.findIndex((message) => /^RELOADING=1\nMONOTONIC_USEC=\d+\n/.test(message));
	const ready = messages.findLastIndex((message) => message.startsWith('READY=1'));
	assert.ok(reloading > 0 && reloading < ready, messages.join('\n\n'));

	fs.appendFileSync(listener.config, 'nonsense: true\n');
	listener.process.kill('SIGHUP');
	await said(/^READY=1\nSTATUS=routes\.yaml was refused, .*serving the one before$/);

	await listener.stop();
	await said(/^STOPPING=1\nSTATUS=stopping; what runs has up to 60 s$/);
});

notified('answers the watchdog in half of its time, and only as long as it takes deliveries', async () => {
	const { socket, messages } = await serviceManager();
	const watchdog = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '400000' };
	const listener = await startListener({ routes: hello, env: watchdog });
	const beats = () => messages.filter((message) => message === 'WATCHDOG=1').length;
	await until('three beats', () => beats() >= 3);

	// Stopped, it is as deaf as in an endless loop; the shell that carries messages is not.
	listener.process.kill('SIGSTOP');
	let heard = { beats: beats(), at: Date.now() };
	await until('silence for longer than the watchdog would wait', () => {
		if (beats() !== heard.beats) heard = { beats: beats(), at: Date.now() };
		return Date.now() - heard.at > 400;
	});
	listener.process.kill('SIGCONT');
	await until('beats again', () => beats() > heard.beats);
});

notified('takes a watchdog that is meant for another process for none', async () => {
	const { socket, messages } = await serviceManager();
	const watchdog = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '20000', WATCHDOG_PID: '1' };
	const listener = await startListener({ routes: hello, env: watchdog });
	await until('readiness', () => messages.some((message) => message.startsWith('READY=1')));
	await listener.stop();
	assert.ok(!messages.includes('WATCHDOG=1'));
});

notified('does not stop serving when nobody can be told', async () => {
	const listener = await startListener({ routes: hello, env: { NOTIFY_SOCKET: '/nonexistent/notify' } });
	const line = await listener.logged('the failure', (one) => one.message.startsWith('systemd was not told'));
	assert.equal(line.level, 'warn');
	assert.equal((await listener.get('/hello')).status, 202);
	assert.equal((await listener.stop()).code, 0);
});

// ---- Sockets --------------------------------------------------------------------------------------------------

async function freePort(): Promise<number> {
	const server = net.createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	const { port } = server.address() as net.AddressInfo;
	server.close();
	await once(server, 'close');
	return port;
}

/** Opens sockets as a socket unit does; the first connection makes it become the listener. */
function activated(sockets: readonly string[], dir: string, config: string): ChildProcess {
	const listener = ['serve', '--config', config, '--state', path.join(dir, 'state')];
	const child = spawn(
		'systemd-socket-activate',
		[
			...sockets.map((socket) => `--listen=${socket}`),
			process.execPath,
			path.join(root, 'listener/main.ts'),
			...listener,
		],
		{ stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH, TMPDIR: dir } },
	);
	children.push(child);
	return child;
}

function written(routes: string): { dir: string; config: string } {
	const dir = temporaryDirectory();
	const config = path.join(dir, 'routes.yaml');
	fs.writeFileSync(config, routes);
	return { dir, config };
}

async function ended(child: ChildProcess): Promise<number | null> {
	if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
	return child.exitCode;
}

hostTest(
	'systemd-socket-activate',
	'serves on sockets that systemd hands over, TCP and unix, and answers who called before it was there',
	async () => {
		const port = await freePort();
		const { dir, config } = written('');
		const unix = path.join(dir, 'http.sock');
		fs.writeFileSync(
			config,
			`listen: { address: ["0:0::1", "unix:${unix}"], port: ${port} }\nlog: { format: json }\n${hello}`,
		);
		const child = activated([`[::1]:${port}`, unix], dir, config);
		await until('the sockets', () => fs.existsSync(unix));
		// Nobody listens yet but systemd: this call is what starts the listener.
		const answer = await send({ port, host: '::1' }, '/hello?async=false');
		assert.equal(answer.status, 200, answer.text);
		assert.equal((await send({ socketPath: unix }, '/-/healthy')).status, 200);
		child.kill('SIGTERM');
		assert.equal(await ended(child), 0);
		assert.ok(fs.existsSync(unix), 'the socket is systemd’s to remove');
	},
);

hostTest(
	'systemd-socket-activate',
	'refuses a socket where routes.yaml does not listen, since its routes are not secured for that',
	async () => {
		const [port, other] = [await freePort(), await freePort()];
		const { dir, config } = written(`listen: { address: 127.0.0.1, port: ${port} }\n${hello}`);
		const child = activated([`127.0.0.1:${other}`], dir, config);
		let said = '';
		child.stderr?.on('data', (text) => (said += text));
		const caller = await until('the socket', async () => {
			const socket = net.connect(other, '127.0.0.1');
			return once(socket, 'connect').then(
				() => socket,
				() => undefined,
			);
		});
		caller.on('error', () => {});
		assert.equal(await ended(child), 1);
		assert.match(
			said,
			new RegExp(`was handed a socket for 127\\.0\\.0\\.1:${other}, .*make ListenStream= .* agree`),
		);
	},
);

hostTest('python3', 'no connection is lost over a restart when systemd holds the socket', async () => {
	const port = await freePort();
	const { dir, config } = written(
		`listen: { address: 127.0.0.1, port: ${port} }\nlog: { format: json }\n${hello}`,
	);
	// Holds the socket as systemd does, and starts the listener anew whenever it has ended, until its input ends.
	const holder = `
import os, socket, subprocess, sys
held = socket.create_server(("127.0.0.1", ${port}), backlog=128)
def hand_over():
    os.dup2(held.fileno(), 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
while True:
    child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, pass_fds=[3], preexec_fn=hand_over)
    print(child.pid, flush=True)
    child.wait()
    if not sys.stdin.readline(): break
`;
	const child = spawn(
		'python3',
		[
			'-c',
			holder,
			process.execPath,
			path.join(root, 'listener/main.ts'),
			'serve',
			'--config',
			config,
			'--state',
			path.join(dir, 'state'),
		],
		{ stdio: ['pipe', 'pipe', 'inherit'], env: { PATH: process.env.PATH, TMPDIR: dir } },
	);
	children.push(child);
	const pids: number[] = [];
	createInterface(child.stdout).on('line', (line) => pids.push(Number(line)));
	await until('the first listener', () => pids.length === 1);

	const statuses: (number | string)[] = [];
	let calling = true;
	const callers = Array.from({ length: 4 }, async () => {
		while (calling) {
			await send({ port }, '/hello').then(
				(answer) => statuses.push(answer.status),
				(error) => statuses.push(error.code),
			);
		}
	});
	for (const restart of [1, 2]) {
		const before = statuses.length;
		await until('deliveries', () => statuses.length > before + 20);
		process.kill(pids.at(-1)!, 'SIGTERM');
		child.stdin.write('again\n');
		await until('the next listener', () => pids.length === restart + 1);
	}
	const before = statuses.length;
	await until('deliveries', () => statuses.length > before + 20);
	calling = false;
	await Promise.all(callers);
	child.stdin.end();
	process.kill(pids.at(-1)!, 'SIGTERM');
	await ended(child);
	// 503 is an answer too: it says that the listener is stopping, and when to come again.
	const lost = statuses.filter((status) => status !== 202 && status !== 503);
	assert.deepEqual(lost, []);
});

test('sockets that were meant for another process are left alone', async () => {
	const listener = await startListener({ routes: hello, env: { LISTEN_PID: '1', LISTEN_FDS: '1' } });
	assert.equal((await listener.get('/hello')).status, 202);
});
