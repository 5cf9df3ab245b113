/**
 * Reading what programs print. A program's pipe is a named one that only the program and what it started
 * hold open for writing: its end tells for certain that nobody can print any more.
 */

import net from 'node:net';

/** Keeps output. The bytes are overwritten afterwards. */
export type Keep = (bytes: Buffer) => void;

/**
 * Milliseconds that are waited after a program's end for its pipe to be closed. What it printed itself is in the pipe by then
 * and read at once; only a process it left behind can hold the pipe open, and that may be a daemon which never ends.
 */
const pipeWait = 200;
/**
 * Milliseconds between two reads of a pipe whose run is over. Closing it would end a daemon by SIGPIPE when it next prints;
 * reading as fast as it prints would cost a processor for nothing.
 */
const drainEvery = 100;

/** Reads a pipe as something is printed, until nobody holds it open. */
export class PipeReader {
	/** Resolves when the pipe is at its end. */
	readonly closed: Promise<void>;
	readonly #socket: net.Socket;
	#kept = true;

	/**
	 * @param fd the reading end, not blocking; it is closed at the end
	 * @param buffer what is read into; several readers may share one, since output is kept before the next is read
	 */
	constructor(fd: number, buffer: Buffer, keep: Keep) {
		this.#socket = new net.Socket({
			fd,
			readable: true,
			writable: false,
			onread: {
				buffer,
				callback: (length) => {
					if (this.#kept) keep(buffer.subarray(0, length));
					else setTimeout(() => this.#socket.resume(), drainEvery).unref();
					return this.#kept;
				},
			},
		});
		this.#socket.on('error', () => {});
		this.closed = new Promise((resolve) => {
			this.#socket.on('close', () => resolve());
		});
	}

	/** To be called when the program has ended. Resolves when what belongs to the run has been kept. */
	async end(): Promise<void> {
		let late: NodeJS.Timeout | undefined;
		const waited = new Promise<void>((resolve) => {
			// The turn after the time: one more look into the pipe, should we have been too busy for any.
			late = setTimeout(() => setImmediate(resolve), pipeWait);
		});
		await Promise.race([this.closed, waited]);
		clearTimeout(late);
		this.#kept = false;
		// A daemon that goes on holding the pipe must not keep this process alive.
		this.#socket.unref();
	}

	/** Stops reading, for one who knows that the pipe is at its end. */
	close(): void {
		this.#socket.destroy();
	}
}
