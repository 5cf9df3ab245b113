/**
 * `npm run build`: dist/, the listener as JavaScript with the files it reads, as the npm package carries it.
 * `npm run build -- FOLDER` builds into another folder.
 */

import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, rmSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = join(import.meta.dirname, '..');
const source = join(root, 'listener');
const target = resolve(process.argv[2] ?? join(root, 'dist'));

rmSync(target, { recursive: true, force: true });
const compiled = spawnSync('tsc', ['-p', 'tsconfig.build.json', '--outDir', target], {
	cwd: root,
	stdio: 'inherit',
});
if (compiled.status !== 0) process.exit(1);
cpSync(source, target, {
	recursive: true,
	filter: (file) => statSync(file).isDirectory() || !file.endsWith('.ts'),
});
chmodSync(join(target, 'main.js'), 0o755);
