/** Confirms a subscription, for senders that want a URL fetched before they send anything. */

import { BadGateway } from '../errors.ts';

/** Milliseconds: Amazon waits 15 s for our answer, which comes after this. */
const timeLimit = 10_000;

/**
 * Fetches the URL once, which its source has checked to be the sender's own. Redirects are not followed.
 * @throws BadGateway when the sender did not take it
 */
export async function confirm(url: string): Promise<void> {
	// Needed once in the life of a subscription, and as large as the rest of the HTTP side.
	const { default: got } = await import('got');
	try {
		await got(url, { followRedirect: false, retry: { limit: 0 }, timeout: { request: timeLimit } });
	} catch (error) {
		throw new BadGateway('the sender did not take the confirmation of the subscription', { cause: error });
	}
}
