/* The express lane of forwarded flows: what is entirely as expected passes here, everything else
 * goes to the one TCP, which is Python's.
 *
 * Theory of operation.  While a connection is established, its queues are empty and nothing is
 * lost, Python lends it to the lane (struct lease: the variables of its control block).  A segment
 * that is the next in order, with no flag but ACK and PSH (RFC 9293's common case; Van Jacobson's
 * header prediction), goes straight from the frame to the host's socket; what the host's socket
 * gives becomes a frame, kept until it is acknowledged.  There is no loss recovery, no congestion
 * control and no timer but the one of the delayed acknowledgement here: whatever would need them
 * ends the lease, Python takes the variables back and goes on from there.  A lease that ended takes
 * no more frames, so nothing overtakes the frame that ended it. */
#include "lane.h"

#include <errno.h>
#include <stdlib.h>

/* --- the table ------------------------------------------------------------------------------ */

struct lane *lane_new(uint32_t buckets, uint64_t seed)
{
    struct lane *l = calloc(1, sizeof *l);

    if (!l || !buckets || buckets & (buckets - 1)) {
        free(l);
        return NULL;
    }
    l->buckets = calloc(buckets, sizeof *l->buckets);
    if (!l->buckets) {
        free(l);
        return NULL;
    }
    l->mask = buckets - 1;
    l->seed = seed | 1;
    return l;
}

void lane_free(struct lane *l)
{
    if (l) {
        for (unsigned k = 0; k <= RING_MAX; k++)
            while (l->spare_n[k])
                free(l->spare[k][--l->spare_n[k]]);
        free(l->buckets);
    }
    free(l);
}

