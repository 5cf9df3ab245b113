'use strict';

/*
 * Runs before `npm start`, `npm test` and the other npm scripts: makes sure that the packages of package-lock.json and a
 * Node that runs TypeScript as it is (22.18 or newer) are in node_modules. When they are, it says and does nothing.
 *
 * The host's own Node runs this file, however old, so it keeps to ES5 and to what Node always had.
 *
 * Everything is put together in a folder of its own and moved into place by a rename at the end. So an interrupted or
 * failed installation leaves what was there before, and two at once each make a whole one, of which one stays.
 *
 * `node scripts/install.cjs run` is satisfied with what running needs; without `run` the tools of development count too.
 */

var childProcess = require('child_process');
var fs = require('fs');
var path = require('path');

var root = path.resolve(__dirname, '..');
var modules = path.join(root, 'node_modules');
var staging = path.join(root, '.installing-' + process.pid);
var runningOnly = process.argv[2] === 'run';

/* npm 6 and older cannot read our lock file; this is the newest npm that runs on Node 12. */
var NPM_FOR_OLD_NODE = '8.19.4';
/* Short pauses between attempts: by itself npm waits for more than a minute before it says that there is no network. */
var NPM_OPTIONS = [
	'--ignore-scripts',
	'--no-audit',
	'--no-fund',
	'--no-progress',
	'--loglevel=error',
	'--fetch-retry-mintimeout=1000',
	'--fetch-retry-maxtimeout=5000'
];

/* What npm is doing for us at the moment, and the signal that told us to stop. */
var child;
var interrupted;

if (!ready()) {
	[
		['SIGHUP', 129],
		['SIGINT', 130],
		['SIGTERM', 143]
	].forEach(function (signal) {
		process.on(signal[0], function () {
			interrupted = signal[1];
			/* What npm has done so far is thrown away, so it needs no time to tidy up. */
			if (child) child.kill('SIGKILL');
		});
	});
	process.on('uncaughtException', function (error) {
		stop(1, 'the installation failed: ' + error.message + '\n' + remedy(error.message));
	});
	install();
}

/** True when nothing has to be installed. */
function ready() {
	return (
		packagesInstalled() &&
		(runsTypeScript(process.version) || runsTypeScript(versionOf(bundledNode(modules))))
	);
}

/** Compares the lock file with npm's own record of what it has put into node_modules (which it writes last). */
function packagesInstalled() {
	var manifest = readJson(path.join(root, 'package.json'));
	var lock = readJson(path.join(root, 'package-lock.json'));
	var record = readJson(path.join(modules, '.package-lock.json'));
	if (!manifest || !lock || !record) return false;
	var locked = lock.packages[''];
	if (!same(manifest.dependencies, locked.dependencies)) return false;
	if (!same(manifest.devDependencies, locked.devDependencies)) return false;
	return Object.keys(lock.packages).every(function (place) {
		var wanted = lock.packages[place];
		var found = record.packages[place];
		/* Optional packages are those of other platforms: npm leaves them out. */
		if (place === '' || wanted.optional || wanted.devOptional) return true;
		/* `npm start` builds what it runs. */
		if (wanted.dev && runningOnly && place !== 'node_modules/esbuild') return true;
		return Boolean(found) && found.version === wanted.version;
	});
}

