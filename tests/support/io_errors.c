/* Has the calls that read, write or sync the files of a store fail with EIO, as on a broken disk.
 *
 * Load it with LD_PRELOAD. IO_ERROR_FILES is the beginning of the paths of these files; the file
 * IO_ERRORS says what fails: any of the letters r, w and s.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(int file, char kind) {
    const char *prefix = getenv("IO_ERROR_FILES"), *control = getenv("IO_ERRORS");
    char link[64], path[4000], kinds[8] = "";
    if (prefix == NULL || control == NULL)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (strncmp(path, prefix, strlen(prefix)) != 0)
        return 0;
    int found = open(control, O_RDONLY | O_CLOEXEC);
    if (found < 0)
        return 0;
    /* Not read(), which may be one of ours. */
    syscall(SYS_read, found, kinds, sizeof kinds - 1);
    close(found);
    if (strchr(kinds, kind) == NULL)
        return 0;
    errno = EIO;
    return 1;
}

#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t pread64(int file, void *to, size_t length, off64_t at) {
    return fails(file, 'r') ? -1
        : REAL(ssize_t, "pread64", int, void *, size_t, off64_t)(file, to, length, at);
}

ssize_t pwrite64(int file, const void *from, size_t length, off64_t at) {
    return fails(file, 'w') ? -1
        : REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(file, from, length, at);
}

int fsync(int file) {
    return fails(file, 's') ? -1 : REAL(int, "fsync", int)(file);
}

int fdatasync(int file) {
    return fails(file, 's') ? -1 : REAL(int, "fdatasync", int)(file);
}
