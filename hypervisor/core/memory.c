/* Guest memory: mapping the descriptors that a front-end sends, and surviving one that shrinks its
 * file under us.
 *
 * A shared mapping whose file was truncated raises SIGBUS at the next touch, in this process, in
 * whatever code touches it.  The handler puts zeroed private memory over the whole mapping and
 * returns, so that the touch succeeds and the owner can close that one connection (hv_faulted). */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vring.h"

#define GUARDS 1024

/* `base` is published last and cleared first: the handler never sees a half-written entry. */
static struct guard {
    _Atomic uint64_t base;
    uint64_t length;
    volatile sig_atomic_t faulted;
} guards[GUARDS];
static pthread_mutex_t guards_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static int installed;
static volatile sig_atomic_t faults;

static struct guard *guard_of(uint64_t address)
{
    for (unsigned i = 0; i < GUARDS; i++) {
        uint64_t base = atomic_load_explicit(&guards[i].base, memory_order_acquire);
        if (base && address >= base && address - base < guards[i].length)
            return &guards[i];
    }
    return NULL;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    int saved = errno;
    struct guard *g = guard_of((uint64_t)(uintptr_t)info->si_addr);
    if (g && mmap((void *)(uintptr_t)g->base, g->length, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED) {
        g->faulted = 1;
        faults++;
        errno = saved;
        return;
    }
    /* Not ours: whoever was there before us decides, by default the end of the process. */
    if ((previous.sa_flags & SA_SIGINFO) && previous.sa_sigaction) {
        previous.sa_sigaction(sig, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(sig);
    } else {
        signal(SIGBUS, SIG_DFL);  /* the touch is repeated on return and ends the process */
    }
    errno = saved;
}

static int guard_add(uint64_t base, uint64_t length)
{
    int rc = -ENOSPC;
    pthread_mutex_lock(&guards_lock);
    if (!installed) {
        struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
        sigemptyset(&action.sa_mask);
        installed = sigaction(SIGBUS, &action, &previous) == 0;
    }
    for (unsigned i = 0; i < GUARDS && rc; i++) {
        if (guards[i].base)
            continue;
        guards[i].length = length;
        guards[i].faulted = 0;
        atomic_store_explicit(&guards[i].base, base, memory_order_release);
        rc = 0;
    }
    pthread_mutex_unlock(&guards_lock);
    return rc;
}

/* The unit in which a file is mapped: huge pages on hugetlbfs. */
static uint64_t granule(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) == 0 && (uint64_t)fs.f_type == HUGETLBFS_MAGIC)
        return (uint64_t)fs.f_bsize;
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Maps `size` bytes of `fd` from `offset`; returns their host address or -errno.  `base` and
 * `length` are what to give to hv_unmap.  A file that is too short is refused here. */
int64_t hv_map(int fd, uint64_t size, uint64_t offset, uint64_t *base, uint64_t *length)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -ENODEV;
    if (size == 0 || offset > (uint64_t)st.st_size || size > (uint64_t)st.st_size - offset)
        return -ERANGE;
    uint64_t unit = granule(fd);
    uint64_t skip = offset & (unit - 1);
    uint64_t span = (size + skip + unit - 1) & ~(unit - 1); /* bounded by the file's size */
    void *p = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                   (off_t)(offset - skip));
    if (p == MAP_FAILED)
        return -errno;
    madvise(p, span, MADV_DONTDUMP);
    int rc = guard_add((uint64_t)(uintptr_t)p, span);
    if (rc < 0) {
        munmap(p, span);
        return rc;
    }
    *base = (uint64_t)(uintptr_t)p;
    *length = span;
    return (int64_t)((uintptr_t)p + skip);
}

int hv_unmap(uint64_t base, uint64_t length)
{
    pthread_mutex_lock(&guards_lock);
    struct guard *g = guard_of(base);
    if (g)
        atomic_store_explicit(&g->base, 0, memory_order_release);
    pthread_mutex_unlock(&guards_lock);
    return munmap((void *)(uintptr_t)base, length) < 0 ? -errno : 0;
}

/* Says whether the file behind the mapping at `base` was shorter than it had been. */
int hv_faulted(uint64_t base)
{
    struct guard *g = guard_of(base);
    return g && g->faulted;
}

/* How many mappings were lost in this process: a cheap test before hv_faulted. */
uint32_t hv_faults(void)
{
    return (uint32_t)faults;
}

int hv_memory_add(struct hv_memory *m, uint64_t gpa, uint64_t size, uint64_t uva, uint64_t host)
{
    if (m->count >= HV_REGIONS_MAX)
        return -ENOSPC;
    if (size == 0 || size > UINT64_MAX - gpa || size > UINT64_MAX - uva)
        return -EINVAL;
    m->region[m->count++] = (struct hv_region){gpa, size, uva, host};
    return 0;
}
