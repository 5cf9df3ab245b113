/*
 * Loaded into a process by LD_PRELOAD: records what it does to the files below RECORD_BELOW into the file RECORD_TO, with the
 * bytes, and when it answers 200 or 202 over a socket. The order of the records is the order of the calls: a write is recorded
 * when it is done, an answer before it is sent, a flush before and after. Each record is a line and, for a write, its bytes:
 *
 *   open FILE MODE PATH     FILE is a number of ours; MODE is c (made if missing), t (emptied as well) or -
 *   write FILE OFFSET LENGTH
 *   cut FILE LENGTH
 *   flush FILE / flushed FILE
 *   directory PATH / flushed-directory PATH
 *   rename PATH PATH        unlink PATH        mkdir PATH
 *   answer STATUS LENGTH    and the answer's bytes, as far as they came in one piece
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 65536
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static int record_fd = -1;
static char below[PATH_MAX];
static size_t below_length;
static int file_of[MOST];
static ino_t inode_of[MOST];
static char *directory_of[MOST];
static int files;

#define REAL(type, name, ...) \
	static type (*real)(__VA_ARGS__); \
	if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static ssize_t put(const void *bytes, size_t length) {
	REAL(ssize_t, write, int, const void *, size_t);
	size_t done = 0;
	while (done < length) {
		ssize_t n = real(record_fd, (const char *)bytes + done, length - done);
		if (n < 0) abort();
		done += n;
	}
	return done;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...) {
	char line[2 * PATH_MAX + 100];
	va_list values;
	va_start(values, format);
	int length = vsnprintf(line, sizeof line, format, values);
	va_end(values);
	put(line, length);
}

__attribute__((constructor)) static void begin(void) {
	const char *to = getenv("RECORD_TO");
	const char *which = getenv("RECORD_BELOW");
	if (!to || !which) return;
	REAL(int, open, const char *, int, ...);
	strncpy(below, which, sizeof below - 1);
	below_length = strlen(below);
	record_fd = real(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (record_fd < 0) abort();
	/* Only this process: what it starts writes elsewhere. */
	unsetenv("LD_PRELOAD");
}

static int is_below(const char *path) {
	return record_fd >= 0 && path && strncmp(path, below, below_length) == 0 && (path[below_length] == '/' || path[below_length] == 0);
}

/* libuv closes by a system call of its own, so a number may stand for something else by now. */
static int is_file(int fd) {
	struct stat stat;
	if (fd < 0 || fd >= MOST || file_of[fd] == 0) return 0;
	if (fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) && stat.st_ino == inode_of[fd]) return 1;
	file_of[fd] = 0;
	return 0;
}

static void opened(int fd, int flags, const char *path) {
	if (fd < 0 || fd >= MOST) return;
	struct stat stat;
	file_of[fd] = 0;
	free(directory_of[fd]);
	directory_of[fd] = NULL;
	if (fstat(fd, &stat) != 0) return;
	if (S_ISDIR(stat.st_mode)) directory_of[fd] = strdup(path);
	if (!S_ISREG(stat.st_mode)) return;
	inode_of[fd] = stat.st_ino;
	file_of[fd] = ++files;
	say("open %d %c %s\n", files, flags & O_TRUNC ? 't' : flags & O_CREAT ? 'c' : '-', path);
}

#define OPEN(name) \
	int name(const char *path, int flags, ...) { \
		REAL(int, name, const char *, int, ...); \
		va_list values; \
		va_start(values, flags); \
		int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(values, int) : 0; \
		va_end(values); \
		if (!is_below(path)) return real(path, flags, mode); \
		pthread_mutex_lock(&order); \
		int fd = real(path, flags, mode); \
		opened(fd, flags, path); \
		pthread_mutex_unlock(&order); \
		return fd; \
	}
OPEN(open)
OPEN(open64)

int close(int fd) {
	REAL(int, close, int);
	if (record_fd >= 0 && fd >= 0 && fd < MOST && (file_of[fd] || directory_of[fd])) {
		pthread_mutex_lock(&order);
		file_of[fd] = 0;
		free(directory_of[fd]);
		directory_of[fd] = NULL;
		int result = real(fd);
		pthread_mutex_unlock(&order);
		return result;
	}
	return real(fd);
}

static void wrote(int fd, off_t offset, const struct iovec *pieces, int count, ssize_t done) {
	if (done <= 0) return;
	say("write %d %lld %zd\n", file_of[fd], (long long)offset, done);
	for (int i = 0; i < count && done > 0; i++) {
		size_t length = (size_t)done < pieces[i].iov_len ? (size_t)done : pieces[i].iov_len;
		put(pieces[i].iov_base, length);
		done -= length;
	}
}

/* The offset at which a write without one begins. */
static off_t place(int fd) {
	int append = fcntl(fd, F_GETFL) & O_APPEND;
	return lseek(fd, 0, append ? SEEK_END : SEEK_CUR);
}

