/** What may be written under `command`, `steps`, `on_success` and `on_failure`: the kinds of steps. */

import { z } from 'zod';
import { longestDelay } from '../runs/run.ts';
import { secretSchema } from '../secret.ts';
import type { StepSpec } from '../steps/compile.ts';
import type { HieradataSpec } from '../steps/hieradata.ts';
import type { HttpSpec } from '../steps/http.ts';
import { type RequestMethod, requestMethods, type StatusRange } from '../steps/request.ts';
import { duration, oneOrMore, scalarText, someText } from './values.ts';

/** Text for the shell, or a program and its arguments. */
export const commandSchema: z.ZodType<string | string[]> = z
	.union([z.string().min(1), z.array(z.string()).min(1)], {
		error:
			'must be a string (run by the shell) or a list of strings (a program and its arguments, run without a shell); ' +
			'numbers, true and false go in quotes, such as "5"',
	})
	.meta({
		description:
			'What to run. A string is run by the shell and reads parameters as "$name". A list is a program and its arguments, ' +
			'run without a shell; its items may hold {{name}}.',
	});

const variables = z.record(
	z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, {
		error: 'is no name for an environment variable: letters, digits and _ only, and no digit first',
	}),
	scalarText,
);
const program = someText.regex(/^\S+$/, { error: 'must be a program without arguments, such as /bin/bash' });

/** How commands run: what a route, `defaults` and a step may say. */
export const commandKeys = {
	cwd: someText.optional().meta({
		description:
			"The command's working directory; relative to the file's own directory. May hold {{name}}. Default: the listener's.",
	}),
	env: variables.optional().meta({
		description:
			'Environment variables for the command, beside the parameters. A value may hold {{name}}. A route adds to those of defaults, a step to those of its route.',
	}),
	shell: program
		.optional()
		.meta({ description: 'The program that runs string commands (after -c). Default: /bin/sh.' }),
};

const requestMethod = z
	.enum(requestMethods.map((method) => method.toLowerCase()) as [string, ...string[]])
	.transform((name) => name.toUpperCase() as RequestMethod);

const statusSentence = 'must be a status such as 200, all of a kind such as 2xx, or a range such as 200-204';
const status = z
	.union([z.int().min(100).max(599), z.string().regex(/^([1-5]xx|[1-5]\d\d(-[1-5]\d\d)?)$/)], {
		error: statusSentence,
	})
	.transform((written, context): StatusRange => {
		const [first = '', last = first] = String(written).split('-');
		const range = first.endsWith('xx')
			? ([Number(first[0]) * 100, Number(first[0]) * 100 + 99] as const)
			: ([Number(first), Number(last)] as const);
		if (range[0] <= range[1]) return range;
		context.issues.push({ code: 'custom', input: written, message: 'must have its smaller status first' });
		return z.NEVER;
	});

const secretSentence =
	'has to be text (in quotes), or where it is: { file: … }, { env: … } or { credential: … }';

/** These say how a request is cut out of the connection. */
const framing = /^(connection|content-length|keep-alive|te|trailer|transfer-encoding|upgrade|expect)$/;

const headers = z.record(
	z
		.string()
		.regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/, { error: 'is no name for a header' })
		.refine((name) => !framing.test(name.toLowerCase()), { error: 'is set by the listener itself' }),
	z.union(
		[
			scalarText.refine((value) => /^[\t\x20-\x7e\x80-\xff]*$/.test(value), {
				error: 'has to be one line of Latin letters',
			}),
			secretSchema,
		],
		{ error: secretSentence },
	),
);

