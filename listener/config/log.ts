/** How the log is written: what the file says, completed, and tried out as far as one can without writing. */

import fs from 'node:fs';
import path from 'node:path';
import type { z } from 'zod';
import type { LogSettings } from '../log.ts';
import { parseSyslogAddress } from '../logs/syslog.ts';
import type { logSchema } from './schema.ts';
import type { Key } from './yaml.ts';

export interface LogFault {
	/** From `log` on. */
	readonly key: Key;
	readonly message: string;
}

/**
 * @param written the section `log`, its shape already checked
 * @param directory where relative paths begin
 * @returns what of the settings the file decides
 */
export function compileLog(
	{ file, syslog, ...others }: z.output<typeof logSchema>,
	directory: string,
): { log: Partial<LogSettings>; faults: LogFault[] } {
	const faults: LogFault[] = [];
	const log: { -readonly [Name in keyof LogSettings]?: LogSettings[Name] } = {};
	if (others.level !== undefined) log.level = others.level;
	if (others.format !== undefined) log.format = others.format;
	if (others.console !== undefined) log.console = others.console;
	if (others.console === false && file === undefined && syslog === undefined) {
		faults.push({
			key: ['console'],
			message:
				'is false, and there is neither file nor syslog: nobody would ever read the log; give one of them',
		});
	}
	if (file !== undefined) {
		const written = path.resolve(directory, file.path);
		const fault = unwritable(written);
		if (fault !== undefined) faults.push({ key: ['file', 'path'], message: fault });
		log.file = {
			path: written,
			maxSize: file.max_size ?? 10 * 1024 ** 2,
			keep: file.keep ?? 5,
			format: file.format ?? others.format ?? 'json',
		};
	}
	if (syslog !== undefined) {
		const { facility = 'daemon', address = 'local', app_name: appName = 'puppet-webhook' } = syslog;
		const parsed = parseSyslogAddress(address);
		if (parsed === undefined) throw new Error(`the schema admits the syslog address ${address}`);
		if (parsed.kind === 'local' && process.platform !== 'linux') {
			const message = `"${address}" is for Linux, whose logger(1) it needs; write udp://127.0.0.1 for a daemon that takes it`;
			faults.push({ key: ['syslog', ...(syslog.address === undefined ? [] : ['address'])], message });
		}
		log.syslog = { facility, address: parsed, appName };
	}
	return { log: Object.freeze(log), faults };
}

/** Why a log file cannot be kept there, and what to do; undefined when it can. */
function unwritable(file: string): string | undefined {
	const directory = path.dirname(file);
	const stat = (name: string) => fs.statSync(name, { throwIfNoEntry: false });
	try {
		const found = stat(directory);
		if (found === undefined)
			return `make its directory first, for the listener's user to write in: ${directory} does not exist`;
		if (!found.isDirectory()) return `${directory} is no directory`;
		const there = stat(file);
		if (there !== undefined && !there.isFile())
			return `${file} is no regular file, so it cannot be renamed when it is full`;
		// The directory too: a full file is renamed in it.
		fs.accessSync(directory, fs.constants.W_OK | fs.constants.X_OK);
		if (there !== undefined) fs.accessSync(file, fs.constants.W_OK);
		return undefined;
	} catch (error) {
		const { code, path: refused = directory } = error as NodeJS.ErrnoException;
		if (code === 'EROFS')
			return `${refused} is on a file system that is mounted read-only (or made so by the service manager)`;
		return `${refused} may not be written by the user the listener runs as (${code}); give it to that user, as with chown`;
	}
}
