/**
 * `open`: anybody may call, but no web page may make a browser call. A page on the internet can have the browser of an
 * administrator, who reaches what the page's author cannot, send requests here by a form, a script, an image or a prefetched
 * link. Browsers tell on themselves by headers that a page can neither set nor leave out, and other programs (curl, Puppet,
 * Jenkins, the services that send webhooks) send none of them.
 */

import type { Delivery } from '../delivery.ts';
import { Forbidden } from '../errors.ts';

/** What is known of a caller beside the body. */
export type Caller = Pick<Delivery, 'headers' | 'client'>;

/** @throws Forbidden for a web page of another origin and for a prefetch */
export function checkOpen(caller: Caller): void {
	const reason = broughtAbout(caller);
	if (reason !== undefined) throw new Forbidden(`${reason}; call it from a program`);
}

/**
 * Whether a web page had a browser send this, in words that tell it; undefined when not. Whoever recognises callers by what a
 * browser sends or has by itself (a password it remembers, a client certificate, an address) has to ask.
 */
export function broughtAbout({ headers }: Caller): string | undefined {
	// Older browsers have no Sec-Fetch-Site, and so have all where the listener is called by plain http and another name than
	// localhost: there, Origin tells of every POST.
	const site = headers['sec-fetch-site'];
	const foreign =
		site === undefined
			? headers.origin !== undefined && !isOrigin(String(headers.origin), headers.host)
			: site === 'cross-site' || site === 'same-site';
	if (foreign) return 'a web page may not make a browser call this';
	if (site !== undefined && String(headers['sec-purpose'] ?? '').startsWith('prefetch')) {
		return 'a browser asked for this ahead of a click, so nothing was run';
	}
	return undefined;
}

/** `null`, the origin of sandboxed frames and of local files, is nobody's own. */
function isOrigin(origin: string, host: unknown): boolean {
	return URL.canParse(origin) && new URL(origin).host === host;
}
