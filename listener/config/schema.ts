/**
 * routes.yaml, defined once: what may be written, what it means, and (through `jsonSchema`) what editors complete and check.
 * Sentences for what does not fit are here where they say more than the type; the others are in check.ts.
 */

import net from 'node:net';
import { z } from 'zod';
import { isNetwork } from '../auth/addresses.ts';
import { authName, authSchema } from '../auth/kinds.ts';
import { logFormats, logLevels, routeLogLevels } from '../log.ts';
import { facilities, parseSyslogAddress } from '../logs/syslog.ts';
import { parameterTypes } from '../routes/parameters.ts';
import {
	type AnswerSpec,
	type Method,
	methods,
	outcomes,
	type RouteSpec,
	type SharedSpec,
	type SourceSpec,
} from '../routes/route.ts';
import { longestDelay } from '../runs/run.ts';
import { secretSchema } from '../secret.ts';
import { sourceKinds } from '../sources/source.ts';
import { presetNames } from './presets.ts';
import { commandKeys, commandSchema, followingSteps, stepsSchema } from './steps.ts';
import { day, duration, oneOrMore, rate, scalarText, size, someText } from './values.ts';

/** Ten years: whoever means for ever can say so. */
const longestKeep = 3650 * day;

const methodName = z.enum(methods.map((method) => method.toLowerCase()) as [string, ...string[]]);
const method = oneOrMore(methodName, 'must be get, post, put, patch or delete, or a list of these')
	.transform((given): readonly Method[] => {
		const upper = (Array.isArray(given) ? given : [given]).map((name) => name.toUpperCase());
		return methods.filter((name) => upper.includes(name));
	})
	.meta({ description: 'The HTTP method, or a list of methods, that the route takes. Default: post.' });

const auth = z
	.union([z.literal('none'), authName, z.array(authName).min(1)], {
		error: 'must be none, a name under "auth", or a list of such names',
	})
	.transform((given) => (given === 'none' ? given : [given].flat()))
	.meta({
		description:
			'Who may call: names under "auth", of which one suffices; none: whoever reaches the listener. A route that other hosts can reach (listen.address) has to say so, unless its source verifies who sends.',
	});

/** Those below admin and metrics: `none` is not for everybody who manages runs. */
const authNames = z
	.union([authName, z.array(authName).min(1)], {
		error: 'must be a name under "auth", or a list of such names',
	})
	.transform((given) => [given].flat());

export const adminSchema = z
	.strictObject({
		auth: authNames.meta({ description: 'Names under "auth", of which one suffices.' }),
	})
	.meta({
		description:
			'Who may use the endpoints under /-/, and /metrics. Default: programs of this host only, and not through a proxy.',
	});

export const metricsSchema = z
	.strictObject({
		auth: z
			.union([z.literal('none'), authNames], {
				error: 'must be none, a name under "auth", or a list of such names',
			})
			.meta({
				description: 'Names under "auth", of which one suffices; none: whoever reaches the listener.',
			}),
	})
	.meta({ description: 'Who may read /metrics. Default: as admin.' });

export const authsSchema = z.record(authName, authSchema).meta({
	description: 'Ways to know who calls, by names of your own; routes and admin name them.',
});

const perClient = rate('How often one client may call, by its address; then 429. Default: without limit.');

const rates = z
	.union(
		[
			perClient.transform((client) => ({ client })),
			z.strictObject({
				client: perClient.optional(),
				route: rate(
					'How many verified deliveries all clients together may make; then 429. Default: without limit.',
				).optional(),
				failures: rate(
					'How often one client may be refused for who it is; then 429, whatever it sends. Default: 60/m.',
				).optional(),
			}),
		],
		{ error: 'must be a rate such as 60/m, or a map with "client", "route" and "failures"' },
	)
	.meta({
		description: 'How often the route may be called: by each client, or as client, route and failures.',
	});

