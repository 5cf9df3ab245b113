/** Presets: routes that come with the listener. Each is a file in routes/presets/, written as a route of routes.yaml is. */

import fs from 'node:fs';
import path from 'node:path';
import { YamlFile } from './yaml.ts';

/** The names of the files there. */
export const presetNames = ['jenkins-deploy'] as const;
export type PresetName = (typeof presetNames)[number];

/** A map of YAML. */
type Map = Readonly<Record<string, unknown>>;

/** The text of a preset, with its comments. */
export function presetText(name: PresetName): string {
	// The built listener is one file, with the presets beside it.
	const places = ['presets', '../routes/presets'].map((place) => path.join(import.meta.dirname, place));
	const place = places.find((one) => fs.existsSync(one)) ?? '';
	return fs.readFileSync(path.join(place, `${name}.yaml`), 'utf8');
}

/** Whether a value of routes.yaml names a preset. */
export function isPreset(name: unknown): name is PresetName {
	return presetNames.some((one) => one === name);
}

/** A preset as a route that was read and not checked. */
export function presetRoute(name: PresetName): Map {
	const { value, faults } = new YamlFile(Buffer.from(presetText(name)));
	if (faults.length > 0 || !isMap(value)) throw new Error(`the preset ${name} is not as it was shipped`);
	return value;
}

/** Maps of a route that are joined, with how deep: what they hold belongs to names, and not to each other. */
const joined: Readonly<Record<string, number>> = { params: 2, respond: 2, env: 1, concurrency: 1 };
/** What a route does: it says one of them. */
const doings = ['command', 'steps'];

/** A route with a preset: keys of the route win; see docs/presets.md. */
export function withPreset(preset: Map, route: Map): Map {
	const does = doings.some((key) => key in route);
	const taken = Object.entries(preset).filter(([key]) => !(does && doings.includes(key)));
	const joint = Object.keys(joined).flatMap((key) =>
		key in route && key in preset ? [[key, join(preset[key], route[key], joined[key]!)]] : [],
	);
	return { ...Object.fromEntries(taken), ...route, ...Object.fromEntries(joint) };
}

function join(preset: unknown, route: unknown, depth: number): unknown {
	if (depth === 0 || !isMap(preset) || !isMap(route)) return route;
	const both = Object.entries(route).map(([key, value]) => [
		key,
		key in preset ? join(preset[key], value, depth - 1) : value,
	]);
	return { ...preset, ...Object.fromEntries(both) };
}

function isMap(value: unknown): value is Map {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}
