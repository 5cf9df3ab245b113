/** Docker Hub. It signs nothing and sends no secret, so its route needs a path that nobody can guess. */

import { z } from 'zod';
import { day } from '../config/values.ts';
import { eventOf } from '../delivery.ts';
import { firstOf, keyOf, mapOf, textAt } from './fields.ts';
import { dockerHubRegistry, imageEvent } from './images.ts';
import type { SourceKind } from './kind.ts';

const options = z.strictObject({}).meta({ description: 'Docker Hub, which proves nothing.' });

export const dockerhub: SourceKind = {
	name: 'dockerhub',
	secret: 'none',
	options,
	bare: true,
	compile: () => ({
		name: 'dockerhub',
		verification: null,
		read(_delivery, body) {
			const payload = mapOf(body, 'Docker Hub');
			const owner = textAt(payload, 'repository', 'namespace');
			const name = textAt(payload, 'repository', 'name');
			const built = owner === '' || name === '' ? name : `${owner}/${name}`;
			const image = {
				registry: dockerHubRegistry,
				repository: firstOf(textAt(payload, 'repository', 'repo_name'), built),
				tag: textAt(payload, 'push_data', 'tag'),
				digest: '',
			};
			if (image.repository === '') return { kind: 'ignored', reason: 'the delivery names no repository' };
			const sender = textAt(payload, 'push_data', 'pusher');
			return { kind: 'events', events: [eventOf(imageEvent(image, 'push', { sender }))] };
		},
		// It has no id, but says to the second when what was pushed, so that two pushes are never alike.
		deliveryId: ({ body }) => keyOf(body),
		remember: day,
	}),
};
