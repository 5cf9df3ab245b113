/**
 * The data types of the Puppet module for everything in routes.yaml, made from its JSON Schema: a catalog with a misspelt key
 * does not compile, and there is no second definition that could differ from the listener's.
 */

/** The part of JSON Schema (2020-12) that the definition of routes.yaml comes out as. */
export interface Schema {
	readonly [keyword: string]: unknown;
	readonly type?: string | readonly string[];
	readonly const?: unknown;
	readonly enum?: readonly unknown[];
	readonly anyOf?: readonly Schema[];
	readonly oneOf?: readonly Schema[];
	readonly properties?: Readonly<Record<string, Schema>>;
	readonly required?: readonly string[];
	readonly additionalProperties?: Schema | boolean;
	readonly propertyNames?: Schema;
	readonly items?: Schema;
	readonly minItems?: number;
	readonly minLength?: number;
	readonly minimum?: number;
	readonly maximum?: number;
	readonly pattern?: string;
	readonly description?: string;
	readonly $ref?: string;
	readonly $defs?: Readonly<Record<string, Schema>>;
}

/** Characters of a line, where there is a choice. */
const width = 120;
/** Of any line, by puppet-lint. */
const longestLine = 140;

/** Shapes that come up everywhere and have a name. */
const shapes: readonly { name: string; summary: string; is: (schema: Schema) => boolean }[] = [
	{
		name: 'Duration',
		summary: 'A duration with its unit, such as 500ms, 30s, 10m or 7d.',
		is: ({ pattern }) => pattern?.endsWith('(ms|s|m|h|d)$') === true,
	},
	{
		name: 'Size',
		summary: 'A number of bytes with its unit, such as 64 KiB or 10 MB.',
		is: ({ pattern }) => pattern?.endsWith('(B|kB|KB|MB|GB|KiB|MiB|GiB)$') === true,
	},
	{
		name: 'Secret',
		summary: 'A secret: the text itself, or where it is; or a list of these, each of which is valid.',
		is: ({ anyOf = [] }) =>
			anyOf.some(({ items }) => items?.anyOf?.some(({ properties }) => properties?.credential)),
	},
];

/** The files below types/, by name. */
export function puppetTypes(schema: Schema): Record<string, string> {
	const files: Record<string, string> = {};
	const write = (name: string, summary: string, type: string) => {
		const alias = `# @summary ${wrapped(summary)}\n#\n${madeBy}type Webhook::${name} = ${type}\n`;
		const long = alias.split('\n').some((line) => line.length > longestLine);
		files[`${name.toLowerCase()}.pp`] = long ? `# lint:ignore:140chars\n\n${alias}# lint:endignore\n` : alias;
	};
	// A secret may stand anywhere a text may: it is written into the file, and shown nowhere.
	write('Text', 'Text, or a text that is not to be shown.', 'Variant[String, Sensitive[String]]');
	write(
		'SomeText',
		'Text that is not empty, or one that is not to be shown.',
		'Variant[String[1], Sensitive[String[1]]]',
	);

	/** Types that have a name, by their schema. */
	const known = new Map<string, string>();
	/** One of several under a plural name, such as `routes`, is a type of its own, `Webhook::Route`, wherever it comes up. */
	const entry = (plural: string, one: Schema): void => {
		const schemaText = JSON.stringify(one);
		const name = camel(plural.replace(/s$/, ''));
		const taken = [...known.values()].includes(name);
		if (one.properties === undefined || !plural.endsWith('s') || known.has(schemaText) || taken) return;
		const type = convert(one);
		known.set(schemaText, name);
		write(name, one.description ?? `One of ${plural}.`, type);
	};

	const convert = (one: Schema, depth = 0): string => {
		if (one.$ref !== undefined) return `Webhook::${definitions.get(one.$ref) ?? camel(one.$ref)}`;
		const { description: _, ...bare } = one;
		const name = known.get(JSON.stringify(one)) ?? known.get(JSON.stringify(bare));
		if (name !== undefined) return `Webhook::${name}`;
		const shape = shapes.find(({ is }) => is(one));
		if (shape !== undefined) {
			known.set(JSON.stringify(bare), shape.name);
			write(shape.name, shape.summary, unnamed(one, 0));
			return `Webhook::${shape.name}`;
		}
		return unnamed(one, depth);
	};
	const unnamed = (one: Schema, depth: number): string => {
		// Beside properties stands which of them exclude each other, and that is the listener's to say.
		const several = one.properties ? undefined : (one.anyOf ?? one.oneOf ?? oneEach(one));
		if (several) {
			const types = [...new Set(several.map((each) => convert(each, depth)))];
			return types.length === 1 ? (types[0] ?? '') : list('Variant[', types, ']', depth);
		}
		if (one.const !== undefined) return literal(one.const);
		if (one.enum)
			return list(
				'Enum[',
				one.enum.map((value) => quoted(String(value))),
				']',
				depth,
			);
		switch (one.type) {
			case 'string':
				return text(one);
			case 'boolean':
				return 'Boolean';
			case 'null':
				return 'Undef';
			case 'integer':
				return `Integer${range(one)}`;
			case 'number':
				return range(one) === '' ? 'Numeric' : `Variant[Integer${range(one)}, Float${range(one)}]`;
			case 'array':
				return `Array[${convert(one.items ?? {}, depth)}${one.minItems ? `, ${one.minItems}` : ''}]`;
			case 'object':
				return one.properties ? struct(one, depth) : hash(one, depth);
			default:
				return 'RichData';
		}
	};
	const text = ({ pattern, minLength }: Schema): string => {
		if (pattern === undefined) return minLength ? 'Webhook::SomeText' : 'Webhook::Text';
		return `Pattern[${regex(pattern)}]`;
	};
	const struct = ({ properties = {}, required = [] }: Schema, depth: number): string => {
		const keys = Object.entries(properties);
		const longest = Math.max(...keys.map(([key]) => quoted(key).length));
		const indent = '  '.repeat(depth + 1);
		const lines = keys.map(([key, value]) => {
			for (const each of [value, ...(value.anyOf ?? [])]) {
				if (each.items) entry(key, each.items);
				if (typeof each.additionalProperties === 'object') entry(key, each.additionalProperties);
			}
			const type = convert(value, depth + 1);
			// An undef, as a class's optional parameter brings it, counts as not given.
			const complete = required.includes(key) ? type : `Optional[${type}]`;
			return `${indent}${quoted(key).padEnd(longest)} => ${complete},\n`;
		});
		return keys.length === 0 ? 'Struct[{}]' : `Struct[{\n${lines.join('')}${'  '.repeat(depth)}}]`;
	};
	const hash = ({ additionalProperties, propertyNames }: Schema, depth: number): string => {
		const key = propertyNames?.pattern ? `Pattern[${regex(propertyNames.pattern)}]` : 'String[1]';
		const value =
			typeof additionalProperties === 'object' ? convert(additionalProperties, depth) : 'RichData';
		return `Hash[${key}, ${value}]`;
	};

	// Shapes that contain themselves have a number for a name; what they are is said by the section they are the entries of.
	const definitions = new Map<string, string>();
	for (const [name, { additionalProperties: of }] of Object.entries(schema.properties ?? {})) {
		if (typeof of === 'object' && of.$ref) definitions.set(of.$ref, `${camel(name)}Entry`);
	}
	for (const [place, definition] of Object.entries(schema.$defs ?? {})) {
		const name = definitions.get(`#/$defs/${place}`) ?? camel(place);
		definitions.set(`#/$defs/${place}`, name);
		write(name, definition.description ?? 'A part of routes.yaml.', convert(definition));
	}
	for (const [name, section] of Object.entries(schema.properties ?? {})) {
		if (typeof section.additionalProperties === 'object') entry(name, section.additionalProperties);
		write(camel(name), section.description ?? `The section ${name} of routes.yaml.`, convert(section));
	}
	return files;
}

