/**
 * Azure Container Registry: its own webhooks, and its events through Event Grid in both schemas. It signs nothing; what it can
 * send is headers that are set there, so its route has `auth`, or a path that nobody can guess.
 */

import { z } from 'zod';
import { day } from '../config/values.ts';
import { type Body, type Event, eventOf } from '../delivery.ts';
import { cloudEvents, cloudEventsKey, isCloudEvent } from './cloudevents.ts';
import { at, firstOf, idOf, textAt, wordOf } from './fields.ts';
import { imageEvent } from './images.ts';
import { plainAnswer, type Reading, type SourceKind } from './kind.ts';

const options = z
	.strictObject({})
	.meta({ description: 'Azure Container Registry, directly or through Event Grid; it proves nothing.' });

export const acr: SourceKind = {
	name: 'acr',
	secret: 'none',
	options,
	bare: true,
	compile: () => ({
		name: 'acr',
		verification: null,
		read(delivery, body) {
			if (isCloudEvent(delivery)) {
				return readings(cloudEvents(delivery, body).map(({ type, data }) => ({ type, data })));
			}
			return Array.isArray(body) ? readEventGrid(body) : readNative(body);
		},
		deliveryId(delivery, body) {
			if (isCloudEvent(delivery)) return cloudEventsKey(cloudEvents(delivery, body));
			if (!Array.isArray(body)) return idOf(textAt(body, 'id'));
			return cloudEventsKey(body.map((one) => ({ id: textAt(one, 'id'), source: textAt(one, 'topic') })));
		},
		// Event Grid tries for a day.
		remember: 7 * day,
		origins: ['eventgrid.azure.net'],
	}),
};

/** What Event Grid calls the events of a registry. */
const types: Readonly<Record<string, string>> = {
	'Microsoft.ContainerRegistry.ImagePushed': 'push',
	'Microsoft.ContainerRegistry.ImageDeleted': 'delete',
	'Microsoft.ContainerRegistry.ChartPushed': 'chart_push',
	'Microsoft.ContainerRegistry.ChartDeleted': 'chart_delete',
};

const validation = 'Microsoft.EventGrid.SubscriptionValidationEvent';

function readNative(body: Body): Reading {
	const action = textAt(body, 'action');
	if (action === 'ping') return plainAnswer('Pong');
	return readings([{ type: action, data: body }]);
}

function readEventGrid(body: readonly unknown[]): Reading {
	const asked = body.find((one) => textAt(one, 'eventType') === validation);
	if (asked !== undefined) {
		// The code alone: the URL beside it would have to be fetched, and whoever sends this could name any.
		const answer = JSON.stringify({ validationResponse: textAt(asked, 'data', 'validationCode') });
		return { kind: 'answer', status: 200, type: 'application/json', body: answer };
	}
	return readings(body.map((one) => ({ type: textAt(one, 'eventType'), data: at(one, 'data') })));
}

function readings(told: readonly { readonly type: string; readonly data: unknown }[]): Reading {
	const events = told.flatMap(({ type, data }) => eventIn(type, data) ?? []);
	if (events.length > 0) return { kind: 'events', events };
	return { kind: 'ignored', reason: 'the delivery tells of no artifact in the registry' };
}

function eventIn(type: string, data: unknown): Event | undefined {
	const target = at(data, 'target');
	const image = {
		registry: textAt(data, 'request', 'host'),
		repository: textAt(target, 'repository'),
		tag: textAt(target, 'tag'),
		digest: textAt(target, 'digest'),
	};
	if (type === '' || image.repository === '') return undefined;
	const action = firstOf(types[type] ?? '', type);
	const sender = textAt(data, 'actor', 'name');
	if (action !== 'push' && action !== 'delete') return eventOf({ kind: wordOf(action), image, sender });
	return eventOf(imageEvent(image, action, { deleted: action === 'delete', sender }));
}
