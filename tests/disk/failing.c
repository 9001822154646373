/* A disk that fails on purpose: loaded before the C library, it counts the calls that change files below one folder,
 * and lets one of them, or all from one on, fail.
 *
 * FAILING_FOLDER  the folder, absolute
 * FAILING_AT      the number of the call that fails first, from 1
 * FAILING_ALL     if set, all calls after it fail too
 * FAILING_ERRNO   with which error
 * FAILING_NOTE    a file elsewhere that gets a line for each call that failed
 *
 * Must never fail a call of another folder, nor do half of one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

static int below(const char *path) {
    const char *folder = getenv("FAILING_FOLDER");
    size_t len = folder ? strlen(folder) : 0;
    return len && strncmp(path, folder, len) == 0 && (path[len] == '/' || path[len] == 0);
}

/* Counts a call for a path; tells whether it fails. */
static int fails(const char *what, const char *path) {
    if (!below(path)) return 0;
    const char *at = getenv("FAILING_AT"), *error = getenv("FAILING_ERRNO"), *note = getenv("FAILING_NOTE");
    if (!at || !error || !note) return 0;
    long n = atomic_fetch_add(&calls, 1) + 1, first = atol(at);
    if (n < first || (n > first && !getenv("FAILING_ALL"))) return 0;
    char line[4400];
    int len = snprintf(line, sizeof line, "%ld %s %s\n", n, what, path);
    long fd = syscall(SYS_openat, AT_FDCWD, note, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, (size_t)len);
        syscall(SYS_close, fd);
    }
    errno = atoi(error);
    return 1;
}

static int fd_fails(const char *what, int fd) {
    char link[64], path[4200];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) return 0;
    path[len] = 0;
    return fails(what, path);
}

/* A path of a folder that is open, or of the one we are in, or an absolute one. */
static int at_fails(const char *what, int folder, const char *name) {
    if (name[0] == '/') return fails(what, name);
    char link[64], path[8400];
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    ssize_t len = readlink(link, path, 4200);
    if (len < 0) return 0;
    snprintf(path + len, sizeof path - (size_t)len, "/%s", name);
    return fails(what, path);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPENS(name, folder, before, ...)                                                                               \
    int name(before const char *path, int flags, ...) {                                                                \
        REAL(name);                                                                                                    \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                        \
        va_end(more);                                                                                                  \
        int writes = flags & (O_CREAT | O_TRUNC) || (flags & O_ACCMODE) != O_RDONLY;                                   \
        if (writes && at_fails("open", folder, path)) return -1;                                                       \
        return real(__VA_ARGS__ path, flags, mode);                                                                    \
    }
#define WITH_FOLDER int folder,
#define FOLDER folder,
#define NOTHING
OPENS(open, AT_FDCWD, NOTHING, NOTHING)
OPENS(open64, AT_FDCWD, NOTHING, NOTHING)
OPENS(openat, folder, WITH_FOLDER, FOLDER)
OPENS(openat64, folder, WITH_FOLDER, FOLDER)

#define ON_FD(result, name, parameters, ...)                                                                           \
    result name parameters {                                                                                           \
        REAL(name);                                                                                                    \
        if (fd_fails(#name, fd)) return -1;                                                                            \
        return real(__VA_ARGS__);                                                                                      \
    }
ON_FD(ssize_t, write, (int fd, const void *bytes, size_t len), fd, bytes, len)
ON_FD(ssize_t, writev, (int fd, const struct iovec *pieces, int count), fd, pieces, count)
ON_FD(ssize_t, pwrite, (int fd, const void *bytes, size_t len, off_t at), fd, bytes, len, at)
ON_FD(ssize_t, pwrite64, (int fd, const void *bytes, size_t len, off64_t at), fd, bytes, len, at)
ON_FD(int, fsync, (int fd), fd)
ON_FD(int, fdatasync, (int fd), fd)
ON_FD(int, ftruncate, (int fd, off_t len), fd, len)
ON_FD(int, ftruncate64, (int fd, off64_t len), fd, len)

#define ON_PATH(name, parameters, folder, path, ...)                                                                   \
    int name parameters {                                                                                              \
        REAL(name);                                                                                                    \
        if (at_fails(#name, folder, path)) return -1;                                                                  \
        return real(__VA_ARGS__);                                                                                      \
    }
ON_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
ON_PATH(rename, (const char *from, const char *to), AT_FDCWD, to, from, to)
ON_PATH(renameat, (int a, const char *from, int b, const char *to), b, to, a, from, b, to)
ON_PATH(renameat2, (int a, const char *from, int b, const char *to, unsigned flags), b, to, a, from, b, to, flags)
ON_PATH(link, (const char *from, const char *to), AT_FDCWD, to, from, to)
ON_PATH(linkat, (int a, const char *from, int b, const char *to, int flags), b, to, a, from, b, to, flags)
ON_PATH(unlink, (const char *path), AT_FDCWD, path, path)
ON_PATH(unlinkat, (int folder, const char *path, int flags), folder, path, folder, path, flags)
ON_PATH(rmdir, (const char *path), AT_FDCWD, path, path)
