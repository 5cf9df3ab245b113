/** What git servers have in common: refs, and object ids that mean "none". */

import type { Event } from '../delivery.ts';

const branches = 'refs/heads/';
const tags = 'refs/tags/';

/** What a ref is, under the names that events have for it. */
export type Ref = Pick<Event, 'ref' | 'branch' | 'tag'>;

const noRef: Ref = Object.freeze({ ref: '', branch: '', tag: '' });

/** @param ref in full; what is neither a branch nor a tag by that is neither. Slashes in a name are its own. */
export function refOf(ref: string): Ref {
	if (ref.startsWith(branches)) return { ref, branch: ref.slice(branches.length), tag: '' };
	if (ref.startsWith(tags)) return { ref, branch: '', tag: ref.slice(tags.length) };
	return { ref, branch: '', tag: '' };
}

/** @param name without `refs/heads/` */
export function branchOf(name: string): Ref {
	return name === '' ? noRef : { ref: branches + name, branch: name, tag: '' };
}

/** @param name without `refs/tags/` */
export function tagOf(name: string): Ref {
	return name === '' ? noRef : { ref: tags + name, branch: '', tag: name };
}

/** The kind of a push: `tag` when it is a tag that was pushed. */
export function pushKind({ tag }: Ref): 'push' | 'tag' {
	return tag === '' ? 'push' : 'tag';
}

/** Whether an object id is the one that stands for "none": all zeros, of SHA-1's or SHA-256's length. */
export function isNone(id: string): boolean {
	return /^(?:0{40}|0{64})$/.test(id);
}

/** What the ids before and after a push tell. Empty ones, of senders that leave them out, tell nothing. */
export function changeOf(before: string, after: string): Pick<Event, 'commit' | 'created' | 'deleted'> {
	const deleted = isNone(after);
	return { commit: deleted ? '' : after, created: isNone(before), deleted };
}
