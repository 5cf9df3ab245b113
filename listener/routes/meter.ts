/**
 * Bounds for expressions. CEL ends whatever it is given, but not soon: a caller's list can be gone through for every member of
 * a caller's list, and the listener answers nobody meanwhile. So the work is counted, by what it costs and not by the clock: the same
 * delivery is decided in the same way on a busy host.
 */

import type { ASTNode } from '@marcbachmann/cel-js';
import type { RE2JS } from 're2js';

/** What an evaluation may cost. */
export const bounds = {
	/**
	 * An operation, a member of a list or 8 characters of text is one: together some 50 ms, 250 where texts are made to be
	 * searched slowly. To look through the files of GitHub's largest push, 2048 commits, takes 150,000.
	 */
	steps: 1_000_000,
	/** Levels of lists and maps in what is compared as a whole. JSON may have a million, and comparing goes down by recursion. */
	depth: 100,
	/** Characters of a text that another is searched for. Searching costs the one's length times the other's in the worst case. */
	needle: 256,
} as const;

/** An evaluation was given up; the message says why. */
export class TooMuchWork extends Error {}

/** What a value is wanted for, where that costs more than to have it. */
type Use = 'members' | 'whole' | 'needle';

/** What cel-js evaluates with; every node is evaluated by its `run`. */
interface Evaluator {
	run(node: ASTNode, variables: unknown): unknown;
	tryEval(node: ASTNode, variables: unknown): unknown;
	debugType(value: unknown): unknown;
	debugTypeDeep(value: unknown): unknown;
}

/** Looks for a text, or into a list, from one end to the other. */
const searching = new Set(['contains', 'indexOf', 'lastIndexOf', 'split', 'replace']);
const comparing = new Set(['==', '!=', 'in']);
const goingThrough = new Set(['all', 'exists', 'exists_one', 'map', 'filter', 'size']);
/** What the calendar of a time zone costs: it is made for each call. */
const calendarSteps = 2000;
const charactersPerStep = 8;

/** Evaluates expressions within bounds. One for all expressions of a configuration: it keeps nothing of a delivery. */
export class Meter {
	readonly #patterns: ReadonlyMap<string, RE2JS>;
	readonly #uses = new WeakMap<ASTNode, Use>();
	#metered: Evaluator | undefined;
	#left = 0;

	/** @param patterns compiled, by their text: those of every `matches` there is */
	constructor(patterns: ReadonlyMap<string, RE2JS>) {
		this.#patterns = patterns;
	}

	/** Notes what an expression's values are for. Once, before it is evaluated. */
	learn(expression: ASTNode): void {
		for (const node of nodesOf(expression)) {
			if (comparing.has(node.op)) this.#use(node.args as ASTNode[], 'whole');
			else if (node.op === '+') this.#use(node.args, 'members');
			else if (node.op === 'call') this.#use(node.args[1], 'members');
			else if (node.op === 'rcall') {
				const [name, receiver, given] = node.args;
				if (searching.has(name)) this.#use(given, 'needle');
				else if (name === 'join') this.#use([receiver], 'whole');
				else if (goingThrough.has(name)) this.#use([receiver], 'members');
			}
		}
	}

	#use(nodes: readonly ASTNode[], use: Use): void {
		for (const node of nodes) this.#uses.set(node, use);
	}

	/** @throws TooMuchWork, or what cel-js has against it */
	evaluate(evaluator: Evaluator, expression: ASTNode, variables: unknown): unknown {
		this.#metered ??= this.#around(evaluator);
		this.#left = bounds.steps;
		return this.#metered.run(expression, variables);
	}

	/** The evaluator with what each node costs. It hands itself on to the nodes, which come back to its `run`. */
	#around(evaluator: Evaluator): Evaluator {
		const metered: Evaluator = Object.create(evaluator);
		metered.run = (node, variables) => {
			this.#spend(1);
			const value =
				node.op === 'rcall' && node.args[0] === 'matches'
					? this.#matches(metered, node.args, variables)
					: evaluator.run.call(metered, node, variables);
			this.#charge(node, value);
			return value;
		};
		// `any || true` is true whatever is wrong with `any`; but giving up is not to be overlooked, a million times.
		metered.tryEval = (node, variables) => {
			try {
				return metered.run(node, variables);
			} catch (error) {
				if (error instanceof TooMuchWork) throw error;
				return error;
			}
		};
		// cel-js would make, and keep for ever, a type for each shape of nested lists and maps that callers think of.
		metered.debugTypeDeep = (value) => evaluator.debugType(value);
		return metered;
	}

	#spend(steps: number): void {
		this.#left -= steps;
		if (this.#left < 0)
			throw new TooMuchWork(`takes more than ${bounds.steps} steps, as there is too much to look through`);
	}

	#charge(node: ASTNode, value: unknown): void {
		if (typeof value === 'string') {
			this.#spend(Math.floor(value.length / charactersPerStep));
			if (value.length > bounds.needle && this.#uses.get(node) === 'needle')
				throw new TooMuchWork(`searches for a text of more than ${bounds.needle} characters`);
		} else if (typeof value === 'object' && value !== null) {
			const use = this.#uses.get(node);
			if (use === 'members') this.#spend(memberCount(value));
			else if (use === 'whole') this.#spendWhole(value);
		}
		if (node.op === 'rcall' && node.args[0].startsWith('get') && node.args[2].length > 0)
			this.#spend(calendarSteps);
	}

	/** Without recursion: what is deep must not overflow the stack here either. */
	#spendWhole(value: object): void {
		const open: { value: object; depth: number }[] = [{ value, depth: 1 }];
		for (let next = open.pop(); next !== undefined; next = open.pop()) {
			if (next.depth > bounds.depth)
				throw new TooMuchWork(`compares lists and maps of more than ${bounds.depth} levels`);
			this.#spend(memberCount(next.value));
			for (const member of Object.values(next.value)) {
				if (typeof member === 'string') this.#spend(Math.floor(member.length / charactersPerStep));
				else if (typeof member === 'object' && member !== null)
					open.push({ value: member, depth: next.depth + 1 });
			}
		}
	}

	/** In time linear to the text; cel-js's own `matches` takes JavaScript's expressions, which a caller's text can hang. */
	#matches(
		metered: Evaluator,
		[, receiver, [pattern]]: [string, ASTNode, ASTNode[]],
		variables: unknown,
	): boolean {
		const text = metered.run(receiver, variables);
		if (typeof text !== 'string') throw new TypeError('matches() is for text');
		return this.#patterns.get(String(pattern!.args))!.test(text);
	}
}

function memberCount(value: object): number {
	if (Array.isArray(value)) return value.length;
	return value instanceof Map ? value.size : Object.keys(value).length;
}

/** A node and all below it, as they are written: macros such as `exists` are calls here. */
export function* nodesOf(node: ASTNode): Generator<ASTNode, void, undefined> {
	yield node;
	for (const child of childrenOf(node)) yield* nodesOf(child);
}

/** The nodes right below one. */
export function childrenOf({ args }: ASTNode): ASTNode[] {
	const parts = (given: unknown): ASTNode[] => {
		if (Array.isArray(given)) return given.flatMap(parts);
		return typeof given === 'object' && given !== null && 'op' in given ? [given as ASTNode] : [];
	};
	return parts(args);
}
