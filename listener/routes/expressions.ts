/**
 * Expressions: conditions and values in CEL, compiled and checked when the configuration is loaded. Whatever a caller sends,
 * evaluating one ends soon and gives a value or a reason; see meter.ts.
 */

import {
	type ASTNode,
	Environment,
	EvaluationError,
	ParseError,
	type ParseResult,
	TypeError as TypeFault,
} from '@marcbachmann/cel-js';
import { RE2JS } from 're2js';
import { type Body, type Client, type Event, eventOf } from '../delivery.ts';
import { nearest } from '../spelling.ts';
import { childrenOf, Meter, nodesOf, TooMuchWork } from './meter.ts';

/** What an expression may speak of. */
export interface Scope {
	readonly event: Event;
	readonly body: Body;
	/** Names in lower case; several of one name are joined by `, `. */
	readonly headers: Readonly<Record<string, string>>;
	readonly query: Readonly<Record<string, string | readonly string[]>>;
	/** The values of the path's `:name` parts. */
	readonly path: Readonly<Record<string, string>>;
	readonly client: Client;
}

/** What an expression gives: a value as JSON has them, whole numbers as bigint; or why it gives none. */
export type Result =
	| { readonly value: unknown }
	/** `missing`: it asked for a field or an item that is not there. */
	| { readonly error: string; readonly missing: boolean };

/** A compiled expression. */
export interface Expression {
	/** As written, on one line. */
	readonly text: string;
	/** Never throws. */
	evaluate(scope: Scope): Result;
	/**
	 * A condition's parts, those that `&&` joins, each with what it says of a delivery. For people; each is evaluated once more when it
	 * is asked for, so whoever wants the first that says no pays for no others.
	 */
	review(scope: Scope): Iterable<Finding>;
}

/** What a part of a condition says. */
export interface Finding {
	/** The part, as written. */
	readonly text: string;
	readonly holds: boolean;
	/** Why it does not hold: `event.deleted is not true`; empty when it holds. */
	readonly reason: string;
	/** What it looked at, in the order in which it is written. */
	readonly values: readonly { readonly text: string; readonly value: string }[];
}

/** Something wrong with an expression. */
export interface ExpressionFault {
	readonly message: string;
	/** Where in its text, in characters. */
	readonly offset: number;
}

/** What an expression is for: `when` wants true or false, `from` a text, a number, true or false. */
export type Purpose = 'when' | 'from';

/** More is a program, which belongs into a command. */
const longestText = 4096;
/** Types of which a parameter can be made. What is `dyn` is known when there is a delivery. */
const plainTypes = new Set(['string', 'int', 'double', 'bool', 'null']);
const variables = ['event', 'body', 'headers', 'query', 'path', 'client'];
/** What cel-js evaluates; not a name that anybody would give a function of theirs, and not to be called by them. */
const metered = '__metered';

/** Compiles the expressions and the patterns of a configuration. */
export class ExpressionCompiler {
	/** By their text: routes often share them, and each is worth some kilobytes. */
	readonly #patterns = new Map<string, RE2JS>();
	readonly #checking: Environment;
	readonly #running: Environment;
	readonly #functions: readonly string[];