static void answered(const struct iovec *pieces, int count) {
	for (int i = 0; i < count; i++) {
		const char *bytes = pieces[i].iov_base;
		if (pieces[i].iov_len < 12 || memcmp(bytes, "HTTP/1.1 20", 11) != 0) continue;
		size_t length = 0;
		for (int j = i; j < count; j++) length += pieces[j].iov_len;
		pthread_mutex_lock(&order);
		say("answer 20%c %zu\n", bytes[11], length);
		for (int j = i; j < count; j++) put(pieces[j].iov_base, pieces[j].iov_len);
		pthread_mutex_unlock(&order);
		return;
	}
}

ssize_t write(int fd, const void *bytes, size_t length) {
	REAL(ssize_t, write, int, const void *, size_t);
	struct iovec piece = {(void *)bytes, length};
	if (record_fd < 0) return real(fd, bytes, length);
	if (!is_file(fd)) {
		answered(&piece, 1);
		return real(fd, bytes, length);
	}
	pthread_mutex_lock(&order);
	off_t offset = place(fd);
	ssize_t done = real(fd, bytes, length);
	wrote(fd, offset, &piece, 1, done);
	pthread_mutex_unlock(&order);
	return done;
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
	REAL(ssize_t, writev, int, const struct iovec *, int);
	if (record_fd < 0) return real(fd, pieces, count);
	if (!is_file(fd)) {
		answered(pieces, count);
		return real(fd, pieces, count);
	}
	pthread_mutex_lock(&order);
	off_t offset = place(fd);
	ssize_t done = real(fd, pieces, count);
	wrote(fd, offset, pieces, count, done);
	pthread_mutex_unlock(&order);
	return done;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
	REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
	if (record_fd >= 0) answered(message->msg_iov, message->msg_iovlen);
	return real(fd, message, flags);
}

#define PWRITE(name) \
	ssize_t name(int fd, const void *bytes, size_t length, off_t offset) { \
		REAL(ssize_t, name, int, const void *, size_t, off_t); \
		if (!is_file(fd)) return real(fd, bytes, length, offset); \
		pthread_mutex_lock(&order); \
		ssize_t done = real(fd, bytes, length, offset); \
		struct iovec piece = {(void *)bytes, length}; \
		wrote(fd, offset, &piece, 1, done); \
		pthread_mutex_unlock(&order); \
		return done; \
	}
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name) \
	ssize_t name(int fd, const struct iovec *pieces, int count, off_t offset) { \
		REAL(ssize_t, name, int, const struct iovec *, int, off_t); \
		if (!is_file(fd)) return real(fd, pieces, count, offset); \
		pthread_mutex_lock(&order); \
		ssize_t done = real(fd, pieces, count, offset); \
		wrote(fd, offset, pieces, count, done); \
		pthread_mutex_unlock(&order); \
		return done; \
	}
PWRITEV(pwritev)
PWRITEV(pwritev64)

#define CUT(name) \
	int name(int fd, off_t length) { \
		REAL(int, name, int, off_t); \
		if (!is_file(fd)) return real(fd, length); \
		pthread_mutex_lock(&order); \
		int result = real(fd, length); \
		if (result == 0) say("cut %d %lld\n", file_of[fd], (long long)length); \
		pthread_mutex_unlock(&order); \
		return result; \
	}
CUT(ftruncate)
CUT(ftruncate64)

/* Not within the lock: others write while a flush is under way. */
#define FLUSH(name) \
	int name(int fd) { \
		REAL(int, name, int); \
		if (record_fd < 0 || fd < 0 || fd >= MOST || (!is_file(fd) && !directory_of[fd])) return real(fd); \
		pthread_mutex_lock(&order); \
		int file = file_of[fd]; \
		char path[PATH_MAX] = ""; \
		if (!file) strncpy(path, directory_of[fd], sizeof path - 1); \
		if (file) say("flush %d\n", file); \
		else say("directory %s\n", path); \
		pthread_mutex_unlock(&order); \
		int result = real(fd); \
		pthread_mutex_lock(&order); \
		if (result == 0 && file) say("flushed %d\n", file); \
		if (result == 0 && !file) say("flushed-directory %s\n", path); \
		pthread_mutex_unlock(&order); \
		return result; \
	}
FLUSH(fsync)
FLUSH(fdatasync)

#define ON_PATH(name) \
	int name(const char *path) { \
		REAL(int, name, const char *); \
		if (!is_below(path)) return real(path); \
		pthread_mutex_lock(&order); \
		int result = real(path); \
		if (result == 0) say(#name " %s\n", path); \
		pthread_mutex_unlock(&order); \
		return result; \
	}
ON_PATH(unlink)
ON_PATH(rmdir)

int mkdir(const char *path, mode_t mode) {
	REAL(int, mkdir, const char *, mode_t);
	if (!is_below(path)) return real(path, mode);
	pthread_mutex_lock(&order);
	int result = real(path, mode);
	if (result == 0) say("mkdir %s\n", path);
	pthread_mutex_unlock(&order);
	return result;
}

int rename(const char *from, const char *to) {
	REAL(int, rename, const char *, const char *);
	if (!is_below(from) && !is_below(to)) return real(from, to);
	pthread_mutex_lock(&order);
	int result = real(from, to);
	if (result == 0) say("rename %s %s\n", from, to);
	pthread_mutex_unlock(&order);
	return result;
}
