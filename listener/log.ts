/** The log: one fact a line, fields for the rest. Written through winston, as text for people or JSON for machines. */

import winston from 'winston';
import Transport from 'winston-transport';

export const logLevels = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof logLevels)[number];
/** `text` is one readable line, coloured on a terminal; `json` one object a line with `level`, `time`, `message` and fields. */
export const logFormats = ['text', 'json'] as const;
export type LogFormat = (typeof logFormats)[number];

export interface LogSettings {
	readonly level: LogLevel;
	readonly format: LogFormat;
}

/** Fields of a line. Values are short and harmless by contract: never a payload, a header's value or a secret. */
export type LogFields = Readonly<Record<string, unknown>>;

export interface Log {
	error(message: string, fields?: LogFields): void;
	warn(message: string, fields?: LogFields): void;
	info(message: string, fields?: LogFields): void;
	debug(message: string, fields?: LogFields): void;
	/** Takes other settings from the next line on. */
	configure(settings: LogSettings): void;
	/** Resolves when every line has been handed to the operating system. Lines written later are lost. */
	close(): Promise<void>;
}

const colours: Record<string, string> = {
	error: '\x1b[31m',
	warn: '\x1b[33m',
	info: '\x1b[32m',
	debug: '\x1b[90m',
};
const dim = '\x1b[2m';
const reset = '\x1b[0m';

/** Output of commands is logged too: an escape sequence in it must not reach the reader's terminal, nor a line end forge a line. */
function printable(text: string): string {
	// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
	return text.replace(/[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]/g, (c) =>
		c === '\n' ? '\\n' : `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`,
	);
}

function fieldText(value: unknown): string {
	const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value));
	return /^[^\s"=]+$/.test(text) ? text : JSON.stringify(text);
}

type Line = winston.Logform.TransformableInfo & { time: string; fields?: LogFields };

function textLine(line: Line, coloured: boolean): string {
	const fields = Object.entries(line.fields ?? {})
		.filter(([, value]) => value !== undefined)
		.map(([name, value]) => ` ${name}=${fieldText(value)}`)
		.join('');
	const level = line.level.padEnd(5);
	const message = printable(String(line.message));
	const rest = printable(fields);
	return coloured
		? `${dim}${line.time}${reset} ${colours[line.level] ?? ''}${level}${reset} ${message}${dim}${rest}${reset}`
		: `${line.time} ${level} ${message}${rest}`;
}

function lineFormat(format: LogFormat, coloured: boolean): winston.Logform.Format {
	return winston.format.printf((info) => {
		const line = info as Line;
		if (format === 'text') return textLine(line, coloured);
		return JSON.stringify({ time: line.time, level: line.level, message: line.message, ...line.fields });
	});
}

/** Where winston leaves the line that the format made (https://github.com/winstonjs/winston, "info objects"). */
const finished = Symbol.for('message');

/** Hands the lines of one turn of the event loop to the stream in one write: a write for each would cost more than the rest. */
class Lines extends Transport {
	readonly #stream: NodeJS.WritableStream;
	#waiting = '';

	constructor(stream: NodeJS.WritableStream, format: winston.Logform.Format) {
		super({ format });
		this.#stream = stream;
	}

	override log(line: Record<symbol, string>, done: () => void): void {
		if (this.#waiting === '') setImmediate(() => this.#write());
		this.#waiting += `${line[finished]}\n`;
		done();
	}

	/** Resolves when the stream has taken everything. */
	async written(): Promise<void> {
		this.#write();
		await new Promise<void>((resolve) => this.#stream.write('', () => resolve()));
	}

	#write(): void {
		const lines = this.#waiting;
		this.#waiting = '';
		if (lines !== '') this.#stream.write(lines);
	}
}

/**
 * Opens the log on a stream.
 * @param stream where lines go, usually standard output
 * @param coloured true when a person reads it on a terminal
 */
export function openLog(settings: LogSettings, stream: NodeJS.WritableStream, coloured: boolean): Log {
	const transport = new Lines(stream, lineFormat(settings.format, coloured));
	const levels = Object.fromEntries(logLevels.map((level, index) => [level, index]));
	const logger = winston.createLogger({ levels, level: settings.level, transports: [transport] });
	const write = (level: LogLevel) => (message: string, fields?: LogFields) => {
		logger.log({ level, message, time: new Date().toISOString(), fields });
	};
	return {
		error: write('error'),
		warn: write('warn'),
		info: write('info'),
		debug: write('debug'),
		configure(next) {
			logger.level = next.level;
			transport.format = lineFormat(next.format, coloured);
		},
		async close() {
			const ended = new Promise((resolve) => transport.once('finish', resolve));
			logger.end();
			await ended;
			await transport.written();
		},
	};
}
