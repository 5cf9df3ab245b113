/** The values that travel: what arrived, and what it means. They hold data only; who may make a verified one is auth's matter. */

/** Who called, as far as the connection tells. */
export interface Client {
	/** The TCP peer's address without IPv6 mapping (`127.0.0.1`, not `::ffff:127.0.0.1`); `unix` for a unix socket. */
	readonly ip: string;
	/** True for 127.0.0.0/8, ::1 and unix sockets. */
	readonly loopback: boolean;
}

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

/** What a delivery tells: a plain call is one event of kind `call`; sources normalise theirs to pushes, images and so on. */
export interface Event {
	/** A command reads it as `WEBHOOK_EVENT`. */
	readonly kind: string;
}

/** A parsed body. Forms and JSON objects are maps; a JSON array is an array; no body is undefined. */
export type Body = Readonly<Record<string, unknown>> | readonly unknown[] | undefined;
