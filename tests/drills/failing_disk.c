/* A file system below one folder that has no space left from its n-th write on: preloaded into the process under drill.

   Creating, growing, flushing and renaming count; reading and deleting go on, as they do on a full disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long allowed = -1; /* writes that still succeed; -1: all */
static long seen;

void disk_arm(const char *path, long writes) {
    snprintf(folder, sizeof folder, "%s/", path);
    allowed = writes;
    seen = 0;
}

long disk_disarm(void) {
    folder[0] = 0;
    return seen;
}

static int full(const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder)) != 0) return 0;
    long before = __sync_fetch_and_add(&seen, 1);
    if (allowed < 0 || before < allowed) return 0;
    errno = ENOSPC;
    return 1;
}

static int full_fd(int fd) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return full(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                             \
    int name(const char *path, int flags, ...) {                               \
        mode_t mode = 0;                                                       \
        if (flags & (O_CREAT | O_TMPFILE)) {                                   \
            va_list rest;                                                      \
            va_start(rest, flags);                                             \
            mode = va_arg(rest, mode_t);                                       \
            va_end(rest);                                                      \
        }                                                                      \
        if ((flags & O_CREAT) && full(path)) return -1;                        \
        return REAL(name)(path, flags, mode);                                  \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *bytes, size_t count) {
    return full_fd(fd) ? -1 : REAL(write)(fd, bytes, count);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return full_fd(fd) ? -1 : REAL(writev)(fd, parts, count);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return full_fd(fd) ? -1 : REAL(pwrite)(fd, bytes, count, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return full_fd(fd) ? -1 : REAL(pwrite64)(fd, bytes, count, at);
}
int fsync(int fd) { return full_fd(fd) ? -1 : REAL(fsync)(fd); }
int mkdir(const char *path, mode_t mode) { return full(path) ? -1 : REAL(mkdir)(path, mode); }
int rename(const char *from, const char *to) { return full(to) ? -1 : REAL(rename)(from, to); }
