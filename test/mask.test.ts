/** What is secret is seen nowhere: not in output, whatever piece of it is asked for, not in the log, not in what is told of a run. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { Mask } from '../listener/mask.ts';
import { Outputs, OutputWriter } from '../listener/runs/output.ts';
import type { Run } from '../listener/runs/run.ts';
import type { Store } from '../listener/stores/store.ts';
import {
	command,
	type Listener,
	spawnListener,
	startListener,
	temporaryDirectory,
} from './helpers/listener.ts';

const buffers = (...texts: string[]) => texts.map((text) => Buffer.from(text));

/** What a stream gives of pieces, in one. */
function streamed(mask: Mask, pieces: readonly Buffer[]): string {
	const stream = mask.stream();
	return Buffer.concat([...pieces.map((piece) => stream.write(piece)), stream.end()]).toString('latin1');
}

/** Said as plainly as possible: every byte that belongs to a secret somewhere is a star. */
function simply(text: string, secrets: readonly string[]): string {
	const hidden = [...text].map(() => false);
	for (const secret of secrets.filter(({ length }) => length >= 4)) {
		for (let at = 0; at <= text.length - secret.length; at++) {
			if (text.startsWith(secret, at)) hidden.fill(true, at, at + secret.length);
		}
	}
	return [...text].map((character, index) => (hidden[index] ? '*' : character)).join('');
}

describe('a mask', () => {
	test('puts a star for each byte, so that all offsets stay right', () => {
		const mask = new Mask(['s3cr3t', 'Grün']);
		assert.equal(mask.text('a s3cr3t, s3cr3ts3cr3t and Grün.'), 'a ******, ************ and *****.');
		assert.deepEqual(mask.value({ a: ['s3cr3t', 1, null], b: { c: 'xs3cr3t' } }), {
			a: ['******', 1, null],
			b: { c: 'x******' },
		});
	});

	test('hides lines of a secret one by one, and nothing that is shorter than 4 bytes', () => {
		const mask = new Mask(['-----BEGIN KEY-----\r\nAAAABBBB\nxyz\n', 'on']);
		assert.equal(mask.text('the key is AAAABBBB, on, xyz'), 'the key is ********, on, xyz');
	});

	test('hides a secret as programs write it: in JSON, in addresses and forms, in base64 whatever stands beside it', () => {
		const secret = 'it"s\\a s3cr3t/ü?';
		const mask = new Mask([secret]);
		for (const written of [
			JSON.stringify(secret).slice(1, -1),
			encodeURIComponent(secret),
			encodeURI(secret),
			new URLSearchParams({ '': secret }).toString().slice(1),
		])
			assert.equal(mask.text(`(${written})`), `(${'*'.repeat(Buffer.byteLength(written))})`);
		for (const before of ['', 'u', 'us', 'user', 'user:'])
			for (const form of ['base64', 'base64url'] as const) {
				const masked = mask.text(Buffer.from(`${before}${secret}x`).toString(form));
				assert.match(masked, /^[\w+/-]{0,8}\*{20,}[\w+/=-]{0,4}$/);
			}
		assert.equal(new Mask(['https://chat.example/T0/B0/x']).text('POST /T0/B0/x: 404'), 'POST ********: 404');
	});

	test('takes others in place of what it had, and gives back what it has not to change', () => {
		const mask = new Mask(['before']);
		mask.replace(['after']);
		assert.equal(mask.text('before after'), 'before *****');
		const bytes = Buffer.from('nothing');
		assert.equal(mask.bytes(bytes), bytes);
		mask.replace([]);
		assert.ok(mask.empty);
		assert.equal(mask.text('after'), 'after');
	});

	test('holds back only what may be the beginning of a secret', () => {
		const stream = new Mask(['s3cr3t']).stream();
		assert.equal(stream.write(Buffer.from('is: s3c')).toString(), 'is: ');
		assert.equal(stream.write(Buffer.from('ond')).toString(), 's3cond');
		assert.equal(stream.write(Buffer.from('s3cr3')).toString(), '');
		assert.equal(stream.write(Buffer.from('t')).toString(), '******');
		assert.equal(stream.write(Buffer.from('s3cr')).toString(), '');
		assert.equal(stream.end().toString(), 's3cr');
	});

	test('hides the same whatever the pieces, as the plainest way of looking does', () => {
		const few = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 60 });
		const secrets = fc.array(
			fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 3, maxLength: 9 }),
			{
				maxLength: 3,
			},
		);
		fc.assert(
			fc.property(few, secrets, fc.array(fc.nat(60), { maxLength: 8 }), (text, hidden, cuts) => {
				const mask = new Mask(hidden);
				const places = [
					0,
					...cuts.map((cut) => Math.min(cut, text.length)).sort((a, b) => a - b),
					text.length,
				];
				const pieces = places.slice(1).map((to, index) => Buffer.from(text.slice(places[index], to)));
				const expected = simply(text, hidden);
				assert.equal(streamed(mask, pieces), expected);
				assert.equal(mask.text(text), expected);
			}),
			{ numRuns: 2000 },
		);
	});

	test('a secret that repeats itself does not make it slow', () => {
		const mask = new Mask(['-'.repeat(1000)]);
		const begun = performance.now();
		assert.equal(mask.text('-'.repeat(200_000)), '*'.repeat(200_000));
		assert.ok(performance.now() - begun < 5_000);
	});
});

