/**
 * What the listener and its starter say to each other, and how: each message is a line of JSON behind the number of raw bytes
 * that follow it (`5 {"kind":…}\n` and five bytes), over one socket that the starter inherits. When either end dies, the other
 * sees the socket close. Messages of one turn of the event loop go out in one write.
 */

import type net from 'node:net';

export type ToStarter =
	/** Make these named pipes, by their paths. */
	| { readonly kind: 'pipes'; readonly number: number; readonly paths: readonly string[] }
	/** Start this program. Its standard input follows as bytes when `stdin` is true. */
	| {
			readonly kind: 'start';
			/** Names it, as it does every other thing asked for, in what is said of it later. */
			readonly number: number;
			/** The program and its arguments. */
			readonly argv: readonly string[];
			/** null: the listener's own. */
			readonly cwd: string | null;
			/** All of its environment. */
			readonly env: Readonly<Record<string, string>>;
			/** The named pipe that takes both its output streams. */
			readonly pipe: string;
			readonly stdin: boolean;
	  }
	/** End what runs, and leave. The same happens when the socket closes. */
	| { readonly kind: 'leave' };

export type FromStarter =
	/** The pipes are there. */
	| { readonly kind: 'made'; readonly number: number }
	/** The program runs, as the first of a process group of its own. */
	| { readonly kind: 'started'; readonly number: number; readonly pid: number }
	/** It could not be started, or made, by the system's own code and words. */
	| {
			readonly kind: 'refused';
			readonly number: number;
			readonly code: string | undefined;
			readonly message: string;
	  }
	/** The program has ended; one of the two is null. */
	| {
			readonly kind: 'ended';
			readonly number: number;
			readonly exitCode: number | null;
			readonly signal: NodeJS.Signals | null;
	  };

const newline = 10;

/** One end of the socket. */
export class Channel<Incoming, Outgoing> {
	readonly #socket: net.Socket;
	readonly #receive: (message: Incoming, bytes: Buffer) => void;
	/** What is to be sent at the end of this turn. */
	#lines = '';
	/** The beginning of a line whose end has not come yet. */
	#line: Buffer | undefined;
	/** A message whose bytes have not all come yet, and how many are there. */
	#partial: { readonly message: Incoming; readonly bytes: Buffer; length: number } | undefined;

	/** @param receive is called with each message and the bytes that came with it (empty for none) */
	constructor(socket: net.Socket, receive: (message: Incoming, bytes: Buffer) => void) {
		this.#socket = socket;
		this.#receive = receive;
		socket.on('data', (chunk: Buffer) => this.#read(chunk));
		// An error is followed by 'close', which is what both ends act on.
		socket.on('error', () => {});
	}

	send(message: Outgoing, bytes?: Buffer): void {
		if (this.#lines === '') setImmediate(() => this.#flush());
		this.#lines += `${bytes?.length ?? 0} ${JSON.stringify(message)}\n`;
		if (bytes === undefined || bytes.length === 0) return;
		this.#flush();
		if (this.#socket.writable) this.#socket.write(bytes);
	}

	#flush(): void {
		// An end that is gone reads nothing; that it is gone is told by 'close'.
		if (this.#lines !== '' && this.#socket.writable) this.#socket.write(this.#lines);
		this.#lines = '';
	}

	/** Closes this end once everything has been sent. */
	end(): void {
		this.#flush();
		this.#socket.end();
	}

	#read(chunk: Buffer): void {
		let at = 0;
		while (at < chunk.length) {
			const partial = this.#partial;
			if (partial !== undefined) {
				const copied = chunk.copy(partial.bytes, partial.length, at);
				partial.length += copied;
				at += copied;
				if (partial.length < partial.bytes.length) return;
				this.#partial = undefined;
				this.#receive(partial.message, partial.bytes);
				continue;
			}
			const end = chunk.indexOf(newline, at);
			const part = chunk.subarray(at, end < 0 ? chunk.length : end);
			const line = this.#line === undefined ? part : Buffer.concat([this.#line, part]);
			if (end < 0) {
				this.#line = line;
				return;
			}
			this.#line = undefined;
			at = end + 1;
			const text = line.toString();
			const blank = text.indexOf(' ');
			const message: Incoming = JSON.parse(text.slice(blank));
			const length = Number(text.slice(0, blank));
			if (length > 0) this.#partial = { message, bytes: Buffer.allocUnsafe(length), length: 0 };
			else this.#receive(message, none);
		}
	}
}

const none = Buffer.alloc(0);