	constructor() {
		this.#checking = new Environment({ homogeneousAggregateLiterals: false })
			.registerVariable({ name: 'event', schema: eventFields })
			.registerVariable('body', 'dyn')
			.registerVariable('headers', 'map<string, string>')
			.registerVariable('query', 'map<string, dyn>')
			.registerVariable('path', 'map<string, string>')
			.registerVariable({ name: 'client', schema: clientFields });
		this.#functions = [...new Set(this.#checking.getDefinitions().functions.map(({ name }) => name))];
		const meter = new Meter(this.#patterns);
		this.#running = this.#checking.clone().registerFunction(`${metered}(ast): dyn`, ({ args: [inner] }) => {
			meter.learn(inner);
			return {
				typeCheck: (checker: Checker, _macro: unknown, scope: unknown) => checker.check(inner, scope),
				evaluate: (evaluator: Parameters<Meter['evaluate']>[0], _macro: unknown, scope: unknown) =>
					meter.evaluate(evaluator, inner, scope),
				async: false,
			};
		});
	}

	/** A regular expression in RE2 syntax. @throws what re2js has against it */
	pattern(text: string): RE2JS {
		const pattern = this.#patterns.get(text) ?? RE2JS.compile(text);
		this.#patterns.set(text, pattern);
		return pattern;
	}

	/**
	 * @param pathNames the `:name` parts of the route's path
	 * @returns the expression, or what is wrong with it
	 */
	compile(
		text: string,
		purpose: Purpose,
		pathNames: readonly string[],
	): { expression: Expression } | { faults: readonly ExpressionFault[] } {
		const faults = this.#faults(text, purpose, pathNames);
		if (faults.length > 0) return { faults };
		const evaluate = this.#program(text);
		let parts: readonly Part[] | undefined;
		const expression: Expression = {
			text: oneLine(text),
			evaluate,
			review: (scope) => {
				parts ??= this.#split(text).map((part) => this.#part(part));
				return evaluated(parts, scope);
			},
		};
		return { expression: Object.freeze(expression) };
	}

	#faults(text: string, purpose: Purpose, pathNames: readonly string[]): ExpressionFault[] {
		if (text.length > longestText)
			return [{ message: `is longer than ${longestText} characters`, offset: 0 }];
		let expression: ASTNode;
		try {
			const parsed = this.#checking.parse(text);
			expression = parsed.ast;
			const { type = 'dyn', error } = parsed.check();
			if (error) throw error;
			const faults = [...nodesOf(expression)].flatMap((node) => this.#odd(node, pathNames) ?? []);
			const mismatch = purpose === 'when' ? noCondition(type) : noValue(type);
			if (mismatch !== undefined) faults.push({ message: mismatch, offset: expression.range.start });
			return faults;
		} catch (error) {
			if (!(error instanceof ParseError || error instanceof TypeFault)) throw error;
			return [this.#faultOf(text, error)];
		}
	}

	/** What cel-js would take, and is wrong all the same. */
	#odd(node: ASTNode, pathNames: readonly string[]): ExpressionFault | undefined {
		const key = keyOf(node);
		if (key !== undefined && key.of === 'headers' && key.name !== key.name.toLowerCase()) {
			const right = `headers["${key.name.toLowerCase()}"]`;
			return { message: `names of headers are in lower case here: ${right}`, offset: key.offset };
		}
		if (key !== undefined && key.of === 'path' && !pathNames.includes(key.name)) {
			const known =
				pathNames.length === 0 ? 'the path has no parts written :name' : remedy(key.name, pathNames);
			return { message: `path has no part ":${key.name}", ${known}`, offset: key.offset };
		}
		if (key !== undefined && ['event', 'client'].includes(key.of)) {
			// Of `has(event.brnch)`, which cel-js answers with false.
			const fields = fieldsAt(key.of);
			if (!fields.includes(key.name))
				return { message: noField(key.of, key.name, fields), offset: key.offset };
		}
		if (node.op === '==' || node.op === '!=') {
			const [literal, other] = node.args[0].op === 'value' ? node.args : [node.args[1], node.args[0]];
			if (typeof literal.args === 'string' && literal.op === 'value' && looksSecret(sliceOf(other)))
				return {
					message: 'holds a secret, which logs would show; say it under "auth" instead',
					offset: literal.range.start,
				};
		}
		if (node.op !== 'rcall' || node.args[0] !== 'matches') return undefined;
		const pattern = node.args[2][0]!;
		const offset = pattern.range.start;
		if (pattern.op !== 'value' || typeof pattern.args !== 'string') {
			return { message: 'the pattern of matches() has to be written here, as text in quotes', offset };
		}
		try {
			this.pattern(pattern.args);
			return undefined;
		} catch (error) {
			const said = (error as Error).message.replace(/^error parsing regexp: /, '');
			return { message: `is no regular expression that the listener reads (RE2 syntax): ${said}`, offset };
		}
	}

	#faultOf(text: string, error: ParseError | TypeFault): ExpressionFault {
		const offset = Math.min(error.range?.start ?? 0, text.length);
		const node = error.node as ASTNode | undefined;
		const word = /: ([^: ]+)$/.exec(error.summary)?.[1] ?? '';
		switch (error.code) {
			case 'unknown_variable':
				return { message: `"${word}" is not known, ${remedy(word, variables)}`, offset };
			case 'no_such_key': {
				if (node?.op !== '.' && node?.op !== '[]') break;
				const [owner] = node.args;
				const fields = fieldsAt(sliceOf(owner));
				const at = node.op === '.' ? offset : (node.args[1] as ASTNode).range.start;
				return { message: noField(sliceOf(owner), word, fields), offset: at };
			}
			case 'no_matching_overload': {
				if (node?.op !== 'call' && node?.op !== 'rcall') break;
				const [name] = node.args;
				if (!this.#functions.includes(name)) {
					const at = node.op === 'rcall' ? text.indexOf(name, node.args[1].range.end) : offset;
					return {
						message: `there is no function "${name}", ${remedy(name, this.#functions, false)}`,
						offset: Math.max(at, offset),
					};
				}
				break;
			}
			case 'unexpected_token':
			case 'expected_token':
				if (offset >= text.trimEnd().length) return { message: 'ends too early', offset };
				return { message: `"${/\S+/.exec(text.slice(offset))?.[0]}" is not expected here`, offset };
		}
		return { message: sentence(error.summary), offset };
	}

	/** Made when it is first asked, as a file may have thousands and a delivery asks one. */
	#program(text: string): (scope: Scope) => Result {
		let program: ParseResult | undefined;
		return (scope) => {
			try {
				if (program === undefined) {
					// On a line of its own, as the text may end in a comment.
					program = this.#running.parse(`${metered}(${text}\n)`);
					program.check();
				}
				return { value: program(new Variables(scope)) };
			} catch (error) {
				return failureOf(error as Error, scope);
			}
		};
	}

	/** What `&&` joins; the text itself where nothing can be split off. */
	#split(text: string): readonly string[] {
		const trimmed = text.trim();
		const node = this.#parsed(trimmed);
		if (node?.op !== '&&') return [trimmed];
		const [left, right] = node.args;
		const operator = trimmed.slice(0, right.range.start).lastIndexOf('&&');
		const sides = [trimmed.slice(0, operator), trimmed.slice(operator + 2)];
		if (operator >= left.range.end && sides.every((side) => this.#parsed(side) !== undefined))
			return sides.flatMap((side) => this.#split(side));
		return /^\(.*\)$/s.test(trimmed) ? this.#split(trimmed.slice(1, -1)) : [trimmed];
	}

	#parsed(text: string): ASTNode | undefined {
		try {
			return this.#checking.parse(text).ast;
		} catch {
			return undefined;
		}
	}

	#part(text: string): Part {
		const evaluate = this.#program(text);
		const looked = this.#looked(text).map((chain) => ({ text: chain, evaluate: this.#program(chain) }));
		return (scope) => {
			const result = evaluate(scope);
			const holds = 'value' in result && result.value === true;
			return {
				text: oneLine(text),
				holds,
				reason: holds ? '' : `${oneLine(text)}${objection(result)}`,
				values: looked.map((chain) => ({
					text: oneLine(chain.text),
					value: shown(chain.text, chain.evaluate(scope)),
				})),
			};
		};
	}

	/** The fields that a text names, as far as they do not depend on a variable of its own. */
	#looked(text: string): readonly string[] {
		const chains = new Set<string>();
		const walk = (node: ASTNode, own: readonly string[]): void => {
			if (isChain(node, own)) {
				const chain = sliceOf(node);
				if (this.#parsed(chain) !== undefined) chains.add(chain);
				return;
			}
			const bound = node.op === 'rcall' ? boundBy(node.args) : [];
			for (const child of childrenOf(node)) walk(child, [...own, ...bound]);
		};
		const parsed = this.#parsed(text);
		if (parsed !== undefined) walk(parsed, []);
		return [...chains].slice(0, mostValues);
	}
}

