/** Quay, quay.io and one's own. It signs nothing and sends no secret, so its route needs a path that nobody can guess. */

import { z } from 'zod';
import { day } from '../config/values.ts';
import { eventOf } from '../delivery.ts';
import { at, listAt, mapOf, textAt } from './fields.ts';
import { imageEvent, imageOf } from './images.ts';
import type { Reading, SourceKind } from './kind.ts';

const options = z.strictObject({}).meta({ description: 'Quay, which proves nothing.' });

export const quay: SourceKind = {
	name: 'quay',
	secret: 'none',
	options,
	bare: true,
	compile: () => ({
		name: 'quay',
		verification: null,
		read: (_delivery, body) => read(mapOf(body, 'Quay')),
		// It has no id, and two pushes of a tag are told in the same words: one run too many does less harm than one too few.
		deliveryId: () => null,
		remember: day,
	}),
};

/** Quay does not say what has happened; each kind of notification has fields that no other has. */
function read(payload: unknown): Reading {
	const image = imageOf(textAt(payload, 'docker_url'));
	if (image.repository === '') return { kind: 'ignored', reason: 'the delivery names no repository' };
	if (at(payload, 'updated_tags') !== undefined) {
		const tags = listAt(payload, 'updated_tags').filter((tag) => typeof tag === 'string');
		if (tags.length === 0) return { kind: 'ignored', reason: 'the push changes no tag' };
		return { kind: 'events', events: tags.map((tag) => eventOf(imageEvent({ ...image, tag }, 'push'))) };
	}
	const kind =
		at(payload, 'build_id') !== undefined
			? 'build'
			: at(payload, 'vulnerability') !== undefined
				? 'vulnerability'
				: 'call';
	return { kind: 'events', events: [eventOf({ kind, image })] };
}
