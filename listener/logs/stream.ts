/** The log on a stream: the console. */

import type { Place } from './place.ts';

/** Hands the lines of one turn of the event loop to the stream in one write: a write for each would cost more than the rest. */
export class StreamPlace implements Place {
	readonly #stream: NodeJS.WritableStream;
	#waiting = '';

	constructor(stream: NodeJS.WritableStream) {
		this.#stream = stream;
	}

	write(line: string): void {
		if (this.#waiting === '') setImmediate(() => this.#write());
		this.#waiting += `${line}\n`;
	}

	async close(): Promise<number> {
		this.#write();
		await new Promise<void>((resolve) => this.#stream.write('', () => resolve()));
		return 0;
	}

	#write(): void {
		const lines = this.#waiting;
		this.#waiting = '';
		if (lines !== '') this.#stream.write(lines);
	}
}
