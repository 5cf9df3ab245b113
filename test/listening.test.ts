/** Where the listener listens, how it begins and how it ends. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import tls from 'node:tls';
import {
	type Listener,
	type LogLine,
	send,
	spawnListener,
	startListener,
	temporaryDirectory,
	until,
} from './helpers/listener.ts';
import { RawConnection } from './helpers/raw.ts';

const routes = 'routes:\n  got: { method: get, command: "true" }\n';

/** Waits for the listener to give up, and gives what it said to the operator. */
async function refusal(listener: Listener): Promise<string> {
	const { code } = await listener.exited();
	assert.equal(code, 1);
	return listener.stderr;
}

/** A listener whose configuration is exactly this. */
const listening = (
	listen: string,
	more: { auth?: boolean; files?: Record<string, string>; dir?: string } = {},
) => ({
	routes: `listen: ${listen}\n${more.auth ? 'defaults: { auth: none }\n' : ''}${routes}`,
	...(more.files ? { files: more.files } : {}),
	...(more.dir ? { dir: more.dir } : {}),
});

const addresses = (listener: Listener) => listener.log().filter((line) => line.message === 'listening');

/** Every address that was asked for, once all are open. */
function opened(listener: Listener, count: number): Promise<LogLine[]> {
	return until('all addresses', () => {
		const lines = addresses(listener);
		return lines.length === count ? lines : undefined;
	});
}

describe('addresses', () => {
	test('TW-C2, RK-V11: without a word it listens on loopback only', async () => {
		const listener = await startListener(listening('{ port: 0 }'));
		assert.match(String(addresses(listener)[0]?.address), /^127\.0\.0\.1:\d+$/);
		assert.equal(listener.url, `http://127.0.0.1:${listener.port}`);
		assert.equal((await listener.get('/got')).status, 202);
		for (const { address } of Object.values(os.networkInterfaces()).flatMap((all) => all ?? [])) {
			if (address.startsWith('127.') || net.isIPv6(address)) continue;
			await assert.rejects(send({ host: address, port: listener.port }, '/got'), { code: 'ECONNREFUSED' });
		}
	});

	test('RK-V8, RK-C3, RK-C4, PW-B6: "::" listens on every address, IPv4 and IPv6, and knows IPv4 callers by their address', async () => {
		const listener = await startListener(listening('{ address: "::", port: 0 }', { auth: true }));
		assert.match(String(addresses(listener)[0]?.address), /^\[::\]:\d+$/);
		assert.equal((await send({ host: '::1', port: listener.port }, '/got')).status, 202);
		assert.equal((await send({ host: '127.0.0.1', port: listener.port }, '/got')).status, 202);
		const clients = await until('both deliveries', () => {
			const lines = listener.log().filter((line) => line.message === 'delivery');
			return lines.length === 2 ? lines.map((line) => line.client) : undefined;
		});
		assert.deepEqual(clients.sort(), ['127.0.0.1', '::1']);
	});

	test('0.0.0.0 is every IPv4 address and no IPv6', async () => {
		const listener = await startListener(listening('{ address: 0.0.0.0, port: 0 }', { auth: true }));
		assert.equal((await send({ host: '127.0.0.1', port: listener.port }, '/got')).status, 202);
		await assert.rejects(send({ host: '::1', port: listener.port }, '/got'), { code: 'ECONNREFUSED' });
	});

	test('several addresses answer alike', async () => {
		const socket = path.join(temporaryDirectory('pw-'), 'x.sock');
		const listener = await startListener(
			listening(`{ address: [127.0.0.1, "::1", 127.0.0.2, "unix:${socket}"], port: 0 }`),
		);
		const lines = await opened(listener, 4);
		for (const line of lines) {
			const url = String(line.url);
			const target = url.startsWith('unix:')
				? { socketPath: url.slice('unix:'.length) }
				: { host: new URL(url).hostname.replace(/[[\]]/g, ''), port: Number(new URL(url).port) };
			assert.equal((await send(target, '/got', { headers: { host: 'localhost' } })).status, 202, url);
		}
	});

	test('"::" beside 0.0.0.0 leaves IPv4 to the latter', async () => {
		const port = await freePort();
		const listener = await startListener(
			listening(`{ address: ["::", 0.0.0.0], port: ${port} }`, { auth: true }),
		);
		await opened(listener, 2);
		assert.equal((await send({ host: '::1', port }, '/got')).status, 202);
		assert.equal((await send({ host: '127.0.0.1', port }, '/got')).status, 202);
	});
});

