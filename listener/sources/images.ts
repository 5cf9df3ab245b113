/** What registries have in common: names of container images. */

import type { Event, Image } from '../delivery.ts';

/** Where an image is that says no registry, as every container engine understands it. */
export const dockerHubRegistry = 'docker.io';

/**
 * The parts of an image's name, such as `registry.example.com:5000/team/web:1.2@sha256:…`. What stands before the first slash is
 * a registry when it looks like a host: it has a dot or a port, or is `localhost`. Without one, `registry` is empty.
 */
export function imageOf(reference: string): Image {
	const [name = '', digest = ''] = split(reference.replace(/^https?:\/\//, ''), '@');
	const slash = name.indexOf('/');
	const host = name.slice(0, Math.max(slash, 0));
	const registry = /[.:]/.test(host) || host === 'localhost' ? host : '';
	const rest = registry === '' ? name : name.slice(slash + 1);
	// A colon before a slash would belong to a port.
	const colon = rest.lastIndexOf(':');
	const tagged = colon > rest.lastIndexOf('/');
	return {
		registry,
		repository: tagged ? rest.slice(0, colon) : rest,
		tag: tagged ? rest.slice(colon + 1) : '',
		digest,
	};
}

function split(text: string, sign: string): [string, string] {
	const at = text.indexOf(sign);
	return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}

/** A tag as some registries tell it: where an image has none, the digest in its place. */
export function tagOrDigest(text: string): Pick<Image, 'tag' | 'digest'> {
	return /^[a-z0-9]+:[0-9a-f]{32,}$/.test(text) ? { tag: '', digest: text } : { tag: text, digest: '' };
}

/** What all that is done to an image has in common. @param action in the sender's word */
export function imageEvent(
	image: Image,
	action: string,
	more: Partial<Event> = {},
): { readonly kind: string } & Partial<Event> {
	return { ...more, kind: 'image', action, image };
}