type Part = (scope: Scope) => Finding;

function* evaluated(parts: readonly Part[], scope: Scope): Generator<Finding, void, undefined> {
	for (const part of parts) yield part(scope);
}

interface Checker {
	check(node: ASTNode, scope: unknown): unknown;
}

/** The types of an object's fields, as cel-js declares them; made of a specimen, so that no field can be forgotten. */
function fieldsOf(specimen: object): Fields {
	return Object.fromEntries(
		Object.entries(specimen).map(([name, value]) => [
			name,
			typeof value === 'object' ? fieldsOf(value) : typeof value === 'boolean' ? 'bool' : 'string',
		]),
	);
}

interface Fields {
	[name: string]: string | Fields;
}

const eventFields = fieldsOf(eventOf({ kind: '' }));
const clientFields: Fields = { ip: 'string', certname: 'string', extensions: 'map<string, string>' };

/** A delivery as cel-js asks for it: only what an expression names is made. */
class Variables {
	readonly #scope: Scope;

	constructor(scope: Scope) {
		this.#scope = scope;
	}

	get event(): Event {
		return this.#scope.event;
	}

	get body(): unknown {
		return this.#scope.body ?? null;
	}

	get headers(): Scope['headers'] {
		return this.#scope.headers;
	}

	get query(): Scope['query'] {
		return this.#scope.query;
	}

