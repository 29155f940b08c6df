/* System calls whose effect a shell cannot see: run in a guest on a 9P mount, one word says which.
 * Each probe checks what it knows, says what was wrong, and ends with status 1 then. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what) \
    do { \
        if (!(what)) { \
            printf("line %d: not %s: %s\n", __LINE__, #what, strerror(errno)); \
            exit(1); \
        } \
    } while (0)

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int make(const char *path, const char *text) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    return fd;
}

static void same(int fd, const char *text) {
    char got[256] = "";
    CHECK(pread(fd, got, sizeof got - 1, 0) == (ssize_t)strlen(text) && !strcmp(got, text));
}

/* excl FILE: of two creators one loses; so does O_CREAT on what is a link. */
static void excl(char **argv) {
    int fd = open(argv[0], O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    CHECK(open(argv[0], O_RDWR | O_CREAT | O_EXCL, 0600) < 0 && errno == EEXIST);
    CHECK(open(argv[0], O_RDWR | O_CREAT, 0600) >= 0);
    CHECK(!close(fd));
}

/* race FILE N: eight processes, N rounds, and each round's file has one maker. */
static void race(char **argv) {
    for (int round = 0; round < atoi(argv[1]); round++) {
        char path[512];
        int won = 0, status;
        snprintf(path, sizeof path, "%s.%d", argv[0], round);
        for (int i = 0; i < 8; i++)
            if (!fork()) _exit(open(path, O_WRONLY | O_CREAT | O_EXCL, 0600) >= 0 ? 1 : errno == EEXIST ? 0 : 2);
        while (wait(&status) > 0) {
            CHECK(WEXITSTATUS(status) < 2);
            won += WEXITSTATUS(status);
        }
        CHECK(won == 1);
        CHECK(!unlink(path));
    }
}

/* append FILE: two descriptors in turns. */
static void append(char **argv) {
    int a, b;
    close(make(argv[0], "0"));
    CHECK((a = open(argv[0], O_WRONLY | O_APPEND)) >= 0 && (b = open(argv[0], O_WRONLY | O_APPEND)) >= 0);
    CHECK(write(a, "aa", 2) == 2 && write(b, "bb", 2) == 2 && write(a, "cc", 2) == 2);
    CHECK(!close(a) && !close(b));
    same(open(argv[0], O_RDONLY), "0aabbcc");
}

/* unlinked FILE: an open file without a name is still one. */
static void unlinked(char **argv) {
    struct stat st;
    int fd = make(argv[0], "before");
    CHECK(!unlink(argv[0]));
    CHECK(stat(argv[0], &st) < 0 && errno == ENOENT);
    CHECK(pwrite(fd, "after!", 6, 0) == 6);
    same(fd, "after!");
    CHECK(!fchmod(fd, 0600) && !fstat(fd, &st) && (st.st_mode & 07777) == 0600);
    CHECK(!ftruncate(fd, 3) && !fstat(fd, &st) && st.st_size == 3);
    same(fd, "aft");
    CHECK(!fsync(fd) && !close(fd));
}

/* over OLD NEW: rename over a file that is open; both stay what they were. */
static void over(char **argv) {
    struct stat a, b;
    int old = make(argv[1], "old"), fresh = make(argv[0], "fresh");
    CHECK(!rename(argv[0], argv[1]));
    same(old, "old");
    same(fresh, "fresh");
    same(open(argv[1], O_RDONLY), "fresh");
    CHECK(pwrite(fresh, "F", 1, 0) == 1);
    CHECK(!fsync(fresh));
    same(open(argv[1], O_RDONLY), "Fresh");
    CHECK(!fstat(fresh, &a) && !stat(argv[1], &b) && a.st_ino == b.st_ino);
}

/* sparse FILE: holes read as zeros, and truncation cuts and extends. */
static void sparse(char **argv) {
    struct stat st;
    char got[8];
    int fd = make(argv[0], "start");
    CHECK(pwrite(fd, "end", 3, 5 << 20) == 3 && !fsync(fd));
    CHECK(!fstat(fd, &st) && st.st_size == (5 << 20) + 3);
    CHECK(pread(fd, got, 8, 3 << 20) == 8 && !memcmp(got, "\0\0\0\0\0\0\0\0", 8));
    CHECK(!ftruncate(fd, 2) && !ftruncate(fd, 6) && pread(fd, got, 8, 0) == 6);
    CHECK(!memcmp(got, "st\0\0\0\0", 6));
    CHECK(!truncate(argv[0], 1) && !stat(argv[0], &st) && st.st_size == 1);
}

/* map FILE N: write N bytes through a shared mapping, in pages out of order. */
static void map(char **argv) {
    size_t size = atol(argv[1]);
    int fd = open(argv[0], O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && !ftruncate(fd, size));
    char *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    for (size_t i = 0; i < size; i += 4096) {
        size_t page = (i / 4096 * 7 % (size / 4096)) * 4096;
        for (size_t j = 0; j < 4096; j++) at[page + j] = (page / 4096 + j) * 31 & 255;
    }
    CHECK(!msync(at, size, MS_SYNC) && !munmap(at, size) && !close(fd));
}

/* dir DIR N seek|list: N entries, each of them once, and places that hold, where there are any. */
static void dir(char **argv) {
    int n = atoi(argv[1]), seen = 0;
    long at[16];
    char names[16][256];
    DIR *d = opendir(argv[0]);
    struct dirent *e;
    char *once = calloc(n, 1);
    CHECK(d);
    for (;; seen++) {
        long place = telldir(d);
        if (!(e = readdir(d))) break;
        if (seen % (n / 10) == 0 && seen < n) at[seen / (n / 10)] = place, strcpy(names[seen / (n / 10)], e->d_name);
        if (e->d_name[0] == '.') continue;
        CHECK(e->d_type == DT_REG && !once[atoi(e->d_name + 1)]++);
    }
    CHECK(seen == n || seen == n + 2); /* 9P2000 lists neither "." nor ".." */
    for (int i = argv[2][0] == 's' ? 9 : -1; i >= 0; i -= 3) {
        seekdir(d, at[i]);
        CHECK((e = readdir(d)) && !strcmp(e->d_name, names[i]));
    }
    rewinddir(d);
    for (seen = 0; readdir(d); seen++) {}
    CHECK(seen == n || seen == n + 2); /* 9P2000 lists neither "." nor ".." */
}

/* empty DIR N: a listing lives through the removal of what it lists. */
static void empty(char **argv) {
    int n = 0;
    DIR *d = opendir(argv[0]);
    CHECK(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            CHECK(!unlinkat(dirfd(d), e->d_name, 0));
            n++;
        }
    if (n != atoi(argv[1])) printf("found %d\n", n);
    CHECK(n == atoi(argv[1]) && !closedir(d) && !rmdir(argv[0]));
}

/* flocks FILE OTHER: flock(2) passes from one process to another, which reaches the file as OTHER. */
static void flocks(char **argv) {
    int up[2], status, fd = make(argv[0], "x");
    char c;
    CHECK(!flock(fd, LOCK_EX) && !pipe(up));
    if (!fork()) {
        int other = open(argv[1], O_RDWR);
        CHECK(other >= 0 && flock(other, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK);
        CHECK(write(up[1], "x", 1) == 1);
        double begin = now();
        CHECK(!flock(other, LOCK_EX));
        CHECK(now() - begin < 20);
        _exit(0);
    }
    CHECK(read(up[0], &c, 1) == 1 && !flock(fd, LOCK_UN));
    CHECK(wait(&status) > 0 && status == 0);
}

static struct flock range(short type, off_t start, off_t len) {
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}

/* locks FILE OTHER: record locks against another process, which reaches the file as OTHER. */
static void locks(char **argv) {
    int up[2], status, fd = make(argv[0], "0123456789");
    char c;
    struct flock mine = range(F_WRLCK, 2, 4);
    CHECK(!fcntl(fd, F_SETLK, &mine) && !pipe(up));
    if (!fork()) {
        int other = open(argv[1], O_RDWR);
        struct flock want = range(F_WRLCK, 0, 0), ask = range(F_RDLCK, 0, 0), free = range(F_WRLCK, 6, 0);
        CHECK(other >= 0);
        CHECK(fcntl(other, F_SETLK, &want) < 0 && errno == EAGAIN);
        CHECK(!fcntl(other, F_GETLK, &ask) && ask.l_type == F_WRLCK && ask.l_start == 2 && ask.l_len == 4);
        CHECK(!fcntl(other, F_SETLK, &free));
        CHECK(write(up[1], "x", 1) == 1);
        double begin = now();
        CHECK(!fcntl(other, F_SETLKW, &want));
        CHECK(now() - begin < 20);
        _exit(0);
    }
    CHECK(read(up[0], &c, 1) == 1);
    mine.l_type = F_UNLCK;
    CHECK(!fcntl(fd, F_SETLK, &mine));
    CHECK(wait(&status) > 0 && status == 0);
}

/* killed FILE: a read that waits for more is ended by a fatal signal (Linux waits for 9P killably). */
static void killed(char **argv) {
    int up[2], status;
    char got[256];
    CHECK(!pipe(up));
    pid_t child = fork();
    if (!child) {
        int fd = open(argv[0], O_RDONLY);
        ssize_t n = read(fd, got, sizeof got);
        CHECK(n > 0 && write(up[1], "x", 1) == 1);
        n = read(fd, got, sizeof got);
        printf("read %zd\n", n);
        exit(1);
    }
    CHECK(read(up[0], got, 1) == 1);
    for (char state = 0; state != 'D';) { /* until it waits for an answer */
        char path[64], text[512] = "";
        snprintf(path, sizeof path, "/proc/%d/stat", child);
        int fd = open(path, O_RDONLY);
        CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0 && !close(fd));
        state = strrchr(text, ')')[2];
        CHECK(state != 'Z');
    }
    double begin = now();
    CHECK(!kill(child, SIGTERM) && wait(&status) == child);
    CHECK(WIFSIGNALED(status) && now() - begin < 20);
}

/* stats FILE SECONDS: fstatat(2) calls a second. */
static void stats(char **argv) {
    struct stat st;
    long n = 0;
    double begin = now(), end = begin + atof(argv[1]);
    for (; now() < end; n++) CHECK(!stat(argv[0], &st));
    printf("%.0f\n", n / (now() - begin));
}

/* io FILE BYTES CHUNK w|r: MiB a second in read(2) or write(2) calls of CHUNK. */
static void io(char **argv) {
    size_t size = atol(argv[1]), chunk = atol(argv[2]), done = 0;
    int writes = argv[3][0] == 'w';
    char *data = calloc(chunk, 1);
    int fd = open(argv[0], writes ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY, 0644);
    CHECK(fd >= 0);
    double begin = now();
    while (done < size) {
        ssize_t n = writes ? write(fd, data, chunk) : read(fd, data, chunk);
        CHECK(n > 0);
        done += n;
    }
    CHECK(!close(fd));
    printf("%.1f\n", done / (now() - begin) / (1 << 20));
}

#define PROBE(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(char **);
} probes[] = {PROBE(excl), PROBE(race), PROBE(append), PROBE(unlinked), PROBE(over), PROBE(sparse), PROBE(map),
              PROBE(dir), PROBE(empty), PROBE(flocks), PROBE(locks), PROBE(killed), PROBE(stats), PROBE(io)};

/* NAME ARGUMENT... [-- NAME ARGUMENT...]...: some probes, one after the other. */
int main(int argc, char **argv) {
    const size_t count = sizeof probes / sizeof *probes;
    for (int at = 1; at < argc; at++) {
        size_t i = 0;
        while (i < count && strcmp(argv[at], probes[i].name)) i++;
        if (i == count) return 2;
        probes[i].run(argv + at + 1);
        while (at < argc && strcmp(argv[at], "--")) at++;
    }
    return argc < 2 ? 2 : 0;
}