function install() {
	if (!atLeast(process.version, 12, 13)) {
		return stop(
			1,
			'this host has Node ' +
				process.version +
				'. Node 12.13 is the oldest that can fetch what is needed; ' +
				'install a newer one, best Node 24, from https://nodejs.org or your distribution.'
		);
	}
	var lock = readJson(path.join(root, 'package-lock.json'));
	if (!lock)
		return stop(1, 'package-lock.json is missing or damaged: check out a whole copy of the repository.');
	try {
		removeLeftovers();
		fs.mkdirSync(staging);
		['package.json', 'package-lock.json', '.npmrc'].forEach(function (name) {
			if (fs.existsSync(path.join(root, name))) {
				fs.writeFileSync(path.join(staging, name), fs.readFileSync(path.join(root, name)));
			}
		});
	} catch (error) {
		return stop(
			1,
			'packages have to be installed, but ' +
				root +
				' cannot be written to (' +
				error.code +
				').\n' +
				'Run it once as a user who may write there, or copy the checkout to a place where you may.'
		);
	}
	var nodeVersion = lock.packages['node_modules/node'].version;
	findNpm(function (npm) {
		say('installing Node ' + nodeVersion + ' and the packages of package-lock.json (once; about 250 MB) …');
		run(npm.concat('ci', '--include=dev', NPM_OPTIONS), staging, function (failure) {
			if (failure) return stop(1, 'npm could not install the packages:\n' + failure + '\n' + remedy(failure));
			fetchNode(npm, nodeVersion, function (failure) {
				var bundled = versionOf(bundledNode(path.join(staging, 'node_modules')));
				if (!runsTypeScript(bundled) && !runsTypeScript(process.version)) {
					return stop(
						1,
						'Node 22.18 or newer is needed, this host has ' +
							process.version +
							', and Node ' +
							nodeVersion +
							' from npm ' +
							(failure ? 'could not be fetched:\n' + failure : 'does not run on ' + platform() + '.') +
							'\n' +
							(failure ? remedy(failure) + '\nOr install' : 'Install') +
							' Node 24 from https://nodejs.org or your distribution, then run this again.'
					);
				}
				putInPlace();
			});
		});
	});
}

/** Hands on the words that start an npm which reads our lock file: the npm that runs us, or a newer one. */
function findNpm(then) {
	var running = process.env.npm_execpath;
	var npm = running && /npm-cli\.js$/.test(running) ? [process.execPath, running] : ['npm'];
	run(npm.concat('--version'), staging, function (failure, output) {
		if (failure) {
			return stop(
				1,
				'npm is needed to install the packages and does not run:\n' +
					failure +
					'\n' +
					'It comes with Node (https://nodejs.org), or in a package named npm of your distribution.'
			);
		}
		if (parseInt(output, 10) >= 7) return then(npm);
		installInto('npm', npm, 'npm@' + NPM_FOR_OLD_NODE, function (failure, folder) {
			if (failure)
				return stop(
					1,
					'npm ' +
						output.trim() +
						' is too old, and a newer one could not be fetched:\n' +
						failure +
						'\n' +
						remedy(failure)
				);
			then([process.execPath, path.join(folder, 'bin', 'npm-cli.js')]);
		});
	});
}

/**
 * Puts the Node of this platform where the `node` package's install script would put it. That script is not relied on:
 * npm 12 and many hosts block install scripts.
 */
function fetchNode(npm, version, then) {
	var name = (platform() === 'darwin-arm64' ? 'node-bin-' : 'node-') + platform();
	installInto('node', npm, name + '@' + version, function (failure, folder) {
		if (failure) return then(failure);
		var home = path.join(staging, 'node_modules', 'node', 'bin');
		var link = bundledNode(path.join(staging, 'node_modules'));
		if (!fs.existsSync(home)) fs.mkdirSync(home);
		fs.renameSync(path.join(folder, 'bin', 'node'), path.join(home, 'node'));
		if (!fs.existsSync(link)) fs.symlinkSync(path.join('..', 'node', 'bin', 'node'), link);
		then();
	});
}

/** Installs one package beside the others, not among them; hands on its folder. */
function installInto(name, npm, what, then) {
	var folder = path.join(staging, name);
	fs.mkdirSync(folder);
	fs.writeFileSync(path.join(folder, 'package.json'), '{"private":true}');
	run(npm.concat('install', '--no-save', '--no-package-lock', NPM_OPTIONS, what), folder, function (failure) {
		then(failure, path.join(folder, 'node_modules', what.split('@')[0]));
	});
}

function putInPlace() {
	var before = path.join(staging, 'before');
	/* Another one may have been quicker. Its programs may run by now: leave them be. */
	if (!ready()) {
		try {
			if (fs.existsSync(modules)) fs.renameSync(modules, before);
			fs.renameSync(path.join(staging, 'node_modules'), modules);
		} catch (error) {
			if (!ready()) {
				if (fs.existsSync(before) && !fs.existsSync(modules)) fs.renameSync(before, modules);
				return stop(
					1,
					'the new node_modules could not be moved into place (' +
						error.code +
						').\n' +
						'Is ' +
						modules +
						' a mount? Then run "npm ci" in ' +
						root +
						' by hand.'
				);
			}
		}
	}
	remove(staging);
}

