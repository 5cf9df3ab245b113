/**
 * The step `command`: one program. A string is text for the shell, a list is a program and its arguments. Values of a
 * caller reach it as environment variables or as whole or partial list items, and never as shell text.
 */

import type { Parameters } from '../routes/parameters.ts';
import { compileTemplate, type Template } from '../routes/template.ts';
import type { PlannedStep, StepKind } from './step.ts';

/** A command as a route has it, before any values. */
export interface CommandSpec {
	readonly command: string | readonly string[];
	/** Working directory; may hold `{{name}}`. Absent: the listener's own. */
	readonly cwd?: string;
	/** Variables beside the allow-list; values may hold `{{name}}`. */
	readonly env: Readonly<Record<string, string>>;
	/** The program that gets a string command after `-c`. */
	readonly shell: string;
}

/** A command with all values filled in. */
export interface PlannedCommand extends PlannedStep {
	readonly kind: 'command';
	/** The program and its arguments, exactly as they are passed on. For a string command: shell, `-c`, text. */
	readonly argv: readonly string[];
	/** The shell that runs a string command; null for a list. */
	readonly shell: string | null;
	/** null: the listener's own working directory. */
	readonly cwd: string | null;
	/** The route's own variables. */
	readonly env: Readonly<Record<string, string>>;
}

export const command: StepKind<PlannedCommand> = {
	kind: 'command',
	perform: ({ argv, cwd, env }, context) => context.run({ argv, cwd, env, stdin: context.stdin }),
};

export interface CompiledCommand {
	/** Fills in the values. Never fails: what could be wrong was refused at load. */
	plan(parameters: Parameters): PlannedCommand;
	/** The parameters that are named in `{{…}}`, each once. */
	readonly names: readonly string[];
}

export interface CommandFault {
	/** Where, below the route, such as `['command', 2]`. */
	readonly key: (string | number)[];
	readonly message: string;
}

/** Checks a command once, at load, and gives what makes plans of it; or everything that is wrong with it. */
export function compileCommand(spec: CommandSpec): CompiledCommand | { faults: CommandFault[] } {
	const faults: CommandFault[] = [];
	const names = new Set<string>();
	const template = (text: string, key: (string | number)[]): Template | undefined => {
		if (text.includes('\0')) faults.push({ key, message: 'must not contain a NUL character' });
		const compiled = compileTemplate(text);
		if (typeof compiled === 'string') {
			faults.push({ key, message: compiled });
			return undefined;
		}
		for (const name of compiled.names) names.add(name);
		return compiled;
	};

	const { command: written, shell } = spec;
	const items: (Template | undefined)[] = [];
	if (typeof written === 'string') faults.push(...shellTextFaults(written));
	else {
		items.push(...written.map((item, i) => template(item, ['command', i])));
		if (written[0]?.trim() === '')
			faults.push({ key: ['command', 0], message: 'the first item names the program and must not be blank' });
	}
	const cwd = spec.cwd === undefined ? undefined : template(spec.cwd, ['cwd']);
	const env = Object.entries(spec.env).map(([name, value]) => {
		if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
			faults.push({
				key: ['env', name],
				message: `"${name}" cannot name an environment variable: letters, digits and _ only, and no digit first`,
			});
		return [name, template(value, ['env', name])] as const;
	});
	if (faults.length > 0) return { faults };

	const text = typeof written === 'string' ? written : null;
	return {
		names: [...names],
		plan: (parameters) => ({
			kind: 'command',
			argv: text === null ? items.map((item) => item!.fill(parameters)) : [shell, '-c', text],
			shell: text === null ? null : shell,
			cwd: cwd?.fill(parameters) ?? null,
			env: Object.fromEntries(env.map(([name, value]) => [name, value!.fill(parameters)])),
		}),
	};
}

/** Only `{{name}}` is refused: `docker ps --format '{{.Names}}'` is honest shell text. */
function shellTextFaults(text: string): CommandFault[] {
	const faults: CommandFault[] = [];
	if (text.trim() === '') faults.push({ key: ['command'], message: 'must not be blank' });
	if (text.includes('\0')) faults.push({ key: ['command'], message: 'must not contain a NUL character' });
	const found = /\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}/.exec(text);
	if (found)
		faults.push({
			key: ['command'],
			message:
				`${found[0]} inside a shell string would make a caller's value part of the script; ` +
				`use "$${found[1]}", or write the command as a list`,
		});
	return faults;
}