	get path(): Scope['path'] {
		return this.#scope.path;
	}

	get client(): Client {
		return this.#scope.client;
	}
}

function noCondition(type: string): string | undefined {
	if (type === 'bool' || isDynamic(type)) return undefined;
	return `gives ${typeName(type)}; a condition has to be true or false, such as event.branch == "main"`;
}

function noValue(type: string): string | undefined {
	if (plainTypes.has(type) || isDynamic(type)) return undefined;
	return `gives ${typeName(type)}; a parameter is a text, a number, true or false`;
}

function isDynamic(type: string): boolean {
	return type === 'dyn' || type.startsWith('dyn<');
}

/** A type of cel-js in words. */
function typeName(type: string): string {
	const names: Readonly<Record<string, string>> = {
		string: 'a text',
		int: 'a number',
		uint: 'an unsigned number',
		double: 'a number',
		bool: 'true or false',
		null: 'null',
		bytes: 'bytes',
		type: 'a type',
		'google.protobuf.Timestamp': 'a timestamp',
		'google.protobuf.Duration': 'a duration',
	};
	return names[type] ?? (type.startsWith('list') ? 'a list' : 'a map');
}

function noField(owner: string, name: string, fields: readonly string[]): string {
	return `${owner} has no field "${name}", ${remedy(name, fields)}`;
}

function remedy(word: string, known: readonly string[], list = true): string {
	const near = nearest(word, known);
	if (near !== undefined) return `did you mean "${near}"?`;
	return list ? `known are ${known.join(', ')}` : 'see docs/conditions.md for those there are';
}

/** The fields of what an expression calls `event.repository`; none for what has any. */
function fieldsAt(chain: string): readonly string[] {
	const roots: Fields = { event: eventFields, client: clientFields };
	let fields: Fields | string | undefined = roots;
	for (const name of chain.split('.')) fields = typeof fields === 'object' ? fields[name] : undefined;
	return typeof fields === 'object' ? Object.keys(fields) : [];
}

/** `headers.name` and `headers["name"]`, likewise of others. */
function keyOf(node: ASTNode): { of: string; name: string; offset: number } | undefined {
	if (node.op !== '.' && node.op !== '[]') return undefined;
	const [owner, key] = node.args;
	if (owner.op !== 'id') return undefined;
	if (typeof key === 'string') return { of: owner.args, name: key, offset: node.range.end - key.length };
	if (key.op !== 'value' || typeof key.args !== 'string') return undefined;
	return { of: owner.args, name: key.args, offset: key.range.start };
}

/** True for a variable, and for a field of a field of one. */
function isChain(node: ASTNode, own: readonly string[]): boolean {
	if (node.op === 'id') return variables.includes(node.args) && !own.includes(node.args);
	if (node.op === '.') return isChain(node.args[0], own);
	return node.op === '[]' && node.args[1].op === 'value' && isChain(node.args[0], own);
}

