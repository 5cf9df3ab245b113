/** Sources: who sends. The table of all kinds, and what makes a route's source of what routes.yaml says. */

import type { Secrets } from '../secret.ts';
import type { Source, SourceKind } from './kind.ts';

// biome-ignore lint/suspicious/noExplicitAny: each kind checks its own options before it gets them
export const sourceKinds: readonly SourceKind<any>[] = [];

/**
 * A route's source.
 * @param options as the kind's own schema gave them
 * @param secrets null when the route has no `secret`
 * @returns the source, or what is wrong with having, or not having, a secret
 */
export function compileSource(
	kind: SourceKind,
	options: unknown,
	secrets: Secrets | null,
): { source: Source } | { fault: string } {
	if (kind.secret === 'required' && secrets === null) {
		return { fault: `source "${kind.name}" signs what it sends: say its "secret"` };
	}
	if (kind.secret === 'none' && secrets !== null) {
		return {
			fault: `source "${kind.name}" has nothing that a secret could verify; use "auth", or a path with {{fingerprint}}`,
		};
	}
	return { source: kind.compile(options, secrets) };
}
