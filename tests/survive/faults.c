/* Stands between a program and its disk, for tests (LD_PRELOAD). What the file STORE_FAULT says
 * happens to each write and sync of files whose name begins with STORE: "ENOSPC", "EIO", "EROFS",
 * or "wait", which keeps a sync until the file says something else. Absent or empty: nothing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_store(int fd) {
  char link[40], name[4096];
  const char *store = getenv("STORE");
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, name, sizeof name);
  return store && length >= (ssize_t)strlen(store) && !strncmp(name, store, strlen(store));
}

static int says(const char *word) {
  char said[16] = "";
  const char *path = getenv("STORE_FAULT");
  FILE *file = path ? fopen(path, "re") : NULL;
  if (!file) return 0;
  if (!fgets(said, sizeof said, file)) said[0] = 0;
  fclose(file);
  return !strcmp(said, word);
}

static int error_for(int fd) {
  if (!is_store(fd)) return 0;
  return says("ENOSPC") ? ENOSPC : says("EIO") ? EIO : says("EROFS") ? EROFS : 0;
}

#define WRITE(name, offset)                                                    \
  ssize_t name(int fd, const void *data, size_t size, offset at) {             \
    static ssize_t (*real)(int, const void *, size_t, offset);                 \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);                      \
    int error = error_for(fd);                                                 \
    return error ? (errno = error, -1) : real(fd, data, size, at);             \
  }

#define SYNC(name)                                                             \
  int name(int fd) {                                                           \
    static int (*real)(int);                                                   \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);                      \
    while (is_store(fd) && says("wait")) usleep(10000);                        \
    int error = error_for(fd);                                                 \
    return error ? (errno = error, -1) : real(fd);                             \
  }

WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)
SYNC(fsync)
SYNC(fdatasync)
