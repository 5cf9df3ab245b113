/** Harbor, in both forms of payload that it can be set to send. It proves itself by a text that it sends as `Authorization`. */

import { z } from 'zod';
import { admitted, unknown } from '../auth/kind.ts';
import { day } from '../config/values.ts';
import { type Body, type Delivery, type Event, eventOf, headerOf } from '../delivery.ts';
import { matchesOne, type Secrets } from '../secret.ts';
import { cloudEvents, cloudEventsKey, isCloudEvent } from './cloudevents.ts';
import { at, firstOf, keyOf, listAt, mapOf, textAt, wordOf } from './fields.ts';
import { imageEvent, imageOf, tagOrDigest } from './images.ts';
import type { Reading, SourceKind } from './kind.ts';

const options = z
	.strictObject({})
	.meta({ description: 'Harbor. The secret is all of what is set there as "Auth Header".' });

export const harbor: SourceKind = {
	name: 'harbor',
	secret: 'required',
	options,
	bare: true,
	secretFault: (secret) =>
		/^[\x21-\x7e\x80-\xff]+(?:[\t ]+[\x21-\x7e\x80-\xff]+)*$/.test(secret.reveal().toString('latin1'))
			? null
			: 'has a line break, or a blank at one of its ends, so that no header can be like it',
	compile: (_options, secrets) => ({
		name: 'harbor',
		verification: {
			kind: 'harbor',
			name: 'harbor',
			check(delivery) {
				const given = headerOf(delivery, 'authorization');
				if (given === '') return unknown('there is no header Authorization');
				// Node hands bytes on as Latin-1.
				return matchesOne(secrets as Secrets, Buffer.from(given, 'latin1'))
					? admitted('harbor')
					: unknown('the header Authorization is another');
			},
		},
		read(delivery, body) {
			const events = toldIn(delivery, body).flatMap(eventsIn);
			if (events.length > 0) return { kind: 'events', events };
			return { kind: 'ignored', reason: 'the delivery names no artifact' } satisfies Reading;
		},
		deliveryId(delivery, body) {
			// The older form has no id, but says to the second when what has happened.
			return isCloudEvent(delivery) ? cloudEventsKey(cloudEvents(delivery, body)) : keyOf(delivery.body);
		},
		// It tries three times in a row.
		remember: day,
	}),
};

interface Told {
	/** `PUSH_ARTIFACT`, `pushImage` (Harbor 1), `harbor.artifact.pushed`. */
	readonly type: string;
	readonly data: unknown;
	readonly operator: string;
}

function toldIn(delivery: Delivery, body: Body): Told[] {
	if (isCloudEvent(delivery)) {
		return cloudEvents(delivery, body).map(({ type, data, whole }) => ({
			type,
			data,
			operator: firstOf(textAt(whole, 'operator'), headerOf(delivery, 'ce-operator')),
		}));
	}
	const payload = mapOf(body, 'Harbor');
	return [
		{
			type: textAt(payload, 'type'),
			data: at(payload, 'event_data'),
			operator: textAt(payload, 'operator'),
		},
	];
}

const pushes = new Set(['PUSH_ARTIFACT', 'pushImage', 'harbor.artifact.pushed']);
const deletions = new Set(['DELETE_ARTIFACT', 'deleteImage', 'harbor.artifact.deleted']);

function eventsIn({ type, data, operator }: Told): Event[] {
	const repository = textAt(data, 'repository', 'repo_full_name');
	return listAt(data, 'resources').map((resource) => {
		const named = imageOf(textAt(resource, 'resource_url'));
		const told = tagOrDigest(textAt(resource, 'tag'));
		const image = {
			registry: named.registry,
			repository: firstOf(named.repository, repository),
			tag: firstOf(told.tag, named.tag),
			digest: firstOf(textAt(resource, 'digest'), told.digest, named.digest),
		};
		const deleted = deletions.has(type);
		if (deleted || pushes.has(type)) return eventOf(imageEvent(image, type, { deleted, sender: operator }));
		// What is done to an image and leaves it as it is: pulled, scanned, copied elsewhere.
		return eventOf({ kind: wordOf(type), image, sender: operator });
	});
}
