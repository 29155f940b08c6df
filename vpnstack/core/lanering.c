/* What leases of the express lane hold: what is in flight to the guest, what waits for the host.
 *
 * What was sent and is not acknowledged lies in a ring whose size is a power of two, the octet with
 * sequence number s at s modulo the size: nothing moves when an acknowledgement comes, or where
 * sequence numbers wrap.  A ring grows, never shrinks, and goes when nothing is in flight.  Frames
 * that were made point into it, so it must not grow between making and sending them.
 *
 * What the host's socket did not take is kept in one piece of memory, of which the front goes to the
 * socket and the back grows; the window that the guest sees bounds it. */
#include "lane.h"

#include <errno.h>
#include <stdlib.h>

#define OCTETS_MAX (256ull << 20) /* of rings and kept data, of all leases of a lane */

static unsigned log2_of(uint32_t n)
{
    unsigned k = RING_FIRST;

    while (k < RING_MAX && (1u << k) < n)
        k++;
    return k;
}

void lane_drop_ring(struct lane *l, struct lease *e)
{
    if (!e->ring)
        return;
    unsigned k = log2_of(e->ring_cap);
    l->octets -= e->ring_cap;
    if (l->spare_n[k] < SPARE_MAX)
        l->spare[k][l->spare_n[k]++] = e->ring;
    else
        free(e->ring);
    e->ring = NULL;
    e->ring_cap = 0;
}

/* Makes the ring hold at least n octets; 0 where it cannot. */
int lane_make_ring(struct lane *l, struct lease *e, uint32_t n)
{
    unsigned k = log2_of(n);
    uint32_t cap = 1u << k, flight = e->snd_nxt - e->snd_una;

    if (e->ring_cap >= n)
        return 1;
    if (n > 1u << RING_MAX || l->octets + cap > OCTETS_MAX)
        return 0;
    uint8_t *ring = l->spare_n[k] ? l->spare[k][--l->spare_n[k]] : malloc(cap);
    if (!ring)
        return 0;
    for (uint32_t i = 0; i < flight;) { /* what is in flight moves to its places in the new one */
        uint32_t from = (e->snd_una + i) & (e->ring_cap - 1), to = (e->snd_una + i) & (cap - 1);
        uint32_t part = flight - i;
        if (part > e->ring_cap - from)
            part = e->ring_cap - from;
        if (part > cap - to)
            part = cap - to;
        memcpy(ring + to, e->ring + from, part);
        i += part;
    }
    lane_drop_ring(l, e);
    l->octets += cap;
    e->ring = ring;
    e->ring_cap = cap;
    return 1;
}

void lane_drop_kept(struct lane *l, struct lease *e)
{
    l->octets -= e->kept_cap;
    free(e->kept);
    e->kept = NULL;
    e->kept_at = e->kept_n = e->kept_cap = 0;
}

/* Makes room for n octets more behind what waits for the host; 0 where there is no memory.  With
 * half as much to spare, or a queue that is long and always full would be moved for each segment. */
static int make_room(struct lane *l, struct lease *e, uint32_t n)
{
    uint32_t cap = e->kept_cap ? e->kept_cap : 1u << RING_FIRST, had = e->kept_n;

    while (cap < had + had / 2 + n)
        cap *= 2;
    if (cap == e->kept_cap) {
        memmove(e->kept, e->kept + e->kept_at, had);
        e->kept_at = 0;
        return 1;
    }
    uint8_t *more = l->octets + cap > OCTETS_MAX ? NULL : malloc(cap);
    if (!more)
        return 0;
    if (had)
        memcpy(more, e->kept + e->kept_at, had);
    lane_drop_kept(l, e);
    l->octets += cap;
    e->kept = more;
    e->kept_cap = cap;
    e->kept_n = had;
    return 1;
}

/* Appends to what waits for the host; 0 where there is no memory. */
int lane_keep(struct lane *l, struct lease *e, const void *data, uint32_t n)
{
    if (n > e->kept_cap - e->kept_at - e->kept_n && !make_room(l, e, n))
        return 0;
    memcpy(e->kept + e->kept_at + e->kept_n, data, n);
    e->kept_n += n;
    return 1;
}

/* Puts what is in flight when a connection is lent, snd_nxt - snd_una octets, into its ring. */
int lease_load(struct lane *l, struct lease *e, const void *data, uint32_t n)
{
    e->snd_nxt = e->snd_una; /* nothing is to be moved */
    if (!lane_make_ring(l, e, n))
        return -ENOMEM;
    for (uint32_t i = 0; i < n;) {
        uint32_t to = (e->snd_una + i) & (e->ring_cap - 1), part = n - i;
        if (part > e->ring_cap - to)
            part = e->ring_cap - to;
        memcpy(e->ring + to, (const uint8_t *)data + i, part);
        i += part;
    }
    e->snd_nxt = e->snd_una + n;
    return 0;
}

/* Copies out what is in flight, snd_nxt - snd_una octets, and what is kept, kept_n octets. */
void lease_flight(const struct lease *e, void *out)
{
    uint32_t n = e->snd_nxt - e->snd_una;

    for (uint32_t i = 0; i < n;) {
        uint32_t from = (e->snd_una + i) & (e->ring_cap - 1), part = n - i;
        if (part > e->ring_cap - from)
            part = e->ring_cap - from;
        memcpy((uint8_t *)out + i, e->ring + from, part);
        i += part;
    }
}

void lease_kept(const struct lease *e, void *out)
{
    if (e->kept_n)
        memcpy(out, e->kept + e->kept_at, e->kept_n);
}

/* What all leases hold. */
uint64_t lane_octets(const struct lane *l)
{
    return l->octets;
}

/* Forgets what `lane_recall` left. */
void lease_free(struct lane *l, struct lease *e)
{
    lane_drop_ring(l, e);
    lane_drop_kept(l, e);
}
