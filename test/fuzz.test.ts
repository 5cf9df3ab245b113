/**
 * The listener under requests made by chance: nothing of what they hold may end it, make it answer that it has failed, or run
 * what its route does not admit. `npm run fuzz` does for minutes what is done here for seconds; `FUZZ_SEED` and `FUZZ_SECONDS`
 * say which and how long. What fails names the seed of the one connection, and `FUZZ_ONLY` repeats just that.
 */

import assert from 'node:assert/strict';
import { createHmac, hash } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import zlib from 'node:zlib';
import { type Attack, Attacker, forged, proven, type Target } from './helpers/crooked.ts';
import { type Listener, processesOf, startListener, temporaryDirectory, until } from './helpers/listener.ts';
import { fixtures, hmac, senders } from './helpers/senders.ts';

const seconds = Number(process.env.FUZZ_SECONDS ?? 10);
const firstSeed = Number(process.env.FUZZ_SEED ?? 1);
const only = process.env.FUZZ_ONLY === undefined ? undefined : Number(process.env.FUZZ_ONLY);

/** Connections at a time. */
const width = 64;

/** Milliseconds after which no answer is taken for all the answers there are. */
const silence = 300;

/** Milliseconds within which each connection has its answers: the listener waits 2 s for the rest of a request. */
const patience = 20_000;

const token = 'Aeg1ohxi-of-the-fuzz';
const key = 'ooSh7ahn of the fuzz';
const jwtKey = 'quaeLo3iequaeLo3iequaeLo3iequaeLo3ie';

function jwt(claims: object, secret = jwtKey, alg = 'HS256'): string {
	const text = [{ alg, typ: 'JWT' }, claims]
		.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
		.join('.');
	const signature = alg === 'none' ? '' : createHmac('sha256', secret).update(text).digest('base64url');
	return `${text}.${signature}`;
}
const claims = () => ({ iss: 'ci', aud: 'webhook', exp: Math.floor(Date.now() / 1000) + 3600 });

const authorization = (text: string) => ({ Authorization: text });
const base64 = (text: string) => Buffer.from(text).toString('base64');
const plainBodies = [{ role: 'web', count: 3, list: [1, 2], map: { a: { b: 'c' } } }];

const wrongTokens = [
	'',
	token.slice(0, -1),
	`${token}x`,
	token.toUpperCase(),
	`${token}, ${token}`,
	'\0',
	`"${token}"`,
];

/** Those that prove who they are by a header, and those that sign. */
const guarded: Readonly<Record<string, Target>> = {
	bearer: {
		path: '/bearer',
		prove: () => authorization(`Bearer ${token}`),
		wrong: [
			...wrongTokens.map((text) => authorization(`Bearer ${text}`)),
			...[`Basic ${base64(token)}`, token, `Bearer\t`, `Bearer: ${token}`, `Bearer Bearer ${token}`].map(
				authorization,
			),
		],
		signed: false,
		bodies: plainBodies,
	},
	basic: {
		path: '/basic',
		prove: () => authorization(`Basic ${base64(`user:${token}`)}`),
		wrong: [
			...['user:', ':', `:${token}`, `user:${token}x`, `user\0:${token}`, 'user', ''].map((text) =>
				authorization(`Basic ${base64(text)}`),
			),
			...['Basic', 'Basic ====', `Basic user:${token}`, `Digest username="user", response="${token}"`].map(
				authorization,
			),
		],
		signed: false,
		bodies: plainBodies,
	},
	header: {
		path: '/header',
		prove: () => ({ 'X-Api-Key': token }),
		wrong: wrongTokens.map((text) => ({ 'X-Api-Key': text })),
		signed: false,
		bodies: plainBodies,
	},
	jwt: {
		path: '/jwt',
		prove: () => authorization(`Bearer ${jwt(claims())}`),
		wrong: [
			jwt(claims(), jwtKey, 'none'),
			jwt(claims(), 'another'),
			jwt({ ...claims(), exp: 1 }),
			jwt({ ...claims(), aud: ['x', null] }),
			jwt({ iss: {}, aud: 5, exp: 'soon' }),
			`${jwt(claims())}.x`,
			'..',
			`${base64('{"alg":')}.e30.x`,
			`${'e30.'.repeat(2000)}`,
		].map((text) => authorization(`Bearer ${text}`)),
		signed: false,
		bodies: plainBodies,
	},
	gitlab: {
		path: '/gitlab',
		prove: () => ({ 'X-Gitlab-Token': token, 'X-Gitlab-Event': 'Push Hook' }),
		wrong: wrongTokens.map((text) => ({ 'X-Gitlab-Token': text, 'X-Gitlab-Event': 'Push Hook' })),
		signed: false,
		bodies: bodiesOf('gitlab'),
	},
	hmac: {
		path: '/hmac',
		prove: (body) => ({ 'X-Signature': `sha256=${hmac('sha256', key, body).toString('hex')}` }),
		wrong: [
			...[
				'',
				'sha256=',
				`sha256=${'0'.repeat(64)}`,
				`sha256=${'0'.repeat(63)}`,
				`sha1=${'0'.repeat(40)}`,
				'\0',
			].map((text) => ({ 'X-Signature': text })),
		],
		signed: true,
		bodies: plainBodies,
	},
	...Object.fromEntries(
		['github', 'gitea', 'gogs', 'bitbucket', 'bitbucket-server', 'standard-webhooks', 'slack'].map((name) => [
			name,
			signing(name),
		]),
	),
};

