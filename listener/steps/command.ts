/**
 * The step `command`: one program. A string is text for the shell, a list is a program and its arguments. Values of a
 * caller reach it as environment variables or as whole or partial list items, and never as shell text.
 */

import { completeText, endValues, type PlannedText, runValues } from '../routes/template.ts';
import type { CompiledStep, StepPlace } from './kind.ts';
import type { PlannedStep, StepKind } from './step.ts';

/** A command as users write it, before any values. */
export interface CommandSpec {
	readonly command: string | readonly string[];
	/** Working directory; may hold `{{name}}`. Absent: the route's. */
	readonly cwd?: string | undefined;
	/** Variables beside the route's; values may hold `{{name}}`. */
	readonly env?: Readonly<Record<string, string>> | undefined;
	/** The program that gets a string command after `-c`. Absent: the route's. */
	readonly shell?: string | undefined;
	/** Milliseconds. Absent: only the run's time limit counts. */
	readonly timeout?: number | undefined;
}

/** A command with all parameters filled in. */
export interface PlannedCommand extends PlannedStep {
	readonly kind: 'command';
	/** The program and its arguments, exactly as they are passed on. For a string command: shell, `-c`, text. */
	readonly argv: readonly PlannedText[];
	/** The shell that runs a string command; null for a list. */
	readonly shell: string | null;
	/** null: the listener's own working directory. */
	readonly cwd: PlannedText | null;
	/** The route's own variables. */
	readonly env: Readonly<Record<string, PlannedText>>;
}

export const command: StepKind<PlannedCommand> = {
	kind: 'command',
	// The program of a list; a script's text may hold a password, and so may arguments.
	title: ({ argv, shell }, { values }) => (shell === null ? completeText(argv[0] ?? '', values) : ''),
	perform: ({ argv, cwd, env }, { values, stdin, run }) => {
		const complete = (text: PlannedText) => completeText(text, values);
		const variables = Object.entries(env).map(([name, text]) => [name, complete(text)]);
		return run({
			argv: argv.map(complete),
			cwd: cwd === null ? null : complete(cwd),
			env: Object.fromEntries(variables),
			stdin,
		});
	},
};

/** Checks a command once, at load, and gives what makes plans of it. */
export function compileCommand(
	{ command: written, cwd, env = {}, shell, timeout }: CommandSpec,
	{ texts, commands, absolute }: StepPlace,
): CompiledStep {
	const interpreter = shell ?? commands.shell;
	const list = typeof written === 'string' ? undefined : written;
	const items = list?.map((item, i) => texts.compile(item, 'command', i)) ?? [];
	if (typeof written === 'string') checkShellText(written, texts);
	else if (written[0]?.trim() === '')
		texts.fault('the first item names the program and must not be blank', 'command', 0);
	const directory = cwd === undefined ? commands.cwd : texts.compile(absolute(cwd), 'cwd');
	const variables = Object.entries({ ...commands.env, ...compileVariables(env, texts) });
	return {
		plan: (parameters) => ({
			kind: 'command',
			argv:
				typeof written === 'string'
					? [interpreter, '-c', written]
					: items.map((item) => item.plan(parameters)),
			shell: list === undefined ? interpreter : null,
			cwd: directory?.plan(parameters) ?? null,
			env: Object.fromEntries(variables.map(([name, value]) => [name, value.plan(parameters)])),
			...(timeout === undefined ? {} : { timeout }),
		}),
	};
}

/** The values of `env`, compiled, by their names. */
export function compileVariables(env: Readonly<Record<string, string>>, texts: StepPlace['texts']) {
	return Object.fromEntries(
		Object.entries(env).map(([name, value]) => {
			if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
				texts.fault(
					`"${name}" cannot name an environment variable: letters, digits and _ only, and no digit first`,
					'env',
					name,
				);
			return [name, texts.compile(value, 'env', name)];
		}),
	);
}

/** Only `{{name}}` is refused: `docker ps --format '{{.Names}}'` is honest shell text. */
function checkShellText(text: string, texts: StepPlace['texts']): void {
	if (text.trim() === '') texts.fault('must not be blank', 'command');
	if (text.includes('\0')) texts.fault('must not contain a NUL character', 'command');
	const [found, name, ofRun] = /\{\{\s*([A-Za-z_][A-Za-z0-9_]*|run\.([a-z_]+))\s*\}\}/.exec(text) ?? [];
	if (found === undefined) return;
	const variable = ofRun === undefined ? name : (runValues[ofRun] ?? endValues[ofRun] ?? 'WEBHOOK_RUN');
	texts.fault(
		`${found} inside a shell string would make a caller's value part of the script; ` +
			`use "$${variable}", or write the command as a list`,
		'command',
	);
}
