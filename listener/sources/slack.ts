/** Slack: events, slash commands, and what people do with buttons and forms. */

import { z } from 'zod';
import { unknown, type Verdict } from '../auth/kind.ts';
import { checkSignature, type Form, untimely, usualTolerance } from '../auth/signature.ts';
import { day } from '../config/values.ts';
import { type Delivery, type Event, eventOf, headerOf } from '../delivery.ts';
import type { Secrets } from '../secret.ts';
import { at, firstOf, idOf, mapOf, textAt, wordOf } from './fields.ts';
import { plainAnswer, type SourceKind, verificationOf } from './kind.ts';

const form: Form = { header: 'X-Slack-Signature', algorithm: 'sha256', encoding: 'hex', prefix: 'v0=' };

const options = z
	.strictObject({})
	.meta({ description: 'Slack. The secret is the signing secret of the app.' });

export const slack: SourceKind = {
	name: 'slack',
	secret: 'required',
	options,
	bare: true,
	compile: (_options, secrets) => ({
		name: 'slack',
		verification: verificationOf('slack', (delivery) => check(delivery, secrets as Secrets)),
		read(_delivery, body) {
			const payload = mapOf(body, 'Slack');
			if (at(payload, 'type') === 'url_verification') return plainAnswer(textAt(payload, 'challenge'));
			// Now and then it looks whether the certificate of a slash command's URL is still good.
			if (textAt(payload, 'ssl_check') === '1') return plainAnswer('');
			return { kind: 'events', events: [eventOf(eventIn(payload))] };
		},
		// Slash commands and buttons have no id, but for each use of one a trigger.
		deliveryId: (_delivery, body) => idOf(firstOf(textAt(body, 'event_id'), textAt(body, 'trigger_id'))),
		// It tries three times within an hour.
		remember: day,
	}),
};

function check(delivery: Delivery, secrets: Secrets): Verdict {
	const time = headerOf(delivery, 'X-Slack-Request-Timestamp');
	const late = untimely(time, delivery, usualTolerance);
	if (late !== undefined) return unknown(`X-Slack-Request-Timestamp: ${late}`);
	return checkSignature(delivery, form, secrets, [`v0:${time}:`, delivery.body], 'slack');
}

function eventIn(payload: unknown): { readonly kind: string } & Partial<Event> {
	const command = textAt(payload, 'command');
	if (command !== '') {
		return { kind: 'slash_command', action: command, sender: textAt(payload, 'user_name') };
	}
	const event = at(payload, 'event');
	if (event !== undefined) {
		const user = firstOf(textAt(event, 'user'), textAt(event, 'user', 'id'));
		return { kind: wordOf(textAt(event, 'type')), action: textAt(event, 'subtype'), sender: user };
	}
	// The first of several actions is the one that was taken.
	const action = firstOf(textAt(payload, 'actions', 0, 'action_id'), textAt(payload, 'callback_id'));
	const person = at(payload, 'user');
	const sender = firstOf(textAt(person, 'username'), textAt(person, 'name'), textAt(person, 'id'));
	return { kind: wordOf(textAt(payload, 'type')), action, sender };
}
