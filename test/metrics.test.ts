/** `/metrics`: what is counted, for whom, and that the dashboard and the alerts of docs/examples/monitoring ask for what is there. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { before, describe, test } from 'node:test';
import {
	command,
	type Listener,
	root,
	startListener,
	temporaryDirectory,
	until,
} from './helpers/listener.ts';

/** Values by series as the text has them, such as `puppet_webhook_runs_queued` or `…_total{route="a"}`. */
async function metricsOf(listener: Listener): Promise<ReadonlyMap<string, number>> {
	const answer = await listener.get('/metrics');
	assert.equal(answer.status, 200);
	const lines = answer.text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
	return new Map(
		lines.map((line) => {
			const space = line.lastIndexOf(' ');
			return [line.slice(0, space), Number(line.slice(space + 1))];
		}),
	);
}

function series(metrics: ReadonlyMap<string, number>, start: string): Record<string, number> {
	const found = [...metrics].filter(([name, value]) => name.startsWith(start) && value > 0);
	return Object.fromEntries(found.map(([name, value]) => [name.slice(start.length), value]));
}

const head = 'listen: { address: 127.0.0.1, port: 0 }\nlog: { format: json }\n';
const routes = `${head}
defaults: { method: get }
routes:
  works: { command: printf 12345 }
  fails: { command: exit 3 }
  dies: { command: kill -9 $$ }
  slow: { command: sleep 60, timeout: 50ms }
  absent: { command: [/no/such/program] }
  strict: { params: { n: { required: true, type: integer } }, command: "true" }
  held: { params: { file: { pattern: ".*" } }, command: 'while ! [ -e "$file" ]; do sleep 0.02; done' }
  merged: { concurrency: { group: held, when_busy: coalesce }, command: "true" }
  refusing: { concurrency: { group: held, when_busy: reject }, command: "true" }
`;

