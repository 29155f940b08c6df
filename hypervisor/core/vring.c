/* Split virtqueue, device side (virtio 1.2, 2.7).
 *
 * Theory.  The driver owns the descriptor table and the available ring, the device the used ring.
 * A chain is taken at `last_avail`, and its used element is written at once, behind the published
 * index: the driver does not look there until vq_publish() moves the index, once a burst.
 *
 * Nothing in guest memory is believed twice: every index, length, address and flag is read once
 * into a private copy, checked there and used from there.  A queue that breaks a rule is broken
 * for good (until it is attached again), with the error and its values kept. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vring_internal.h"

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1
#define HINT_DESC 12  /* chains ahead */
#define HINT_BUFFER 6

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

/* The compiler may neither repeat nor split these; the rings' alignment was checked. */
static uint16_t load16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED);
}

static void store16(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELAXED);
}

/* One copy of a descriptor; the barrier keeps the compiler from reading guest memory again. */
static struct desc desc_read(const uint8_t *table, uint32_t i)
{
    struct desc d;
    memcpy(&d, table + (size_t)i * sizeof d, sizeof d);
    __asm__ volatile("" : "+m"(d) : : "memory");
    return d;
}

int vq_break(struct vq *q, uint32_t error, uint64_t a, uint64_t b)
{
    q->error = error;
    q->error_a = a;
    q->error_b = b;
    return -EPROTO;
}

/* Host address of `len` bytes at guest physical `gpa`, `*got` of them contiguous; NULL outside.
 * The region of the last buffer is looked at first: a driver's buffers lie together. */
static inline uint8_t *translate(struct vq *q, uint64_t gpa, uint64_t len, uint64_t *got)
{
    const struct hv_memory *m = q->memory;
    uint32_t i = q->region < m->count ? q->region : 0; /* regions do not overlap: any order finds it */
    for (uint32_t n = 0; n < m->count; n++, i = i + 1 < m->count ? i + 1 : 0) {
        const struct hv_region *r = &m->region[i];
        if (gpa < r->gpa || gpa - r->gpa >= r->size)
            continue;
        q->region = i;
        uint64_t room = r->size - (gpa - r->gpa);
        *got = len < room ? len : room;
        return (uint8_t *)(uintptr_t)(r->host + (gpa - r->gpa));
    }
    return NULL;
}

/* Host address of a ring of `len` bytes at front-end address `uva`; NULL unless in one region. */
static uint8_t *translate_ring(const struct hv_memory *m, uint64_t uva, uint64_t len)
{
    for (uint32_t i = 0; i < m->count; i++) {
        const struct hv_region *r = &m->region[i];
        if (uva < r->uva || uva - r->uva >= r->size)
            continue;
        if (len > r->size - (uva - r->uva))
            return NULL;
        return (uint8_t *)(uintptr_t)(r->host + (uva - r->uva));
    }
    return NULL;
}

static int place(struct vq *q, uint8_t **ring, uint64_t uva, uint64_t len, uint64_t align)
{
    *ring = translate_ring(q->memory, uva, len);
    if (!*ring)
        return vq_break(q, VQ_BAD_RING, uva, len);
    if ((uva | (uint64_t)(uintptr_t)*ring) & (align - 1))
        return vq_break(q, VQ_BAD_ALIGN, uva, align);
    return 0;
}

/* Puts the queue on rings that lie in `m`, which must outlive the attachment.  `last_avail` and
 * the feature fields are the caller's to set before; the used index goes on where memory says. */
int vq_attach(struct vq *q, const struct hv_memory *m, uint32_t size, uint64_t desc_uva,
              uint64_t avail_uva, uint64_t used_uva)
{
    vq_detach(q);
    q->memory = m;
    if (size == 0 || size > VQ_SIZE_MAX || (size & (size - 1)))
        return vq_break(q, VQ_BAD_SIZE, size, VQ_SIZE_MAX);
    /* 2.7: 16 bytes a descriptor; 6 and 2 an entry, 6 and 8 an element, with the event fields. */
    if (place(q, &q->desc, desc_uva, 16ull * size, 16) ||
        place(q, &q->avail, avail_uva, 6ull + 2ull * size, 2) ||
        place(q, &q->used, used_uva, 6ull + 8ull * size, 4))
        return -EPROTO;
    if (!q->arena && !(q->arena = malloc(VQ_ARENA)))
        return -ENOMEM;
    if (!q->iov && !(q->iov = malloc(VQ_IOV_MAX * sizeof *q->iov)))
        return -ENOMEM;
    q->size = size;
    q->used_idx = load16(q->used + 2);
    q->avail_idx = q->last_avail;
    return 0;
}

/* Forgets the rings; a burst that was popped must have been published before. */
void vq_detach(struct vq *q)
{
    q->size = 0;
    q->desc = q->avail = q->used = NULL;
    q->memory = NULL;
    q->pending = 0;
    q->inflight = 0;
    q->arena_used = 0;
    q->silent = 0;
    q->error = VQ_OK;
    q->error_a = q->error_b = 0;
}

