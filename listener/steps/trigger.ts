/** The step `trigger`: counts a trigger up by one, for whoever waits for it. It is ok when the count is on disk. */

import { completeText, type PlannedText } from '../routes/template.ts';
import { refusedTriggerName } from '../triggers/name.ts';
import type { CompiledStep, StepPlace } from './kind.ts';
import { done, failure, type PlannedStep, type StepKind, stopped } from './step.ts';

export interface TriggerSpec {
	/** The trigger's name; may hold `{{name}}`. */
	readonly trigger: string;
}

export interface PlannedTrigger extends PlannedStep {
	readonly kind: 'trigger';
	readonly name: PlannedText;
}

export const trigger: StepKind<PlannedTrigger> = {
	kind: 'trigger',
	title: ({ name }, { values }) => completeText(name, values),
	async perform({ name: planned }, { values, stop, say, count }) {
		const name = completeText(planned, values);
		const refusal = refusedTriggerName(name);
		if (refusal !== undefined)
			return failure('spawn', `was not done: the trigger's name ${JSON.stringify(name)} ${refusal}`);
		if (stop.aborted) return stopped(stop.reason);
		// A disk that hangs must not hold up a run that is to end.
		const ended = new Promise<undefined>((resolve) => {
			stop.addEventListener('abort', () => resolve(undefined), { once: true });
		});
		try {
			const counted = await Promise.race([count(name), ended]);
			if (counted === undefined) return stopped(stop.reason);
			say(`trigger ${name} is at ${counted}`);
			return done;
		} catch (error) {
			return failure('spawn', `was not done: ${(error as Error).message}`);
		}
	},
};

export function compileTrigger(spec: TriggerSpec, { texts }: StepPlace): CompiledStep {
	const template = texts.compile(spec.trigger, 'trigger');
	// What a name with values in it will be shows only then.
	const refusal = spec.trigger.includes('{{') ? undefined : refusedTriggerName(spec.trigger);
	if (refusal !== undefined) texts.fault(refusal, 'trigger');
	return { plan: (parameters) => ({ kind: 'trigger', name: template.plan(parameters) }) };
}