/** Names that a macro gives to what its arguments speak of: `c` in `exists(c, c.id == 1)`. */
function boundBy([, , given]: readonly [string, ASTNode, ASTNode[]]): readonly string[] {
	const [first] = given;
	return given.length > 1 && first?.op === 'id' ? [first.args] : [];
}

function sliceOf({ input, range }: ASTNode): string {
	return input.slice(range.start, range.end);
}

/** Why there is no value. What cel-js says may quote the delivery, and is not handed on. */
function failureOf(error: Error, scope: Scope): Result {
	if (error instanceof TooMuchWork) return { error: error.message, missing: false };
	if (!(error instanceof EvaluationError)) return { error: 'cannot be evaluated', missing: false };
	const node = error.node as ASTNode | undefined;
	const owner = node?.op === '.' || node?.op === '[]' ? oneLine(sliceOf(node.args[0])) : 'it';
	const key = /^No such key: (?:index out of bounds, index )?([^\n]*?)(?: (?:< 0|>= size .*))?$/s.exec(
		error.summary,
	)?.[1];
	if (error.code === 'no_such_key' || error.code === 'index_out_of_bounds') {
		const name = cut(key ?? '', 60);
		if (owner === 'body' && scope.body === undefined) return { error: 'there is no body', missing: true };
		const what = error.code === 'no_such_key' ? `field ${JSON.stringify(name)}` : `item ${name}`;
		return { error: `${owner} has no ${what}`, missing: true };
	}
	const quoting = /conversion_error|regular_expression/.test(error.code);
	return { error: quoting ? error.code.replaceAll('_', ' ') : sentence(error.summary), missing: false };
}

/** What cel-js says, as it follows the name of an expression. */
function sentence(summary: string): string {
	const plain = summary
		.replace(/\n.*/s, '')
		.replace(/dyn<([^<>]*)>/g, '$1')
		.replaceAll('google.protobuf.', '');
	const overload = /^(?:no such overload: |found no matching overload for )'?(.*?)'?$/.exec(plain)?.[1];
	if (overload === undefined) return cut(plain.charAt(0).toLowerCase() + plain.slice(1), 200);
	const mixed = overload.includes('double') && overload.includes('int');
	const hint = mixed ? '; numbers of JSON are double: write 1.0 for 1, or int(…) around them' : '';
	return `${cut(overload, 100)} is not possible${hint}`;
}

/** Why a condition does not hold, as it follows its text. */
function objection(result: Result): string {
	if ('error' in result) return `: ${result.error}`;
	const { value } = result;
	return value === false ? ' is not true' : ` is neither true nor false, but ${kindOf(value)}`;
}

function kindOf(value: unknown): string {
	if (value === null) return 'null';
	if (Array.isArray(value)) return 'a list';
	if (typeof value === 'object') return 'a map';
	return typeof value === 'string' ? 'a text' : 'a number';
}

/** Values of a condition that are shown at most, and characters of each: a log's line is to stay one. */
const mostValues = 8;
const longestValue = 80;
/** Names of what is rather not shown to whoever reads the log. */
const secretName =
	/passw|passphrase|secret|token|credential|authorization|cookie|signature|api.?key|private.?key/i;

/** True for the name of something that is rather not shown. */
export function looksSecret(name: string): boolean {
	return secretName.test(name);
}

/** A value, fit for a log. */
function shown(chain: string, result: Result): string {
	if ('error' in result) return 'missing';
	const { value } = result;
	if (value === null || typeof value === 'boolean') return String(value);
	if (looksSecret(chain)) return '[secret]';
	if (Array.isArray(value)) return `a list of ${value.length}`;
	if (typeof value === 'object') return 'a map';
	return typeof value === 'string' ? JSON.stringify(cut(value, longestValue)) : String(value);
}

function cut(text: string, length: number): string {
	return text.length > length ? `${text.slice(0, length)}…` : text;
}

function oneLine(text: string): string {
	return cut(text.trim().replace(/\s+/g, ' '), 300);
}
