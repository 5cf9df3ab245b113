/** Bitbucket Server and Data Center, which share little but the name with Bitbucket Cloud. */

import { z } from 'zod';
import { admitted } from '../auth/kind.ts';
import { checkSignature } from '../auth/signature.ts';
import { day } from '../config/values.ts';
import { type Delivery, eventOf, headerOf, type Repository } from '../delivery.ts';
import { atlassian, type Change, pushes } from './bitbucket.ts';
import { at, idOf, listAt, mapOf, requiredHeader, textAt, wordOf } from './fields.ts';
import { changeOf as changeBetween, refOf } from './git.ts';
import { plainAnswer, type SourceKind, verificationOf } from './kind.ts';

const options = z.strictObject({}).meta({ description: 'Bitbucket Server and Data Center.' });

export const bitbucketServer: SourceKind = {
	name: 'bitbucket-server',
	secret: 'optional',
	options,
	bare: true,
	compile: (_options, secrets) => ({
		name: 'bitbucket-server',
		verification:
			secrets === null
				? null
				: verificationOf('bitbucket-server', (delivery) => {
						// Its test button signs nothing, and `read` makes nothing but an answer of it.
						if (isPing(delivery) && delivery.headers['x-hub-signature'] === undefined) {
							return admitted('bitbucket-server, by an unsigned ping');
						}
						return checkSignature(delivery, atlassian, secrets, [delivery.body], 'bitbucket-server');
					}),
		read(delivery, body) {
			if (isPing(delivery)) return plainAnswer('');
			const name = requiredHeader(delivery, 'X-Event-Key', 'Bitbucket');
			const payload = mapOf(body, 'Bitbucket');
			const known = {
				repository: repositoryOf(at(payload, 'repository')),
				sender: textAt(payload, 'actor', 'name'),
			};
			// A mirror tells in the same way what has arrived there.
			if (name === 'repo:refs_changed' || name === 'mirror:repo_synchronized') {
				return pushes(listAt(payload, 'changes'), changeOf, known);
			}
			const [, action] = /^pr:(.*)$/.exec(name) ?? [];
			const kind = action === undefined ? wordOf(name) : 'pull_request';
			return { kind: 'events', events: [eventOf({ ...known, kind, action: action ?? '' })] };
		},
		deliveryId: (delivery) => idOf(headerOf(delivery, 'X-Request-Id')),
		// It does not try again.
		remember: day,
	}),
};

function isPing(delivery: Delivery): boolean {
	return headerOf(delivery, 'X-Event-Key') === 'diagnostics:ping';
}

function changeOf(change: unknown): Change {
	const between = changeBetween(textAt(change, 'fromHash'), textAt(change, 'toHash'));
	const type = textAt(change, 'type');
	const deleted = between.deleted || type === 'DELETE';
	return {
		...refOf(textAt(change, 'ref', 'id')),
		commit: deleted ? '' : between.commit,
		created: between.created || type === 'ADD',
		deleted,
		forced: false,
	};
}

function repositoryOf(repository: unknown): Repository {
	const name = textAt(repository, 'slug');
	const project = textAt(repository, 'project', 'key');
	const clone = (kind: string) =>
		textAt(
			listAt(repository, 'links', 'clone').find((link) => textAt(link, 'name') === kind),
			'href',
		);
	return {
		name,
		full_name: project === '' || name === '' ? name : `${project}/${name}`,
		url: clone('http'),
		ssh_url: clone('ssh'),
	};
}
