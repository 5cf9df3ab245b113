/** The step `hieradata`, seen from outside: what stands in the files, in the history, and at the remote after it. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import { loadConfig } from '../listener/config/config.ts';
import { ConfigError } from '../listener/errors.ts';
import { type Listener, startListener, temporaryDirectory, until } from './helpers/listener.ts';
import { git, makeRepositories, type Repositories, stateOf } from './helpers/repositories.ts';

/** A run once it has ended, with all of its output. */
async function ran(listener: Listener, route: string, body: object = {}) {
	const accepted = await listener.post(`/${route}`, body);
	assert.equal(accepted.status, 202, accepted.text);
	const { id } = accepted.json.runs[0];
	const run = await listener.ended(id);
	return { ...run, id, text: await listener.output(id) };
}

const role = `---
# What the nodes of this role run.
profile::app::version: 2.1.3   # set by Jenkins
profile::app::settings: &settings
  debug: false
  motd: >
    Folded text
    of two lines.
profile::other::settings: *settings
profile::app::password: >
  ENC[PKCS7,MIIBeQYJKoZIhvcNAQcDoIIBajCCAWYCAQAxggEhMIIBHQIBADAFMAACAQEwDQYJ
  KoZIhvcNAQEBBQAEggEA]
`;
const key = 'profile::app::version';

describe('hieradata', () => {
	let repositories: Repositories;
	let listener: Listener;
	before(async () => {
		repositories = makeRepositories({ 'data/web.yaml': role, 'data/db.yaml': role });
		listener = await startListener({
			routes: `
routes:
  deploy:
    params: { role: { default: web }, version: {} }
    steps:
      - hieradata:
          repo: ${repositories.clone}
          file: data/{{role}}.yaml
          set: { ${key}: "{{version}}" }
          author: Jenkins <jenkins@example.com>
          push: true
`,
		});
	});

	test('JW-10, JW-B6: sets one value, commits with author, message and the id of the run, and pushes', async () => {
		const run = await ran(listener, 'deploy', { version: '2.1.4' });
		assert.equal(run.state, 'succeeded', run.message + run.text);
		const expected = role.replace('2.1.3 ', '2.1.4 ');
		assert.equal(repositories.pushed('data/web.yaml'), expected);
		assert.equal(fs.readFileSync(path.join(repositories.clone, 'data/web.yaml'), 'utf8'), expected);
		assert.equal(
			git(repositories.remote, 'log', '-1', '--format=%an <%ae>|%cn|%B', 'production').trim(),
			`Jenkins <jenkins@example.com>|Jenkins|data/web.yaml: set ${key} to 2.1.4 (was 2.1.3)\n\nWebhook-Run: ${run.id}`,
		);
		assert.equal(
			git(repositories.clone, 'status', '--porcelain', '--branch'),
			'## production...origin/production',
		);
		assert.match(
			run.text,
			/set profile::app::version to 2\.1\.4 \(was 2\.1\.3\)\ncommitted as [0-9a-f]{10} and pushed to origin\n/,
		);
	});
});
