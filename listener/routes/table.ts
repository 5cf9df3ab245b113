/** All routes of a configuration: which one takes a request, or why none does. */

import { BadRequest, MethodNotAllowed, NotFound } from '../errors.ts';
import type { RouteLogLevel } from '../log.ts';
import { type Method, methods, type Route } from './route.ts';

/** Two routes that would take the same requests. */
export interface Clash {
	/** The later one, which is left out of the table. */
	readonly route: Route;
	readonly other: Route;
	/** The methods both take. */
	readonly methods: readonly Method[];
}

export interface Match {
	readonly route: Route;
	/** The values of the path's `:name` segments, percent-decoded. Has no prototype. */
	readonly segments: Readonly<Record<string, string>>;
}

/** A place in the tree of paths. A request walks it segment by segment, so ten routes or ten thousand take the same time. */
class Place {
	readonly literal = new Map<string, Place>();
	parameter: Place | undefined;
	readonly routes = new Map<Method, Route>();

	/** The place of a path's next segment, made when it is not there yet. */
	next(segment: string): Place {
		if (segment.startsWith(':')) {
			this.parameter ??= new Place();
			return this.parameter;
		}
		const found = this.literal.get(segment) ?? new Place();
		this.literal.set(segment, found);
		return found;
	}
}

interface Found {
	readonly place: Place;
	readonly values: readonly string[];
}

/** All routes, ready to be matched. */
export class RouteTable {
	/** In the order of routes.yaml. */
	readonly routes: readonly Route[];
	/** Routes that have a path and a method in common, as pairs; a table in use has none. */
	readonly clashes: readonly Clash[];
	/** Of routes that say so themselves, by name. */
	readonly logLevels: ReadonlyMap<string, RouteLogLevel>;
	readonly #root = new Place();
	readonly #byName: ReadonlyMap<string, Route>;

	constructor(routes: readonly Route[]) {
		this.routes = Object.freeze([...routes]);
		this.logLevels = new Map(
			routes.flatMap(({ name, log }) => (log === undefined ? [] : [[name, log] as const])),
		);
		this.#byName = new Map(routes.map((route) => [route.name, route]));
		const clashes = new Map<Route, Map<Route, Method[]>>();
		for (const route of routes) {
			for (const path of route.paths) this.#add(route, path, clashes);
		}
		this.clashes = [...clashes].flatMap(([route, others]) =>
			[...others].map(([other, methods]) => ({ route, other, methods })),
		);
	}

	#add(route: Route, path: string, clashes: Map<Route, Map<Route, Method[]>>): void {
		let place = this.#root;
		for (const segment of split(path)) place = place.next(segment);
		for (const method of route.methods) {
			const other = place.routes.get(method);
			if (other === undefined) place.routes.set(method, route);
			else if (other !== route) {
				const pairs = clashes.get(route) ?? new Map<Route, Method[]>();
				clashes.set(route, pairs.set(other, [...(pairs.get(other) ?? []), method]));
			}
		}
	}

	/**
	 * The route for a request. A literal segment wins over a `:name`; one trailing slash is ignored; letters' case counts.
	 * @param path as sent, without query, still percent-encoded
	 * @throws BadRequest when the path is no text · NotFound · MethodNotAllowed
	 */
	match(method: string, path: string): Match {
		const found = this.#find(path);
		for (const { place, values } of found) {
			const route = place.routes.get(method as Method);
			if (route !== undefined) return { route, segments: named(route, values) };
		}
		const shown = path.length > 200 ? `${path.slice(0, 200)}…` : path;
		if (found.length === 0) throw new NotFound(`there is no route ${shown}`);
		const allowed = allowedAt(found);
		throw new MethodNotAllowed(`${shown} takes ${allowed.join(', ')} and not ${method}`, allowed);
	}

	named(name: string): Route | undefined {
		return this.#byName.get(name);
	}

	/** What `Allow` says for a path: its routes' methods, HEAD beside GET, and OPTIONS; empty when no route is there. */
	allowed(path: string): readonly string[] {
		return allowedAt(this.#find(path));
	}

	/** Every place that the path leads to, the one with the earliest literal segments first. */
	#find(path: string): readonly Found[] {
		const segments = split(path).map(decode);
		const found: Found[] = [];
		const walk = (place: Place, index: number, values: readonly string[]): void => {
			const segment = segments[index];
			if (segment === undefined) {
				if (place.routes.size > 0) found.push({ place, values });
				return;
			}
			const literal = place.literal.get(segment);
			if (literal) walk(literal, index + 1, values);
			if (place.parameter && segment !== '') walk(place.parameter, index + 1, [...values, segment]);
		};
		walk(this.#root, 0, []);
		return found;
	}
}

function split(path: string): readonly string[] {
	const inner = path.replace(/^\//, '').replace(/\/$/, '');
	return inner === '' ? [] : inner.split('/');
}

/** Decodes one segment. After splitting, so that `%2F` is a character of a value and never a border. */
function decode(segment: string): string {
	if (!/[%\P{ASCII}]/u.test(segment)) return segment;
	let text: string | undefined;
	try {
		text = decodeURIComponent(segment);
	} catch {
		// Told below, together with what decodes but is no text.
	}
	// Node hands unencoded bytes on as Latin-1, so that `ü` sent raw would silently be two other letters.
	if (text === undefined || /\P{ASCII}/u.test(segment)) {
		throw new BadRequest('the path is not percent-encoded UTF-8; encode it as %C3%BC for ü');
	}
	if (text.includes('\0')) throw new BadRequest('the path contains a NUL character');
	return text;
}

function named(route: Route, values: readonly string[]): Match['segments'] {
	const segments: Record<string, string> = Object.create(null);
	const names = split(route.path).filter((segment) => segment.startsWith(':'));
	for (const [index, name] of names.entries()) segments[name.slice(1)] = values[index] ?? '';
	return Object.freeze(segments);
}

function allowedAt(found: readonly Found[]): readonly string[] {
	const taken = new Set(found.flatMap(({ place }) => [...place.routes.keys()]));
	if (taken.size === 0) return [];
	const sorted: string[] = methods.filter((method) => taken.has(method));
	if (taken.has('GET')) sorted.splice(1, 0, 'HEAD');
	return [...sorted, 'OPTIONS'];
}
