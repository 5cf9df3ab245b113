/** Who may call: what the file says under `auth`, `source` and `secret`, made into checks. */

import type { Access } from '../auth/auth.ts';
import type { Callers, RouteSpec, SharedSpec } from '../routes/route.ts';
import type { Key } from './yaml.ts';

export interface AccessFault {
	/** From the route on. */
	readonly key: Key;
	readonly message: string;
}

/** The checks that a route's callers have to pass. With faults it lets nobody in. */
export function compileCallers(
	spec: Pick<RouteSpec, 'auth'>,
	defaults: Pick<SharedSpec, 'auth'>,
): Callers & { faults: readonly AccessFault[] } {
	const access: Access = { open: (spec.auth ?? defaults.auth) === 'none', any: [], source: null };
	return { access, source: null, faults: [] };
}
