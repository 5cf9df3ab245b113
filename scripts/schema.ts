/** Writes listener/routes.schema.json, which editors use, from the definition in listener/config/schema.ts. */

import fs from 'node:fs';
import path from 'node:path';
import { jsonSchema } from '../listener/config/schema.ts';

const file = path.join(import.meta.dirname, '../listener/routes.schema.json');
fs.writeFileSync(file, `${JSON.stringify(jsonSchema(), null, '\t')}\n`);
