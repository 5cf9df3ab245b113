/**
 * CDEvents, the vocabulary of CI/CD systems (Tekton, Jenkins, Testkube and others) on top of CloudEvents. It has no
 * verification of its own, so its route has `auth`.
 */

import { z } from 'zod';
import { day } from '../config/values.ts';
import { type Body, type Delivery, type Event, eventOf, type Image, type Repository } from '../delivery.ts';
import { BadRequest } from '../errors.ts';
import { type CloudEvent, cloudEvents, cloudEventsKey, isCloudEvent } from './cloudevents.ts';
import { at, firstOf, lastPart, textAt, wordOf } from './fields.ts';
import { branchOf } from './git.ts';
import { imageOf, tagOrDigest } from './images.ts';
import type { SourceKind } from './kind.ts';

const host = z
	.string()
	.regex(/^[A-Za-z0-9.-]+(:\d+)?$/, { error: 'must be a host, such as events.example.com' });

const options = z
	.strictObject({
		origins: z.array(host).min(1).optional().meta({
			description:
				'Senders that are told that events are wanted here when they ask by OPTIONS (WebHook-Request-Origin). Default: none.',
		}),
	})
	.meta({ description: 'Any sender of CDEvents, which prove nothing.' });

export const cdevents: SourceKind<z.output<typeof options>> = {
	name: 'cdevents',
	secret: 'none',
	options,
	bare: true,
	compile: ({ origins }) => ({
		name: 'cdevents',
		verification: null,
		read: (delivery, body) => ({
			kind: 'events',
			events: eventsOf(delivery, body).map(({ type, data }) => eventIn(type, data)),
		}),
		deliveryId: (delivery, body) => cloudEventsKey(eventsOf(delivery, body)),
		// How long senders try is theirs to say; a week is what the most patient do.
		remember: 7 * day,
		...(origins === undefined ? {} : { origins }),
	}),
};

const family = 'dev.cdevents.';

/** @throws BadRequest when one is no CDEvent */
function eventsOf(delivery: Delivery, body: Body): CloudEvent[] {
	const events = isCloudEvent(delivery) ? cloudEvents(delivery, body) : [bare(body)];
	const other = events.find(({ type }) => !type.startsWith(family));
	if (other === undefined) return events;
	throw new BadRequest(`the body has to be a CDEvent, whose type begins with ${family}`);
}

/** As some senders have it, without CloudEvents around it. */
function bare(body: Body): CloudEvent {
	const context = at(body, 'context');
	const [id, source, type] = [textAt(context, 'id'), textAt(context, 'source'), textAt(context, 'type')];
	if (id === '' || source === '') {
		throw new BadRequest(
			'the body has to be a CDEvent: a CloudEvent, or its data with a "context" that has id, source and type',
		);
	}
	return { id, source, type, subject: '', data: body, whole: body };
}

/** Kinds that other senders have too are called as theirs. */
const kinds: Readonly<Record<string, string>> = {
	build: 'build',
	pipelinerun: 'build',
	taskrun: 'build',
};

/** @param type such as `dev.cdevents.artifact.published.0.3.0` */
function eventIn(type: string, data: unknown): Event {
	const [subject = '', action = ''] = type.slice(family.length).split('.');
	const content = at(data, 'subject', 'content');
	const id = textAt(data, 'subject', 'id');
	const repository = repositoryIn(at(content, 'repository'));
	if (subject === 'artifact') {
		const image = imageIn(id);
		const deleted = action === 'deleted';
		return image === undefined
			? eventOf({ kind: 'artifact', action, deleted })
			: eventOf({ kind: 'image', action, deleted, image, sender: textAt(content, 'user') });
	}
	if (subject === 'branch') {
		const change = { created: action === 'created', deleted: action === 'deleted' };
		return eventOf({ kind: 'branch', action, repository, ...branchOf(lastPart(id)), ...change });
	}
	return eventOf({ kind: kinds[subject] ?? wordOf(subject), action, repository });
}

function repositoryIn(told: unknown): Repository {
	const id = textAt(told, 'id');
	const url = firstOf(textAt(told, 'url'), textAt(told, 'content', 'url'));
	const isUrl = URL.canParse(id);
	const fullName = isUrl ? new URL(id).pathname.replace(/^\/|\.git$/g, '') : id;
	return {
		name: lastPart(fullName),
		full_name: fullName,
		url: firstOf(isUrl ? id : '', URL.canParse(url) ? url : ''),
		ssh_url: '',
	};
}

/**
 * The image of a package URL such as `pkg:oci/web@sha256%3A…?repository_url=registry.example.com/team/web&tag=1.2`; undefined
 * when it is another thing.
 */
function imageIn(purl: string): Image | undefined {
	const [, path = '', version = '', query = ''] =
		/^pkg:(?:oci|docker)\/([^@?#]+)(?:@([^?#]*))?(?:\?([^#]*))?/.exec(purl) ?? [];
	if (path === '') return undefined;
	const given = new URLSearchParams(query);
	const place = given.get('repository_url') ?? '';
	const name = decoded(path);
	const { tag, digest } = tagOrDigest(decoded(version));
	const { registry, repository } = imageOf(place === '' ? name : place);
	// Of the type docker, the URL names the registry alone.
	const whole = place !== '' && registry === '' ? imageOf(`${place}/${name}`) : { registry, repository };
	return { registry: whole.registry, repository: whole.repository, tag: given.get('tag') ?? tag, digest };
}

function decoded(text: string): string {
	try {
		return decodeURIComponent(text);
	} catch {
		return text;
	}
}