const source: z.ZodType<SourceSpec> = z
	.union(
		[
			z.enum(sourceKinds.filter(({ bare }) => bare).map(({ name }) => name)),
			z
				.strictObject(Object.fromEntries(sourceKinds.map(({ name, options }) => [name, options.optional()])))
				.refine((said) => Object.keys(said).length === 1, {
					error: 'must be one source, with its options below it',
				})
				.meta({ minProperties: 1, maxProperties: 1 }),
		],
		{
			error: `must be ${sourceKinds.map(({ name }) => name).join(', ')}; or one of these with its options below it`,
		},
	)
	.transform((given): SourceSpec => {
		if (typeof given === 'string') {
			return { name: given, options: sourceKinds.find(({ name }) => name === given)?.options.parse({}) };
		}
		const [name = '', options] = Object.entries(given)[0] ?? [];
		return { name, options };
	})
	.meta({ description: 'Who sends: a service whose deliveries are verified and understood.' });

const whenBusy = z.enum(['queue', 'coalesce', 'reject', 'parallel']).meta({
	description:
		'When the group is busy: queue, all run in order; coalesce, later ones join the one that waits; reject, the caller gets 409; parallel, no limit. Default: queue.',
});
const limit = z.int().min(1).meta({ description: 'How many runs of the group may run at once. Default: 1.' });

const keptRuns = z
	.int()
	.min(1)
	.meta({ description: 'How many runs of the route that have ended are kept, the newest. Default: 1000.' });
const keep = z
	.union(
		[
			keptRuns.transform((runs) => ({ runs })),
			z.strictObject({
				runs: keptRuns.optional(),
				age: duration('How long a run is kept after it has ended. Default: 30d.', longestKeep).optional(),
			}),
		],
		{ error: 'must be a number of runs, or a map with "runs" and "age", such as { runs: 100, age: 7d }' },
	)
	.meta({
		description:
			'How long runs that have ended are kept, with their output: a number of runs, or runs and age. Default: 1000 and 30d.',
	});

const retry = z
	.strictObject({
		attempts: z
			.int()
			.min(1)
			.max(100)
			.meta({ description: 'How many times a run is started at most, the first time included.' }),
		delay: duration(
			'How long after the first failure it is started again; at most 1h. Default: 10s.',
			longestDelay,
		).optional(),
		backoff: z.number().min(1).max(10).optional().meta({
			description: 'What the delay is multiplied by with each further failure, up to an hour. Default: 2.',
		}),
	})
	.meta({ description: 'Starts a run again that failed. Default: it has failed.' });

/** Keys that a route and `defaults` have in common. */
const shared = {
	method: method.optional(),
	auth: auth.optional(),
	rate: rates.optional(),
	...commandKeys,
	timeout: duration('How long a run may take. Then its processes get TERM. Default: 10m.').optional(),
	kill_after: duration('How long after TERM what is left of a run gets KILL. Default: 10s.').optional(),
	max_output: size(
		'How much output of a run is kept: half from the beginning, half from the end. Default: 10 MiB.',
		1024,
		Number.MAX_SAFE_INTEGER,
		'must be at least 1 KiB, for the beginning and the end to say something',
	).optional(),
	keep: keep.optional(),
	retry: retry.optional(),
	on_crash: z.enum(['rerun', 'fail']).optional().meta({
		description:
			'What becomes of a run that the listener or the host dies over: rerun, it is started again; fail, it has failed. Default: rerun.',
	}),
	wait: z
		.union([z.boolean(), duration('Answer when the run has ended if it does within this time.')], {
			error: 'must be true, false or a duration such as "30s"',
		})
		.optional()
		.meta({
			description:
				'Answer when the run has ended instead of at once: true, false, or for how long to wait. Default: false.',
		}),
	log: z.enum(routeLogLevels).optional().meta({
		description:
			"The least important lines about the route, its deliveries, runs and their output, that are logged. Default: the log's level.",
	}),
};

const defaults = z
	.strictObject({
		...shared,
		concurrency: z
			.strictObject({ limit: limit.optional(), when_busy: whenBusy.optional() })
			.optional()
			.meta({ description: 'What routes have that do not say so themselves.' }),
	})
	.meta({ description: 'What routes have that do not say so themselves. Counts for included files too.' });

/** Text, though YAML takes `true` for something else. */
const expression = z
	.union([z.string(), z.boolean()], { error: 'must be an expression, as text' })
	.transform(String);

