/** Azure DevOps, Services and Server. It signs nothing: its service hooks have a user and password, or a header, for `auth`. */

import { z } from 'zod';
import { day } from '../config/values.ts';
import { type Event, eventOf, type Repository } from '../delivery.ts';
import { BadRequest } from '../errors.ts';
import { type Change, pushes } from './bitbucket.ts';
import { at, firstOf, idOf, listAt, mapOf, textAt, wordOf } from './fields.ts';
import { changeOf as changeBetween, refOf } from './git.ts';
import type { Reading, SourceKind } from './kind.ts';

const options = z.strictObject({}).meta({ description: 'Azure DevOps.' });

export const azureDevops: SourceKind = {
	name: 'azure-devops',
	secret: 'none',
	options,
	bare: true,
	compile: () => ({
		name: 'azure-devops',
		verification: null,
		read(_delivery, body): Reading {
			const payload = mapOf(body, 'Azure DevOps');
			const name = textAt(payload, 'eventType');
			if (name === '') {
				throw new BadRequest('the body has no "eventType", which Azure DevOps sends with every delivery');
			}
			const resource = at(payload, 'resource');
			if (name === 'git.push') {
				const known = {
					repository: repositoryOf(at(resource, 'repository')),
					sender: personOf(at(resource, 'pushedBy')),
				};
				// A subscription may leave the details out, and then all that is known is that there was a push.
				return at(resource, 'refUpdates') === undefined
					? { kind: 'events', events: [eventOf({ ...known, kind: 'push' })] }
					: pushes(listAt(resource, 'refUpdates'), changeOf, known);
			}
			return { kind: 'events', events: [eventOf({ kind: wordOf(name), ...specifics(name, resource) })] };
		},
		deliveryId(_delivery, body) {
			// Several subscriptions may tell of one event, each in its own way.
			const ids = ['subscriptionId', 'notificationId', 'id'].map((key) => textAt(body, key));
			return textAt(body, 'id') === '' ? null : idOf(ids.filter((id) => id !== '').join('/'));
		},
		// It tries up to eight times, within minutes.
		remember: day,
	}),
};

function specifics(name: string, resource: unknown): Partial<Event> {
	const [, action] = /^git\.pullrequest\.(.*)$/.exec(name) ?? [];
	if (action !== undefined) {
		return {
			kind: 'pull_request',
			action,
			repository: repositoryOf(at(resource, 'repository')),
			sender: personOf(at(resource, 'createdBy')),
		};
	}
	if (name === 'build.complete') {
		return {
			kind: 'build',
			action: firstOf(textAt(resource, 'result'), textAt(resource, 'status')),
			...builtOf(resource),
		};
	}
	return {};
}

function changeOf(update: unknown): Change {
	const change = changeBetween(textAt(update, 'oldObjectId'), textAt(update, 'newObjectId'));
	return { ...refOf(textAt(update, 'name')), ...change, forced: false };
}

function personOf(person: unknown): string {
	return firstOf(textAt(person, 'uniqueName'), textAt(person, 'displayName'));
}

function repositoryOf(repository: unknown): Repository {
	const name = textAt(repository, 'name');
	const project = textAt(repository, 'project', 'name');
	return {
		name,
		full_name: project === '' || name === '' ? name : `${project}/${name}`,
		url: textAt(repository, 'remoteUrl'),
		ssh_url: textAt(repository, 'sshUrl'),
	};
}

/** What was built: in newer versions of the event as two fields, in the first one as `LG:refs/heads/main:<commit>`. */
function builtOf(resource: unknown): Partial<Event> {
	const [, ref = '', commit = ''] =
		/^[A-Z]+:(refs\/.+):([0-9a-f]+)$/.exec(textAt(resource, 'sourceGetVersion')) ?? [];
	return {
		...refOf(firstOf(textAt(resource, 'sourceBranch'), ref)),
		commit: firstOf(textAt(resource, 'sourceVersion'), commit),
	};
}
