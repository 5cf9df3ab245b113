/** Bitbucket Cloud, bitbucket.org. */

import { z } from 'zod';
import { checkSignature, type Form } from '../auth/signature.ts';
import { day } from '../config/values.ts';
import { type Event, eventOf, headerOf, type Repository } from '../delivery.ts';
import { BadRequest } from '../errors.ts';
import { at, firstOf, idOf, lastPart, listAt, mapOf, requiredHeader, textAt, wordOf } from './fields.ts';
import { branchOf, pushKind, tagOf } from './git.ts';
import { type Reading, type SourceKind, verificationOf } from './kind.ts';

/** The name is the one under which GitHub sends SHA-1; at Atlassian it is SHA-256. */
export const atlassian: Form = {
	header: 'X-Hub-Signature',
	algorithm: 'sha256',
	encoding: 'hex',
	prefix: 'sha256=',
};

const options = z
	.strictObject({
		signed: z.boolean().optional().meta({
			description:
				'false takes deliveries without a signature, of repositories whose webhook has no secret; then the path ({{fingerprint}}) or auth has to tell who sends. Default: true.',
		}),
	})
	.meta({ description: 'Bitbucket Cloud.' });

export const bitbucket: SourceKind<z.output<typeof options>> = {
	name: 'bitbucket',
	secret: 'optional',
	options,
	bare: true,
	compile: ({ signed = true }, secrets) => ({
		name: 'bitbucket',
		verification:
			secrets === null || !signed
				? null
				: verificationOf('bitbucket', (delivery) =>
						checkSignature(delivery, atlassian, secrets, [delivery.body], 'bitbucket'),
					),
		read(delivery, body) {
			const name = requiredHeader(delivery, 'X-Event-Key', 'Bitbucket');
			const payload = mapOf(body, 'Bitbucket');
			const known = {
				repository: repositoryOf(at(payload, 'repository')),
				sender: firstOf(textAt(payload, 'actor', 'nickname'), textAt(payload, 'actor', 'display_name')),
			};
			if (name === 'repo:push') return pushes(listAt(payload, 'push', 'changes'), changeOf, known);
			const [, action] = /^pullrequest:(.*)$/.exec(name) ?? [];
			const kind = action === undefined ? wordOf(name) : 'pull_request';
			return { kind: 'events', events: [eventOf({ ...known, kind, action: action ?? '' })] };
		},
		deliveryId: (delivery) => idOf(headerOf(delivery, 'X-Request-UUID')),
		// It tries twice more, within minutes.
		remember: day,
	}),
};

/** What a push did to one ref, and so one event. */
export type Change = Pick<Event, 'ref' | 'branch' | 'tag' | 'commit' | 'created' | 'deleted' | 'forced'>;

/** An event for each ref that a push changed. @param known of all of them @throws BadRequest for more than 10,000 */
export function pushes(
	changes: readonly unknown[],
	read: (change: unknown) => Change,
	known: Partial<Event>,
): Reading {
	if (changes.length === 0) return { kind: 'ignored', reason: 'the push changes no ref' };
	if (changes.length > mostRefs) {
		throw new BadRequest(`the push changes ${changes.length} refs; at most ${mostRefs} are taken at once`);
	}
	const events = changes.map((change) => {
		const told = read(change);
		return eventOf({ ...known, ...told, kind: pushKind(told) });
	});
	return { kind: 'events', events };
}

/** All tags of an old repository at once are some thousands; more would hold up the deliveries of others. */
const mostRefs = 10_000;

/** Each side is a ref as it was before (`old`) or is afterwards (`new`), or null. */
function changeOf(change: unknown): Change {
	const [before, after] = [at(change, 'old'), at(change, 'new')];
	const exists = typeof after === 'object' && after !== null;
	const side = exists ? after : before;
	const name = textAt(side, 'name');
	// `tag`, `annotated_tag`.
	const ref = textAt(side, 'type').endsWith('tag') ? tagOf(name) : branchOf(name);
	return {
		...ref,
		commit: exists ? textAt(after, 'target', 'hash') : '',
		created: at(change, 'created') === true,
		deleted: !exists,
		forced: at(change, 'forced') === true,
	};
}

/** It sends no URL to clone from; these follow from the name. */
function repositoryOf(repository: unknown): Repository {
	const fullName = textAt(repository, 'full_name');
	if (fullName === '') return { name: textAt(repository, 'name'), full_name: '', url: '', ssh_url: '' };
	return {
		name: lastPart(fullName),
		full_name: fullName,
		url: `https://bitbucket.org/${fullName}.git`,
		ssh_url: `git@bitbucket.org:${fullName}.git`,
	};
}