describe('a unix socket', () => {
	test('is for its owner and group, counts as local, and goes away with the listener', async () => {
		const dir = temporaryDirectory('pw-');
		const socketPath = path.join(dir, 'x.sock');
		const listener = await startListener(listening(`{ address: "unix:${socketPath}" }`));
		assert.equal(fs.statSync(socketPath).mode & 0o777, 0o660);
		assert.equal((await send({ socketPath }, '/got', { headers: { host: 'localhost' } })).status, 202);
		assert.equal((await send({ socketPath }, '/-/healthy', { headers: { host: 'localhost' } })).status, 200);
		const line = await listener.logged('the delivery', (l) => l.message === 'delivery');
		assert.equal(line.client, 'unix');
		await listener.stop();
		assert.equal(fs.existsSync(socketPath), false);
	});

	test('that a killed listener left behind is taken over', async () => {
		const socketPath = path.join(temporaryDirectory('pw-'), 'x.sock');
		const first = await startListener(listening(`{ address: "unix:${socketPath}" }`));
		await first.stop('SIGKILL');
		assert.equal(fs.existsSync(socketPath), true);
		await startListener(listening(`{ address: "unix:${socketPath}" }`));
		assert.equal((await send({ socketPath }, '/got', { headers: { host: 'localhost' } })).status, 202);
	});

	test('on which another answers is left alone', async () => {
		const socketPath = path.join(temporaryDirectory('pw-'), 'x.sock');
		await startListener(listening(`{ address: "unix:${socketPath}" }`));
		const second = spawnListener(listening(`{ address: "unix:${socketPath}" }`));
		assert.match(
			await refusal(second),
			new RegExp(`cannot listen on unix:${socketPath}: another program listens there`),
		);
		assert.equal((await send({ socketPath }, '/got', { headers: { host: 'localhost' } })).status, 202);
	});

	test('whose path is taken by a file leaves the file alone', async () => {
		const file = path.join(temporaryDirectory('pw-'), 'precious');
		fs.writeFileSync(file, 'data');
		assert.match(
			await refusal(spawnListener(listening(`{ address: "unix:${file}" }`))),
			/a file that is no socket/,
		);
		assert.equal(fs.readFileSync(file, 'utf8'), 'data');
	});

	test('in a directory that does not exist is refused with the remedy', async () => {
		const file = path.join(temporaryDirectory('pw-'), 'none', 'x.sock');
		assert.match(
			await refusal(spawnListener(listening(`{ address: "unix:${file}" }`))),
			/the directory does not exist; create it/,
		);
	});
});

describe('a listener that cannot listen', () => {
	test('XC-7: exits 1 and says so when the port is taken, and closes what it had opened', async () => {
		const first = await startListener(listening('{ port: 0 }'));
		const second = spawnListener(listening(`{ address: ["::1", 127.0.0.1], port: ${first.port} }`));
		assert.match(
			await refusal(second),
			new RegExp(
				`cannot listen on 127\\.0\\.0\\.1 port ${first.port}: another program listens there .*ss -ltnp.*listen\\.port`,
			),
		);
		assert.deepEqual(addresses(second), []);
	});

	test('exits 1 and says so when the address is not of this host', async () => {
		const listener = spawnListener(listening('{ address: 192.0.2.1, port: 0 }', { auth: true }));
		assert.match(
			await refusal(listener),
			/cannot listen on 192\.0\.2\.1 port 0: this host has no such address/,
		);
	});
});

