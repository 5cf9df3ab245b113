/**
 * The schemas of what users write for each kind of step. They stand apart from the kinds because a runner performs kinds and
 * checks nothing: starting a program costs the more the larger the process is, and zod would make it half as large again.
 */

import { z } from 'zod';

/** What users write under `command`: text for the shell, or a program and its arguments. */
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