/** What to do about a failure of npm, by the error codes npm prints. */
function remedy(failure) {
	if (
		/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ERR_SOCKET|network/.test(
			failure
		)
	) {
		return (
			'The package registry was not reached. Behind a proxy, set https_proxy; with a mirror, "npm config set registry URL".\n' +
			'For a host without a network, run this once on a connected host of the same platform and copy the whole folder.'
		);
	}
	if (/in sync|EUSAGE/.test(failure)) {
		return 'package.json and package-lock.json do not agree. After a change of package.json, run "npm install" and commit both.';
	}
	if (/E404|ETARGET/.test(failure))
		return 'The package registry does not have it for this platform (' + platform() + ') or not at all.';
	if (/ENOSPC/.test(failure)) return 'The disk is full.';
	return 'Run "npm ci" in ' + root + ' to see all that npm has to say.';
}

/** Runs a command quietly; hands on what went wrong (or nothing) and its standard output. */
function run(words, folder, then) {
	child = childProcess.spawn(words[0], words.slice(1), { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
	var output = '';
	var errors = '';
	var ended = false;
	function end(failure) {
		if (ended) return;
		ended = true;
		child = undefined;
		if (interrupted) return stop(interrupted, 'installation interrupted; what was there before is untouched');
		then(failure, output);
	}
	child.stdout.on('data', function (text) {
		output += text;
	});
	child.stderr.on('data', function (text) {
		errors += text;
	});
	child.on('error', function (error) {
		end('  ' + words[0] + ': ' + error.message);
	});
	child.on('close', function (status, signal) {
		if (status === 0) return end();
		end(firstLines(errors) || '  ended with ' + (signal || 'exit status ' + status));
	});
}

/* npm names the cause first, and its own source, options and logs later. */
function firstLines(text) {
	return text
		.split('\n')
		.filter(function (line) {
			return (
				/\S/.test(line.replace(/^npm (error|ERR!)/, '')) && !/^npm (error|ERR!)\s+at |complete log/.test(line)
			);
		})
		.slice(0, 8)
		.map(function (line) {
			return '  ' + line;
		})
		.join('\n');
}

/** Staging folders whose process was killed. */
function removeLeftovers() {
	fs.readdirSync(root).forEach(function (name) {
		var found = /^\.installing-(\d+)$/.exec(name);
		if (found && !alive(Number(found[1]))) remove(path.join(root, name));
	});
}

function alive(pid) {
	try {
		process.kill(pid, 0);
		return pid !== process.pid;
	} catch (error) {
		return error.code === 'EPERM';
	}
}

function remove(place) {
	var isFolder;
	try {
		isFolder = fs.lstatSync(place).isDirectory();
	} catch (_) {
		return;
	}
	if (!isFolder) return fs.unlinkSync(place);
	fs.readdirSync(place).forEach(function (name) {
		remove(path.join(place, name));
	});
	fs.rmdirSync(place);
}

function bundledNode(folder) {
	return path.join(folder, '.bin', 'node');
}

/** The version a Node program says it has, or nothing when it does not run here. */
function versionOf(program) {
	return String(childProcess.spawnSync(program, ['--version']).stdout || '').trim();
}

function runsTypeScript(version) {
	return atLeast(version, 22, 18);
}

function atLeast(version, major, minor) {
	var parts = /^v(\d+)\.(\d+)\./.exec(version);
	return (
		Boolean(parts) && (Number(parts[1]) > major || (Number(parts[1]) === major && Number(parts[2]) >= minor))
	);
}

function platform() {
	return process.platform + '-' + process.arch;
}

/** True when two lists of dependencies ask for the same, in whatever order. */
function same(one, other) {
	function lines(list) {
		return Object.keys(list || {})
			.map(function (name) {
				return name + ' ' + list[name];
			})
			.sort()
			.join();
	}
	return lines(one) === lines(other);
}

function readJson(file) {
	try {
		return JSON.parse(fs.readFileSync(file, 'utf8'));
	} catch (_) {
		return undefined;
	}
}

function say(text) {
	process.stderr.write('puppet-webhook: ' + text + '\n');
}

function stop(status, text) {
	say(text);
	try {
		remove(staging);
	} catch (_) {
		/* The next installation removes it. */
	}
	process.exit(status);
}