const parameter = z
	.strictObject({
		description: z.string().optional().meta({ description: 'What the parameter is, for people.' }),
		from: expression
			.meta({
				description:
					"An expression in CEL that gives the value, such as body.project.name. Default: what has the parameter's name in the path, the query or the body.",
			})
			.optional(),
		required: z.boolean().optional().meta({ description: 'Refuse calls without it (422). Default: false.' }),
		default: z
			.union([z.string(), z.number(), z.boolean()])
			.optional()
			.meta({ description: 'The value when the caller gives none.' }),
		pattern: z.string().min(1).optional().meta({
			description:
				'A regular expression (RE2 syntax) that the whole value has to match; takes the place of the default rule.',
		}),
		enum: z
			.array(z.union([z.string(), z.number(), z.boolean()], { error: 'must be one value' }))
			.min(1)
			.optional()
			.meta({ description: 'The values admitted, exactly as written.' }),
		type: z
			.enum(parameterTypes)
			.optional()
			.meta({ description: 'What the value has to be. Default: string.' }),
		secret: z.boolean().optional().meta({
			description:
				'true: the value is shown nowhere, hidden in what the run prints, and forgotten when that has ended. Default: false.',
		}),
	})
	.meta({
		description: 'A value that callers may give: in the path, the query, or the top level of the body.',
	});

/** These say how an answer is cut out of the connection, which is the server's matter alone. */
const framing = new Set([
	'connection',
	'content-length',
	'keep-alive',
	'te',
	'trailer',
	'transfer-encoding',
	'upgrade',
]);

const answer: z.ZodType<AnswerSpec> = z
	.strictObject({
		status: z.int().min(200).max(599).optional().meta({ description: 'The HTTP status.' }),
		body: z.string().optional().meta({ description: 'The body, exactly as it is sent.' }),
		headers: z
			.record(
				z
					.string()
					.regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/, { error: 'is no name for a header' })
					.refine((name) => !framing.has(name.toLowerCase()), { error: 'is set by the listener itself' }),
				scalarText.refine((value) => /^[\t\x20-\x7e\x80-\xff]*$/.test(value), {
					error: 'has to be one line of Latin letters',
				}),
			)
			.optional()
			.meta({ description: 'Further headers, or others in place of the standard ones.' }),
	})
	.meta({ description: 'An answer in place of the standard one; what is left out stays as it is.' });

const respond = z
	.strictObject(Object.fromEntries(outcomes.map((outcome) => [outcome, answer.optional()])))
	.meta({ description: 'Exact answers, by what became of the delivery.' });

export const routeSchema: z.ZodType<RouteSpec> = z
	.strictObject({
		description: z.string().optional().meta({ description: 'What the route is for, for people.' }),
		preset: z.enum(presetNames).optional().meta({
			description: 'A route that comes with the listener; keys that are given here win.',
		}),
		...shared,
		path: z.string().optional().meta({
			description:
				"The path, when it is not the route's key; :name is a part that callers choose. Default: the key.",
		}),
		source: source.optional(),
		secret: secretSchema.optional().meta({
			description:
				'What the source verifies deliveries with; its hash takes the place of {{fingerprint}} in the path.',
		}),
		when: expression
			.meta({
				description:
					'A condition in CEL, such as event.branch == "main"; a delivery for which it is not true is answered 200 and runs nothing.',
			})
			.optional(),
		params: z
			.record(
				z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, {
					error: 'is no name: letters, digits and _ only, and no digit first',
				}),
				parameter,
			)
			.optional()
			.meta({ description: 'The values that callers may give, by name; nothing else reaches the command.' }),
		command: commandSchema.optional(),
		steps: stepsSchema.optional(),
		on_success: followingSteps.optional().meta({
			description: 'A step, or a list of steps, that follow when the run has done all of its own.',
		}),
		on_failure: followingSteps.optional().meta({
			description:
				'A step, or a list of steps, that follow when the run has failed and is not started again.',
		}),
		stdin: z.enum(['none', 'body', 'parameters']).optional().meta({
			description:
				"What the command reads: nothing, the body's exact bytes, or the checked parameters as a JSON object. Default: none.",
		}),
		concurrency: z
			.strictObject({
				group: someText.optional().meta({
					description:
						'Runs of the same group share the limit. May hold {{name}}. Default: the name of the route.',
				}),
				limit: limit.optional(),
				when_busy: whenBusy.optional(),
				lockfile: someText.optional().meta({
					description:
						"A file that some other program holds while it runs, such as Puppet's agent_catalog_run.lock; a run is not started meanwhile. Relative to the file's own directory. May hold {{name}}.",
				}),
			})
			.optional()
			.meta({ description: 'Which runs may run at the same time.' }),
		respond: respond.optional(),
	})
	.meta({
		description: 'A route: which requests it takes and what it runs.',
		oneOf: [
			{ required: ['command'] },
			{ required: ['steps'] },
			{ required: ['preset'], not: { anyOf: [{ required: ['command'] }, { required: ['steps'] }] } },
		],
	});

