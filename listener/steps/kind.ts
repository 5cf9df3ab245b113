/**
 * What a kind of step gives: how its plan is made of what routes.yaml says. A kind is a file in this folder with that and with
 * `perform`. Three tables name the kinds: config/steps.ts says what may be written, compile.ts here makes plans, and the
 * runner performs.
 */

import type { ParameterRules, Parameters } from '../routes/parameters.ts';
import type { Template, TextFault, Texts } from '../routes/template.ts';
import type { SecretSpec, Secrets } from '../secret.ts';
import type { PlannedStep } from './step.ts';

/** A step as a route has it, its texts compiled. */
export interface CompiledStep {
	/** Fills in the values. Never fails: what could be wrong was refused at load. */
	plan(parameters: Parameters): PlannedStep;
}

/** What a step's kind finds around it when it is compiled. */
export interface StepPlace extends StepFile {
	/** Compiles texts of this step. What is wrong with it is told here. */
	readonly texts: Texts;
	/** The route's parameters, those that are faulty left out. */
	readonly rules: ParameterRules;
	/** How the route's commands run that do not say so themselves. */
	readonly commands: CommandDefaults;
	/** Says what stands at a place of the route that plans only refer to. @param use a digest of what it is meant for */
	keep(place: string, use: string, secret: StepSecret): void;
}

/** What a step may ask about the file that it stands in, and about others that it names. */
export interface StepFile {
	/** A path as it is meant: relative to the directory of the file. */
	absolute(file: string): string;
	/** Reads a secret; what is read this way is masked wherever it may come to be shown. */
	secrets(spec: SecretSpec): { readonly secrets: Secrets; readonly faults: readonly TextFault[] };
	/** Why there is no certificate in PEM form in a file, given absolutely; undefined when there is one. */
	noCertificate(file: string): string | undefined;
}

/** What no plan may hold. */
export interface StepSecret {
	/** What it is at the moment. */
	reveal(): string;
}

export interface CommandDefaults {
	readonly cwd: Template | undefined;
	readonly env: Readonly<Record<string, Template>>;
	readonly shell: string;
}