const http: z.ZodType<HttpSpec> = z
	.strictObject({
		method: requestMethod.optional().meta({
			description: 'The HTTP method. Default: post with json or body, otherwise get.',
		}),
		url: z.union([someText, secretSchema], { error: secretSentence }).meta({
			description:
				'Where the request goes. May hold {{name}} in its path and query, where the value is percent-encoded. Or where the url is, when it is a secret.',
		}),
		headers: headers.optional().meta({
			description:
				'Headers of the request. A value may hold {{name}}, or say where it is, when it is a secret.',
		}),
		bearer: secretSchema.optional().meta({ description: 'A token, sent as Authorization: Bearer.' }),
		basic: z
			.strictObject({
				user: z
					.string()
					.regex(/^[^:\p{Cc}]+$/u, { error: 'must have at least one character, and no colon' })
					.meta({ description: "The user's name." }),
				password: secretSchema.meta({ description: "The user's password." }),
			})
			.optional()
			.meta({ description: 'A user and password, sent as Authorization: Basic.' }),
		json: z.unknown().optional().meta({
			description: 'The body as JSON: any value; its texts may hold {{name}}.',
		}),
		body: z
			.string()
			.optional()
			.meta({ description: 'The body as text, in place of json. May hold {{name}}.' }),
		status: z
			.union([status.transform((range) => [range]), z.array(status).min(1)], { error: statusSentence })
			.optional()
			.meta({ description: 'Which statuses are a success: 200, 2xx, 200-204, or a list. Default: 2xx.' }),
		timeout: duration('How long an attempt may take until its answer is there. Default: 30s.').optional(),
		retry: z
			.strictObject({
				attempts: z.int().min(1).max(100).meta({
					description: 'How many times the request is sent at most, the first time included.',
				}),
				delay: duration(
					'How long after a failure it is sent again; at most 1h. Default: 10s.',
					longestDelay,
				).optional(),
			})
			.optional()
			.meta({ description: 'Sends the request again when it fails. Default: once only.' }),
		follow_redirects: z.boolean().optional().meta({
			description: 'Follow redirects within the same server. Default: false.',
		}),
		ca: someText.optional().meta({
			description:
				"A PEM file with the CA certificates that are trusted, in place of the system's; relative to the file's own directory.",
		}),
	})
	.meta({ description: 'A request to another server.' });

const hieradata: z.ZodType<HieradataSpec> = z
	.strictObject({
		repo: someText.meta({
			description:
				"The git work tree; relative to the file's own directory. May hold {{name}}, as every text here may.",
		}),
		file: someText.meta({ description: 'The YAML file, from the top of the work tree on.' }),
		set: z
			.record(z.string(), scalarText)
			.refine((values) => Object.keys(values).length > 0, { error: 'must have at least one key' })
			.meta({
				description:
					'Values by their keys: a key of the top level as the file has it, or keys with dots between them. One that is made of a parameter that is absent is left alone.',
				minProperties: 1,
			}),
		each: someText.optional().meta({
			description:
				'A parameter that holds several values with commas between them; the change is made for each of them.',
		}),
		create: z.boolean().optional().meta({
			description: 'Make a key, or the file, that is not there. Default: false, that is a failure.',
		}),
		message: someText.optional().meta({
			description: 'The message of the commit. Default: what was set. The id of the run follows it.',
		}),
		author: someText.optional().meta({
			description: 'Who commits, such as Jenkins <jenkins@example.com>. Default: puppet-webhook.',
		}),
		push: z.boolean().optional().meta({ description: 'Push the commit. Default: false.' }),
		remote: z
			.string()
			.regex(/^[A-Za-z0-9_][\w.-]*$/, { error: 'must be the name of a remote, such as origin' })
			.optional()
			.meta({ description: 'The remote that is pushed to. Default: origin.' }),
		branch: someText.optional().meta({
			description: 'The branch there. Default: the one with the name of the branch that is checked out.',
		}),
		attempts: z.int().min(1).max(100).optional().meta({
			description: 'How many times a push is tried when others push at the same time. Default: 10.',
		}),
		timeout: duration(
			'How long it may take, waiting for other changes of the same work tree included. Default: 5m.',
		).optional(),
		unchanged: z.enum(['continue', 'stop']).optional().meta({
			description:
				'When every value is there already: continue with the next step, or stop, and the run has succeeded. Default: continue.',
		}),
	})
	.meta({ description: 'Values that are set in a YAML file of a git work tree, committed and pushed.' });

export const stepSchema: z.ZodType<StepSpec> = z
	.strictObject({
		command: commandSchema.optional(),
		...commandKeys,
		timeout: duration('How long the command may take. Default: as long as the run.').optional(),
		hieradata: hieradata.optional(),
		http: http.optional(),
		trigger: someText.optional().meta({
			description: 'The name of a trigger that is counted up. May hold {{name}}.',
		}),
	})
	.meta({
		// So that the JSON Schema holds it once.
		id: 'step',
		description: 'One thing that a run does: exactly one of command, hieradata, http, trigger.',
		oneOf: ['command', 'hieradata', 'http', 'trigger'].map((kind) => ({ required: [kind] })),
	});

export const stepsSchema = z.array(stepSchema).min(1).meta({
	description: 'What a run does, in order, in place of command; the first step that fails ends it.',
});

/** Steps that follow a run's own. */
export const followingSteps = oneOrMore(stepSchema, 'must be a step or a list of steps');
