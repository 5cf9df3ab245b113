/**
 * `body`: a field of the body holds the secret. For senders that can put it nowhere else; of the others prefer those that sign.
 * The body has to be read for it before anybody is known, so only a small one is.
 */

import { isUtf8 } from 'node:buffer';
import { z } from 'zod';
import { type Delivery, headerOf } from '../delivery.ts';
import { matchesOne, type SecretSpec, secretSchema } from '../secret.ts';
import { type AuthKind, admitted, unknown } from './kind.ts';

/** Bytes. Reading so much takes some milliseconds, and who sends a secret this way sends little else. */
const largest = 1024 * 1024;

export const body: AuthKind<{ field: string; value: SecretSpec }> = {
	name: 'body',
	options: z
		.strictObject({
			field: z
				.string()
				.min(1)
				.regex(/^(?!\/)|^(?:\/(?:[^~/]|~[01])*)+$/, {
					error: 'is no JSON pointer, such as /auth/secret: a ~ in it is written ~0, and a / of a name ~1',
				})
				.meta({
					description: 'The name of a field at the top of the body, or the way to it, such as /auth/secret.',
				}),
			value: secretSchema,
		})
		.meta({
			description: 'A field of the body that holds a secret; JSON under any content type, or a form.',
		}),
	compile({ field, value }, making) {
		const secrets = making.secrets(value, 'value');
		const way = field.startsWith('/')
			? field
					.slice(1)
					.split('/')
					.map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
			: [field];
		return {
			kind: 'body',
			name: making.name,
			ofBody: true,
			inBody: true,
			check(delivery) {
				const content = contentOf(delivery);
				if (typeof content === 'string') return unknown(content);
				const given = way.reduce(below, content.value);
				if (typeof given !== 'string') return unknown(`the body has no text in its field ${field}`);
				return matchesOne(secrets, given)
					? admitted(making.name)
					: unknown(`the body's field ${field} holds another text`);
			},
		};
	},
};

/** What the body holds; or, as a text, why that is not known. */
function contentOf(delivery: Delivery): { value: unknown } | string {
	const bytes = delivery.body;
	if (bytes.length > largest)
		return `the body has more than ${largest} bytes, too many to look for a secret in`;
	if (headerOf(delivery, 'content-encoding') !== '') return 'the body is compressed';
	if (!isUtf8(bytes)) return 'the body is not UTF-8 text';
	const text = bytes.toString();
	const form = /^application\/x-www-form-urlencoded\b/i.test(headerOf(delivery, 'content-type'));
	if (form && !/^\s*[{[]/.test(text)) {
		const fields: Record<string, string | string[]> = Object.create(null);
		const pairs = new URLSearchParams(text);
		for (const name of new Set(pairs.keys())) {
			const [first = '', ...others] = pairs.getAll(name);
			fields[name] = others.length === 0 ? first : [first, ...others];
		}
		return { value: fields };
	}
	try {
		return { value: JSON.parse(text) };
	} catch {
		return 'the body is not JSON';
	}
}

function below(value: unknown, name: string): unknown {
	if (value === null || typeof value !== 'object' || !Object.hasOwn(value, name)) return undefined;
	return (value as Record<string, unknown>)[name];
}
