// Fails one file system call of a process with a chosen error; loaded with LD_PRELOAD, told what to do through a shared
// file. It counts only calls on a store's paths and descriptors that can really return that error. Not counted: close, lseek
// and the release of a lock, which no local file system fails. faults.py has the same struct.

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct control {
    char store[512];
    int32_t error;        // the errno; 0 while nothing is counted
    int32_t pid;          // the process whose calls count; 0 for all
    int64_t at;           // the number of the first call that fails, from 1; 0 for none
    int64_t times;        // how many calls fail from there on
    _Atomic int64_t seen;
    _Atomic int64_t failed;
    char function[32];    // the last call that failed
    char path[1024];
};

static struct control *control;
static __thread int exempt;

enum { ANY = 1, OPENS = 2, WRITES = 4 };

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("VBATCH_FAULTS");
    int descriptor = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0) return;
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (shared != MAP_FAILED) control = shared;
}

// The calls of this thread do not count while it is set.
void faults_exempt(int is_exempt) { exempt = is_exempt; }

static void descriptor_path(int descriptor, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
}

static int fails(const char *function, int kinds, int directory, const char *name) {
    int error, before = errno;
    if (!control || exempt || !(error = control->error)) return 0;
    if (!(kinds & (error == EMFILE ? OPENS : error == ENOSPC ? WRITES : ANY))) return 0;
    if (control->pid && control->pid != getpid()) return 0;
    char path[1024];
    if (name && name[0] == '/') {
        snprintf(path, sizeof path, "%s", name);
    } else if (directory == AT_FDCWD) {
        return 0;
    } else {
        descriptor_path(directory, path, sizeof path);
        size_t length = strlen(path);
        if (name) snprintf(path + length, sizeof path - length, "/%s", name);
    }
    errno = before;
    size_t length = strlen(control->store);
    if (strncmp(path, control->store, length) || (path[length] && path[length] != '/')) return 0;
    int64_t number = atomic_fetch_add(&control->seen, 1) + 1;
    if (!control->at || number < control->at || number >= control->at + control->times) return 0;
    snprintf(control->function, sizeof control->function, "%s", function);
    snprintf(control->path, sizeof control->path, "%s", path);
    atomic_fetch_add(&control->failed, 1);
    errno = error;
    return 1;
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

// Each call under its name, and under the one that it has where a file may be larger than 2 GiB.
#define WRAP(result, failed, name, parameters, arguments, kinds, directory, path) \
    result name parameters { return fails(#name, kinds, directory, path) ? failed : REAL(name) arguments; }
#define WRAP_BOTH(result, failed, name, parameters, arguments, kinds, directory, path) \
    WRAP(result, failed, name, parameters, arguments, kinds, directory, path) \
    WRAP(result, failed, name##64, parameters, arguments, kinds, directory, path)

#define OPEN_KINDS(flags) (ANY | OPENS | ((flags) & O_CREAT ? WRITES : 0))
#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, last); mode = va_arg(rest, mode_t); va_end(rest); }
#define WRAP_OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags, flags) \
        return fails(#name, OPEN_KINDS(flags), AT_FDCWD, path) ? -1 : REAL(name)(path, flags, mode); }
#define WRAP_OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        MODE(flags, flags) \
        return fails(#name, OPEN_KINDS(flags), directory, path) ? -1 : REAL(name)(directory, path, flags, mode); }
#define WRAP_FCNTL(name) \
    int name(int descriptor, int command, ...) { \
        va_list rest; \
        va_start(rest, command); \
        void *argument = va_arg(rest, void *); \
        va_end(rest); \
        int locks = (command == F_SETLK || command == F_SETLKW || command == F_GETLK) && \
            ((struct flock *)argument)->l_type != F_UNLCK; \
        int opens = command == F_DUPFD || command == F_DUPFD_CLOEXEC; \
        int kinds = locks ? ANY : opens ? OPENS : 0; \
        return fails(#name, kinds, descriptor, NULL) ? -1 : REAL(name)(descriptor, command, argument); }

WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)
WRAP_FCNTL(fcntl)
WRAP_FCNTL(fcntl64)

WRAP(ssize_t, -1, read, (int descriptor, void *data, size_t size), (descriptor, data, size), ANY, descriptor, NULL)
WRAP(ssize_t, -1, write, (int descriptor, const void *data, size_t size), (descriptor, data, size), ANY | WRITES,
     descriptor, NULL)
WRAP_BOTH(ssize_t, -1, pread, (int descriptor, void *data, size_t size, off_t offset),
          (descriptor, data, size, offset), ANY, descriptor, NULL)
WRAP_BOTH(ssize_t, -1, pwrite, (int descriptor, const void *data, size_t size, off_t offset),
          (descriptor, data, size, offset), ANY | WRITES, descriptor, NULL)
WRAP(int, -1, fsync, (int descriptor), (descriptor), ANY | WRITES, descriptor, NULL)
WRAP(int, -1, fdatasync, (int descriptor), (descriptor), ANY | WRITES, descriptor, NULL)
WRAP_BOTH(int, -1, ftruncate, (int descriptor, off_t size), (descriptor, size), ANY, descriptor, NULL)
WRAP_BOTH(int, -1, truncate, (const char *path, off_t size), (path, size), ANY, AT_FDCWD, path)
WRAP(int, -1, flock, (int descriptor, int operation), (descriptor, operation), ANY, descriptor, NULL)
WRAP(int, -1, fchmod, (int descriptor, mode_t mode), (descriptor, mode), ANY, descriptor, NULL)

// These two do not set errno, they return it, or do.
#define WRAP_FALLOCATE(name) \
    int name(int descriptor, off_t offset, off_t size) { \
        return fails(#name, ANY | WRITES, descriptor, NULL) ? control->error : REAL(name)(descriptor, offset, size); }
WRAP_FALLOCATE(posix_fallocate)
WRAP_FALLOCATE(posix_fallocate64)

WRAP(int, -1, rename, (const char *old, const char *new), (old, new), ANY | WRITES, AT_FDCWD, old)
WRAP(int, -1, renameat, (int from, const char *old, int to, const char *new), (from, old, to, new), ANY | WRITES, from, old)
WRAP(int, -1, link, (const char *old, const char *new), (old, new), ANY | WRITES, AT_FDCWD, old)
WRAP(int, -1, unlink, (const char *path), (path), ANY, AT_FDCWD, path)
WRAP(int, -1, unlinkat, (int directory, const char *path, int flags), (directory, path, flags), ANY, directory, path)
WRAP(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), ANY | WRITES, AT_FDCWD, path)
WRAP(int, -1, rmdir, (const char *path), (path), ANY, AT_FDCWD, path)
WRAP(int, -1, chmod, (const char *path, mode_t mode), (path, mode), ANY, AT_FDCWD, path)
WRAP(int, -1, fchmodat, (int directory, const char *path, mode_t mode, int flags), (directory, path, mode, flags), ANY,
     directory, path)
WRAP(int, -1, access, (const char *path, int mode), (path, mode), ANY, AT_FDCWD, path)

#define WRAP_STAT(name, type) \
    WRAP(int, -1, name, (const char *path, struct type *state), (path, state), ANY, AT_FDCWD, path)
WRAP_STAT(stat, stat)
WRAP_STAT(stat64, stat64)
WRAP_STAT(lstat, stat)
WRAP_STAT(lstat64, stat64)
WRAP(int, -1, fstat, (int descriptor, struct stat *state), (descriptor, state), ANY, descriptor, NULL)
WRAP(int, -1, fstat64, (int descriptor, struct stat64 *state), (descriptor, state), ANY, descriptor, NULL)
WRAP(int, -1, fstatat, (int directory, const char *path, struct stat *state, int flags),
     (directory, path, state, flags), ANY, directory, path)
WRAP(int, -1, fstatat64, (int directory, const char *path, struct stat64 *state, int flags),
     (directory, path, state, flags), ANY, directory, path)
WRAP_STAT(statvfs, statvfs)
WRAP_STAT(statvfs64, statvfs64)

WRAP(DIR *, NULL, opendir, (const char *path), (path), ANY | OPENS, AT_FDCWD, path)
WRAP(DIR *, NULL, fdopendir, (int descriptor), (descriptor), ANY, descriptor, NULL)
WRAP(struct dirent *, NULL, readdir, (DIR *directory), (directory), ANY, dirfd(directory), NULL)
WRAP(struct dirent64 *, NULL, readdir64, (DIR *directory), (directory), ANY, dirfd(directory), NULL)
