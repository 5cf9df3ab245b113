/** GitHub, github.com and GitHub Enterprise Server. Gitea, Forgejo and Gogs have taken over the shape of its payloads. */

import { z } from 'zod';
import { checkSignature } from '../auth/signature.ts';
import { day } from '../config/values.ts';
import { type Delivery, type Event, eventOf, headerOf, type Image, type Repository } from '../delivery.ts';
import type { Secrets } from '../secret.ts';
import { at, firstOf, idOf, lastPart, mapOf, requiredHeader, textAt, wordOf } from './fields.ts';
import { branchOf, changeOf, pushKind, type Ref, refOf, tagOf } from './git.ts';
import { imageOf } from './images.ts';
import { plainAnswer, type SourceKind, verificationOf } from './kind.ts';

const sha256 = {
	header: 'X-Hub-Signature-256',
	algorithm: 'sha256',
	encoding: 'hex',
	prefix: 'sha256=',
} as const;
const sha1 = { header: 'X-Hub-Signature', algorithm: 'sha1', encoding: 'hex', prefix: 'sha1=' } as const;

const options = z
	.strictObject({
		sha1: z.boolean().optional().meta({
			description:
				'Take SHA-1 signatures of GitHub Enterprise Server before 2.23, which sends no others. Default: false.',
		}),
	})
	.meta({ description: 'GitHub, and GitHub Enterprise Server.' });

export const github: SourceKind<z.output<typeof options>> = {
	name: 'github',
	secret: 'required',
	options,
	bare: true,
	compile(given, secrets) {
		return {
			name: 'github',
			verification: verificationOf('github', (delivery) => {
				// Who spoils the better signature must not be left with the weaker one; an empty header is there, too.
				const old = given.sha1 === true && delivery.headers['x-hub-signature-256'] === undefined;
				const form = old ? sha1 : sha256;
				return checkSignature(delivery, form, secrets as Secrets, [delivery.body], 'github');
			}),
			read(delivery, body) {
				const name = requiredHeader(delivery, 'X-GitHub-Event', 'GitHub');
				if (name === 'ping') return plainAnswer('Pong');
				const payload = mapOf(body, 'GitHub');
				const image =
					name === 'package' || name === 'registry_package' ? packageOf(payload[name]) : undefined;
				return {
					kind: 'events',
					events: [
						image === undefined
							? eventLikeGithub(name, payload)
							: eventOf({ ...about(payload), kind: 'image', image }),
					],
				};
			},
			deliveryId: (delivery: Delivery) => idOf(headerOf(delivery, 'X-GitHub-Delivery')),
			// Operators can have a delivery sent again for three days.
			remember: 7 * day,
		};
	},
};

/** An event as GitHub describes it, and those that describe theirs like it. @param name of the event, as its header says */
export function eventLikeGithub(name: string, payload: unknown): Event {
	return eventOf({ ...about(payload), ...specifics(name, payload) });
}

/** What all events tell. */
function about(payload: unknown): Pick<Event, 'action' | 'repository' | 'sender'> {
	return {
		action: textAt(payload, 'action'),
		repository: repositoryOf(at(payload, 'repository')),
		sender: firstOf(textAt(payload, 'sender', 'login'), textAt(payload, 'sender', 'username')),
	};
}

function repositoryOf(repository: unknown): Repository {
	const fullName = textAt(repository, 'full_name');
	return {
		name: firstOf(textAt(repository, 'name'), lastPart(fullName)),
		full_name: fullName,
		url: textAt(repository, 'clone_url'),
		ssh_url: textAt(repository, 'ssh_url'),
	};
}

function specifics(name: string, payload: unknown): { readonly kind: string } & Partial<Event> {
	switch (name) {
		case 'push': {
			const ref = refOf(textAt(payload, 'ref'));
			const change = changeOf(textAt(payload, 'before'), textAt(payload, 'after'));
			const deleted = change.deleted || at(payload, 'deleted') === true;
			return {
				kind: pushKind(ref),
				...ref,
				commit: deleted ? '' : change.commit,
				created: change.created || at(payload, 'created') === true,
				deleted,
				forced: at(payload, 'forced') === true,
			};
		}
		// Both come beside a push of the same ref, so they keep their own words: a route that wants pushes would run twice.
		case 'create':
			return { kind: name, ...typedRef(payload), commit: textAt(payload, 'sha'), created: true };
		case 'delete':
			return { kind: name, ...typedRef(payload), deleted: true };
		case 'release':
			return { kind: name, ...tagOf(textAt(payload, 'release', 'tag_name')) };
		case 'workflow_run':
			return { kind: 'build', ...headOf(payload) };
		default:
			return { kind: wordOf(name) };
	}
}

/** The ref of a `create` or `delete`, whose name stands alone: a tag may be called like a branch. */
function typedRef(payload: unknown): Ref {
	const ref = textAt(payload, 'ref');
	const type = textAt(payload, 'ref_type');
	if (ref.startsWith('refs/')) return refOf(ref);
	if (type === 'tag') return tagOf(ref);
	return branchOf(type === 'branch' ? ref : '');
}

/** What a workflow ran on. In a fork anybody may call a branch `main`, so branches of forks are none of this repository. */
function headOf(payload: unknown): Partial<Event> {
	const run = at(payload, 'workflow_run');
	const own = textAt(run, 'head_repository', 'full_name') === textAt(payload, 'repository', 'full_name');
	return own ? { ...branchOf(textAt(run, 'head_branch')), commit: textAt(run, 'head_sha') } : {};
}

/** The container image of a package event; undefined when the package is another thing. */
function packageOf(thing: unknown): Image | undefined {
	const type = textAt(thing, 'package_type').toLowerCase();
	if (type !== 'container' && type !== 'docker') return undefined;
	const version = at(thing, 'package_version');
	const tag = at(version, 'container_metadata', 'tag');
	const digests = [textAt(tag, 'digest'), textAt(version, 'version'), textAt(version, 'name')];
	return {
		// Such as ghcr.io/owner/name:tag; without a tag there is a bare colon.
		...imageOf(textAt(version, 'package_url')),
		tag: textAt(tag, 'name'),
		digest: digests.find((digest) => digest.startsWith('sha256:')) ?? '',
	};
}
