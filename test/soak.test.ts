/** The soak in short: everything at once for some seconds, and nothing is left behind. For minutes: `npm run soak`. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { after, test } from 'node:test';
import { temporaryDirectory } from './helpers/listener.ts';

const root = path.join(import.meta.dirname, '..');

test('everything at once, for some seconds: nothing is answered wrongly, grows without bound, or is left behind', async () => {
	const soak = spawn(
		process.execPath,
		[
			...[path.join(root, 'bench/soak.ts'), '--minutes', '0.2'],
			...['--dir', temporaryDirectory(), '--listener', path.join(root, 'listener/main.ts')],
		],
		{ stdio: ['ignore', 'pipe', 'pipe'] },
	);
	after(() => soak.kill());
	const closed = new Promise<number | null>((resolve) => soak.on('close', resolve));
	const [printed, errors, status] = await Promise.all([text(soak.stdout), text(soak.stderr), closed]);
	assert.equal(status, 0, `${printed}\n${errors}`);
	assert.match(printed, /^sound$/m);
});
