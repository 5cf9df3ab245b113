/** What there is to know of the machine before its figures are believed. */
import { closeSync, fdatasyncSync, openSync, readFileSync, writeSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { join } from 'node:path';

export type Machine = {
	cores: number;
	cpu: string;
	kernel: string;
	node: string;
	/** Load average of the last minute. */
	load: number;
	/** Type of the file system that keeps the state, such as ext4. */
	fileSystem: string;
	/** Median time that a small write needs to reach the disk, in milliseconds: what "on disk" costs in this run. */
	syncMs: number;
};

/** Describes the machine, with the disk that holds `dir`. */
export function describeMachine(dir: string): Machine {
	return {
		cores: cpus().length,
		cpu: cpus()[0]?.model ?? 'unknown processor',
		kernel: release(),
		node: process.version,
		load: loadavg()[0]!,
		fileSystem: fileSystem(dir),
		syncMs: syncTime(dir),
	};
}

/** What the processors did since boot, in ticks: in all, idle, and taken away by the host of a virtual machine. */
export function processorTimes(): { all: number; idle: number; stolen: number } {
	const line = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]!;
	const [user, nice, system, idle, iowait, irq, softirq, steal] = line
		.split(/ +/)
		.slice(1)
		.map(Number) as number[];
	const all = user! + nice! + system! + idle! + iowait! + irq! + softirq! + steal!;
	return { all, idle: idle! + iowait!, stolen: steal! };
}

function syncTime(dir: string): number {
	const file = openSync(join(dir, 'sync'), 'w');
	const block = Buffer.alloc(4096);
	const took = Array.from({ length: 51 }, () => {
		const began = performance.now();
		writeSync(file, block);
		fdatasyncSync(file);
		return performance.now() - began;
	});
	closeSync(file);
	return took.toSorted((a, b) => a - b)[25]!;
}

function fileSystem(dir: string): string {
	const mounts = readFileSync('/proc/self/mounts', 'utf8')
		.split('\n')
		.map((line) => line.split(' '))
		.filter(([, at]) => at !== undefined && `${dir}/`.startsWith(at.endsWith('/') ? at : `${at}/`));
	return mounts.reduce((a, b) => (b[1]!.length >= a[1]!.length ? b : a))[2]!;
}
