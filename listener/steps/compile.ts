/** From steps as routes.yaml has them to what makes plans of them. */

import { type CommandSpec, compileCommand } from './command.ts';
import { compileHieradata, type HieradataSpec } from './hieradata.ts';
import { compileHttp, type HttpSpec } from './http.ts';
import type { CompiledStep, StepPlace } from './kind.ts';
import { compileTrigger, type TriggerSpec } from './trigger.ts';

/** A step as routes.yaml has it, its shape already checked: the keys of exactly one kind. */
export interface StepSpec extends Omit<CommandSpec, 'command'> {
	readonly command?: CommandSpec['command'] | undefined;
	readonly hieradata?: HieradataSpec | undefined;
	readonly http?: HttpSpec | undefined;
	readonly trigger?: TriggerSpec['trigger'] | undefined;
}

/** Makes plans of each kind of step, by the key that says the kind. */
const kinds: Readonly<Record<string, (spec: StepSpec, place: StepPlace) => CompiledStep>> = {
	command: (spec, place) => compileCommand({ ...spec, command: spec.command! }, place),
	hieradata: (spec, place) => compileHieradata(spec.hieradata!, place),
	http: (spec, place) => compileHttp(spec.http!, place),
	trigger: (spec, place) => compileTrigger({ trigger: spec.trigger! }, place),
};

/** Keys that say more about a command. */
const commandKeys = ['cwd', 'env', 'shell', 'timeout'] as const;

/** Checks a step once, at load. With faults, what it gives makes no plans. */
export function compileStep(spec: StepSpec, place: StepPlace): CompiledStep {
	const { texts } = place;
	const found = Object.keys(kinds).filter((kind) => spec[kind as keyof StepSpec] !== undefined);
	const [kind, another] = found;
	if (kind === undefined) texts.fault(`does nothing: a step has one of ${Object.keys(kinds).join(', ')}`);
	else if (another !== undefined)
		texts.fault(`has ${found.join(' and ')}, and a step does one thing: make a step of each`);
	else if (kind !== 'command') {
		for (const key of commandKeys) {
			if (spec[key] !== undefined) texts.fault(`is for commands, and this step is of the kind ${kind}`, key);
		}
	}
	const compile = kind === undefined ? undefined : kinds[kind];
	return compile?.(spec, place) ?? { plan: () => ({ kind: '' }) };
}
