/**
 * Writes what is made from the definition in listener/config/schema.ts: listener/routes.schema.json, which editors use, and
 * types/, the data types of the Puppet module.
 */

import fs from 'node:fs';
import path from 'node:path';
import { jsonSchema } from '../listener/config/schema.ts';
import { madeBy, puppetTypes } from './puppet-types.ts';

const root = path.join(import.meta.dirname, '..');
const schema = jsonSchema();
fs.writeFileSync(path.join(root, 'listener/routes.schema.json'), `${JSON.stringify(schema, null, '\t')}\n`);
const types = path.join(root, 'types');
for (const name of fs.readdirSync(types)) {
	// Of a key that there is no more.
	if (fs.readFileSync(path.join(types, name), 'utf8').includes(madeBy)) fs.rmSync(path.join(types, name));
}
for (const [name, text] of Object.entries(puppetTypes(schema)))
	fs.writeFileSync(path.join(types, name), text);
