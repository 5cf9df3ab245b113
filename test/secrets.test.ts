/** Secrets: where they may be, that a changed one counts at once, and what is refused since it would open a door. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHmac, hash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { loadConfig } from '../listener/config/config.ts';
import { ConfigError } from '../listener/errors.ts';
import { command, type Listener, startListener, temporaryDirectory, until } from './helpers/listener.ts';

/** The status that a caller with this token gets. */
async function statusFor(listener: Listener, token: string, route = 'a'): Promise<number> {
	return (await listener.post(`/${route}`, undefined, { authorization: `Bearer ${token}` })).status;
}

/** One route with one token. */
const routesFor = (secret: string) =>
	`auth: { a: { bearer: ${secret} } }\ndefaults: { rate: { failures: 1000000/s } }\nroutes:\n  a: { auth: a, command: "true" }\n`;

describe('a secret', () => {
	const places: readonly [
		title: string,
		secret: string,
		valid: readonly string[],
		invalid: readonly string[],
	][] = [
		['text', 'abc', ['abc'], ['ab', 'abcd']],
		['a variable', '{ env: TOKEN }', ['of-env'], ['TOKEN']],
		['a file', '{ file: secrets/plain }', ['of-file'], ['secrets/plain']],
		['a file that ends with a line end', '{ file: secrets/line }', ['of-line'], []],
		['a file that ends with a line end of Windows', '{ file: secrets/windows }', ['of-windows'], []],
		['a credential of systemd', '{ credential: hook }', ['of-credential'], ['hook']],
		[
			'a list, each of which is valid',
			'[abc, { file: secrets/plain }, { env: TOKEN }, { credential: hook }]',
			['abc', 'of-file', 'of-env', 'of-credential'],
			['no'],
		],
	];
	for (const [title, secret, valid, invalid] of places) {
		test(`is ${title}`, async () => {
			const credentials = temporaryDirectory();
			fs.writeFileSync(path.join(credentials, 'hook'), 'of-credential\n');
			const listener = await startListener({
				env: { TOKEN: 'of-env', CREDENTIALS_DIRECTORY: credentials },
				files: {
					'secrets/plain': 'of-file',
					'secrets/line': 'of-line\n',
					'secrets/windows': 'of-windows\r\n',
				},
				routes: routesFor(secret),
			});
			for (const token of valid) assert.equal(await statusFor(listener, token), 202, token);
			for (const token of invalid) assert.equal(await statusFor(listener, token), 401, token);
		});
	}

	test('with exact: true keeps the line end at its end (FX: flux-recv signs with it)', async () => {
		const listener = await startListener({
			files: { key: 'with a line end\n' },
			routes:
				'auth: { exact: { hmac: { secret: { file: key, exact: true } } }, plain: { hmac: { secret: { file: key } } } }\nroutes:\n  exact: { auth: exact, command: "true" }\n  plain: { auth: plain, command: "true" }\n',
		});
		const signed = (secret: string) => ({
			'content-type': 'application/json',
			'x-signature': `sha256=${createHmac('sha256', secret).update('{}').digest('hex')}`,
		});
		assert.equal((await listener.post('/exact', '{}', signed('with a line end\n'))).status, 202);
		assert.equal((await listener.post('/exact', '{}', signed('with a line end'))).status, 401);
		assert.equal((await listener.post('/plain', '{}', signed('with a line end'))).status, 202);
		assert.equal((await listener.post('/plain', '{}', signed('with a line end\n'))).status, 401);
	});

	test('FX-C7: in an included file is beside that file', async () => {
		const listener = await startListener({
			files: {
				'more/key': 'of-more',
				'more/routes.yaml': 'routes:\n  "h/{{fingerprint}}": { secret: { file: key }, command: "true" }\n',
			},
			routes: 'include: more/routes.yaml\nroutes: {}\n',
		});
		assert.equal((await listener.post(`/h/${hash('sha256', 'of-more')}`)).status, 202);
	});

	test('that every user of the host may read is told in the log, and by check', async () => {
		const listener = await startListener({ files: { key: 'abc' }, routes: routesFor('{ file: key }') });
		const file = path.join(listener.dir, 'key');
		fs.chmodSync(file, 0o644);
		const { stderr } = await command(['check', '--config', listener.config]);
		assert.match(
			stderr,
			/key holds a secret that every user of this host may read; `chmod o= .*key` mends that/,
		);
		fs.chmodSync(file, 0o600);
		assert.equal((await command(['check', '--config', listener.config])).stderr, '');
	});
});

