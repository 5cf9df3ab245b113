/** A run's output on its way into the log. */

import { StringDecoder } from 'node:string_decoder';
import type { Log } from '../log.ts';
import type { Run } from './run.ts';

/** Lines of one run that are logged at most: enough to see what happened, while a loop that prints does not fill the log. */
const mostLines = 10_000;
/** Characters of a line that are logged at most. */
const longestLine = 8 * 1024;

/** Writes a run's output into the log, each line once. */
export class LineLog {
	readonly #log: Log;
	readonly #fields: { readonly run: string; readonly route: string };
	readonly #decoder = new StringDecoder('utf8');
	#line = '';
	#lines = 0;

	constructor(log: Log, run: Run) {
		this.#log = log;
		this.#fields = { run: run.id, route: run.route };
	}

	/** True once no more lines will be logged. */
	get full(): boolean {
		return this.#lines > mostLines;
	}

	write(bytes: Buffer): void {
		const lines = this.#decoder.write(bytes).split('\n');
		for (const [index, text] of lines.entries()) {
			if (this.full) return;
			// Of a line without end only the beginning is held.
			if (this.#line.length <= longestLine) this.#line += text.slice(0, longestLine + 1);
			if (index < lines.length - 1) this.#write();
		}
	}

	/** Logs a last line that has no line end. */
	end(): void {
		this.write(Buffer.from(this.#decoder.end()));
		if (this.#line !== '') this.#write();
	}

	#write(): void {
		const line = this.#line.endsWith('\r') ? this.#line.slice(0, -1) : this.#line;
		this.#line = '';
		if (this.full) return;
		if (++this.#lines > mostLines) {
			this.#log.warn(`the run goes on printing; more than ${mostLines} lines of it are not logged`, {
				...this.#fields,
				output: `/-/runs/${this.#fields.run}/output`,
			});
			return;
		}
		this.#log.info(line.length > longestLine ? `${line.slice(0, longestLine)}…` : line, this.#fields);
	}
}