describe('TLS', () => {
	let dir: string;
	before(() => {
		dir = temporaryDirectory('pw-');
		for (const name of ['one', 'two', 'three']) {
			execFileSync(
				'openssl',
				[
					'req',
					'-x509',
					'-newkey',
					'ec',
					'-pkeyopt',
					'ec_paramgen_curve:prime256v1',
					'-nodes',
					'-days',
					'2',
					'-subj',
					`/CN=${name}`,
					'-addext',
					'subjectAltName=DNS:localhost,IP:127.0.0.1',
					'-keyout',
					path.join(dir, `${name}.key`),
					'-out',
					path.join(dir, `${name}.crt`),
				],
				{ stdio: 'ignore' },
			);
		}
	});
	const pem = (name: string) => fs.readFileSync(path.join(dir, name), 'utf8');
	const files = (name: string) => ({ 'tls/cert.pem': pem(`${name}.crt`), 'tls/key.pem': pem(`${name}.key`) });
	const listen = '{ port: 0, tls: { cert: tls/cert.pem, key: tls/key.pem } }';

	/** The common name of the certificate that is shown, and the protocol. */
	function handshake(
		port: number,
		options: tls.ConnectionOptions = {},
	): Promise<{ name: string; protocol: string | null }> {
		return new Promise((resolve, reject) => {
			const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options }, () => {
				resolve({ name: String(socket.getPeerCertificate().subject.CN), protocol: socket.getProtocol() });
				socket.destroy();
			});
			socket.once('error', reject);
		});
	}

	test('PW-H11: a certificate and its key make it HTTPS', async () => {
		const listener = await startListener(listening(listen, { files: files('one') }));
		assert.equal(listener.url, `https://127.0.0.1:${listener.port}`);
		const answer = execFileSync(
			'curl',
			['-sS', '--cacert', path.join(dir, 'one.crt'), `https://127.0.0.1:${listener.port}/got`],
			{ encoding: 'utf8' },
		);
		assert.equal(JSON.parse(answer).runs.length, 1);
		assert.equal((await handshake(listener.port)).name, 'one');
	});

	test('nothing older than TLS 1.2 is spoken', async () => {
		const listener = await startListener(listening(listen, { files: files('one') }));
		assert.equal((await handshake(listener.port, { maxVersion: 'TLSv1.2' })).protocol, 'TLSv1.2');
		await assert.rejects(
			handshake(listener.port, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }),
		);
	});

	test('a renewed certificate is taken up without a restart, and open connections stay', async () => {
		const listener = await startListener(listening(listen, { files: files('one') }));
		const old = tls.connect({ port: listener.port, host: '127.0.0.1', rejectUnauthorized: false });
		await new Promise((resolve) => old.once('secureConnect', resolve));
		let received = '';
		old.setEncoding('utf8').on('data', (text: string) => (received += text));

		// As certbot and Puppet do it: each file replaced as a whole.
		for (const [name, text] of Object.entries(files('two'))) {
			fs.writeFileSync(path.join(listener.dir, `${name}.new`), text);
			fs.renameSync(path.join(listener.dir, `${name}.new`), path.join(listener.dir, name));
		}
		await until('the new certificate', async () => (await handshake(listener.port)).name === 'two');

		old.write('GET /got HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
		await until('the answer', () => received.startsWith('HTTP/1.1 202 '));
		await listener.logged('it', (line) => line.message === 'certificate taken up');
		old.destroy();
	});

	test('a broken or half replaced pair leaves the old one in use and is told', async () => {
		const listener = await startListener(listening(listen, { files: files('one') }));
		fs.writeFileSync(path.join(listener.dir, 'tls/cert.pem'), pem('three.crt'));
		const line = await listener.logged('the refusal', (l) =>
			String(l.message).startsWith('certificate refused'),
		);
		assert.match(String(line.reason), /cert\.pem/);
		assert.equal((await handshake(listener.port)).name, 'one');
		fs.writeFileSync(path.join(listener.dir, 'tls/key.pem'), pem('three.key'));
		await until('the new certificate', async () => (await handshake(listener.port)).name === 'three');
	});

	test('an unreadable certificate, or one whose key is another, is refused at start with exit status 1', async () => {
		const missing = spawnListener(listening('{ port: 0, tls: { cert: none.pem, key: none.key } }'));
		assert.match(await refusal(missing), /none\.pem/);
		const mixed = spawnListener(
			listening(listen, { files: { 'tls/cert.pem': pem('one.crt'), 'tls/key.pem': pem('two.key') } }),
		);
		assert.match(await refusal(mixed), /is not the key of the certificate/);
	});

	test('who speaks no TLS gets no answer, and harms nobody', async () => {
		const listener = await startListener(listening(listen, { files: files('one') }));
		const plain = new RawConnection(listener.port).write('GET /got HTTP/1.1\r\nHost: localhost\r\n\r\n');
		assert.doesNotMatch(await plain.end(), /^HTTP\/1\.1 2/);
		assert.equal((await handshake(listener.port)).name, 'one');
	});
});

