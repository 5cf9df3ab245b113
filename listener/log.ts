/** The log: one fact a line, fields for the rest. Written through winston, as text for people or JSON for machines. */

import winston from 'winston';
import Transport from 'winston-transport';
import { FilePlace, type FileSettings } from './logs/file.ts';
import type { Place, Tell } from './logs/place.ts';
import { StreamPlace } from './logs/stream.ts';
import { SyslogPlace, type SyslogSettings, syslogForm, syslogName } from './logs/syslog.ts';
import { Mask } from './mask.ts';

export const logLevels = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof logLevels)[number];
/** `text` is one readable line, coloured on a terminal; `json` one object a line with `level`, `time`, `message` and fields. */
export const logFormats = ['text', 'json'] as const;
export type LogFormat = (typeof logFormats)[number];

export const routeLogLevels = ['none', ...logLevels] as const;
/** The least important lines of a route that are written. */
export type RouteLogLevel = (typeof routeLogLevels)[number];

export interface LogSettings {
	readonly level: LogLevel;
	/** Of the console. */
	readonly format: LogFormat;
	/** Whether lines go to the console. */
	readonly console: boolean;
	readonly file?: (FileSettings & { readonly format: LogFormat }) | undefined;
	readonly syslog?: SyslogSettings | undefined;
	/** By route, in place of `level`; lines of a route are those with its name as their field `route`. */
	readonly routes?: ReadonlyMap<string, RouteLogLevel> | undefined;
}

/** Fields of a line. Values are short and harmless by contract: never a payload, a header's value or a secret. */
export type LogFields = Readonly<Record<string, unknown>>;

export interface Log {
	error(message: string, fields?: LogFields): void;
	warn(message: string, fields?: LogFields): void;
	info(message: string, fields?: LogFields): void;
	debug(message: string, fields?: LogFields): void;
	/** False when lines of this level, of this route, are written nowhere. */
	shows(level: LogLevel, route: string): boolean;
	/** Takes other settings from the next line on. Lines that are on their way go where they were to go. */
	configure(settings: LogSettings): void;
	/**
	 * Resolves when every line has been handed to the operating system, or after some seconds: a syslog server that is away
	 * must not keep the listener from ending. Lines written later are lost.
	 */
	close(): Promise<void>;
}

