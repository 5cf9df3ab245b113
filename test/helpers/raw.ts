/** Bytes to a port and bytes back, for what HTTP clients refuse to send. */

import net from 'node:net';

/** A connection on which a test writes what it likes. */
export class RawConnection {
	readonly socket: net.Socket;
	/** Everything received so far, a character a byte. */
	received = '';
	/** Resolves when the connection is closed, by whichever side and for whatever reason. */
	readonly closed: Promise<void>;

	constructor(port: number) {
		this.socket = net.connect(port, '127.0.0.1');
		this.socket.setEncoding('latin1').on('data', (text: string) => (this.received += text));
		// A peer that closes while we still write is no failure of the test.
		this.socket.on('error', () => {});
		this.closed = new Promise((resolve) => this.socket.once('close', () => resolve()));
	}

	write(bytes: string | Buffer): this {
		this.socket.write(bytes);
		return this;
	}

	/** The status of the latest answer; 0 while there is none. */
	get status(): number {
		return Number([...this.received.matchAll(/^HTTP\/1\.1 (\d{3})/gm)].at(-1)?.[1] ?? 0);
	}

	/** Waits for the end of the connection, and gives all that was received. */
	async end(): Promise<string> {
		await this.closed;
		return this.received;
	}
}

/** Sends bytes that ask for the connection to be closed, and gives the whole answer. */
export function raw(port: number, bytes: string | Buffer): Promise<string> {
	return new RawConnection(port).write(bytes).end();
}
