/*
 * The limit: how many commands a second posix_spawn starts on this machine when nothing else is done.
 *
 * usage: limit SECONDS IN_FLIGHT COMMAND [ARGUMENT...]
 *
 * Keeps IN_FLIGHT commands running for SECONDS. Each gets what a run of a listener needs as well: a process group of
 * its own, /dev/null as input, one pipe that collects both output streams until everyone has closed it, and a waitpid.
 * One line of JSON is printed:
 *
 *   {"runs":N,"seconds":S,"perSecond":R,"p50":MS,"p99":MS}
 *
 * Times are milliseconds from before the pipe is made to after waitpid. Exit status: 0; 1 when a command cannot be
 * started or does not exit with 0; 2 for wrong arguments.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { MOST_IN_FLIGHT = 64, MOST_SAMPLES = 4 * 1000 * 1000 };

static char **command;
static double deadline;
static float *samples;
static atomic_size_t done;

static void fail(const char *what, int error)
{
	fprintf(stderr, "limit: %s: %s\n", what, strerror(error));
	exit(1);
}

/* Seconds on a clock that never steps. */
static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Runs the command once, from the making of its pipe to its reaping. */
static void run_once(const posix_spawnattr_t *attributes)
{
	posix_spawn_file_actions_t files;
	char output[65536];
	int ends[2], status, error;
	ssize_t got;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		fail("pipe2", errno);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&files, ends[1], STDERR_FILENO);
	error = posix_spawn(&pid, command[0], &files, attributes, command, environ);
	if (error)
		fail(command[0], error);
	posix_spawn_file_actions_destroy(&files);
	close(ends[1]);

	do {
		got = read(ends[0], output, sizeof output);
	} while (got > 0 || (got < 0 && errno == EINTR));
	close(ends[0]);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			fail("waitpid", errno);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "limit: %s ended with wait status %d\n", command[0], status);
		exit(1);
	}
}

/* One thread a command in flight: a caller of posix_spawn stands still until the new program has been loaded, so a
 * single thread would leave the other cores idle and call that the limit. */
static void *keep_running(void *unused)
{
	posix_spawnattr_t attributes;
	double since = now();

	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
	posix_spawnattr_setpgroup(&attributes, 0);
	while (since < deadline) {
		double until;
		size_t sample;

		run_once(&attributes);
		until = now();
		sample = atomic_fetch_add(&done, 1);
		if (sample >= MOST_SAMPLES)
			fail("too many runs, give fewer seconds", EOVERFLOW);
		samples[sample] = (float)((until - since) * 1000);
		since = until;
	}
	posix_spawnattr_destroy(&attributes);
	return unused;
}

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	pthread_t threads[MOST_IN_FLIGHT];
	double seconds = argc > 3 ? atof(argv[1]) : 0;
	int in_flight = argc > 3 ? atoi(argv[2]) : 0;
	double began;
	size_t runs;

	if (seconds <= 0 || in_flight < 1 || in_flight > MOST_IN_FLIGHT) {
		fprintf(stderr, "usage: limit SECONDS IN_FLIGHT COMMAND [ARGUMENT...]  (1 to %d in flight)\n",
			MOST_IN_FLIGHT);
		return 2;
	}
	command = argv + 3;
	samples = malloc(MOST_SAMPLES * sizeof *samples);
	if (!samples)
		fail("malloc", errno);

	began = now();
	deadline = began + seconds;
	for (int i = 0; i < in_flight; i++) {
		int error = pthread_create(&threads[i], NULL, keep_running, NULL);
		if (error)
			fail("pthread_create", error);
	}
	for (int i = 0; i < in_flight; i++)
		pthread_join(threads[i], NULL);
	seconds = now() - began;

	runs = atomic_load(&done);
	qsort(samples, runs, sizeof *samples, ascending);
	printf("{\"runs\":%zu,\"seconds\":%.3f,\"perSecond\":%.1f,\"p50\":%.3f,\"p99\":%.3f}\n", runs, seconds,
	       (double)runs / seconds, samples[runs / 2], samples[runs * 99 / 100]);
	free(samples);
	return 0;
}
