/** `wait`: a run is followed while it goes on, over broken connections and restarts of the listener. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net, { type AddressInfo } from 'node:net';
import path from 'node:path';
import { after } from 'node:test';
import { startListener, temporaryDirectory, until } from '../helpers/listener.ts';
import { puppetApply, puppetTest } from '../helpers/puppet.ts';

/** Hands on connections to a port that may change, and cuts them on demand: what lies between a Puppet agent and a listener. */
class Wire {
	readonly #server: net.Server;
	readonly #open = new Set<net.Socket>();
	target = 0;
	/** How many connections there have been. */
	count = 0;

	constructor() {
		this.#server = net.createServer((caller) => {
			this.count++;
			const listener = net.connect(this.target, '127.0.0.1');
			for (const socket of [caller, listener]) {
				this.#open.add(socket);
				socket.on('error', () => undefined);
				socket.on('close', () => {
					caller.destroy();
					listener.destroy();
					this.#open.delete(socket);
				});
			}
			caller.pipe(listener).pipe(caller);
		});
	}

	async listen(): Promise<number> {
		this.#server.listen(0, '127.0.0.1');
		await once(this.#server, 'listening');
		return (this.#server.address() as AddressInfo).port;
	}

	cut(): void {
		for (const socket of this.#open) socket.destroy();
	}

	close(): void {
		this.#server.close();
		this.cut();
	}
}

const wires: Wire[] = [];
after(() => {
	for (const wire of wires) wire.close();
});

/** A route that says one, then waits for the test, then says two. */
const routes = (dir: string) => `
routes:
  two_steps: { method: post, params: { n: {} }, command: 'echo one; until test -e ${dir}/go; do sleep 0.05; done; echo two' }
`;

async function applied(dir: string, port: number, more = '') {
	const log = path.join(dir, 'puppet.log');
	const finished = puppetApply(
		`http { 'two_steps': fqdn => '127.0.0.1', port => ${port}, data => { 'n' => 1 }, wait => true ${more} }`,
		{ options: ['--logdest', log, '--logdest', 'console'] },
	);
	const lines = () =>
		(fs.existsSync(log) ? fs.readFileSync(log, 'utf8') : '')
			.split('\n')
			.flatMap((line) => line.match(/Http\[two_steps\].*?: (one|two)$/)?.[1] ?? []);
	return { finished, lines };
}

puppetTest(
	'wait logs each line as it comes, and tells none twice when the connection breaks off',
	async () => {
		const dir = temporaryDirectory();
		const listener = await startListener({ routes: routes(dir) });
		const wire = new Wire();
		wires.push(wire);
		wire.target = listener.port;
		const { finished, lines } = await applied(dir, await wire.listen(), `, save_to => '${dir}/output'`);

		await until('the first line in the log of Puppet', () => lines().includes('one'));
		wire.cut();
		await until('the same call once more', () => wire.count > 1);
		fs.writeFileSync(path.join(dir, 'go'), '');

		const ran = await finished;
		assert.equal(ran.code, 2, ran.stderr);
		assert.deepEqual(lines(), ['one', 'two']);
		assert.equal(fs.readFileSync(path.join(dir, 'output'), 'utf8'), 'one\ntwo\n');
		assert.match(
			ran.stdout,
			/Http\[two_steps\]\/ensure: sent POST .*: 200 OK, run \w{26} succeeded, saved to/,
		);
		assert.equal(await listener.runCount(), 1);
	},
);

puppetTest('wait outlasts a listener that dies and comes back', async () => {
	const dir = temporaryDirectory();
	const listener = await startListener({ routes: routes(dir) });
	const wire = new Wire();
	wires.push(wire);
	wire.target = listener.port;
	const { finished, lines } = await applied(dir, await wire.listen());

	await until('the first line in the log of Puppet', () => lines().includes('one'));
	await listener.stop('SIGKILL');
	const again = await listener.again();
	wire.target = again.port;
	fs.writeFileSync(path.join(dir, 'go'), '');

	const ran = await finished;
	assert.equal(ran.code, 2, ran.stderr);
	assert.deepEqual(lines(), ['one', 'two']);
	const { runs } = (await again.get('/-/runs')).json;
	assert.deepEqual(
		runs.map(({ state, attempt }: { state: string; attempt: number }) => [state, attempt]),
		[['succeeded', 2]],
	);
});
