/** What the name of a trigger may be. */

const longestName = 255;

/**
 * Why a trigger cannot have this name; undefined when it can. Names stand in addresses, in file names and on command lines, so
 * they are as plain as parameters are by default.
 */
export function refusedTriggerName(name: string): string | undefined {
	if (name === '') return 'is empty';
	if (name.length > longestName) return `is longer than ${longestName} characters`;
	if (!/^[A-Za-z0-9_.:@/+-]*$/.test(name))
		return 'has a character that names of triggers have not; letters, digits and _ . : @ / + - are admitted';
	if (name.startsWith('-')) return 'begins with "-", which programs take for an option';
	// Clients take these away from an address before they send it.
	if (name.split('/').some((part) => part === '.' || part === '..')) return 'has a part "." or ".."';
	return undefined;
}