const routes = z.record(z.string(), routeSchema).meta({
	description: 'The routes. A key is the path, without the leading slash, and the name of the route.',
});

/** Linux keeps 108 bytes for a socket's path, the last of them NUL. */
const longestSocketPath = 107;

const address = z
	.string()
	.refine((given) => net.isIP(given) > 0 || given.startsWith('unix:'), {
		error: 'must be an IP address, such as 127.0.0.1 or "::" (every address of this host), or unix:/path',
	})
	.refine((given) => !given.startsWith('unix:') || given.startsWith('unix:/'), {
		error: 'must have an absolute path, such as unix:/run/puppet-webhook.sock',
	})
	.refine((given) => Buffer.byteLength(given) <= 'unix:'.length + longestSocketPath, {
		error: `has a path of more than ${longestSocketPath} bytes, which a unix socket cannot have`,
	});

/** Whether callers are asked for a certificate: not at all, so that those may show one who have one, or of all. */
export const clientCertificates = ['none', 'optional', 'required'] as const;

const puppetDirectory = z.strictObject({
	puppet: someText.meta({
		description: "The directory of Puppet's settings (confdir) on this host, where its puppet.conf is.",
	}),
});

const tlsFiles = z.strictObject({
	cert: someText.meta({ description: 'File with the certificate, and its chain, in PEM.' }),
	key: someText.meta({ description: "File with the certificate's private key in PEM." }),
	ca: someText.optional().meta({
		description: 'File with the CA certificates, in PEM, whose certificates callers may show.',
	}),
	crl: someText.optional().meta({
		description: 'File with the lists of revoked certificates (CRLs) of each of these CAs, in PEM.',
	}),
});

const trustedProxy = z.string().refine((given) => given === 'unix' || isNetwork(given), {
	error: 'must be an address or a network, such as 127.0.0.1 or 10.0.0.0/8, or "unix"',
});

export const listenSchema = z
	.strictObject({
		address: oneOrMore(address, 'must be an address or a list of addresses').optional().meta({
			description:
				'Where to listen: one or several of IPv4, IPv6 ("::" is every address, IPv4 too) and unix:/path. Default: 127.0.0.1.',
		}),
		port: z
			.int()
			.min(0)
			.max(65535)
			.optional()
			.meta({ description: 'The port; 0 takes any free one. Default: 6969.' }),
		tls: z
			.union([z.literal('puppet'), puppetDirectory, tlsFiles], {
				error: 'must be "puppet", or a map with "cert" and "key", and "ca" and "crl" if need be',
			})
			.optional()
			.meta({
				description:
					"Serve HTTPS: puppet, with what this host's Puppet agent has; or with these files, relative to the file's own directory. Default: plain HTTP.",
			}),
		client_certs: z.enum(clientCertificates).optional().meta({
			description:
				'Whether callers are asked for a certificate of listen.tls.ca, or of the Puppet CA: none; optional, those may show one who have one; required, who shows none is refused. Default: none.',
		}),
		trusted_proxies: z
			.union([trustedProxy, z.array(trustedProxy).min(1)], {
				error: 'must be an address or a network such as 10.0.0.0/8, "unix", or a list of these',
			})
			.optional()
			.meta({
				description:
					'Proxies whose X-Forwarded-For or Forwarded tells who calls: addresses and networks, and "unix" for those that come by a unix socket. Default: none.',
			}),
		max_body: size(
			'The largest body that is taken; larger ones get 413. Default: 25 MiB.',
			0,
			512 * 1024 ** 2,
			'must be at most 512 MiB: a body is held in memory, and as text it cannot be larger',
		).optional(),
		header_timeout: duration("How long a request's headers may take; then 408. Default: 10s.").optional(),
		body_timeout: duration("How long a request's body may take; then 408. Default: 30s.").optional(),
	})
	.meta({ description: 'Where and how to listen.' });