describe('output', () => {
	/** Outputs that have one run, of which this was printed. */
	async function outputsOf(pieces: readonly Buffer[], most: number, mask: Mask, secrets: string[] = []) {
		const state = temporaryDirectory();
		const id = '0'.repeat(26);
		let outputSize = 0;
		let short: Buffer | null = null;
		const run = () => ({ id, state: 'succeeded', plan: { maxOutput: most }, outputSize }) as Run;
		const store = { get: async () => run(), shortOutput: async () => short } as unknown as Store;
		const outputs = new Outputs(state, store, mask);
		const file = path.join(outputs.directory, id);
		const writer = new OutputWriter(file, most, () => {}, secrets);
		for (const piece of pieces) writer.write(piece);
		({ size: outputSize, short } = await writer.end());
		return { outputs, id, file };
	}

	async function read(outputs: Outputs, id: string, from: number) {
		let text = '';
		let at = -1;
		for await (const part of outputs.read(id, from)) {
			if (at < 0) at = part.cut?.from ?? part.from;
			text += `${part.cut ? `[${part.cut.from}-${part.cut.to}]` : ''}${part.bytes.toString('latin1')}`;
		}
		return { text, at };
	}

	test('is hidden the same from whatever byte it is read', async () => {
		const printed = `${'x'.repeat(20_000)}the s3cr3t ${'y'.repeat(50_000)}s3cr3ts3cr3t`;
		const { outputs, id } = await outputsOf(buffers(printed), 1024 * 1024, new Mask(['s3cr3t']));
		const expected = simply(printed, ['s3cr3t']);
		for (const from of [
			0, 1, 20_003, 20_004, 20_005, 20_009, 20_010, 20_011, 70_011, 70_017, 70_018, 70_022,
		]) {
			const { text, at } = await read(outputs, id, from);
			assert.equal(text, expected.slice(from), `from ${from}`);
			if (text !== '') assert.equal(at, from);
		}
	});

	test('a secret that a cut tears apart is hidden on both sides of it', async () => {
		// Kept are the first and the last 512 bytes.
		const printed = `${'a'.repeat(507)}s3cr3ts3cr3t${'b'.repeat(20_000)}s3cr3ts3cr3t${'c'.repeat(507)}`;
		const { outputs, id } = await outputsOf(buffers(printed), 1024, new Mask(['s3cr3ts3cr3t']));
		const to = printed.length - 512;
		assert.equal(
			(await read(outputs, id, 0)).text,
			`${'a'.repeat(507)}*****[512-${to}]*****${'c'.repeat(507)}`,
		);
		assert.equal((await read(outputs, id, to + 2)).text, `***${'c'.repeat(507)}`);
		assert.equal((await read(outputs, id, 600)).text, `[600-${to}]*****${'c'.repeat(507)}`);
	});

	test('secrets of the run itself never reach the disk', async () => {
		const pieces = buffers('x'.repeat(20_000), 'pass', 'word', ' and pass');
		const { outputs, id, file } = await outputsOf(pieces, 1024 * 1024, new Mask(), ['password']);
		const expected = `${'x'.repeat(20_000)}******** and pass`;
		assert.equal((await read(outputs, id, 0)).text, expected);
		assert.equal(fs.readFileSync(file, 'latin1').slice(0, expected.length), expected);
	});
});