describe('a secret that would open a door', () => {
	const refused: readonly [title: string, secret: string, message: RegExp][] = [
		[
			'text that is empty (RK-B2, PG-B7, FX-B1)',
			'""',
			/bearer: is empty, and an empty secret would let everybody in/,
		],
		['nothing', '', /bearer: has to be text/],
		['a number, which is not told', '123450', /bearer: has to be text \(in quotes\), or where it is/],
		['a number that would change by reading, which is not told', '0123450', /would be read as a number/],
		['a variable that is not set', '{ env: NOT_SET }', /the environment variable NOT_SET is not set/],
		['a variable that is empty', '{ env: EMPTY }', /the environment variable EMPTY is empty/],
		['a file that is not there', '{ file: missing }', /missing does not exist/],
		['a file that is empty', '{ file: empty }', /empty is empty/],
		['a file with a line end alone', '{ file: line }', /line is empty/],
		['a directory', '{ file: dir }', /dir is a directory/],
		['a pipe', '{ file: pipe }', /pipe is no regular file/],
		['a file that is too large', '{ file: large }', /large has more than 64 KiB/],
		['a credential without systemd', '{ credential: hook }', /LoadCredential=hook:/],
		['a credential by a path', '{ credential: ../hook }', /must be the name that LoadCredential= gives it/],
		['an empty list', '[]', /bearer: must not be an empty list/],
		[
			'a list with one that is missing',
			'[abc, { env: NOT_SET }]',
			/bearer item 2: the environment variable NOT_SET/,
		],
		['two places', '{ env: EMPTY, file: line }', /bearer: has to be text \(in quotes\), or where it is/],
		['what no header can hold', '{ file: line2, exact: true }', /can never be sent/],
	];
	const dir = temporaryDirectory();
	fs.mkdirSync(path.join(dir, 'dir'));
	fs.writeFileSync(path.join(dir, 'empty'), '');
	fs.writeFileSync(path.join(dir, 'line'), '\n');
	fs.writeFileSync(path.join(dir, 'line2'), 'hidden-away\n');
	fs.writeFileSync(path.join(dir, 'large'), 'x'.repeat(70_000));
	execFileSync('mkfifo', [path.join(dir, 'pipe')]);
	const config = path.join(dir, 'routes.yaml');

	for (const [title, secret, message] of refused) {
		test(`is refused with its place: ${title}`, async () => {
			fs.writeFileSync(config, routesFor(secret));
			await assert.rejects(loadConfig(config, { EMPTY: '' }), (error: Error) => {
				assert.ok(error instanceof ConfigError, String(error));
				assert.match(error.message, /routes\.yaml:1:\d+: auth\.a\.bearer/);
				assert.match(error.message, message);
				assert.doesNotMatch(JSON.stringify(error.faults), /12345|hidden-away/);
				return true;
			});
		});
	}

	test('RK-C12, RK-B2: half of user and password is refused', async () => {
		for (const half of ['{ user: iamgood }', '{ password: abc }', '{ user: "", password: abc }']) {
			fs.writeFileSync(config, `auth: { a: { basic: ${half} } }\nroutes: {}\n`);
			await assert.rejects(loadConfig(config, {}), /auth\.a\.basic.*(is missing|must not be empty)/);
		}
	});

	test('need not be there for check --no-secrets, which checks everything else', async () => {
		const secrets = '[{ env: NOT_SET }, { file: missing }, { credential: hook }]';
		fs.writeFileSync(config, routesFor(secrets));
		assert.equal((await command(['check', '--config', config, '--no-secrets'])).code, 0);
		fs.writeFileSync(config, routesFor(`${secrets}, basic: { user: x }`));
		assert.equal((await command(['check', '--config', config, '--no-secrets'])).code, 1);
		fs.writeFileSync(config, routesFor('""'));
		assert.equal((await command(['check', '--config', config, '--no-secrets'])).code, 1);
	});
});

