/** Words that were probably meant, for faults that say so. */

/** The word that was probably meant; undefined when none is near. Case, `-` and `_` do not count. */
export function nearest(word: string, known: readonly string[]): string | undefined {
	const plain = (text: string) => text.toLowerCase().replace(/[-_ ]/g, '').slice(0, 64);
	const distances = known.map((other) => ({ other, by: distance(plain(word), plain(other)) }));
	const best = distances.sort((a, b) => a.by - b.by)[0];
	// One slip in three letters: more is another word.
	return best && best.by <= Math.ceil(Math.min(word.length, best.other.length) / 3) ? best.other : undefined;
}

/** How many letters must be put in, left out, changed, or swapped with their neighbour. */
function distance(a: string, b: string): number {
	let before: number[] = [];
	let last = Array.from({ length: b.length + 1 }, (_, j) => j);
	for (let i = 1; i <= a.length; i++) {
		const row = [i];
		for (let j = 1; j <= b.length; j++) {
			const same = a[i - 1] === b[j - 1];
			let least = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1));
			if (a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) least = Math.min(least, before[j - 2]! + 1);
			row.push(least);
		}
		before = last;
		last = row;
	}
	return last[b.length]!;
}
