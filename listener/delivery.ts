/** The values that travel: what arrived, and what it means. They hold data only; who may make a verified one is auth's matter. */

/** Who called, as far as the connection tells. */
export interface Client {
	/** The caller's address without IPv6 mapping (`127.0.0.1`, not `::ffff:127.0.0.1`); `unix` for a unix socket. */
	readonly ip: string;
	/** True for 127.0.0.0/8, ::1 and unix sockets. */
	readonly loopback: boolean;
	/** The name in the certificate that TLS has verified; empty when the caller showed none. */
	readonly certname: string;
	/** That certificate's trusted extensions by their Puppet short names, such as `pp_role`. */
	readonly extensions: Readonly<Record<string, string>>;
	/** Why the certificate that it showed does not count, such as `CERT_REVOKED`; empty when it does, or there was none. */
	readonly distrust: string;
}

/** What a caller without a certificate shows. */
export const noCertificate: Pick<Client, 'certname' | 'extensions' | 'distrust'> = Object.freeze({
	certname: '',
	extensions: Object.freeze({}),
	distrust: '',
});

/** One HTTP request to a route, as it arrived. `body` holds the exact bytes received, before any decompression or parsing. */
export interface Delivery {
	/** Our own id: 26 letters and digits, sortable by time. A command reads it as `WEBHOOK_DELIVERY`. */
	readonly id: string;
	/** Milliseconds since 1970. */
	readonly receivedAt: number;
	readonly method: string;
	/** The path as sent, without query, still percent-encoded. */
	readonly path: string;
	readonly query: Readonly<Record<string, string | readonly string[]>>;
	/** Names in lower case. */
	readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
	readonly body: Buffer;
	readonly client: Client;
}

/** A header's text, several of one name joined by `, `; empty when it was not sent. @param name in any case */
export function headerOf({ headers }: Pick<Delivery, 'headers'>, name: string): string {
	const key = name.toLowerCase();
	const value = (Object.hasOwn(headers, key) && headers[key]) || '';
	return typeof value === 'string' ? value : value.join(', ');
}

/** The repository that an event is about; every field is empty when the sender does not tell it. */
export interface Repository {
	/** Without its owner. */
	readonly name: string;
	/** With its owner, groups or project: `owner/name`. */
	readonly full_name: string;
	/** Where git fetches it over HTTPS. */
	readonly url: string;
	/** Where git fetches it over SSH. */
	readonly ssh_url: string;
}

/** The container image (or artifact) that an event is about; every field is empty when the sender does not tell it. */
export interface Image {
	/** The registry's host, and port when it has one. */
	readonly registry: string;
	/** Without registry, tag and digest: `library/nginx`. */
	readonly repository: string;
	readonly tag: string;
	/** `sha256:…` */
	readonly digest: string;
}

/**
 * What a delivery tells: a plain call is one event of kind `call`; sources normalise theirs to pushes, images and so on. Every
 * field is always there, and empty when the sender does not tell it, so that an expression never fails for a missing one.
 */
export interface Event {
	/** `push`, `tag`, `pull_request`, `release`, `image`, `build`, `ping`, `call`, or the sender's own word. A command reads it as `WEBHOOK_EVENT`. */
	readonly kind: string;
	/** What happened to it, in the sender's word: `opened`, `published`, `COMPLETED`. */
	readonly action: string;
	readonly repository: Repository;
	/** In full: `refs/heads/main`, `refs/tags/v1`. */
	readonly ref: string;
	/** Empty when the ref is no branch. */
	readonly branch: string;
	/** Of a git ref; an image's is in `image`. */
	readonly tag: string;
	/** The object that the ref points to afterwards; empty when it was deleted. */
	readonly commit: string;
	readonly created: boolean;
	readonly deleted: boolean;
	/** The ref's history was rewritten. */
	readonly forced: boolean;
	readonly image: Image;
	/** Who caused it, by login name. */
	readonly sender: string;
}

const noRepository: Repository = Object.freeze({ name: '', full_name: '', url: '', ssh_url: '' });
const noImage: Image = Object.freeze({ registry: '', repository: '', tag: '', digest: '' });

/** An event with what is known of it. */
export function eventOf(known: { readonly kind: string } & Partial<Event>): Event {
	return Object.freeze({
		action: '',
		repository: noRepository,
		ref: '',
		branch: '',
		tag: '',
		commit: '',
		created: false,
		deleted: false,
		forced: false,
		image: noImage,
		sender: '',
		...known,
	});
}

/** A parsed body. Forms and JSON objects are maps; a JSON array is an array; no body is undefined. */
export type Body = Readonly<Record<string, unknown>> | readonly unknown[] | undefined;
