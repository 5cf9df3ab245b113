/** Sources: who sends. The table of all kinds, and what makes a route's source of what routes.yaml says. */

import type { Secrets } from '../secret.ts';
import { acr } from './acr.ts';
import { azureDevops } from './azure-devops.ts';
import { bitbucket } from './bitbucket.ts';
import { bitbucketServer } from './bitbucket-server.ts';
import { cdevents } from './cdevents.ts';
import { dockerhub } from './dockerhub.ts';
import { gcr } from './gcr.ts';
import { forgejo, gitea, gogs } from './gitea.ts';
import { github } from './github.ts';
import { gitlab } from './gitlab.ts';
import { harbor } from './harbor.ts';
import { hmac } from './hmac.ts';
import { jenkins } from './jenkins.ts';
import type { Source, SourceKind } from './kind.ts';
import { nexus } from './nexus.ts';
import { quay } from './quay.ts';
import { slack } from './slack.ts';
import { sns } from './sns.ts';
import { standardWebhooks } from './standard-webhooks.ts';

// biome-ignore lint/suspicious/noExplicitAny: each kind checks its own options before it gets them
export const sourceKinds: readonly SourceKind<any>[] = [
	github,
	gitlab,
	bitbucket,
	bitbucketServer,
	gitea,
	forgejo,
	gogs,
	azureDevops,
	dockerhub,
	harbor,
	quay,
	nexus,
	gcr,
	acr,
	sns,
	jenkins,
	cdevents,
	standardWebhooks,
	slack,
	hmac,
];

/**
 * A route's source.
 * @param options as the kind's own schema gave them
 * @param secrets null when the route has no `secret`
 * @returns the source, or what is wrong with its secret, or with having or not having one
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
	const fault = secrets?.current
		.map((secret) => kind.secretFault?.(secret) ?? null)
		.find((it) => it !== null);
	if (fault) return { fault: `the secret ${fault}` };
	return { source: kind.compile(options, secrets) };
}
