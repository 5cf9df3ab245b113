/**
 * Jenkins, by its plugins Notification (a body with `build`) and Generic Event (a body with `type`). They sign nothing; the
 * first can send a password, so its route has auth `basic`, and the second has a path that nobody can guess.
 */

import { z } from 'zod';
import { day } from '../config/values.ts';
import { type Event, eventOf, type Repository } from '../delivery.ts';
import { at, idOf, keyOf, lastPart, listAt, mapOf, textAt, wordOf } from './fields.ts';
import { branchOf } from './git.ts';
import type { SourceKind } from './kind.ts';

const options = z
	.strictObject({})
	.meta({ description: 'Jenkins, by its plugins Notification and Generic Event, which prove nothing.' });

export const jenkins: SourceKind = {
	name: 'jenkins',
	secret: 'none',
	options,
	bare: true,
	compile: () => ({
		name: 'jenkins',
		verification: null,
		read(_delivery, body) {
			const payload = mapOf(body, 'Jenkins');
			if (at(payload, 'build') !== undefined) return { kind: 'events', events: [notified(payload)] };
			if (textAt(payload, 'type') !== '') return { kind: 'events', events: [generic(payload)] };
			return { kind: 'ignored', reason: 'the body is of neither the plugin Notification nor Generic Event' };
		},
		deliveryId(_delivery, body) {
			const build = at(body, 'build');
			if (build === undefined) return idOf(textAt(body, 'id'));
			// The plugin that was set to try three times does so even when the second was taken. Numbers begin anew when a job is
			// made anew, times do not.
			const parts = ['number', 'phase', 'status', 'timestamp', 'full_url'].map((name) => textAt(build, name));
			return keyOf(textAt(body, 'name'), ...parts);
		},
		remember: day,
	}),
};

/** A body of the plugin Notification. */
function notified(payload: unknown): Event {
	const scm = at(payload, 'build', 'scm');
	return eventOf({
		kind: 'build',
		action: textAt(payload, 'build', 'phase'),
		repository: repositoryAt(textAt(scm, 'url')),
		...branchOf(localBranch(textAt(scm, 'branch'))),
		commit: textAt(scm, 'commit'),
	});
}

/** A body of the plugin Generic Event: `run.completed`, `item.created` and so on. */
function generic(payload: unknown): Event {
	const type = textAt(payload, 'type');
	const dot = type.indexOf('.');
	const [subject, action] = dot < 0 ? [type, ''] : [type.slice(0, dot), type.slice(dot + 1)];
	if (subject !== 'run') return eventOf({ kind: wordOf(subject), action });
	// The plugin Git leaves what was built among the actions of a run.
	const built = listAt(payload, 'data', 'actions').find((one) => at(one, 'lastBuiltRevision') !== undefined);
	const revision = at(built, 'lastBuiltRevision');
	return eventOf({
		kind: 'build',
		action,
		repository: repositoryAt(textAt(built, 'remoteUrls', 0)),
		...branchOf(localBranch(textAt(revision, 'branch', 0, 'name'))),
		commit: textAt(revision, 'SHA1'),
	});
}

/** As Jenkins has it: `origin/main`, `refs/remotes/origin/main`, or `detached` when it built none. */
function localBranch(branch: string): string {
	if (branch === 'detached') return '';
	return branch.replace(/^refs\/(remotes|heads)\//, '').replace(/^origin\//, '');
}

function repositoryAt(address: string): Repository {
	const url = /^https?:/.test(address) && URL.canParse(address) ? address : '';
	const path = url === '' ? (address.split(':').at(-1) ?? '') : new URL(url).pathname;
	const fullName = path.replace(/^\/|\.git$/g, '');
	return { name: lastPart(fullName), full_name: fullName, url, ssh_url: url === '' ? address : '' };
}