/** `type: [string, number]` as alternatives. */
function oneEach({ type, ...rest }: Schema): Schema[] | undefined {
	return Array.isArray(type) ? type.map((each) => ({ ...rest, type: each })) : undefined;
}

/** A line of every file that is made here. */
export const madeBy =
	'# Made by scripts/schema.ts of what the listener checks; docs/routes.md explains every key.\n';

/** On one line, or each on its own. */
function list(begin: string, items: readonly string[], end: string, depth: number): string {
	const short = `${begin}${items.join(', ')}${end}`;
	if (short.length + 2 * depth + 30 <= width || items.some((item) => item.includes('\n'))) return short;
	const indent = '  '.repeat(depth + 1);
	return `${begin}\n${items.map((item) => `${indent}${item},\n`).join('')}${'  '.repeat(depth)}${end}`;
}

function range({ minimum, maximum }: Schema): string {
	// What a number in JavaScript can hold is no limit that anybody meant.
	const most = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER ? maximum : undefined;
	const least = minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER ? minimum : undefined;
	if (least === undefined && most === undefined) return '';
	return most === undefined ? `[${least}]` : `[${least ?? 'default'}, ${most}]`;
}

function literal(value: unknown): string {
	if (typeof value === 'boolean') return `Boolean[${value}]`;
	if (typeof value === 'number') return `Integer[${value}, ${value}]`;
	return `Enum[${quoted(String(value))}]`;
}

/** In Ruby `^` and `$` are the ends of a line, and a text may have several. */
function regex(pattern: string): string {
	// What is escaped or stands in brackets is itself.
	const ruby = pattern.replaceAll(/\\.|\[(?:\\.|[^\]\\])*\]|[\^$/]/gs, (part) =>
		part === '^' ? '\\A' : part === '$' ? '\\z' : part.replaceAll(/(?<!\\)\//g, '\\/'),
	);
	return `/${ruby}/`;
}

function quoted(text: string): string {
	return `'${text.replaceAll(/[\\']/g, '\\$&')}'`;
}

function camel(name: string): string {
	return name.replaceAll(/(?:^|[^A-Za-z0-9]+)([A-Za-z0-9])/g, (_, first: string) => first.toUpperCase());
}

/** Comment lines of at most the width. */
function wrapped(summary: string): string {
	const lines = [''];
	for (const word of summary.split(/\s+/)) {
		const last = lines.at(-1) ?? '';
		if (last.length + word.length > width - 14) lines.push(word);
		else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`;
	}
	return lines.join('\n#   ');
}