void vq_free(struct vq *q)
{
    vq_detach(q);
    free(q->arena);
    free(q->iov);
    q->arena = NULL;
    q->iov = NULL;
}

/* How many chains wait; 0 also for a queue that is broken or not attached. */
uint32_t vq_ready(struct vq *q)
{
    if (q->error || !q->size)
        return 0;
    if (q->avail_idx == q->last_avail) {
        uint16_t idx = load16(q->avail + 2);
        /* 2.7.6: the entries up to an index are there when the index is; ours come after it. */
        atomic_thread_fence(memory_order_acquire);
        if ((uint16_t)(idx - q->last_avail) > q->size) {
            vq_break(q, VQ_BAD_AVAIL_IDX, idx, q->last_avail);
            return 0;
        }
        q->avail_idx = idx;
    }
    return (uint16_t)(q->avail_idx - q->last_avail);
}

/* Appends guest memory to q->iov, in pieces where it crosses from region to region. */
static int gather(struct vq *q, uint16_t head, uint64_t addr, uint64_t len)
{
    uint64_t at = addr, left = len, got = 0;
    while (left) {
        uint8_t *host = translate(q, at, left, &got);
        if (!host)
            return vq_break(q, VQ_BAD_ADDR, addr, len);
        if (q->iovcnt == VQ_IOV_MAX)
            return vq_break(q, VQ_BAD_PIECES, head, VQ_IOV_MAX);
        q->iov[q->iovcnt++] = (struct iovec){host, got};
        left -= got;
        at += got; /* cannot wrap: gpa + size of a region does not (hv_memory_add) */
    }
    return 0;
}

/* The indirect table of `d` (2.7.5.3), or NULL and a broken queue. */
static const uint8_t *indirect_table(struct vq *q, uint16_t head, const struct desc *d)
{
    if (!q->indirect) {
        vq_break(q, VQ_BAD_FEATURE, head, d->flags);
        return NULL;
    }
    if (d->len == 0 || d->len % 16 || d->len / 16 > VQ_CHAIN_MAX) {
        vq_break(q, VQ_BAD_INDIRECT, d->addr, d->len);
        return NULL;
    }
    uint64_t got = 0;
    const uint8_t *table = translate(q, d->addr, d->len, &got);
    if (!table || got < d->len) {
        vq_break(q, VQ_BAD_ADDR, d->addr, d->len);
        return NULL;
    }
    return table;
}

/* Brings near what the chains behind the one at last_avail need: descriptors far ahead, buffers
 * soon.  In another core's cache, where the driver wrote them, each would be waited for alone.
 * What is read here is a hint and believed nowhere: it is read again and checked when it is taken;
 * the head is masked, and an address that is in no region is not followed. */
#ifdef __x86_64__
__attribute__((target("prfchw"))) /* a hint to own the line; processors without it ignore it */
#endif
void vq_hint(struct vq *q, int writable)
{
    uint32_t left = (uint16_t)(q->avail_idx - q->last_avail), mask = q->size - 1;
    if (left > HINT_DESC) {
        uint16_t head = load16(q->avail + 4 + 2 * (size_t)((q->last_avail + HINT_DESC) & mask));
        __builtin_prefetch(q->desc + 16 * (size_t)(head & mask));
    }
    if (left <= HINT_BUFFER)
        return;
    uint16_t head = load16(q->avail + 4 + 2 * (size_t)((q->last_avail + HINT_BUFFER) & mask));
    struct desc d = desc_read(q->desc, head & mask);
    uint64_t got;
    const uint8_t *host = translate(q, d.addr, d.len, &got);
    if (!host)
        return;
    if (writable && !(d.flags & DESC_INDIRECT)) {
        __builtin_prefetch(host, 1);
        __builtin_prefetch(host + 64, 1);
    } else {
        __builtin_prefetch(host);
        __builtin_prefetch(host + 64);
    }
}

/* Reads the chain at last_avail and appends its buffers to q->iov, without taking it: the caller
 * moves last_avail.  If `mixed`, readable buffers and then writable ones (2.7.4.2), and q->readable
 * says where these begin; the caller clears it and q->iovcnt before.  Returns 0, or -EPROTO and a
 * broken queue.  Inlined twice, so that frames do not pay for what they have not. */
