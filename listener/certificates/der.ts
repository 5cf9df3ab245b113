/**
 * Reads DER, the form of certificates and CRLs, as far as certificates need it: definite lengths, tags of one byte. What it is
 * given has mostly been read by OpenSSL already; it is strict all the same, since who may call hangs on what it finds.
 */

/** One value with its tag. */
export interface Tlv {
	/** Class, form and number in one byte: 0x30 is a SEQUENCE. */
	readonly tag: number;
	readonly content: Buffer;
	/** Tag and length included. */
	readonly whole: Buffer;
}

export const tags = {
	integer: 0x02,
	octetString: 0x04,
	oid: 0x06,
	utf8String: 0x0c,
	printableString: 0x13,
	teletexString: 0x14,
	ia5String: 0x16,
	utcTime: 0x17,
	generalizedTime: 0x18,
	bmpString: 0x1e,
	sequence: 0x30,
	set: 0x31,
	/** `[3]`, in which a certificate has its extensions. */
	context3: 0xa3,
} as const;

/** The bytes are not what they are said to be. */
export class DerError extends Error {}

/** The value that the bytes hold, and nothing after it. @throws DerError */
export function readOne(bytes: Buffer): Tlv {
	const one = readAt(bytes, 0);
	if (one.whole.length !== bytes.length) throw new DerError('there is something behind the value');
	return one;
}

/** The values of a SEQUENCE, SET or explicit tag, one after the other. @throws DerError */
export function readAll(bytes: Buffer): Tlv[] {
	const all: Tlv[] = [];
	for (let at = 0; at < bytes.length; ) {
		const one = readAt(bytes, at);
		all.push(one);
		at += one.whole.length;
	}
	return all;
}

/** The same, of a value that has to have this tag. @throws DerError */
export function partsOf(value: Tlv | undefined, tag: number): Tlv[] {
	return readAll(contentOf(value, tag));
}

/** The bytes of a value that has to have this tag. @throws DerError */
export function contentOf(value: Tlv | undefined, tag: number): Buffer {
	if (value?.tag !== tag) {
		throw new DerError(`expected tag ${tag}, found ${value === undefined ? 'nothing' : value.tag}`);
	}
	return value.content;
}

function readAt(bytes: Buffer, at: number): Tlv {
	const tag = bytes[at];
	const first = bytes[at + 1];
	if (tag === undefined || first === undefined) throw new DerError('a value ends within its head');
	if ((tag & 0x1f) === 0x1f) throw new DerError('a tag is longer than a byte');
	let begin = at + 2;
	let length = first;
	if (first >= 0x80) {
		const count = first & 0x7f;
		// 0x80 would be an indefinite length; four bytes are more than any certificate or CRL has.
		if (count === 0 || count > 4 || begin + count > bytes.length)
			throw new DerError('a length cannot be read');
		length = bytes.readUIntBE(begin, count);
		begin += count;
	}
	const end = begin + length;
	if (end > bytes.length) throw new DerError('a value ends too early');
	return { tag, content: bytes.subarray(begin, end), whole: bytes.subarray(at, end) };
}

/** `1.3.6.1.4.1.34380.1.1.13`. @throws DerError */
export function oidOf(value: Tlv | undefined): string {
	const bytes = contentOf(value, tags.oid);
	const last = bytes.at(-1);
	if (last === undefined || last >= 0x80) throw new DerError('an object identifier is cut off');
	const numbers: bigint[] = [];
	let number = 0n;
	for (const byte of bytes) {
		number = (number << 7n) | BigInt(byte & 0x7f);
		if (byte < 0x80) {
			numbers.push(number);
			number = 0n;
		}
	}
	const [head = 0n, ...rest] = numbers;
	const top = head < 80n ? head / 40n : 2n;
	return [top, head - top * 40n, ...rest].join('.');
}

/** The text of a string of any of the kinds that names and extensions are written in; undefined when it is none. @throws DerError */
export function textOf({ tag, content }: Tlv): string | undefined {
	switch (tag) {
		case tags.utf8String:
			return decoded(content, 'utf-8');
		case tags.printableString:
		case tags.ia5String:
		case tags.teletexString:
			return content.toString('latin1');
		case tags.bmpString:
			return decoded(Buffer.from(content), 'utf-16be');
		default:
			return undefined;
	}
}

function decoded(bytes: Buffer, encoding: string): string {
	try {
		return new TextDecoder(encoding, { fatal: true, ignoreBOM: true }).decode(bytes);
	} catch {
		throw new DerError(`a text is not ${encoding}`);
	}
}

/** Milliseconds since 1970. @throws DerError */
export function timeOf({ tag, content }: Tlv): number {
	const text = content.toString('latin1');
	const [, year = '', rest = ''] =
		(tag === tags.utcTime ? /^(\d{2})(\d{10})Z$/ : /^(\d{4})(\d{10})Z$/).exec(text) ?? [];
	if (rest === '') throw new DerError('a time cannot be read');
	// RFC 5280, 4.1.2.5.1: two digits from 50 on are of the last century.
	const full = year.length === 4 ? year : Number(year) < 50 ? `20${year}` : `19${year}`;
	const [month, day, hour, minute, second] = rest.match(/../g) as string[];
	const time = Date.parse(`${full}-${month}-${day}T${hour}:${minute}:${second}Z`);
	if (Number.isNaN(time)) throw new DerError('a time cannot be read');
	return time;
}