const logFile = z
	.strictObject({
		path: someText.meta({
			description: "The file; relative to this file's own directory. Its directory has to be there.",
		}),
		max_size: size(
			'The file is renamed to path.1, and begun anew, before it grows larger. Default: 10 MiB.',
			64 * 1024,
			Number.MAX_SAFE_INTEGER,
			'must be at least 64 KiB, or files would change all the time',
		).optional(),
		keep: z.int().min(1).max(1000).optional().meta({
			description: 'How many files there are at most, the one that is written included. Default: 5.',
		}),
		format: z
			.enum(logFormats)
			.optional()
			.meta({ description: 'text for people, json for machines. Default: as log.format, otherwise json.' }),
	})
	.meta({ description: 'Write the log to a file, and change files when it is full.' });

const syslog = z
	.strictObject({
		facility: z
			.enum(facilities)
			.optional()
			.meta({ description: 'The facility of messages. Default: daemon.' }),
		address: z
			.string()
			.refine((given) => parseSyslogAddress(given) !== undefined, {
				error:
					'must be local, unix:/path, udp://host or tcp://host; a port may follow the host: udp://log.example.com:514',
			})
			.optional()
			.meta({
				description:
					'Where the syslog daemon is: local (/dev/log), unix:/path, udp://host:514, tcp://host:601. Default: local.',
			}),
		app_name: z
			.string()
			.regex(/^[\x21-\x7e]{1,48}$/, { error: 'must be 1 to 48 visible ASCII characters' })
			.optional()
			.meta({ description: 'The name that messages come under. Default: puppet-webhook.' }),
	})
	.meta({ description: 'Send the log to a syslog daemon.' });

export const logSchema = z
	.strictObject({
		level: z
			.enum(logLevels)
			.optional()
			.meta({ description: 'The least important lines that are written. Default: info.' }),
		format: z.enum(logFormats).optional().meta({
			description: 'text for people, json for machines. Default: text on a terminal, otherwise json.',
		}),
		console: z.boolean().optional().meta({ description: 'Write the log to standard output. Default: true.' }),
		file: logFile.optional(),
		syslog: syslog.optional(),
	})
	.meta({ description: 'How the log is written.' });

export const includeSchema = oneOrMore(
	someText,
	'must be a file, a pattern such as routes.d/*.yaml, or a list of these',
).meta({
	description:
		"Further files with routes: paths, or patterns such as routes.d/*.yaml, relative to this file's directory.",
});

export const defaultsSchema: z.ZodType<SharedSpec> = defaults;

/** The main file, none of which has to be there. Checked section by section, so that one fault does not hide another. */
export const sections = {
	listen: listenSchema,
	log: logSchema,
	include: includeSchema,
	auth: authsSchema,
	admin: adminSchema,
	metrics: metricsSchema,
	defaults: defaultsSchema,
	routes,
};

/** Keys at the top that hold YAML anchors and nothing that the listener reads. */
export const anchorKey = /^x-/;

/** The JSON Schema (2020-12) of the main file, for editors. It knows shapes; what hangs together is checked at load. */
export function jsonSchema(): Record<string, unknown> {
	const file = z.toJSONSchema(z.strictObject(sections).partial(), { io: 'input' });
	const { $schema, ...rest } = file;
	return {
		$schema,
		title: 'routes.yaml of puppet-webhook',
		...rest,
		patternProperties: { [anchorKey.source]: { description: 'Anything; a place for YAML anchors.' } },
		anyOf: [{ required: ['routes'] }, { required: ['include'] }],
	};
}