function bodiesOf(source: string): object[] {
	return fixtures(source).flatMap(({ body }) => body ?? []);
}

function signing(name: string): Target {
	const sender = senders[name]!;
	const [{ headers } = { headers: {} }] = fixtures(name);
	const wrong = sender.sign(Buffer.from('other'), sender.secret);
	return {
		path: `/${name}`,
		prove: (body) => ({ ...headers, ...sender.sign(body, sender.secret) }),
		wrong: [wrong, { ...wrong, [sender.proof]: '' }, { ...wrong, [sender.proof]: `${'a'.repeat(4000)}` }],
		signed: true,
		bodies: bodiesOf(name),
	};
}

const targets: readonly Target[] = [
	...Object.values(guarded),
	{ path: '/open', signed: false, bodies: plainBodies },
	{ path: '/of/web', signed: false, bodies: plainBodies },
];

/** Writes down what it ran for: the value of a request that a header proves, the digest of a body that is signed. */
function routeLines(): string {
	const lines = Object.entries(guarded).map(([name, { signed }]) => {
		const how = signed
			? `stdin: body, command: 'sha256sum >> "$SEEN-signed"'`
			: `params: { n: { from: query.n, required: true, pattern: "(${forged}|${proven}).*" } }, command: 'echo "$n" >> "$SEEN-values"'`;
		const source = senders[name] !== undefined && name !== 'hmac';
		const who = source
			? `source: ${name}, secret: ${JSON.stringify(name === 'gitlab' ? token : senders[name]!.secret)}`
			: `auth: ${name}`;
		return `  ${name}: { ${who}, ${how} }`;
	});
	return lines.join('\n');
}

/** @param seen what the names of the files begin with that runs write to */
const routesFor = (seen: string) => `
listen: { address: 127.0.0.1, port: 0, max_body: 1 MiB, header_timeout: 2s, body_timeout: 2s }
log: { format: json, level: info }
auth:
  bearer: { bearer: ${token} }
  basic: { basic: { user: user, password: ${token} } }
  header: { header: { name: X-Api-Key, value: ${token} } }
  hmac: { hmac: { secret: ${key} } }
  jwt: { jwt: { issuer: ci, audience: webhook, secret: ${jwtKey} } }
defaults: { rate: { failures: 1000000/s }, concurrency: { limit: 4 }, env: { SEEN: "${seen}" } }
routes:
${routeLines()}
  open:
    method: [get, post, put, patch, delete]
    when: '!has(body.map) || body.map != "no"'
    concurrency: { when_busy: coalesce }
    params:
      n: {}
      role: {}
      count: { type: integer }
      any: { pattern: "(?s).*" }
      deep: { from: "has(body.map.a.b) ? string(body.map.a.b) : 'none'", pattern: ".*" }
      password: { secret: true }
    stdin: parameters
    command: ":"
  of/:role: { method: [get, post], concurrency: { when_busy: coalesce }, command: ":" }
`;

interface Outcome {
	readonly received: string;
	readonly hung: boolean;
}

/** Writes all of it, reads what comes until nothing more does, and leaves. */
function strike(port: number, { pieces, close }: Attack): Promise<Outcome> {
	return new Promise((resolve) => {
		const socket = net.connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
		let received = '';
		let hung = false;
		// Whoever says that it has done before it is answered gets no answer from Node.
		const leave = setTimeout(() => (close ? socket.end() : socket.destroy()), silence).unref();
		const late = setTimeout(() => {
			hung = true;
			socket.destroy();
		}, patience);
		socket.setEncoding('latin1').on('data', (text: string) => {
			received += text;
			leave.refresh();
		});
		socket.on('error', () => {});
		socket.on('end', () => socket.end());
		socket.once('close', () => {
			clearTimeout(late);
			clearTimeout(leave);
			resolve({ received, hung });
		});
		socket.once('connect', async () => {
			for (const piece of pieces) {
				if (!socket.writable) return;
				socket.write(piece);
				leave.refresh();
				if (pieces.length > 1) await new Promise((next) => setImmediate(next));
			}
		});
	});
}

/** Bytes of memory and open files of the listener itself. */
function costOf({ process: { pid } }: Listener): { memory: number; files: number } {
	const status = fs.readFileSync(`/proc/${pid}/status`, 'latin1');
	return {
		memory: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) * 1024,
		files: fs.readdirSync(`/proc/${pid}/fd`).length,
	};
}