const colours: Readonly<Record<LogLevel, string>> = {
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

interface Line {
	readonly level: LogLevel;
	readonly time: string;
	readonly message: string;
	readonly fields?: LogFields | undefined;
}

function fieldsText(fields: LogFields = {}): string {
	return Object.entries(fields)
		.filter(([, value]) => value !== undefined)
		.map(([name, value]) => ` ${name}=${fieldText(value)}`)
		.join('');
}

function textLine({ level, time, message, fields }: Line): string {
	return `${time} ${level.padEnd(5)} ${printable(message + fieldsText(fields))}`;
}

function colouredLine({ level, time, message, fields }: Line): string {
	const rest = printable(fieldsText(fields));
	return `${dim}${time}${reset} ${colours[level]}${level.padEnd(5)}${reset} ${printable(message)}${dim}${rest}${reset}`;
}

function jsonLine({ level, time, message, fields }: Line): string {
	return JSON.stringify({ time, level, message, ...fields });
}

/** Fields that also become structured data of syslog: by these one looks for lines. */
const keyFields = ['run', 'route', 'delivery'] as const;

function syslogLine(settings: SyslogSettings): (line: Line) => string {
	const form = syslogForm(settings);
	return ({ level, time, message, fields }) => {
		const data: Record<string, string> = {};
		for (const name of keyFields) {
			if (fields?.[name] !== undefined) data[name] = printable(String(fields[name]));
		}
		return form({ level, time, text: printable(message + fieldsText(fields)), data });
	};
}

/** A place, and what lines look like there. */
interface Output {
	readonly place: Place;
	readonly form: (line: Line) => string;
}

/**
 * Hands each line to every output. One transport for all of them, since lines that are on their way to a transport are lost
 * when winston removes it.
 */
class Outlets extends Transport {
	outputs: readonly Output[] = [];

	override log(line: Line, done: () => void): void {
		for (const { place, form } of this.outputs) place.write(form(line));
		done();
	}
}

const rank: Readonly<Record<RouteLogLevel, number>> = { none: -1, error: 0, warn: 1, info: 2, debug: 3 };

/**
 * Opens the log.
 * @param stream what the console is, usually standard output
 * @param coloured true when a person reads it on a terminal
 * @param mask hides what no line may show
 */
export function openLog(
	settings: LogSettings,
	stream: NodeJS.WritableStream,
	coloured: boolean,
	mask: Mask = new Mask(),
): Log {
	const outlets = new Outlets();
	const { none: _, ...levels } = rank;
	// What is written is decided before winston sees it: its one level cannot tell routes apart.
	// Its own format would make JSON of every line.
	const format = winston.format((line) => line)();
	const logger = winston.createLogger({ levels, level: 'debug', format, transports: [outlets] });
	const stdout = new StreamPlace(stream);
	/** All but the console, by a name that is the same as long as the place may stay open. */
	const places = new Map<string, Place>();
	const closing = new Set<Promise<void>>();
	let current = settings;

	const shows = (level: LogLevel, route: unknown) => {
		const own = current.routes?.get(route as string);
		return rank[level] <= rank[own ?? current.level];
	};
	const write = (level: LogLevel) => (message: string, fields?: LogFields) => {
		if (!shows(level, fields?.route)) return;
		const shown = { message: mask.text(message), fields: mask.value(fields) };
		logger.log({ level, time: new Date().toISOString(), ...shown });
	};
	const tell: Tell = (level, message, fields) => write(level)(message, fields);
	const consoleForm = ({ format }: LogSettings) =>
		format === 'json' ? jsonLine : coloured ? colouredLine : textLine;

	const placeAt = <Kind extends Place>(name: string, open: () => Kind): Kind => {
		const place = (places.get(name) as Kind | undefined) ?? open();
		places.set(name, place);
		return place;
	};
	const closePlace = async (name: string, place: Place) => {
		places.delete(name);
		const lost = await place.close();
		if (lost === 0 || !current.console) return;
		const message = `the log for ${name} ends with lines that could not be handed over`;
		const line: Line = { level: 'error', time: new Date().toISOString(), message, fields: { lost } };
		// Not by way of the logger, which may have ended already.
		stdout.write(consoleForm(current)(line));
	};
	const configure = (next: LogSettings) => {
		const { file, syslog } = next;
		const outputs: Output[] = [];
		const before = new Map(places);
		if (next.console) outputs.push({ place: stdout, form: consoleForm(next) });
		if (file !== undefined) {
			const place = placeAt(file.path, () => new FilePlace(file, tell));
			place.settings = file;
			before.delete(file.path);
			outputs.push({ place, form: file.format === 'json' ? jsonLine : textLine });
		}
		if (syslog !== undefined) {
			const name = `${syslogName(syslog.address)} ${syslog.appName}`;
			const place = placeAt(name, () => new SyslogPlace(syslog, tell));
			before.delete(name);
			outputs.push({ place, form: syslogLine(syslog) });
		}
		current = next;
		outlets.outputs = outputs;
		for (const [name, place] of before) {
			const closed = closePlace(name, place);
			closing.add(closed);
			void closed.then(() => closing.delete(closed));
		}
	};
	configure(settings);

	return {
		error: write('error'),
		warn: write('warn'),
		info: write('info'),
		debug: write('debug'),
		shows,
		configure,
		async close() {
			const ended = new Promise((resolve) => outlets.once('finish', resolve));
			logger.end();
			await ended;
			await Promise.all([...closing, ...[...places].map(([name, place]) => closePlace(name, place))]);
			await stdout.close();
		},
	};
}