describe('a secret parameter', () => {
	const secret = 'hunter2-tOKen';
	const routes = `
routes:
  login:
    method: [get, post]
    params: { user: {}, password: { secret: true, required: true } }
    stdin: parameters
    concurrency: { when_busy: coalesce }
    command: cat; echo "$user logs in with $password"; printf '%s' "$password" | head -c 6; echo; test "$password" != wrong-one
  slow:
    params: { password: { secret: true }, file: { pattern: ".*" } }
    command: echo "$password"; until test -e "$file"; do sleep 0.02; done; echo "again $password"
`;
	/** Everything below the state directory. */
	const onDisk = ({ state }: Listener) =>
		fs
			.readdirSync(state, { recursive: true, withFileTypes: true })
			.filter((entry) => entry.isFile())
			.map((entry) => fs.readFileSync(path.join(entry.parentPath, entry.name), 'latin1'))
			.join('\n');

	test('reaches the command, and is seen nowhere', async () => {
		const listener = await startListener({ routes });
		const answer = await listener.post('/login?async=false', { user: 'root', password: secret });
		assert.equal(answer.status, 200, answer.text);
		const stars = '*'.repeat(secret.length);
		const printed = `{"user":"root","password":"${stars}"}\nroot logs in with ${stars}\n${secret.slice(0, 6)}\n`;
		assert.equal(answer.json.output.text, printed);
		assert.deepEqual(answer.json.parameters, { user: 'root', password: '***' });
		const { id } = answer.json;
		assert.equal(await listener.output(id), printed);
		const shown = await command(['runs', id, '--url', listener.url]);
		assert.match(shown.stdout, /password +\*\*\*/);
		const list = await listener.get('/-/runs');
		const told = await listener.get('/-/routes');
		assert.equal(told.json.routes[0].parameters[1].secret, true);

		const rerun = await listener.post(`/-/runs/${id}/rerun`);
		assert.equal(rerun.status, 409);
		assert.match(
			rerun.json.detail,
			/had secret parameters \(password\), whose values are not kept; send the request again/,
		);
		await listener.logged('its output', (line) => line.message === `root logs in with ${stars}`);
		for (const text of [answer.text, shown.stdout, list.text, told.text, JSON.stringify(listener.log())])
			assert.ok(!text.includes(secret), text);
		await listener.stop();
		assert.ok(!onDisk(listener).includes(secret), 'it is kept no longer than the run');
	});

	test('is hidden while the run goes on, survives a crash, and is gone with a cancelled run', async () => {
		const listener = await startListener({ routes });
		const file = path.join(listener.dir, 'go');
		const { json } = await listener.post('/slow', { password: secret, file });
		const { id } = json.runs[0];
		const waiting = (await listener.post('/slow', { password: `${secret}2`, file })).json.runs[0].id;
		assert.equal((await listener.run(waiting)).parameters.password, '***');
		await listener.stop('SIGKILL');
		const next = await listener.again();
		fs.writeFileSync(file, '');
		await next.ended(id);
		const stars = '*'.repeat(secret.length);
		assert.equal(await next.output(id), `${stars}\nagain ${stars}\n`);
		await next.ended(waiting);
		fs.rmSync(file);
		const running = (await next.post('/slow', { password: secret, file })).json.runs[0].id;
		const queued = (await next.post('/slow', { password: secret, file })).json.runs[0].id;
		for (const each of [queued, running]) await next.post(`/-/runs/${each}/cancel`);
		assert.equal((await next.ended(running)).parameters.password, '***');
		assert.equal((await next.post(`/-/runs/${queued}/rerun`)).status, 409);
		await next.stop();
		assert.ok(!onDisk(next).includes(secret));
	});

	test('is refused where it would be seen, each place with the remedy', async () => {
		const listener = spawnListener({
			routes: `routes:
  a:
    params: { token: { secret: true } }
    command: [curl, "-HX: {{token}}"]
    cwd: /srv/{{token}}
    env: { TOKEN: "{{token}}" }
    concurrency: { group: "{{token}}", lockfile: "{{token}}" }
  b/:token:
    params: { token: { secret: true } }
    command: "true"
`,
		});
		assert.equal((await listener.exited()).code, 1);
		const places = ['command item 2', 'cwd', 'env.TOKEN', 'concurrency.group', 'concurrency.lockfile'];
		for (const place of places) {
			const line = listener.stderr.split('\n').find((each) => each.includes(`route "a": ${place}: `));
			assert.match(
				String(line),
				/\{\{token\}\} is a secret parameter, and would be seen here; .* write "\$token" in a command that is text/,
			);
		}
		assert.match(
			listener.stderr,
			/route "b\/:token": params\.token\.secret: :token is a part of the path, and paths stand in logs/,
		);
	});
});

test('secrets of routes.yaml are hidden in output and log, also new ones', async () => {
	const routes = (token: string) => `
auth: { jenkins: { bearer: "${token}" } }
listen: { address: 127.0.0.1, port: 0 }
log: { format: json, level: debug }
routes:
  show: { auth: [jenkins], method: get, command: "echo this is \\"$(cat token)\\"" }
`;
	const listener = await startListener({
		routes: routes('first-t0ken'),
		files: { token: 'first-t0ken second-t0ken' },
	});
	const show = async (token: string) =>
		(await listener.get('/show?async=false', { authorization: `Bearer ${token}` })).json;
	assert.equal((await show('first-t0ken')).output.text, 'this is *********** second-t0ken\n');
	fs.writeFileSync(listener.config, routes('second-t0ken'));
	assert.equal((await listener.post('/-/reload')).status, 200);
	const run = await show('second-t0ken');
	assert.equal(run.output.text, 'this is first-t0ken ************\n');
	const line = await listener.logged(
		'its output',
		(each) => each.run === run.id && each.message.startsWith('this'),
	);
	assert.equal(line.message, 'this is first-t0ken ************');
});
