/**
 * Requests as no decent client sends them: bytes made by chance, with all that is known to trip servers up. The same seed gives
 * the same bytes. Every request carries a value that says whether it was sent with a proof, whatever becomes of its bytes.
 */

import zlib from 'node:zlib';

/** Chance that can be repeated (mulberry32). */
export class Chance {
	#state: number;

	constructor(seed: number) {
		this.#state = seed >>> 0;
	}

	/** From 0 up to, and without, 1. */
	next(): number {
		this.#state = (this.#state + 0x6d2b79f5) >>> 0;
		let mixed = this.#state;
		mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
		mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
		return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
	}

	/** A whole number below `limit`. */
	below(limit: number): number {
		return Math.floor(this.next() * limit);
	}

	/** True so often, of 1. */
	is(often: number): boolean {
		return this.next() < often;
	}

	of<T>(choices: readonly T[]): T {
		return choices[this.below(choices.length)] as T;
	}

	bytes(most: number): Buffer {
		return Buffer.from(Array.from({ length: this.below(most + 1) }, () => this.below(256)));
	}
}

/** What begins the value of a request that is sent without a proof, and of one that is sent with it. */
export const forged = 'forged-';
export const proven = 'proven-';

/** A route under attack. */
export interface Target {
	readonly path: string;
	/** Headers that prove the sender of a body; undefined where everybody may call. */
	readonly prove?: (body: Buffer) => Readonly<Record<string, string>>;
	/** Proofs that are none. */
	readonly wrong?: readonly Readonly<Record<string, string>>[];
	/** True where the proof is of the body's bytes, so that the value has to be in them. */
	readonly signed: boolean;
	/** Bodies as its sender has them. */
	readonly bodies: readonly object[];
}

/** One connection's worth of bytes. */
export interface Attack {
	/** In the pieces in which they are to be written. */
	readonly pieces: readonly Buffer[];
	/** True to close our half at the end, as who has nothing more to say. */
	readonly close: boolean;
	/** Bodies that were sent with a proof of just these bytes. */
	readonly signed: readonly Buffer[];
}

const crlf = '\r\n';

/** Texts that mean something to somebody. */
const oddTexts = [
	...[
		'',
		' ',
		'\t',
		'0',
		'-1',
		'1e309',
		'99999999999999999999',
		'NaN',
		'null',
		'true',
		'__proto__',
		'constructor',
	],
	...[
		'toString',
		'../../etc/passwd',
		'..\\..',
		'$(touch x)',
		'`id`',
		"';--",
		'{{role}}',
		'%s%n',
		'-rf',
		'--help',
	],
	...[
		'a\u0000b',
		'ü',
		'\ud800',
		'\u202e',
		'😀'.repeat(50),
		'a'.repeat(300),
		'a\r\nX-Injected: 1',
		'\u2028',
		'\ufeff',
	],
];

function oddValue(chance: Chance, depth = 0): unknown {
	switch (chance.below(depth > 3 ? 6 : 9)) {
		case 0:
			return null;
		case 1:
			return chance.is(0.5);
		case 2:
			return chance.of([0, -0, -1, 1e308, 5e-324, 2 ** 53, 1.5, 4294967296]);
		case 3:
			return [];
		case 4:
			return {};
		case 5:
			return chance.of(oddTexts);
		case 6:
			return Array.from({ length: chance.below(5) }, () => oddValue(chance, depth + 1));
		default:
			return Object.fromEntries(
				Array.from({ length: chance.below(5) }, () => [chance.of(oddTexts), oddValue(chance, depth + 1)]),
			);
	}
}

/** The same with some of it taken away, or something else in its place. */
function bent(chance: Chance, value: unknown, often: number): unknown {
	if (chance.is(often)) return oddValue(chance);
	if (Array.isArray(value)) {
		const items = value.map((item) => bent(chance, item, often));
		if (items.length > 0 && chance.is(often)) items.push(...Array(chance.below(40)).fill(items[0]));
		return items;
	}
	if (value === null || typeof value !== 'object') return value;
	return Object.fromEntries(
		Object.entries(value).flatMap(([name, item]) =>
			chance.is(often) ? [] : [[name, bent(chance, item, often)] as const],
		),
	);
}