describe('the metrics', () => {
	test('count deliveries by route, outcome and class of status, and unknown paths as one', async () => {
		const listener = await startListener({ routes });
		await listener.get('/works');
		await listener.get('/works?async=false');
		await listener.get('/fails?async=false');
		await listener.request('/works', { method: 'HEAD' });
		await listener.request('/works', { method: 'OPTIONS' });
		await listener.request('/works', { method: 'POST' });
		await listener.get('/strict?n=x');
		for (let n = 0; n < 50; n++) await listener.get(`/unknown-${n}?route=works`);
		const file = path.join(listener.dir, 'go');
		await listener.get(`/held?file=${file}`);
		await until(
			'it to run',
			async () => (await metricsOf(listener)).get('puppet_webhook_runs_running') === 1,
		);
		await listener.get('/merged');
		await listener.get('/merged');
		await listener.get('/refusing');
		const metrics = await metricsOf(listener);
		assert.deepEqual(series(metrics, 'puppet_webhook_deliveries_total'), {
			'{route="works",outcome="accepted",status="2xx"}': 2,
			'{route="works",outcome="ignored",status="2xx"}': 1,
			'{route="fails",outcome="accepted",status="5xx"}': 1,
			'{route="strict",outcome="refused",status="4xx"}': 1,
			'{route="held",outcome="accepted",status="2xx"}': 1,
			'{route="merged",outcome="accepted",status="2xx"}': 1,
			'{route="merged",outcome="joined",status="2xx"}': 1,
			'{route="refusing",outcome="busy",status="4xx"}': 1,
			'{route="-",outcome="refused",status="4xx"}': 51,
			'{route="-",outcome="ignored",status="2xx"}': 1,
		});
		assert.equal(metrics.get('puppet_webhook_runs_queued'), 1);
		assert.equal(metrics.get('puppet_webhook_runs_running'), 1);
		fs.writeFileSync(file, '');
		await until('both to end', async () => {
			const now = await metricsOf(listener);
			return now.get('puppet_webhook_runs_queued') === 0 && now.get('puppet_webhook_runs_running') === 0;
		});
		await listener.stop();
	});

	test('count a caller that left before its answer as gone', async () => {
		const listener = await startListener({ routes });
		const leaving = new AbortController();
		const file = path.join(listener.dir, 'go');
		const gone = fetch(`${listener.url}/held?async=false&file=${file}`, { signal: leaving.signal });
		await until(
			'it to run',
			async () => (await metricsOf(listener)).get('puppet_webhook_runs_running') === 1,
		);
		leaving.abort();
		await assert.rejects(gone);
		fs.writeFileSync(file, '');
		const name = 'puppet_webhook_deliveries_total{route="held",outcome="accepted",status="gone"}';
		await until('the count', async () => (await metricsOf(listener)).get(name) === 1);
		await listener.stop();
	});

	test('count runs by route, state and reason, with how long they waited and took and how much they printed', async () => {
		const listener = await startListener({ routes });
		for (const route of ['works', 'works', 'fails', 'dies', 'slow', 'absent'])
			await listener.get(`/${route}?async=false`);
		const file = path.join(listener.dir, 'go');
		const held = (await listener.get(`/held?file=${file}`)).json.runs[0].id;
		const queued = (await listener.get('/merged')).json.runs[0].id;
		for (const id of [queued, held]) await listener.request(`/-/runs/${id}/cancel`, { method: 'POST' });
		// A run's end is told just after it has been written down.
		const metrics = await until('its end to be counted', async () => {
			const now = await metricsOf(listener);
			return now.get('puppet_webhook_runs_total{route="held",state="cancelled",reason="caller"}')
				? now
				: undefined;
		});
		assert.deepEqual(series(metrics, 'puppet_webhook_runs_total'), {
			'{route="works",state="succeeded",reason="exit"}': 2,
			'{route="fails",state="failed",reason="exit"}': 1,
			'{route="dies",state="failed",reason="signal"}': 1,
			'{route="slow",state="failed",reason="timeout"}': 1,
			'{route="absent",state="failed",reason="spawn"}': 1,
			'{route="held",state="cancelled",reason="caller"}': 1,
			'{route="merged",state="cancelled",reason="caller"}': 1,
		});
		const of = (name: string) => metrics.get(`puppet_webhook_${name}`);
		assert.equal(of('output_bytes_total{route="works"}'), 10);
		assert.equal(of('run_wait_seconds_count{route="works"}'), 2);
		assert.equal(of('run_duration_seconds_count{route="works"}'), 2);
		assert.equal(of('run_duration_seconds_bucket{le="+Inf",route="slow"}'), 1);
		const took = of('run_duration_seconds_sum{route="slow"}') ?? 0;
		assert.ok(took >= 0.05 && took < 30, `${took} s`);
		assert.equal(of('run_duration_seconds_bucket{le="0.025",route="slow"}'), 0);
		assert.equal(of('run_wait_seconds_count{route="merged"}'), undefined, 'it never began');
		// Prometheus sees an increase only of what was there before.
		assert.equal(of('runs_total{route="works",state="failed",reason="timeout"}'), 0);
		await listener.stop();
	});

	test('follow the file: reloads and refusals are counted, and series of routes that are gone go', async () => {
		const began = Date.now() / 1000;
		const listener = await startListener({ routes });
		const reload = (text: string) => {
			fs.writeFileSync(listener.config, text);
			return listener.request('/-/reload', { method: 'POST' });
		};
		const config = (metrics: ReadonlyMap<string, number>) => ({
			success: metrics.get('puppet_webhook_config_reloads_total{result="success"}'),
			failure: metrics.get('puppet_webhook_config_reloads_total{result="failure"}'),
			successful: metrics.get('puppet_webhook_config_last_reload_successful'),
		});
		const readAt = (metrics: ReadonlyMap<string, number>) =>
			metrics.get('puppet_webhook_config_last_reload_success_timestamp_seconds') ?? 0;
		const first = await metricsOf(listener);
		assert.deepEqual(config(first), { success: 0, failure: 0, successful: 1 });
		assert.ok(readAt(first) >= began);

		assert.equal((await reload(`${head}routes: { x: {} }\n`)).status, 422);
		const refused = await metricsOf(listener);
		assert.deepEqual(config(refused), { success: 0, failure: 1, successful: 0 });
		assert.equal(readAt(refused), readAt(first));

		const file = path.join(listener.dir, 'go');
		await listener.get(`/held?file=${file}`);
		await listener.get('/works?async=false');
		assert.equal((await reload(`${head}routes: { kept: { command: "true" } }\n`)).status, 200);
		fs.writeFileSync(file, '');
		const later = 'puppet_webhook_runs_total{route="-",state="succeeded",reason="exit"}';
		const taken = await until('its end to be counted', async () => {
			const now = await metricsOf(listener);
			return now.get(later) ? now : undefined;
		});
		assert.deepEqual(config(taken), { success: 1, failure: 1, successful: 1 });
		assert.ok(readAt(taken) > readAt(first));
		const labels = new Set([...taken.keys()].flatMap((name) => /[{,]route="([^"]*)"/.exec(name)?.[1] ?? []));
		assert.deepEqual([...labels].sort(), ['-', 'kept']);
		assert.equal(taken.get(later), 1);
		await listener.stop();
	});

	test('name 100 routes and count the others together, so that the answer stays small', async () => {
		const many = Array.from({ length: 300 }, (_, n) => `  r${n}: { method: get, command: "true" }\n`).join(
			'',
		);
		const listener = await startListener({ routes: `routes:\n${many}` });
		for (const n of [0, 99, 100, 299]) await listener.get(`/r${n}?async=false`);
		const metrics = await metricsOf(listener);
		const accepted = series(metrics, 'puppet_webhook_deliveries_total');
		assert.deepEqual(accepted, {
			'{route="r0",outcome="accepted",status="2xx"}': 1,
			'{route="r99",outcome="accepted",status="2xx"}': 1,
			'{route="(others)",outcome="accepted",status="2xx"}': 2,
		});
		const names = new Set([...metrics.keys()].flatMap((name) => /route="(r\d+)"/.exec(name)?.[1] ?? []));
		assert.equal(names.size, 100);
		await listener.stop();
	});

	test('tell about the process and which version it is', async () => {
		const listener = await startListener({ routes: 'routes: {}\n' });
		const metrics = await metricsOf(listener);
		const { version } = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
		assert.deepEqual(series(metrics, 'puppet_webhook_build_info'), {
			[`{version="${version}",node_version="${process.version}"}`]: 1,
		});
		for (const name of ['process_resident_memory_bytes', 'process_start_time_seconds', 'process_open_fds'])
			assert.ok((metrics.get(name) ?? 0) > 0, name);
		await listener.stop();
	});
});

describe('/metrics', () => {
	let listener: Listener;
	before(async () => {
		listener = await startListener({ routes });
	});

	test('is for programs of this host, as the endpoints below /-/ are', async () => {
		const answer = await listener.get('/metrics', { 'x-forwarded-for': '192.0.2.1' });
		assert.equal(answer.status, 403);
		assert.match(
			answer.json.detail,
			/^\/metrics and the endpoints under \/-\/ answer programs of this host only/,
		);
	});

	test('takes GET and HEAD, in the format of Prometheus, and is not counted itself', async () => {
		const answer = await listener.get('/metrics', { accept: 'application/openmetrics-text;version=1.0.0' });
		assert.equal(answer.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
		assert.equal((await listener.request('/metrics', { method: 'HEAD' })).status, 200);
		const posted = await listener.post('/metrics');
		assert.deepEqual([posted.status, posted.headers.allow], [405, 'HEAD, GET']);
		assert.deepEqual(series(await metricsOf(listener), 'puppet_webhook_deliveries_total'), {});
	});

	test('is no path that a route can have', async () => {
		const file = path.join(temporaryDirectory(), 'routes.yaml');
		fs.writeFileSync(file, 'routes:\n  metrics: { command: "true" }\n');
		const { code, stderr } = await command(['check', '--config', file]);
		assert.equal(code, 1);
		assert.match(stderr, /path "metrics" is where the listener's own metrics are; choose another path/);
	});
});

const promtool = spawnSync('promtool', ['--version']).error === undefined;

describe('by promtool', { skip: promtool ? false : 'promtool not found' }, () => {
	const examples = path.join(root, 'docs/examples/monitoring');
	const alerts = path.join(examples, 'alerts.yaml');
	const dashboard = JSON.parse(fs.readFileSync(path.join(examples, 'grafana.json'), 'utf8'));
	let text: string;
	before(async () => {
		const listener = await startListener({ routes });
		for (const route of ['works', 'fails', 'nowhere']) await listener.get(`/${route}?async=false`);
		text = (await listener.get('/metrics')).text;
		await listener.stop();
	});

	function check(...args: string[]): string {
		const { status, stdout, stderr } = spawnSync('promtool', args, { input: text, encoding: 'utf8' });
		assert.equal(status, 0, `${stdout}${stderr}`);
		return `${stdout}${stderr}`;
	}

	/** Every expression of the dashboard, as Grafana sends it. */
	function expressions(part: unknown): string[] {
		if (part === null || typeof part !== 'object') return [];
		const own = 'expr' in part && typeof part.expr === 'string' ? [part.expr] : [];
		return [...own, ...Object.values(part).flatMap(expressions)];
	}
	const asked = expressions(dashboard).map((expression) =>
		expression.replaceAll('$__rate_interval', '5m').replaceAll(/\$(job|instance|route)/g, 'x'),
	);

	/** Metrics that a text names, without those that Prometheus makes itself. */
	const named = (expression: string) =>
		[...expression.matchAll(/\b(?:puppet_webhook|process|nodejs)_\w+/g)].map(([name]) => name);

	test('the metrics keep to the rules of Prometheus', () => {
		assert.equal(check('check', 'metrics'), '');
	});

	test('the alerts and the expressions of the dashboard can be evaluated', () => {
		assert.match(check('check', 'rules', alerts), /SUCCESS: 8 rules found/);
		assert.ok(asked.length > 20);
		const file = path.join(temporaryDirectory(), 'dashboard.json');
		const rules = asked.map((expr, index) => ({ record: `panel_${index}`, expr }));
		fs.writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }));
		check('check', 'rules', file);
	});

	test('every metric that the alerts and the dashboard ask for is there', () => {
		const there = new Set(text.split('\n').map((line) => line.split(/[{ ]/)[0]));
		const queries = dashboard.templating.list.map((variable: { definition?: string }) => variable.definition);
		const wanted = [fs.readFileSync(alerts, 'utf8'), ...asked, ...queries.filter(Boolean)].flatMap(named);
		assert.ok(new Set(wanted).size > 12);
		for (const name of wanted) assert.ok(there.has(name), name);
	});

	test('the alerts fire for what they are meant for, and not otherwise', () => {
		const instance = 'instance="h",job="puppet-webhook"';
		const file = path.join(temporaryDirectory(), 'test.yaml');
		const input = (series: string, values: string) => ({ series, values });
		const calm = [
			input(`up{${instance}}`, '1x60'),
			input(`puppet_webhook_runs_total{route="a",state="succeeded",reason="exit",${instance}}`, '0+1x60'),
			input(`puppet_webhook_runs_total{route="a",state="failed",reason="exit",${instance}}`, '0x60'),
			input(`puppet_webhook_runs_queued{${instance}}`, '0 1 0x58'),
			input(`puppet_webhook_runs_running{${instance}}`, '1x60'),
			input(`puppet_webhook_config_last_reload_successful{${instance}}`, '1 0 1x58'),
		];
		const trouble = [
			input(`up{${instance}}`, '0x60'),
			input(`puppet_webhook_runs_total{route="a",state="failed",reason="exit",${instance}}`, '0x50 1x10'),
			input(
				`puppet_webhook_deliveries_total{route="a",outcome="refused",status="5xx",${instance}}`,
				'0x50 1x10',
			),
			input(`puppet_webhook_runs_queued{${instance}}`, '3x60'),
			input(`puppet_webhook_runs_running{${instance}}`, '0x60'),
			input(`puppet_webhook_config_last_reload_successful{${instance}}`, '0x60'),
			input(`puppet_webhook_run_wait_seconds_bucket{route="a",le="600",${instance}}`, '0x60'),
			input(`puppet_webhook_run_wait_seconds_bucket{route="a",le="1800",${instance}}`, '0+2x60'),
			input(`puppet_webhook_run_wait_seconds_bucket{route="a",le="+Inf",${instance}}`, '0+2x60'),
			input(`process_start_time_seconds{${instance}}`, '1+60x60'),
			input(`nodejs_eventloop_lag_p99_seconds{${instance}}`, '2x60'),
		];
		const names = [...fs.readFileSync(alerts, 'utf8').matchAll(/- alert: (\w+)/g)].map((match) => match[1]!);
		const cases = (input_series: object[], firing: boolean) => ({
			interval: '1m',
			input_series,
			promql_expr_test: names.map((name) => ({
				expr: `count(ALERTS{alertname="${name}",alertstate="firing"})`,
				eval_time: '55m',
				exp_samples: firing ? [{ labels: '{}', value: 1 }] : [],
			})),
		});
		const tests = [cases(calm, false), cases(trouble, true)];
		fs.writeFileSync(file, JSON.stringify({ rule_files: [alerts], evaluation_interval: '1m', tests }));
		check('test', 'rules', file);
	});
});
