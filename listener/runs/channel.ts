/**
 * What the listener and a runner say to each other, and how: each message is a line of JSON behind the number of raw bytes
 * that follow it (`5 {"kind":…}\n` and five bytes), over one socket that the runner inherits. When either end dies, the other
 * sees the socket close. Messages of one turn of the event loop go out in one write.
 */

import type net from 'node:net';
import type { Outcome, Plan } from './run.ts';

export type ToRunner =
	/** The first message. */
	| {
			readonly kind: 'hello';
			/** The allow-list of variables that every program gets. */
			readonly environment: Readonly<Record<string, string>>;
			/** Where files of output go. */
			readonly outputs: string;
			/** A directory of the runner's own, for pipes and the record of its process groups. */
			readonly own: string;
	  }
	/** Perform this run. Its standard input follows as bytes when `stdin` is true. */
	| {
			readonly kind: 'run';
			readonly id: string;
			readonly attempt: number;
			readonly plan: Plan;
			/** The parameters and the WEBHOOK_ variables. */
			readonly values: Readonly<Record<string, string>>;
			/** What stands at places of routes.yaml that the plan refers to; absent when it refers to none. Kept nowhere. */
			readonly secrets?: Readonly<Record<string, string>>;
			readonly stdin: boolean;
	  }
	/** A trigger was counted up, as `request` asked for; `count` is null when it was not, and `trouble` says why. */
	| {
			readonly kind: 'counted';
			readonly request: number;
			readonly count: number | null;
			readonly trouble: string;
	  }
	/** Somebody cancelled this run. */
	| { readonly kind: 'cancel'; readonly id: string; readonly attempt: number }
	/** End every run, without reporting those that are ended by it, and leave. The same happens when the socket closes. */
	| { readonly kind: 'leave' };

export type FromRunner =
	/** So many bytes of output are in the run's file. */
	| { readonly kind: 'output'; readonly id: string; readonly attempt: number; readonly size: number }
	/** A step of the run counts a trigger up; `counted` answers. */
	| {
			readonly kind: 'count';
			readonly id: string;
			readonly attempt: number;
			readonly request: number;
			readonly trigger: string;
	  }
	/** The run has ended. Output that stayed short follows as bytes when `short` is true. */
	| {
			readonly kind: 'ended';
			readonly id: string;
			readonly attempt: number;
			readonly outcome: Outcome;
			/** It is not to be started again, though it failed. */
			readonly final: boolean;
			/** Bytes of output in all. */
			readonly size: number;
			readonly short: boolean;
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
