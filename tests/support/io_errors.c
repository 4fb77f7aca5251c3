/* A library to preload: reads, writes and syncs of some files fail, as on a disk that is dying or full.

   The file named by the variable GPUSNAP_IO_ERRORS says which, and may change at any time: each line is "r", "w" or "s"
   (reads, writes, syncs), an errno, and a part of the path. Programs without the C library do not notice any of it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int breaks(char how, int fd)
{
    static __thread int is_busy;
    const char *list = getenv("GPUSNAP_IO_ERRORS");
    char link[64], path[PATH_MAX], lines[4096];
    int saved = errno, found = 0;
    if (!list || is_busy)
        return 0;
    is_busy = 1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    int file = length > 0 && path[0] == '/' ? (int)syscall(SYS_openat, AT_FDCWD, list, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        path[length] = 0;
        ssize_t size = syscall(SYS_read, file, lines, sizeof lines - 1);
        syscall(SYS_close, file);
        lines[size > 0 ? size : 0] = 0;
        for (char *rest = lines, *line; (line = strsep(&rest, "\n"));) {
            char *part = strrchr(line, ' ');
            if (part && line[0] == how && strstr(path, part + 1))
                found = atoi(line + 2);
        }
    }
    is_busy = 0;
    errno = found ? found : saved;
    return found;
}

#define BREAKING(how, result, name, parameters, arguments)                                                              \
    result name parameters                                                                                             \
    {                                                                                                                  \
        static result(*real) parameters;                                                                               \
        if (!real)                                                                                                     \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                                                 \
        return breaks(how, fd) ? -1 : real arguments;                                                                  \
    }

BREAKING('r', ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))
BREAKING('r', ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
BREAKING('r', ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
BREAKING('r', ssize_t, readv, (int fd, const struct iovec *parts, int count), (fd, parts, count))
BREAKING('r', ssize_t, preadv, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
BREAKING('r', ssize_t, preadv64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))
BREAKING('r', ssize_t, preadv2, (int fd, const struct iovec *parts, int count, off_t at, int flags),
         (fd, parts, count, at, flags))
BREAKING('r', ssize_t, preadv64v2, (int fd, const struct iovec *parts, int count, off64_t at, int flags),
         (fd, parts, count, at, flags))
BREAKING('w', ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
BREAKING('w', ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
BREAKING('w', ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
BREAKING('w', ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count))
BREAKING('w', ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at))
BREAKING('w', ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at))
BREAKING('w', ssize_t, pwritev2, (int fd, const struct iovec *parts, int count, off_t at, int flags),
         (fd, parts, count, at, flags))
BREAKING('w', ssize_t, pwritev64v2, (int fd, const struct iovec *parts, int count, off64_t at, int flags),
         (fd, parts, count, at, flags))
BREAKING('s', int, fsync, (int fd), (fd))
BREAKING('s', int, fdatasync, (int fd), (fd))