/** The digests of a body as it is, and as a route may unpack it. */
function digestsOf(body: Buffer): string[] {
	const options = { maxOutputLength: 1024 * 1024 };
	const unpackers = [zlib.gunzipSync, zlib.inflateSync, zlib.inflateRawSync, zlib.brotliDecompressSync];
	const unpacked = unpackers.flatMap((unpack) => {
		try {
			return unpack(body, options);
		} catch {
			return [];
		}
	});
	return [body, ...unpacked].map((bytes) => hash('sha256', bytes));
}

test('requests made by chance end nothing, fail nothing, and run nothing without a proof (RK-B4, RK-B11, FX-B5)', {
	timeout: (seconds + 100) * 1000,
}, async (t) => {
	const seen = path.join(temporaryDirectory(), 'seen');
	const listener = await startListener({ routes: routesFor(seen) });
	const attacker = new Attacker(targets);
	const digests = new Set<string>();
	const statuses = new Map<string, number>();
	const wrong: string[] = [];
	let count = 0;

	const one = async (seed: number) => {
		const attack = attacker.attack(seed);
		for (const body of attack.signed) for (const digest of digestsOf(body)) digests.add(digest);
		const { received, hung } = await strike(listener.port, attack);
		count++;
		if (hung)
			wrong.push(`FUZZ_ONLY=${seed}: was still open after ${patience / 1000} s: ${received.slice(0, 300)}`);
		for (const [line, status = ''] of received.matchAll(/^HTTP\/1\.1 (\d{3}).*$/gm)) {
			statuses.set(status, (statuses.get(status) ?? 0) + 1);
			if (status >= '500' && status !== '503')
				wrong.push(`FUZZ_ONLY=${seed}: ${line}: ${received.slice(0, 2000)}`);
		}
	};
	const end = Date.now() + seconds * 1000;
	let seed = firstSeed;
	// One by one and for nothing at first: what a listener needs to do everything once is no leak.
	const strikeFor = async (until: number) => {
		while (Date.now() < until && wrong.length === 0 && listener.process.exitCode === null) await one(seed++);
	};
	if (only !== undefined) await one(only);
	else {
		await Promise.all(Array.from({ length: width }, () => strikeFor(end - seconds * 700)));
		const before = costOf(listener);
		await Promise.all(Array.from({ length: width }, () => strikeFor(end)));
		t.diagnostic(
			`${count} connections from seed ${firstSeed} on, ${JSON.stringify(Object.fromEntries(statuses))}`,
		);
		assert.deepEqual(wrong, []);
		assert.equal(listener.process.exitCode, null, listener.stderr);
		const after = costOf(listener);
		t.diagnostic(`${before.memory >> 20} MB before, ${after.memory >> 20} MB after`);
		assert.ok(
			after.memory < before.memory + 150 * 2 ** 20,
			`memory grew from ${before.memory} to ${after.memory}`,
		);
		await until('connections to be closed', () => costOf(listener).files <= before.files + 40);
	}
	assert.deepEqual(wrong, []);
	assert.equal(listener.stderr, '');
	assert.deepEqual(
		listener.log().filter(({ level }) => level === 'error'),
		[],
	);

	await until('the runs to end', async () => {
		const open = await Promise.all(
			['queued', 'running'].map(
				async (state) => (await listener.get(`/-/runs?state=${state}`)).json.runs.length,
			),
		);
		return open.every((length) => length === 0);
	});
	const read = (name: string) =>
		fs.existsSync(`${seen}-${name}`) ? fs.readFileSync(`${seen}-${name}`, 'utf8').trim().split('\n') : [];
	const values = read('values');
	const signed = read('signed').map((line) => line.slice(0, 64));
	t.diagnostic(`${values.length} runs by a header, ${signed.length} by a signature`);
	assert.deepEqual(
		values.filter((value) => !value.startsWith(proven)),
		[],
		'runs that nobody proved',
	);
	assert.deepEqual(
		signed.filter((digest) => !digests.has(digest)),
		[],
		'runs of bodies that nobody signed',
	);
	if (only !== undefined) return;
	assert.ok(values.length > 0 && signed.length > 0, 'the proofs that were sent are proofs');

	assert.equal((await listener.get('/-/healthy')).status, 200);
	for (const { path, prove, bodies, signed } of targets) {
		const body = Buffer.from(JSON.stringify(bodies[0]));
		const answer = await listener.post(`${path}${signed ? '' : `?n=${proven}last`}`, body, {
			'content-type': 'application/json',
			...prove?.(body),
		});
		assert.ok([200, 202].includes(answer.status), `${path}: ${answer.text}`);
	}
	assert.equal(({} as Record<string, unknown>).polluted, undefined);
	await listener.stop();
	assert.deepEqual(processesOf(listener.dir), []);
});
