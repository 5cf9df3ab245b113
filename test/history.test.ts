/** What is kept of runs that have ended, and how to have one again. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { type Listener, startListener, until } from './helpers/listener.ts';

async function accept(listener: Listener, route: string, body?: object): Promise<string> {
	const accepted = await listener.post(`/${route}`, body);
	assert.equal(accepted.status, 202, accepted.text);
	return accepted.json.runs[0].id;
}

const filesOf = (listener: Listener) => fs.readdirSync(path.join(listener.state, 'output')).sort();

/** Ids of the runs of a route, oldest first. */
async function idsOf(listener: Listener, route: string): Promise<string[]> {
	const answer = await listener.get(`/-/runs?limit=200&route=${route}`);
	return answer.json.runs.map(({ id }: { id: string }) => id).reverse();
}

const waitForGo = 'while [ ! -e go ]; do sleep 0.02; done';

test('keep: of a route that says 3 the newest 3 runs stay, with their output, and those that have not ended', async () => {
	const routes = (keep: string) => `
listen: { address: 127.0.0.1, port: 0 }
log: { format: json, level: debug }
routes:
  few: { keep: ${keep}, params: { go: {} }, command: 'seq 10000; [ "$go" ] || exit 0; ${waitForGo}' }
  many: { command: 'seq 10000' }
`;
	const listener = await startListener({ routes: routes('3') });
	const others = [await accept(listener, 'many'), await accept(listener, 'many')];
	const ended: string[] = [];
	for (let i = 0; i < 8; i++) {
		ended.push(await accept(listener, 'few'));
		await listener.ended(ended.at(-1)!);
	}
	const open = [await accept(listener, 'few', { go: 'wait' }), await accept(listener, 'few', { go: 'wait' })];
	await until('five runs to go', async () => (await idsOf(listener, 'few')).length === 5);
	assert.deepEqual(await idsOf(listener, 'few'), [...ended.slice(5), ...open]);
	await until('their files to go', () => filesOf(listener).length <= 6);
	assert.deepEqual(
		filesOf(listener).filter((id) => id !== open[0]),
		[...others, ...ended.slice(5)].sort(),
	);
	assert.equal((await listener.get(`/-/runs/${ended[0]}`)).status, 404);
	assert.equal((await listener.get(`/-/runs/${ended[0]}/output`)).status, 404);

	// What a changed file says counts for the runs there are.
	fs.writeFileSync(listener.config, routes('{ runs: 1, age: 1h }'));
	assert.equal((await listener.post('/-/reload')).status, 200);
	await until('two more to go', async () => (await idsOf(listener, 'few')).length === 3);
	fs.writeFileSync(path.join(listener.dir, 'go'), '');
	for (const id of open) assert.equal((await listener.ended(id)).state, 'succeeded');
	await until('all but the last to go', async () => (await idsOf(listener, 'few')).join() === open[1]);
	assert.deepEqual(await idsOf(listener, 'many'), others);
});

test('keep: runs that ended longer ago than the age go', async () => {
	const listener = await startListener({
		routes:
			'defaults: { keep: { age: 1s } }\nroutes: { short: { command: seq 10000 }, tick: { command: "true" } }\n',
	});
	const id = await accept(listener, 'short');
	await listener.ended(id);
	await until('it to go', async () => {
		// A changed file has every route looked at.
		await listener.post('/-/reload');
		return (await listener.get(`/-/runs/${id}`)).status === 404;
	});
	await until('its file to go', () => filesOf(listener).length === 0);
});

test('keep: output that a crash left behind without its run goes at the next start; other files stay', async () => {
	const listener = await startListener({ routes: 'routes: { a: { command: seq 10000 } }\n' });
	const id = await accept(listener, 'a');
	await listener.ended(id);
	await listener.stop('SIGKILL');
	const output = path.join(listener.state, 'output');
	fs.copyFileSync(path.join(output, id), path.join(output, `${id.slice(0, -3)}000`));
	fs.writeFileSync(path.join(output, 'notes.txt'), 'mine');
	const next = await listener.again();
	await until('the orphan to go', () => filesOf(next).length === 2);
	assert.deepEqual(filesOf(next), [id, 'notes.txt'].sort());
});