describe('a secret that changes', () => {
	const replace = (file: string, text: string) => {
		fs.writeFileSync(`${file}.new`, text, { mode: 0o600 });
		fs.renameSync(`${file}.new`, file);
	};

	test('FX-V10: counts from then on, without a restart, and the old one no longer', async () => {
		const listener = await startListener({ files: { key: 'first\n' }, routes: routesFor('{ file: key }') });
		assert.equal(await statusFor(listener, 'first'), 202);
		const file = path.join(listener.dir, 'key');
		replace(file, 'second\n');
		const line = await listener.logged('it', (one) => one.message === 'configuration taken up');
		assert.deepEqual(line.secrets, [file]);
		assert.equal(await statusFor(listener, 'second'), 202);
		assert.equal(await statusFor(listener, 'first'), 401);
		fs.writeFileSync(file, 'third\n');
		await until('the third', async () => (await statusFor(listener, 'third')) === 202);
		assert.equal(await statusFor(listener, 'second'), 401);
	});

	test('beside another is valid together with it, so that sender and listener need not change at once', async () => {
		const listener = await startListener({
			files: { old: 'old', new: 'new' },
			routes: routesFor('[{ file: new }, { file: old }]'),
		});
		for (const token of ['old', 'new']) assert.equal(await statusFor(listener, token), 202);
		replace(path.join(listener.dir, 'old'), 'new');
		await until('the old one to be gone', async () => (await statusFor(listener, 'old')) === 401);
		assert.equal(await statusFor(listener, 'new'), 202);
	});

	test('by way of a link is seen, as Kubernetes changes them', async () => {
		const dir = temporaryDirectory();
		for (const [name, text] of [
			['v1', 'first'],
			['v2', 'second'],
		] as const) {
			fs.mkdirSync(path.join(dir, name));
			fs.writeFileSync(path.join(dir, name, 'token'), text);
		}
		fs.symlinkSync('v1', path.join(dir, 'data'));
		const listener = await startListener({ routes: routesFor(`{ file: ${dir}/data/token }`) });
		assert.equal(await statusFor(listener, 'first'), 202);
		fs.symlinkSync('v2', path.join(dir, 'data.new'));
		fs.renameSync(path.join(dir, 'data.new'), path.join(dir, 'data'));
		await until('the second', async () => (await statusFor(listener, 'second')) === 202);
		assert.equal(await statusFor(listener, 'first'), 401);
	});

	test('to nothing leaves the last one valid, and the log says so once, until it is mended', async () => {
		const listener = await startListener({ files: { key: 'first' }, routes: routesFor('{ file: key }') });
		const file = path.join(listener.dir, 'key');
		fs.writeFileSync(file, '');
		await listener.logged(
			'the fault',
			(one) => one.level === 'error' && / key is empty|key is empty/.test(one.message),
		);
		assert.equal(await statusFor(listener, 'first'), 202);
		assert.equal(await statusFor(listener, ''), 401);
		fs.rmSync(file);
		await listener.logged(
			'the other fault',
			(one) => one.level === 'error' && /key does not exist/.test(one.message),
		);
		assert.equal(await statusFor(listener, 'first'), 202);
		const refused = await listener.post('/-/reload');
		assert.equal(refused.status, 422);
		fs.writeFileSync(file, 'second');
		await until('the second', async () => (await statusFor(listener, 'second')) === 202);
		assert.equal(listener.log().filter((one) => /key is empty/.test(one.message)).length, 1);
	});

	test('changes the path that is made of it', async () => {
		const listener = await startListener({
			files: { key: 'first' },
			routes: 'routes:\n  "h/{{fingerprint}}": { secret: { file: key }, command: "true" }\n',
		});
		const at = async (secret: string) => (await listener.post(`/h/${hash('sha256', secret)}`)).status;
		assert.equal(await at('first'), 202);
		replace(path.join(listener.dir, 'key'), 'second');
		await until('the second', async () => (await at('second')) === 202);
		assert.equal(await at('first'), 404);
		assert.ok(!JSON.stringify(listener.log()).includes(hash('sha256', 'first')));
	});
});