describe('the end', () => {
	const slow = `
routes:
  slow: { method: get, params: { file: { pattern: ".*" } }, command: 'echo begun; while ! [ -e "$file" ]; do sleep 0.05; done; echo done' }
`;

	/** A caller that waits for its run, once that is running. */
	async function waiting(listener: Listener, file: string, header = ''): Promise<RawConnection> {
		const caller = new RawConnection(listener.port).write(
			`GET /slow?async=false&file=${file} HTTP/1.1\r\nHost: localhost\r\n${header}\r\n`,
		);
		await until('the run', async () => (await listener.get('/-/runs?state=running')).json.runs.length > 0);
		return caller;
	}

	test('SIGTERM refuses deliveries with 503, and lets who waits have the answer', async () => {
		const listener = await startListener({ routes: slow });
		const file = path.join(listener.dir, 'go');
		const caller = await waiting(listener, file);
		listener.process.kill('SIGTERM');
		await listener.logged('the stop', (line) => line.message === 'stopping');

		const late = await until('the refusal', async () => {
			const answer = await listener.get(`/slow?file=${file}`);
			return answer.status === 503 ? answer : undefined;
		});
		assert.equal(late.headers['retry-after'], '5');
		assert.equal(late.headers.connection, 'close');
		assert.equal(late.json.code, 'ERR_SHUTTING_DOWN');
		// Puppet's client sleeps for Retry-After and then dies of it.
		const puppet = await listener.get(`/slow?file=${file}`, {
			'user-agent': 'Puppet/7.23.0 Ruby/3.1.2-p20 (x86_64-linux-gnu)',
		});
		assert.equal(puppet.status, 503);
		assert.equal(puppet.headers['retry-after'], undefined);
		assert.equal((await listener.get('/-/ready')).status, 503);
		assert.equal((await listener.get('/-/healthy')).status, 200);

		fs.writeFileSync(file, '');
		assert.match(await caller.end(), /^HTTP\/1\.1 200 OK[\s\S]*"state":"succeeded"/);
		assert.deepEqual(await listener.exited(), { code: 0, signal: null });
	});

	test('when the drain time is over, who still waits is told where to look', async () => {
		const listener = await startListener({ routes: slow, args: ['--drain', '200ms'] });
		const file = path.join(listener.dir, 'go');
		const [json, text] = [
			await waiting(listener, file),
			await waiting(listener, file, 'Accept: text/plain\r\n'),
		];
		listener.process.kill('SIGTERM');
		assert.match(await json.end(), /^HTTP\/1\.1 202 /);
		assert.match(await text.end(), /Run goes on: \/-\/runs\//);
		assert.equal((await listener.exited()).code, 0);
	});

	test('an idle connection does not hold the listener up', async () => {
		const listener = await startListener({ routes });
		const idle = new RawConnection(listener.port).write('GET /got HTTP/1.1\r\nHost: localhost\r\n\r\n');
		await until('the answer', () => idle.status === 202);
		assert.equal((await listener.stop()).code, 0);
		await idle.closed;
	});
});

async function freePort(): Promise<number> {
	const server = net.createServer().listen(0, '::');
	await new Promise((resolve) => server.once('listening', resolve));
	const { port } = server.address() as net.AddressInfo;
	await new Promise((resolve) => server.close(resolve));
	return port;
}