/** Text that JSON writers do not write. */
function oddJson(chance: Chance, json: string): string {
	const deep = chance.of([10, 1000, 100_000]);
	return chance.of([
		() => json.slice(0, chance.below(json.length + 1)),
		() => json + json,
		() => `\ufeff${json}`,
		() => `${' '.repeat(chance.below(5000))}${json}\n\0`,
		() => json.replace(/"/g, "'"),
		() => json.replace('{', '{"__proto__":{"polluted":true},'),
		() =>
			json.replace(
				'{',
				'{"\\u005f_proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}},',
			),
		() => json.replace('{', `{"x":${'9'.repeat(400)},"y":1E400,"z":-0,`),
		() => json.replace('{', '{"x":"\\ud800","\\udfff":1,'),
		() => json.replace('{', `{"deep":${'['.repeat(deep)}${']'.repeat(deep)},`),
		() => json.replace('{', `{"deep":${'{"a":'.repeat(deep)}1${'}'.repeat(deep)},`),
		() => `${'['.repeat(deep)}`,
		() => json.replace('{', `{${Array.from({ length: 3000 }, (_, index) => `"k${index}":1`).join(',')},`),
		() => json.replace('{', '{"n":"proven","n":["a"],"n":{"a":1},'),
		() => `[${json},${json}]`,
		() => JSON.stringify(json),
		() => chance.of(['null', '""', '0', '[]', '{}', '[[]]', 'undefined', '\0', '{"":""}']),
	])();
}

function pairsOf(chance: Chance, value: string): string {
	const pairs = [`n=${value}`];
	const odd = [
		...[
			'n[]=1',
			'n[a]=1',
			'__proto__=1',
			'__proto__[x]=1',
			'=',
			'&&&',
			'%',
			'%zz=1',
			'%ff=%c0%af',
			'n',
			'a=%00',
		],
		...[
			'constructor=1',
			'n=',
			'+=+',
			'async=false',
			'async=maybe',
			'limit=1e309',
			'from=-1',
			'state=x',
			'%E0%A4%A',
		],
		...[`a=${'%41'.repeat(500)}`, Array(1100).fill('a=1').join('&'), 'a=1;b=2', '\xff=\xfe', 'secret=x'],
	];
	while (chance.is(0.5)) pairs.splice(chance.below(pairs.length + 1), 0, chance.of(odd));
	return pairs.join('&');
}

function multipartOf(chance: Chance, value: string): { type: string; body: Buffer } {
	const boundary = chance.of(['b', '--', "'()+_,-./:=?", 'a'.repeat(70), 'x y', '']);
	const part = (name: string, content: string, more = '') =>
		`--${boundary}${crlf}Content-Disposition: form-data; name=${name}${more}${crlf}${crlf}${content}${crlf}`;
	const parts = [part('"n"', value)];
	const odd = [
		() => part('"__proto__"', '1'),
		() => part('n', 'x'),
		() => part('""', ''),
		() => part('"f"', 'bytes', '; filename="../../x"'),
		() => part('"f"', 'bytes', "; filename*=utf-8''%00"),
		() => `--${boundary}${crlf}${crlf}${crlf}`,
		() => `--${boundary}\nContent-Disposition: form-data; name="a"\n\nb\n`,
		() => `--${boundary}${crlf}${'X: y\r\n'.repeat(300)}${crlf}${crlf}`,
		() => `--${boundary}${crlf}Content-Disposition: ${'a'.repeat(20_000)}${crlf}${crlf}`,
		() => part('"a"', 'ü', `${crlf}Content-Type: text/plain; charset=utf-7`),
		() => part('"a"', '=00', `${crlf}Content-Transfer-Encoding: quoted-printable`),
		() => chance.bytes(50).toString('latin1'),
	];
	while (chance.is(0.5)) parts.splice(chance.below(parts.length + 1), 0, chance.of(odd)());
	const end = chance.is(0.8) ? `--${boundary}--${crlf}` : '';
	const quoted = chance.of([boundary, `"${boundary}"`, `"${boundary}`, `${boundary}; boundary=other`]);
	return {
		type: `multipart/form-data; boundary=${quoted}`,
		body: Buffer.from(parts.join('') + end, 'latin1'),
	};
}

/** Some hundred KB that would be 30 MB; made once, as it takes a while. */
const bombs = [
	zlib.gzipSync(Buffer.alloc(30_000_000, '{"a":')),
	zlib.brotliCompressSync(Buffer.alloc(30_000_000)),
];

/** A body and the headers that tell of it, but for its length. */
function bodyOf(
	chance: Chance,
	target: Target,
	value: string,
	odd: Layers,
): { body: Buffer; headers: [string, string][] } {
	const usual = { ...chance.of(target.bodies), n: value };
	const json = JSON.stringify(
		odd.has('body') && chance.is(0.8) ? { ...(bent(chance, usual, 0.08) as object), n: value } : usual,
	);
	const types = [
		'application/json',
		'application/x-www-form-urlencoded',
		'text/plain',
		'application/vnd.x+json',
	];
	const oddTypes = [
		'',
		';',
		'application/json; charset=utf-16',
		'APPLICATION/JSON;;;',
		'a/b, application/json',
		'\xff',
	];
	let type = !odd.has('encoding') ? types[0]! : chance.is(0.5) ? chance.of(oddTypes) : chance.of(types);
	let body: Buffer;
	const shape = odd.has('body') ? chance.next() : 0;
	if (shape < 0.55) body = Buffer.from(json);
	else if (shape < 0.75) body = Buffer.from(oddJson(chance, json));
	else if (shape < 0.83) {
		type = types[1]!;
		body = Buffer.from(
			chance.is(0.5) ? pairsOf(chance, value) : `payload=${encodeURIComponent(oddJson(chance, json))}`,
		);
	} else if (shape < 0.91) ({ type, body } = multipartOf(chance, value));
	else if (shape < 0.95) body = chance.bytes(3000);
	else body = Buffer.alloc(0);

	const headers: [string, string][] = type === '' ? [] : [['Content-Type', type]];
	if (odd.has('encoding')) {
		const encoding = chance.of([
			'gzip',
			'br',
			'deflate',
			'x-gzip',
			'GZIP',
			'gzip, gzip',
			'identity',
			'zstd',
			'',
		]);
		headers.push(['Content-Encoding', encoding]);
		const packed = chance.next();
		if (packed < 0.3) body = zlib.gzipSync(body);
		else if (packed < 0.45) body = zlib.deflateSync(body);
		else if (packed < 0.6) body = chance.of(bombs);
		else if (packed < 0.8) body = zlib.gzipSync(body).subarray(0, -5);
	}
	return { body, headers };
}

function chunksOf(chance: Chance, body: Buffer): Buffer {
	const parts: (Buffer | string)[] = [];
	for (let at = 0; at < body.length; ) {
		const size = Math.min(body.length - at, 1 + chance.below(chance.is(0.9) ? 5000 : 3));
		const length = chance.is(0.97)
			? size.toString(16)
			: chance.of([
					'-1',
					`0x${size}`,
					'ffffffffffffffffff',
					'',
					`${size} `,
					` ${size}`,
					`${size}\n`,
					`0${size}`,
				]);
		const extension = chance.is(0.9)
			? ''
			: chance.of([';a=b', ';"', ` ;${'x'.repeat(2000)}`, ';\xff', ';a\r']);
		parts.push(`${length}${extension}${crlf}`, body.subarray(at, at + size), chance.is(0.98) ? crlf : '\n');
		at += size;
	}
	const trailers = chance.is(0.9)
		? ''
		: chance.of(['X: y\r\n', 'Content-Length: 5\r\n', 'Authorization: x\r\n', ': \r\n']);
	parts.push(
		chance.is(0.96)
			? `0${crlf}${trailers}${crlf}`
			: chance.of(['', '0', '00\r\n\r\n', '0\r\n', '0;a\r\n\r\n']),
	);
	return Buffer.concat(parts.map((part) => Buffer.from(part as string)));
}

const oddHeaders: readonly string[] = [
	...[
		'X-A: b\r\n c',
		'X-A: b\r\n\tc',
		'X-A : b',
		' X-A: b',
		': b',
		'X-A',
		'X-A:',
		'X-\0: b',
		'X-A: \0',
		'X-A: \x7f\xff',
	],
	...[
		'X-A: a\rb',
		'X-A: a\nX-B: c',
		'Host: other',
		'Host:',
		'Host: a b',
		'Host: [::1',
		'Connection: close',
		'TE: trailers',
	],
	...[
		'Connection: keep-alive, Authorization',
		'Connection: upgrade\r\nUpgrade: websocket',
		'Upgrade: h2c',
		'Via: x',
	],
	...[
		'Expect: 100-continue',
		'Expect: nothing',
		'Expect: 100-continue, 100-continue',
		'Accept: text/plain',
		'Accept: ,;q=',
	],
	...[
		'Accept: */*;q=nan',
		'Accept: text/event-stream',
		'Prefer: wait=0.1',
		'Prefer: wait=1e99',
		'Prefer: wait=-1, wait="',
	],
	...[
		'Idempotency-Key: \xff',
		'Idempotency-Key: a b',
		'Idempotency-Key: same',
		'Last-Event-ID: 5',
		'Range: bytes=0-0,-1',
	],
	...[
		'Origin: null',
		'Origin: http://evil.example',
		'Sec-Fetch-Site: cross-site',
		'X-Forwarded-For: 127.0.0.1',
		'Forwarded: for=_x',
	],
	...[
		'X-Forwarded-For: 10.0.0.1, ::1, ,%',
		'X-Real-IP: 127.0.0.1',
		'Trailer: Content-Length',
		'Cookie: a=b; a=c',
		'Proxy: http://x',
	],
	...[
		'X-HTTP-Method-Override: GET',
		'X-Rewrite-URL: /open',
		'Content-Type: a/b',
		'Content-Encoding: gzip',
		'WebHook-Request-Origin: x',
	],
	...[
		`X-A: ${'a'.repeat(20_000)}`,
		Array(3000).fill('A: b').join(crlf),
		Array(150).fill('Authorization: Bearer x').join(crlf),
	],
];

/** How the length of a body is told. */
function framed(chance: Chance, body: Buffer): { header: string[]; bytes: Buffer } {
	const right = `Content-Length: ${body.length}`;
	const way = chance.next();
	if (way < 0.6) return { header: body.length === 0 && chance.is(0.5) ? [] : [right], bytes: body };
	const chunked = 'Transfer-Encoding: chunked';
	if (way < 0.78) return { header: [chunked], bytes: chunksOf(chance, body) };
	const length = body.length;
	const lengths = [
		`${length + 5}`,
		`${Math.max(0, length - 5)}`,
		'-1',
		`+${length}`,
		`${length}, ${length}`,
		`0x${length}`,
		`${length}e0`,
	];
	const oddLength = `Content-Length: ${chance.of([...lengths, '', ' ', '99999999999999999999', `${length}\t`, `0${length}`, '2147483648'])}`;
	if (way < 0.88) return { header: [oddLength], bytes: body };
	const encodings = [
		'Chunked',
		'chunked, identity',
		'identity',
		'xchunked',
		'gzip, chunked',
		'chunked\t',
		'\tchunked',
		'chunked;x',
		'"chunked"',
		'',
	];
	const odd = `Transfer-Encoding: ${chance.of(encodings)}`;
	const both = [
		[right, chunked],
		[chunked, right],
		[right, odd],
		[odd],
		[chunked, chunked],
		[chunked, odd],
		[odd, chunked],
		[right, oddLength],
	];
	both.push(
		['Content-Length: 0', chunked],
		['Content-Length: 4', chunked],
		[right, 'Transfer-Encoding : chunked'],
		[right, right],
	);
	return { header: chance.of(both), bytes: chance.is(0.5) ? chunksOf(chance, body) : body };
}

function methodOf(chance: Chance): string {
	return chance.of([
		'GET',
		'GET',
		'PUT',
		'HEAD',
		'OPTIONS',
		'DELETE',
		'PATCH',
		'TRACE',
		'CONNECT',
		'PRI',
		'get',
		'POST\t',
		'',
		'X'.repeat(100),
		'M-SEARCH',
		'QUERY',
		'P\0',
	]);
}

const own = [
	'/-/runs',
	'/-/runs/x',
	'/-/runs/00000000000000000000000000/output',
	'/-/routes',
	'/-/triggers/a',
	'/metrics',
	'/-/',
	'/-',
	'/-/runs/../routes',
	'/-/healthy',
];

function pathOf(chance: Chance, { path }: Target): string {
	return chance.of<() => string>([
		() => `${path}/`,
		() => `/${path}`,
		() => `${path}//`,
		() => `/./${path}`,
		() => `/x/..${path}`,
		() => path.replace(/[a-z]/, (letter) => `%${letter.charCodeAt(0).toString(16)}`),
		() => path.replace(/[a-z]/, (letter) => letter.toUpperCase()),
		() => `${path}%00`,
		() => `${path}%`,
		() => `${path}%2f..%2fopen`,
		() => `${path}%c0%af`,
		() => `${path}\xff`,
		() => `${path};a=b`,
		() => `${path}#x`,
		() => path.replaceAll('/', '\\'),
		() => `http://127.0.0.1${path}`,
		() => `http://user:pass@evil.example:99999${path}`,
		() => `HTTPS://[::1]${path}`,
		() => 'http://',
		() => 'http://?',
		() => '*',
		() => '',
		() => '127.0.0.1:80',
		() => `${path}/${'a/'.repeat(500)}`,
		() => `/${'%41'.repeat(6000)}`,
		() => chance.of(own),
		() => `/of/${chance.of(oddTexts.map(encodeText))}`,
		() => `/open?${path}`,
	])();
}

function encodeText(text: string): string {
	return encodeURIComponent(text.toWellFormed());
}

/** A few bytes changed, lost, or told twice. */
function damaged(chance: Chance, bytes: Buffer): Buffer {
	let result = bytes;
	do {
		const at = chance.below(result.length + 1);
		const to = Math.min(result.length, at + chance.below(chance.is(0.8) ? 4 : 400));
		const middle = chance.of([
			() => chance.bytes(3),
			() => Buffer.alloc(0),
			() => Buffer.concat([result.subarray(at, to), result.subarray(at, to)]),
			() => Buffer.from(chance.of(['\r\n', '\n', '\r', '\0', '\r\n\r\n', ' ', ':', '%', '"', ',', '\x80'])),
		])();
		result = Buffer.concat([result.subarray(0, at), middle, result.subarray(to)]);
	} while (chance.is(0.3));
	return result;
}

/**
 * What may be odd about a request. Mostly one or two of them are: what is odd all over is refused by its first line, and never
 * gets to what reads the rest.
 */
const layers = [
	'method',
	'path',
	'query',
	'headers',
	'framing',
	'damage',
	'body',
	'body',
	'body',
	'body',
	'encoding',
] as const;
type Layers = ReadonlySet<(typeof layers)[number]>;

/** How each route may be attacked, by chance. */
export class Attacker {
	readonly #targets: readonly Target[];

	constructor(targets: readonly Target[]) {
		this.#targets = targets;
	}

	/** What is sent on one connection; the same for the same seed. */
	attack(seed: number): Attack {
		const chance = new Chance(seed);
		const signed: Buffer[] = [];
		const requests = [this.#request(chance, seed, signed)];
		while (chance.is(0.15)) requests.push(this.#request(chance, seed, signed));
		// A request whose header does not end may go on with the header of the next, and with its proof.
		requests.sort((a, b) => Number(b.trusted) - Number(a.trusted));
		const noise = chance.is(0.01) ? [chance.bytes(100), Buffer.from(crlf + crlf)] : [];
		const bytes = Buffer.concat([...noise, ...requests.map((request) => request.bytes)]);
		const pieces: Buffer[] = [];
		for (let at = 0; at < bytes.length; ) {
			const size = chance.is(0.8) ? bytes.length : 1 + chance.below(bytes.length);
			pieces.push(bytes.subarray(at, at + size));
			at += size;
		}
		return { pieces, close: chance.is(0.9), signed };
	}

	#request(chance: Chance, seed: number, signed: Buffer[]): { bytes: Buffer; trusted: boolean } {
		const target = chance.of(this.#targets);
		const odd: Layers = new Set(Array.from({ length: 1 + chance.below(3) }, () => chance.of(layers)));
		const trusted = target.prove !== undefined && chance.is(0.5);
		const id = `${seed.toString(36)}-${chance.below(1e9).toString(36)}`;
		const value = `${trusted ? proven : forged}${id}`;
		let { body, headers } = bodyOf(chance, target, value, odd);
		// Inside of the body of a request that is proven, one that is not: for servers that lose count of bytes.
		if (odd.has('framing') && chance.is(0.2))
			body = Buffer.concat([Buffer.from(`0${crlf}${crlf}`), this.#smuggled(chance, id)]);
		if (trusted) {
			headers = [...headers, ...Object.entries(target.prove!(body))];
			if (target.signed) signed.push(body);
		} else if (target.wrong && chance.is(0.7)) headers.push(...Object.entries(chance.of(target.wrong)));

		const { header, bytes } = odd.has('framing')
			? framed(chance, body)
			: { header: [`Content-Length: ${body.length}`], bytes: body };
		const lines = [...headers.map(([name, text]) => `${cased(chance, name)}: ${text}`), ...header];
		// What is added is no second proof, and makes of a proof none.
		while (odd.has('headers') && chance.is(0.6))
			lines.splice(chance.below(lines.length + 1), 0, chance.of(oddHeaders));
		if (!odd.has('headers') || chance.is(0.9)) lines.unshift('Host: 127.0.0.1');
		const version =
			!odd.has('method') || chance.is(0.7)
				? 'HTTP/1.1'
				: chance.of(['HTTP/1.0', 'HTTP/0.9', 'HTTP/2.0', 'HTTP/1.11', 'http/1.1', '', 'HTTP/1.1 x']);
		const path = odd.has('path') ? pathOf(chance, target) : target.path;
		const pairs = odd.has('query') ? pairsOf(chance, value) : `n=${value}`;
		const method = odd.has('method') ? methodOf(chance) : 'POST';
		const head = `${method} ${path}${path.includes('?') ? '&' : '?'}${pairs} ${version}`;
		const end = !odd.has('framing') || chance.is(0.9) ? crlf : chance.of(['\n', '\r', '\n\r']);
		const request = Buffer.concat([Buffer.from([head, ...lines, '', ''].join(end), 'latin1'), bytes]);
		return { bytes: odd.has('damage') ? damaged(chance, request) : request, trusted };
	}

	#smuggled(chance: Chance, id: string): Buffer {
		const { path } = chance.of(this.#targets.filter(({ prove }) => prove !== undefined));
		return Buffer.from(
			`POST ${path}?n=${forged}${id} HTTP/1.1${crlf}Host: 127.0.0.1${crlf}Content-Type: application/json${crlf}Content-Length: 2${crlf}${crlf}{}`,
		);
	}
}

function cased(chance: Chance, name: string): string {
	return chance.is(0.8) ? name : chance.is(0.5) ? name.toLowerCase() : name.toUpperCase();
}