test('keep: removing thousands of runs holds up nobody', async () => {
	const routes = (keep: number) => `
listen: { address: 127.0.0.1, port: 0 }
log: { format: json, level: info }
routes: { a: { keep: ${keep}, concurrency: { when_busy: coalesce }, command: '${waitForGo}' }, b: { command: [/bin/true] } }
`;
	const listener = await startListener({ routes: routes(5000) });
	// One runs; another one waits and is cancelled, again and again.
	const first = await accept(listener, 'a');
	await until('the first to run', async () => (await listener.run(first)).state === 'running');
	for (let i = 0; i < 1000; i++) await listener.post(`/-/runs/${await accept(listener, 'a')}/cancel`);
	const total = await listener.runCount('a');
	assert.equal(total, 200);
	fs.writeFileSync(listener.config, routes(1));
	await listener.post('/-/reload');
	const times: number[] = [];
	let states: string[] = [];
	await until('all but two to go', async () => {
		const began = performance.now();
		const { json } = await listener.get('/-/runs?route=a&limit=5');
		times.push(performance.now() - began);
		states = json.runs.map(({ state }: { state: string }) => state);
		return states.length <= 2;
	});
	assert.deepEqual(states, ['cancelled', 'running']);
	times.sort((a, b) => a - b);
	// Far above what a slice takes, and far below what all of them together would.
	assert.ok(times[Math.floor(times.length * 0.9)]! < 50, `answers took ${times}`);
	fs.writeFileSync(path.join(listener.dir, 'go'), '');
	await listener.ended(first);
});

const rerunRoutes = (command: string) => `
routes:
  deploy:
    params: { version: { required: true } }
    stdin: body
    concurrency: { group: 'deploy-{{version}}', when_busy: reject }
    respond: { accepted: { body: 'on its way' } }
    command: '${command}'
`;

test('rerun: does the same again as it was decided then, input included, as a new run', async () => {
	const first = await startListener({ routes: rerunRoutes('echo old $version; cat; exit 3') });
	const body = { version: '1.2', note: 'from the body' };
	const answer = await first.post('/deploy', body);
	const id = answer.headers.location!.split('/').at(-1)!;
	const run = await first.ended(id);
	await first.stop();
	fs.writeFileSync(first.config, fs.readFileSync(first.config, 'utf8').replace('echo old', 'echo new'));
	const listener = await first.again();
	const again = await listener.post(`/-/runs/${id}/rerun`);
	assert.equal(again.status, 202, again.text);
	const { id: newId, url, route } = again.json.runs[0];
	assert.equal(again.headers.location, url);
	assert.notEqual(newId, id);
	assert.equal(route, 'deploy');
	const rerun = await listener.ended(newId);
	assert.deepEqual(
		[rerun.state, rerun.exitCode, rerun.parameters, rerun.group, rerun.delivery, rerun.attempt],
		['failed', 3, run.parameters, run.group, run.delivery, 1],
	);
	assert.equal(await listener.output(newId), `old 1.2\n${JSON.stringify(body)}`);
	assert.deepEqual(await listener.run(id), run, 'the first stays as it was');
});

test('rerun: refuses with the reason what it cannot repeat', async () => {
	const listener = await startListener({ routes: rerunRoutes(`cat >/dev/null; ${waitForGo}`) });
	const post = (path: string, headers = {}) => listener.post(path, undefined, headers);
	const rerun = (id: string) => post(`/-/runs/${id}/rerun`);
	assert.equal((await rerun('unknown')).status, 404);
	assert.equal((await post('/-/runs/x/rerun', { 'x-forwarded-for': '192.0.2.1' })).status, 403);
	assert.equal((await post('/-/runs/x/rerun', { origin: 'https://evil.example' })).status, 403);
	assert.equal((await listener.get('/-/runs/x/rerun')).status, 405);

	const long = await listener.post('/deploy', { version: '1', long: 'x'.repeat(300_000) });
	const id = long.headers.location!.split('/').at(-1)!;
	const busy = await rerun(id);
	assert.deepEqual([busy.status, busy.json.code], [409, 'ERR_BUSY']);
	fs.writeFileSync(path.join(listener.dir, 'go'), '');
	await listener.ended(id);
	const gone = await rerun(id);
	assert.equal(gone.status, 409);
	assert.match(gone.json.detail, /input is not kept.*256 KiB; send the request again/);
});