/* Keyed, as a guest chooses what is hashed. */
static uint32_t bucket_of(const struct lane *l, const uint8_t *key)
{
    uint64_t h = l->seed, w;

    for (unsigned i = 0; i < 40; i += 8) {
        memcpy(&w, key + i, 8);
        h = (h ^ w) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return (uint32_t)(h >> 32) & l->mask;
}

/* The lease that a frame of the guest belongs to. */
struct lease *lane_find(const struct lane *l, const struct frame *f)
{
    struct lease *e = l->buckets[bucket_of(l, f->src)];

    while (e && memcmp(e->key, f->src, 40) != 0)
        e = e->next;
    return e;
}

/* --- lists ---------------------------------------------------------------------------------- */

static void unlink_ack(struct lane *l, struct lease *e)
{
    if (!e->owes)
        return;
    *(e->ack_older ? &e->ack_older->ack_newer : &l->acks_first) = e->ack_newer;
    *(e->ack_newer ? &e->ack_newer->ack_older : &l->acks_last) = e->ack_older;
    e->ack_older = e->ack_newer = NULL;
    e->owes = 0;
}

void lane_owe_ack(struct lane *l, struct lease *e, double at)
{
    struct lease *older = l->acks_last;

    if (e->owes)
        return;
    while (older && older->t_ack > at) /* one that was lent with its delay half over */
        older = older->ack_older;
    e->owes = 1;
    e->t_ack = at;
    e->ack_older = older;
    e->ack_newer = older ? older->ack_newer : l->acks_first;
    *(e->ack_newer ? &e->ack_newer->ack_older : &l->acks_last) = e;
    *(older ? &older->ack_newer : &l->acks_first) = e;
}

void lane_landed(struct lane *l, struct lease *e)
{
    if (!e->flies)
        return;
    *(e->fly_prev ? &e->fly_prev->fly_next : &l->flying) = e->fly_next;
    if (e->fly_next)
        e->fly_next->fly_prev = e->fly_prev;
    e->fly_prev = e->fly_next = NULL;
    e->flies = 0;
}

void lane_fly(struct lane *l, struct lease *e, double now)
{
    e->t_rtx = now + e->pto;
    if (e->flies)
        return;
    if (!l->flying || e->t_rtx < l->rtx_at)
        l->rtx_at = e->t_rtx;
    e->flies = 1;
    e->fly_next = l->flying;
    if (l->flying)
        l->flying->fly_prev = e;
    l->flying = e;
}

static struct lane_queue *queue_of(struct lane *l, const struct lease *e)
{
    return e->queued == QUEUED_PARKED ? &l->parked : &l->ready;
}

/* Has a lease wait for its turn, or for its port first. */
void lane_queue(struct lane *l, struct lease *e)
{
    if (e->queued)
        return;
    e->queued = l->stalled[e->port % LANE_PORTS] ? QUEUED_PARKED : QUEUED_READY;
    struct lane_queue *q = queue_of(l, e);
    e->more_prev = q->last;
    e->more_next = NULL;
    *(q->last ? &q->last->more_next : &q->first) = e;
    q->last = e;
}

void lane_unqueue(struct lane *l, struct lease *e)
{
    if (!e->queued)
        return;
    struct lane_queue *q = queue_of(l, e);
    *(e->more_prev ? &e->more_prev->more_next : &q->first) = e->more_next;
    *(e->more_next ? &e->more_next->more_prev : &q->last) = e->more_prev;
    e->more_prev = e->more_next = NULL;
    e->queued = QUEUED_NOT;
}

/* Notes whether a port takes frames; those that waited for it are ready when it does. */
void lane_stall(struct lane *l, uint32_t port, int stalled)
{
    struct lease *next;

    if (port >= LANE_PORTS)
        return;
    l->stalled[port] = (uint8_t)stalled;
    for (struct lease *e = stalled ? NULL : l->parked.first; e; e = next) {
        next = e->more_next;
        if (e->port == port) {
            lane_unqueue(l, e);
            lane_queue(l, e);
        }
    }
}

/* Lends a connection; Python has filled the first part of the struct and keeps its memory. */
int lane_lend(struct lane *l, struct lease *e)
{
    struct lease **at = &l->buckets[bucket_of(l, e->key)];

    if (e->tmpl_len > sizeof e->tmpl || !e->mss || e->active)
        return -EINVAL;
    e->next = *at;
    *at = e;
    e->active = 1;
    e->why = LEASE_GOES_ON;
    l->count++;
    if (e->ack_bytes)
        lane_owe_ack(l, e, e->t_ack);
    if (e->snd_nxt != e->snd_una) {
        lane_fly(l, e, e->last_send);
        e->hungry = 1; /* nobody watched the host's socket while Python had no room */
        lane_queue(l, e);
    }
    return 0;
}

/* Takes a connection back; `lease_flight` and `lease_kept` tell what it holds. */
void lane_recall(struct lane *l, struct lease *e)
{
    struct lease **at = &l->buckets[bucket_of(l, e->key)];

    if (!e->active)
        return;
    while (*at && *at != e)
        at = &(*at)->next;
    if (*at)
        *at = e->next;
    unlink_ack(l, e);
    lane_landed(l, e);
    lane_unqueue(l, e);
    e->active = 0;
    l->count--;
}

/* --- what becomes of leases -------------------------------------------------------------------- */

/* At most one look a lease and burst of 64 frames. */
void lane_look(struct lane_burst *b, struct lease *e)
{
    if (b->n_look < 64)
        b->look[b->n_look++] = e;
}

void lane_end(struct lease *e, uint8_t why)
{
    if (e->why == LEASE_GOES_ON)
        e->why = why;
}

/* --- frames to the guest --------------------------------------------------------------------- */

void lane_emit(struct lane *l, struct lease *e, struct frame *out, const void *data, uint32_t n,
               uint16_t flags, double now)
{
    uint8_t opts[12] = {1, 1, 8, 10};
    uint32_t wnd = e->rcv_buf > e->kept_n ? e->rcv_buf - e->kept_n : 0;
    uint32_t offered = e->rcv_adv - e->rcv_nxt;
    uint32_t tsval = (uint32_t)(uint64_t)(now * 1000) + e->ts_offset;

    if ((int32_t)offered > 0 && offered > wnd)
        wnd = offered;
    wnd >>= e->rcv_wscale;
    if (wnd > 65535)
        wnd = 65535;
    uint32_t edge = e->rcv_nxt + (wnd << e->rcv_wscale);
    if ((int32_t)(edge - e->rcv_adv) > 0)
        e->rcv_adv = edge;
    for (unsigned i = 0; i < 4; i++) {
        opts[4 + i] = (uint8_t)(tsval >> (24 - 8 * i));
        opts[8 + i] = (uint8_t)(e->ts_recent >> (24 - 8 * i));
    }
    frame_emit_tcp(out, e->tmpl, e->tmpl_len, e->snd_nxt, e->rcv_nxt, flags,
                   (uint16_t)wnd, 0, opts, e->ts_ok ? 12 : 0, data, n,
                   (uint16_t)(n > e->mss ? e->mss : 0));
    e->ack_bytes = 0;
    e->last_ack_sent = e->rcv_nxt;
    e->segs_out++;
    unlink_ack(l, e);
}

/* --- time ------------------------------------------------------------------------------------ */

/* When lane_expire() has something to do; 0 for never. */
double lane_deadline(const struct lane *l)
{
    double at = l->acks_first ? l->acks_first->t_ack : 0;

    if (l->flying && (at == 0 || l->rtx_at < at))
        at = l->rtx_at;
    return at;
}

/* Makes the acknowledgements that are due, and ends the leases whose data stayed unacknowledged for
 * too long. */
void lane_expire(struct lane *l, double now, struct frame *out, uint32_t room,
                 struct lane_burst *b)
{
    double next = 0;

    b->made = b->n_look = 0;
    while (l->acks_first && l->acks_first->t_ack <= now && b->made < room) {
        b->ports[b->made] = l->acks_first->port;
        lane_emit(l, l->acks_first, out + b->made++, NULL, 0, ACK, now);
    }
    if (!l->flying || l->rtx_at > now)
        return;
    for (struct lease *e = l->flying; e; e = e->fly_next) {
        if (e->t_rtx <= now && b->n_look < 64) {
            lane_end(e, LEASE_TIMEOUT);
            lane_look(b, e);
        } else if (next == 0 || e->t_rtx < next) {
            next = e->t_rtx;
        }
    }
    l->rtx_at = next;
}