static inline __attribute__((always_inline)) int walk(struct vq *q, uint16_t *head_out,
                                                      int writable, int mixed)
{
    const uint8_t *table = q->desc;
    uint32_t entries = q->size;
    uint32_t most = entries < VQ_CHAIN_MAX ? entries : VQ_CHAIN_MAX;
    uint16_t head = load16(q->avail + 4 + 2 * (size_t)(q->last_avail & (q->size - 1)));
    if (head >= entries)
        return vq_break(q, VQ_BAD_HEAD, head, entries);
    *head_out = head;
    uint32_t i = head, n = 0;
    int nested = 0;
    for (;;) {
        if (n++ == most)
            return vq_break(q, VQ_BAD_LOOP, head, most);
        struct desc d = desc_read(table, i); /* i < entries: checked above, below, or 0 */
        if (d.flags & DESC_INDIRECT) {
            if (nested || (d.flags & DESC_NEXT))
                return vq_break(q, VQ_BAD_NESTED, head, d.flags);
            table = indirect_table(q, head, &d);
            if (!table)
                return -EPROTO;
            entries = most = d.len / 16;
            i = n = 0;
            nested = 1;
            continue;
        }
        if (d.len == 0)
            return vq_break(q, VQ_BAD_LEN, d.addr, d.len);
        int readable = !(d.flags & DESC_WRITE);
        if (mixed ? readable && q->iovcnt != q->readable : readable != !writable)
            return vq_break(q, VQ_BAD_DIRECTION, head, d.flags);
        if (gather(q, head, d.addr, d.len))
            return -EPROTO;
        if (mixed && readable)
            q->readable = q->iovcnt;
        if (!(d.flags & DESC_NEXT))
            return 0;
        if (d.next >= entries)
            return vq_break(q, VQ_BAD_NEXT, d.next, entries);
        i = d.next;
    }
}

int vq_walk(struct vq *q, uint16_t *head, int writable)
{
    return walk(q, head, writable, 0);
}

int vq_walk_mixed(struct vq *q, uint16_t *head)
{
    return walk(q, head, 0, 1);
}

/* Writes a used element behind the published ones (the caller keeps pending below size). */
void vq_used_put(struct vq *q, uint16_t head, uint32_t len)
{
    uint32_t slot = (uint16_t)(q->used_idx + q->pending) & (q->size - 1);
    uint32_t element[2] = {head, len};
    memcpy(q->used + 4 + 8 * (size_t)slot, element, sizeof element);
    q->pending++;
}

static int driver_wants_call(struct vq *q, uint16_t old)
{
    if (!q->event_idx)
        return !(load16(q->avail) & AVAIL_NO_INTERRUPT);
    uint16_t event = load16(q->avail + 4 + 2 * (size_t)q->size);
    return (uint16_t)(q->used_idx - event - 1) < (uint16_t)(q->used_idx - old);
}

/* Shows all pending used elements to the driver and notifies it if it asked for that; returns
 * whether it did.  One call a burst. */
int vq_publish(struct vq *q)
{
    q->arena_used = 0;
    if (!q->pending || !q->size)
        return 0;
    uint16_t old = q->used_idx;
    q->used_idx = (uint16_t)(old + q->pending);
    q->pending = 0;
    /* The elements and what was written into buffers are visible before the index. */
    atomic_thread_fence(memory_order_release);
    store16(q->used + 2, q->used_idx);
    /* Our index is visible before we read the driver's event (2.7.10): it writes its event and
     * then reads our index, so that one of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    if (q->call_fd < 0 || !driver_wants_call(q, old))
        return 0;
    q->calls++;
    uint64_t one = 1;
    /* A full counter (EAGAIN) is a notification already; another fault is the driver's loss. */
    ssize_t n = write(q->call_fd, &one, sizeof one);
    return n == (ssize_t)sizeof one;
}

/* Asks for a kick as soon as the driver adds to what waits now; returns how much waits.  What is
 * added after this returns is kicked for, so that nobody waits for a chain that is there. */
uint32_t vq_arm(struct vq *q)
{
    if (q->error || !q->size)
        return 0;
    q->silent = 0;
    uint16_t seen, now = load16(q->avail + 2);
    int tries = 0;
    do {
        seen = now;
        if (q->event_idx)
            store16(q->used + 4 + 8 * (size_t)q->size, seen);
        else
            store16(q->used, 0);
        /* Our request is visible before we read the index again: the driver moves the index and
         * then reads our request, so that either it kicks or we see it move. */
        atomic_thread_fence(memory_order_seq_cst);
        now = load16(q->avail + 2);
    } while (now != seen && q->event_idx && ++tries < 1000); /* a driver may not keep us here */
    if ((uint16_t)(now - q->last_avail) > q->size) {
        vq_break(q, VQ_BAD_AVAIL_IDX, now, q->last_avail);
        return 0;
    }
    atomic_thread_fence(memory_order_acquire); /* entries after the index, as in vq_ready */
    q->avail_idx = now;
    return (uint16_t)(now - q->last_avail);
}

/* Asks for no kicks while we look by ourselves; with event_idx, not asking is enough. */
void vq_suppress(struct vq *q)
{
    if (q->error || !q->size || q->event_idx || q->silent)
        return;
    store16(q->used, USED_NO_NOTIFY);
    q->silent = 1;
}
