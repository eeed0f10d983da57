/* Imitates a power cut: keeps a copy of each file of the store as it was when it was last synced.
 *
 * Load it with LD_PRELOAD. POWER_CUT_FILES is the beginning of the paths of these files; the copies
 * have the suffix ".synced". After a kill, what was written since is not in the copies.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void keep(int file) {
    const char *prefix = getenv("POWER_CUT_FILES");
    char link[64], path[4000], draft[4096], copy[4096], block[65536];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (prefix == NULL || length < 0)
        return;
    path[length] = 0;
    if (strncmp(path, prefix, strlen(prefix)) != 0)
        return;
    snprintf(draft, sizeof draft, "%s.syncing", path);
    snprintf(copy, sizeof copy, "%s.synced", path);
    int to = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    off_t at = 0;
    while ((length = pread(file, block, sizeof block, at)) > 0) {
        if (write(to, block, length) != length)
            abort();
        at += length;
    }
    close(to);
    rename(draft, copy);
}

int fsync(int file) {
    static int (*real)(int);
    if (real == NULL)
        real = dlsym(RTLD_NEXT, "fsync");
    int result = real(file);
    if (result == 0)
        keep(file);
    return result;
}

int fdatasync(int file) {
    static int (*real)(int);
    if (real == NULL)
        real = dlsym(RTLD_NEXT, "fdatasync");
    int result = real(file);
    if (result == 0)
        keep(file);
    return result;
}
