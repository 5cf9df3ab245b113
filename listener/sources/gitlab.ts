/** GitLab: its hooks of projects and groups, and its system hooks. */

import { z } from 'zod';
import { admitted, unknown, type Verdict } from '../auth/kind.ts';
import { day } from '../config/values.ts';
import { type Delivery, type Event, eventOf, headerOf, type Repository } from '../delivery.ts';
import { BadRequest } from '../errors.ts';
import { matchesOne, type Secret, type Secrets } from '../secret.ts';
import { at, firstOf, idOf, lastPart, mapOf, textAt, wordOf } from './fields.ts';
import { branchOf, changeOf, pushKind, refOf, tagOf } from './git.ts';
import { type SourceKind, verificationOf } from './kind.ts';
import { checkStandard, keyOf } from './standard-webhooks.ts';

const options = z.strictObject({}).meta({ description: 'GitLab.' });

export const gitlab: SourceKind = {
	name: 'gitlab',
	secret: 'required',
	secretFault(secret) {
		if (isSigningToken(secret)) {
			return keyOf(secret) ? null : 'begins like a signing token, "whsec_", but no base64 follows';
		}
		return /^\s|\s$|[\r\n]/.test(secret.reveal().toString('latin1'))
			? 'has a line break, or a blank at one of its ends, which no header can have'
			: null;
	},
	options,
	bare: true,
	compile: (_options, secrets) => ({
		name: 'gitlab',
		verification: verificationOf('gitlab', (delivery) => check(delivery, secrets as Secrets)),
		read(delivery, body) {
			const payload = mapOf(body, 'GitLab');
			const event = { ...about(payload), ...specifics(eventName(delivery, payload), payload) };
			return { kind: 'events', events: [eventOf(event)] };
		},
		// Where it signs, webhook-id is signed and the other is not.
		deliveryId: (delivery) =>
			idOf(firstOf(headerOf(delivery, 'webhook-id'), headerOf(delivery, 'Idempotency-Key'))),
		// Its list of deliveries, from which operators send one again, reaches back a week.
		remember: 14 * day,
	}),
};

function isSigningToken(secret: Secret): boolean {
	return secret.reveal().toString('latin1').startsWith('whsec_');
}

/** Once there is a signing token a signature is required: the secret token travels with each delivery and proves less. */
function check(delivery: Delivery, secrets: Secrets): Verdict {
	const signing = secrets.current.filter(isSigningToken);
	if (signing.length > 0) return checkStandard(delivery, 'webhook', signing, 'gitlab');
	const token = headerOf(delivery, 'X-Gitlab-Token');
	if (token === '') return unknown('there is no header X-Gitlab-Token, or nothing in it');
	// Node reads a header's bytes as Latin-1.
	const bytes = Buffer.from(token, 'latin1');
	return matchesOne(secrets, bytes) ? admitted('gitlab') : unknown('X-Gitlab-Token is another token');
}

/**
 * The event in GitLab's own words: `push`, `tag_push`, `merge_request`. The header counts, since bodies can be made by a template
 * of the user's; but all it says of system hooks is that they are some.
 */
function eventName(delivery: Delivery, payload: unknown): string {
	const header = headerOf(delivery, 'X-Gitlab-Event');
	if (header !== '' && header !== 'System Hook') {
		const words = header.replace(/^Confidential /, '').replace(/ Hook$/, '');
		return words.toLowerCase().replaceAll(' ', '_');
	}
	const kind = textAt(payload, 'object_kind');
	const name = kind === 'build' ? 'job' : firstOf(kind, textAt(payload, 'event_name'));
	if (name === '' && header === '') {
		throw new BadRequest(
			'there is neither a header X-Gitlab-Event nor an "object_kind" in the body, one of which GitLab sends',
		);
	}
	return name;
}

function about(payload: unknown): Pick<Event, 'repository' | 'sender'> {
	return {
		repository: repositoryOf(at(payload, 'project'), at(payload, 'repository')),
		sender: firstOf(textAt(payload, 'user_username'), textAt(payload, 'user', 'username')),
	};
}

/** @param other where GitLab has what it does not have in `project`, such as for jobs */
function repositoryOf(project: unknown, other: unknown): Repository {
	const fullName = textAt(project, 'path_with_namespace');
	return {
		// `project.name` is a title: "My Project" for my-project.
		name: firstOf(lastPart(fullName), textAt(project, 'name'), textAt(other, 'name')),
		full_name: fullName,
		url: firstOf(textAt(project, 'git_http_url'), textAt(other, 'git_http_url')),
		ssh_url: firstOf(textAt(project, 'git_ssh_url'), textAt(other, 'git_ssh_url')),
	};
}

function specifics(event: string, payload: unknown): { readonly kind: string } & Partial<Event> {
	const attributes = at(payload, 'object_attributes');
	switch (event) {
		case 'push':
		case 'tag_push': {
			const name = textAt(payload, 'ref');
			const named = event === 'tag_push' ? tagOf : branchOf;
			// A name alone is what scripts send that speak as GitLab does.
			const ref = name.startsWith('refs/') ? refOf(name) : named(name);
			const after = firstOf(textAt(payload, 'after'), textAt(payload, 'checkout_sha'));
			const change = changeOf(textAt(payload, 'before'), after);
			return { kind: event === 'tag_push' ? 'tag' : pushKind(ref), ...ref, ...change };
		}
		case 'merge_request':
			return { kind: 'pull_request', action: textAt(attributes, 'action') };
		case 'release':
			return { kind: 'release', action: textAt(payload, 'action'), ...tagOf(textAt(payload, 'tag')) };
		case 'pipeline':
			return { kind: 'build', action: textAt(attributes, 'status'), ...builtOf(attributes) };
		case 'job':
			return { kind: 'job', action: textAt(payload, 'build_status') };
		default:
			return {
				kind: wordOf(event),
				action: firstOf(textAt(attributes, 'action'), textAt(payload, 'action')),
			};
	}
}

/** What a pipeline ran on. For a merge request that is a branch of whoever made it, under a name that anybody may choose. */
function builtOf(attributes: unknown): Partial<Event> {
	if (/merge_request|pull_request/.test(textAt(attributes, 'source'))) return {};
	const name = textAt(attributes, 'ref');
	const ref = at(attributes, 'tag') === true ? tagOf(name) : branchOf(name);
	return { ...ref, commit: textAt(attributes, 'sha') };
}
