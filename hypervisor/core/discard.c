/* Giving pages of guest memory back to the host: what a balloon takes and what a guest reports as
 * free.  The file behind the memory gets a hole there; the guest reads zeros afterwards. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vring.h"

#define PFN_SHIFT 12 /* virtio 1.2, 5.5.6: units of 4096 bytes, whatever the guest's page size */

/* Discards the whole pages among `size` bytes at `host`; returns how many bytes, or -errno. */
int64_t hv_discard(uint64_t host, uint64_t size)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t skip = (page - (host & (page - 1))) & (page - 1);
    if (size < skip)
        return 0;
    uint64_t whole = (size - skip) & ~(page - 1);
    if (!whole)
        return 0;
    if (madvise((void *)(uintptr_t)(host + skip), whole, MADV_REMOVE) < 0)
        return -errno;
    return (int64_t)whole;
}

static int64_t discard_run(const struct hv_memory *m, uint64_t gpa, uint64_t size)
{
    for (uint32_t i = 0; i < m->count; i++) {
        const struct hv_region *r = &m->region[i];
        if (gpa >= r->gpa && gpa - r->gpa < r->size && size <= r->size - (gpa - r->gpa))
            return hv_discard(r->host + (gpa - r->gpa), size);
    }
    return -EFAULT;
}

/* Discards the 4096-byte pages whose numbers are at `pfns`, guest memory of any alignment, one
 * call of the kernel a run of neighbours; returns the bytes, and counts in `*refused` the pages
 * that could not be discarded: outside memory, or inside a huge page. */
uint64_t hv_discard_pfns(const struct hv_memory *m, const uint8_t *pfns, uint32_t count,
                         uint32_t *refused)
{
    uint64_t first = 0, run = 0, done = 0;
    for (uint32_t i = 0; i <= count; i++) {
        uint32_t pfn = 0;
        if (i < count)
            memcpy(&pfn, pfns + 4 * (size_t)i, sizeof pfn); /* once: the guest may change it */
        if (i < count && run && pfn == first + run) {
            run++;
        } else if (i < count && run && pfn + 1ull == first) { /* Linux hands them out downwards */
            first = pfn;
            run++;
        } else {
            int64_t got = run ? discard_run(m, first << PFN_SHIFT, run << PFN_SHIFT) : 0;
            if (got < 0)
                *refused += (uint32_t)run;
            else
                done += (uint64_t)got;
            first = pfn;
            run = 1;
        }
    }
    return done;
}
