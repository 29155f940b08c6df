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
#include "core.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#define ACK 16
#define PSH 8
#define PIECES_MAX 1000 /* of one sendmsg, below IOV_MAX */
#define SUPER_MAX 65475 /* payload of a super-segment, whatever its headers */
#define TURN 4 /* super-segments of one flow before the next one's turn */
#define RING_FIRST 14   /* 16 KiB; rings are powers of two */
#define RING_MAX 20     /* 1 MiB in flight: more is of no use on a link without delay */
#define SPARE_MAX 8     /* rings of each size that wait for their next user */
#define CWND_BULK (1u << 18) /* from here on a congestion window need not grow, nor Python see it */
#define OCTETS_MAX (256ull << 20) /* of rings and kept data, of all leases of a lane */

struct lane {
    struct lease **buckets;
    uint32_t mask, count;
    uint64_t seed;
    struct lease *acks_first, *acks_last; /* owe a delayed acknowledgement, the first due first */
    struct lease *flying; /* have something unacknowledged */
    struct lease *more_first, *more_last; /* have more to send than fitted into their turn */
    uint64_t octets;      /* of rings and kept data */
    uint8_t *spare[RING_MAX + 1][SPARE_MAX];
    uint32_t spare_n[RING_MAX + 1];
    uint8_t stalled[LANE_PORTS];
    double rtx_at;        /* no lease of `flying` is due before */
    /* What one sendmsg will carry: the payloads of a lease's run of frames. */
    struct frame *frames; /* of the burst under way; runs are chains of indices into it */
    uint8_t run_next[64];
    uint32_t pieces_n;
    struct iovec pieces[PIECES_MAX];
    struct lease *touched[64];
    uint32_t touched_n;
    struct lane_burst *became; /* of the call under way */
};

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

static struct lease *find(const struct lane *l, const struct frame *f)
{
    struct lease *e = l->buckets[bucket_of(l, f->src)];

    while (e && memcmp(e->key, f->src, 40) != 0)
        e = e->next;
    return e;
}

static void unlink_ack(struct lane *l, struct lease *e)
{
    if (!e->owes)
        return;
    *(e->ack_older ? &e->ack_older->ack_newer : &l->acks_first) = e->ack_newer;
    *(e->ack_newer ? &e->ack_newer->ack_older : &l->acks_last) = e->ack_older;
    e->ack_older = e->ack_newer = NULL;
    e->owes = 0;
}

static void owe_ack(struct lane *l, struct lease *e, double at)
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

static void unlink_flying(struct lane *l, struct lease *e)
{
    if (!e->flies)
        return;
    *(e->fly_prev ? &e->fly_prev->fly_next : &l->flying) = e->fly_next;
    if (e->fly_next)
        e->fly_next->fly_prev = e->fly_prev;
    e->fly_prev = e->fly_next = NULL;
    e->flies = 0;
}

static void fly(struct lane *l, struct lease *e, double now)
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

static void queue_more(struct lane *l, struct lease *e)
{
    if (e->queued)
        return;
    e->queued = 1;
    e->more_prev = l->more_last;
    e->more_next = NULL;
    *(l->more_last ? &l->more_last->more_next : &l->more_first) = e;
    l->more_last = e;
}

static void unlink_more(struct lane *l, struct lease *e)
{
    if (!e->queued)
        return;
    *(e->more_prev ? &e->more_prev->more_next : &l->more_first) = e->more_next;
    *(e->more_next ? &e->more_next->more_prev : &l->more_last) = e->more_prev;
    e->more_prev = e->more_next = NULL;
    e->queued = 0;
}

/* --- memory ---------------------------------------------------------------------------------- */

static unsigned log2_of(uint32_t n)
{
    unsigned k = RING_FIRST;

    while (k < RING_MAX && (1u << k) < n)
        k++;
    return k;
}

static void drop_ring(struct lane *l, struct lease *e)
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
static int make_ring(struct lane *l, struct lease *e, uint32_t n)
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
    drop_ring(l, e);
    l->octets += cap;
    e->ring = ring;
    e->ring_cap = cap;
    return 1;
}

static void drop_kept(struct lane *l, struct lease *e)
{
    l->octets -= e->kept_cap;
    free(e->kept);
    e->kept = NULL;
    e->kept_at = e->kept_n = e->kept_cap = 0;
}

/* Appends to what waits for the host; 0 where there is no memory. */
static int keep(struct lane *l, struct lease *e, const void *data, uint32_t n)
{
    if (n > e->kept_cap - e->kept_at - e->kept_n) {
        uint32_t cap = e->kept_cap ? e->kept_cap : 1u << RING_FIRST;
        while (cap < e->kept_n + n)
            cap *= 2;
        uint8_t *more = l->octets + cap > OCTETS_MAX ? NULL : malloc(cap);
        if (!more)
            return 0;
        uint32_t had = e->kept_n;
        if (had)
            memcpy(more, e->kept + e->kept_at, had);
        drop_kept(l, e);
        l->octets += cap;
        e->kept = more;
        e->kept_cap = cap;
        e->kept_n = had;
    }
    memcpy(e->kept + e->kept_at + e->kept_n, data, n);
    e->kept_n += n;
    return 1;
}

/* Puts what is in flight when a connection is lent, snd_nxt - snd_una octets, into its ring. */
int lease_load(struct lane *l, struct lease *e, const void *data, uint32_t n)
{
    e->snd_nxt = e->snd_una; /* nothing is to be moved */
    if (!make_ring(l, e, n))
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
        owe_ack(l, e, e->t_ack);
    if (e->snd_nxt != e->snd_una) {
        fly(l, e, e->last_send);
        e->hungry = 1;
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
    unlink_flying(l, e);
    unlink_more(l, e);
    e->active = 0;
    l->count--;
}

/* Forgets what `lane_recall` left. */
void lease_free(struct lane *l, struct lease *e)
{
    drop_ring(l, e);
    drop_kept(l, e);
}

/* At most one look a lease and burst of 64 frames. */
static void look_at(struct lane_burst *b, struct lease *e)
{
    if (b->n_look < 64)
        b->look[b->n_look++] = e;
}

static void end(struct lease *e, uint8_t why)
{
    if (e->why == LEASE_GOES_ON)
        e->why = why;
}

/* --- frames to the guest --------------------------------------------------------------------- */

static void emit(struct lane *l, struct lease *e, struct frame *out, const void *data, uint32_t n,
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

/* --- frames from the guest ------------------------------------------------------------------- */

/* Gives what the host did not take back to Python, without what it took. */
static void give_back(struct frame *f, uint32_t taken)
{
    uint32_t off = f->data + taken, k = 0;

    f->verdict = FRAME_OK;
    if (!taken)
        return;
    for (unsigned i = 0; i < f->iovcnt; i++) {
        size_t len = f->iov[i].iov_len;
        if (off >= len) {
            off -= (uint32_t)len;
            continue;
        }
        f->iov[k].iov_base = (uint8_t *)f->iov[i].iov_base + off;
        f->iov[k++].iov_len = len - off;
        off = 0;
    }
    f->iovcnt = (uint16_t)k;
    f->data = 0;
    f->data_len -= taken; /* `len` stays that of what was received: the switch drops runts */
    f->seq += taken;
}

/* Gives frames of the run back from octet `taken` on. */
static void give_run_back(struct lane *l, struct lease *e, uint32_t taken)
{
    for (unsigned k = 0, i = e->run_first; k < e->run_n; k++, i = l->run_next[i]) {
        struct frame *f = l->frames + i;
        uint32_t n = f->data_len < taken ? f->data_len : taken;
        taken -= n;
        if (n < f->data_len) {
            give_back(f, n);
            e->data_in--;
            e->segs_in--;
        }
    }
}

/* Points l->pieces at the payloads of the run; returns their octets, which may be less than the run
 * where they are too many pieces. */
static uint32_t gather(struct lane *l, const struct lease *e)
{
    uint32_t sum = 0;

    l->pieces_n = 0;
    for (unsigned k = 0, i = e->run_first; k < e->run_n; k++, i = l->run_next[i]) {
        const struct frame *f = l->frames + i;
        uint32_t off = f->data, n = f->data_len;
        if (l->pieces_n + f->iovcnt > PIECES_MAX)
            break;
        for (unsigned j = 0; j < f->iovcnt && n; j++) {
            size_t len = f->iov[j].iov_len;
            if (off >= len) {
                off -= (uint32_t)len;
                continue;
            }
            uint32_t part = len - off < n ? (uint32_t)(len - off) : n;
            l->pieces[l->pieces_n].iov_base = (uint8_t *)f->iov[j].iov_base + off;
            l->pieces[l->pieces_n++].iov_len = part;
            n -= part;
            sum += part;
            off = 0;
        }
    }
    return sum;
}

/* Keeps the gathered run from octet `off` on for when the host's socket takes it; 0: it cannot. */
static int keep_run(struct lane *l, struct lease *e, uint32_t off)
{
    uint32_t before = e->kept_n;

    for (uint32_t i = 0; i < l->pieces_n; i++) {
        const struct iovec *p = l->pieces + i;
        if (off >= p->iov_len) {
            off -= (uint32_t)p->iov_len;
            continue;
        }
        if (!keep(l, e, (uint8_t *)p->iov_base + off, (uint32_t)p->iov_len - off)) {
            e->kept_n = before;
            return 0;
        }
        off = 0;
    }
    return 1;
}

/* Sends the run of a lease to the host's socket, and keeps what does not fit there. */
static void flush_run(struct lane *l, struct lease *e)
{
    struct msghdr msg = {.msg_iov = l->pieces};
    ssize_t sent = 0;

    if (!e->run_n)
        return;
    uint32_t octets = gather(l, e), done, kept = 0;
    msg.msg_iovlen = l->pieces_n;
    if (!e->full)
        do
            sent = sendmsg(e->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (sent < 0 && errno == EINTR);
    done = sent < 0 ? 0 : (uint32_t)sent;
    int dead = sent < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM;
    if (done < octets && !dead && keep_run(l, e, done)) {
        kept = octets - done;
        if (!e->full)
            look_at(l->became, e);
        e->full = 1;
    }
    if (done + kept < e->run_octets) { /* dead, or no memory: Python finds out which */
        end(e, LEASE_HOST_FULL);
        give_run_back(l, e, done + kept);
    }
    e->rcv_nxt += done + kept;
    e->ack_bytes += done + kept;
    e->bytes_in += done + kept;
    e->in_burst += done + kept;
    e->run_n = e->run_octets = 0;
}

static void add_to_run(struct lane *l, struct lease *e, uint32_t index)
{
    if (e->run_n++)
        l->run_next[e->run_last] = (uint8_t)index;
    else
        e->run_first = (uint8_t)index;
    e->run_last = (uint8_t)index;
    e->run_octets += l->frames[index].data_len;
    e->data_in++;
}

/* Is this the very segment that comes next? */
static int expected(const struct lease *e, const struct frame *f)
{
    return (f->tcp_flags & ~PSH) == ACK && f->opts == (e->ts_ok ? TCPOPT_TIMESTAMP : 0) &&
           f->seq == e->rcv_nxt + e->run_octets && f->data_len <= e->rcv_adv - f->seq &&
           (int32_t)(e->rcv_adv - f->seq) >= 0 && (f->tos & 3) == 0 &&
           f->ack - e->snd_una <= e->snd_nxt - e->snd_una &&
           (f->data_len || f->ack != e->snd_una || e->snd_nxt == e->snd_una) && /* a duplicate */
           (!e->ts_ok || (int32_t)(f->tsval - e->ts_recent) >= 0) &&
           f->l4 - f->l3 == (f->ip_version == 4 ? 20 : 40) && memcmp(f->head + 6, e->tmpl, 6) == 0;
}

static void acknowledged(struct lane *l, struct lease *e, uint32_t ack, double now)
{
    uint32_t n = ack - e->snd_una;

    if (!n)
        return;
    e->snd_una = ack;
    e->bytes_acked += n;
    if (e->timed_at != 0 && (int32_t)(ack - e->timed_end) >= 0) {
        e->rtt = now - e->timed_at;
        e->timed_at = 0;
    }
    if (ack == e->snd_nxt) {
        unlink_flying(l, e);
        if (!e->hungry)
            drop_ring(l, e);
    } else {
        e->t_rtx = now + e->pto;
    }
}

/* Takes one frame of a lent connection; 0 where it is Python's. */
static int take(struct lane *l, struct lease *e, uint32_t index, double now)
{
    struct frame *f = l->frames + index;

    if (e->why != LEASE_GOES_ON)
        return 0;
    if (!expected(e, f)) {
        flush_run(l, e);
        end(e, LEASE_UNEXPECTED);
        return 0;
    }
    if (f->data_len)
        add_to_run(l, e, index);
    if (e->ts_ok && (int32_t)(f->seq - e->last_ack_sent) <= 0) /* RFC 7323, 4.3 */
        e->ts_recent = f->tsval;
    acknowledged(l, e, f->ack, now);
    e->snd_wnd = (uint32_t)f->wnd << e->snd_wscale;
    e->last_recv = now;
    e->segs_in++;
    if (f->data_len)
        e->last_data = now;
    if (e->snd_wnd < e->wnd_min) /* the silly-window rules and probes are Python's */
        end(e, LEASE_WINDOW);

    return 1;
}

/* After a burst: acknowledges (RFC 9293 3.8.6.3, every second segment at the latest). */
static void settle(struct lane *l, struct lease *e, struct frame *out, uint32_t *made, double now)
{
    e->in_touched = 0;
    if (!e->full && e->in_burst * 4u > e->rcv_buf && e->rcv_buf < e->rcv_max)
        e->rcv_buf = e->rcv_buf * 2 < e->rcv_max ? e->rcv_buf * 2 : e->rcv_max;
    e->in_burst = 0;
    if (!e->ack_bytes)
        return;
    if ((e->why == LEASE_GOES_ON || e->why == LEASE_WINDOW) &&
        (e->ack_bytes >= 2 * e->rcv_mss || e->delack <= 0))
        emit(l, e, out + (*made)++, NULL, 0, ACK, now);
    else /* Python takes the debt over with the lease, if something makes it do so in time */
        owe_ack(l, e, now + e->delack);
}

static uint32_t wire_segments(const struct frame *f)
{
    uint32_t size = f->vnet.gso_size;

    return size && f->data_len ? (f->data_len + size - 1) / size : 1;
}

/* Takes what is expected out of a parsed burst that came through `port`; those frames become
 * FRAME_TAKEN.  Fills `out` (room for 64) with acknowledgements, and *b with numbers.  Returns how
 * many frames are left for Python. */
uint32_t lane_receive(struct lane *l, struct frame *frames, uint32_t n, const uint8_t *mac,
                      uint32_t port, double now, struct frame *out, struct lane_burst *b)
{
    uint32_t left = 0;

    b->made = b->taken = b->segments = b->n_look = 0;
    l->became = b;
    l->frames = frames;
    l->touched_n = 0;
    for (uint32_t i = 0; i < n && i < 64; i++) {
        struct frame *f = frames + i;
        struct lease *e;
        if (f->verdict == FRAME_MERGED)
            continue;
        if (f->verdict != FRAME_OK || f->proto != 6 || !f->l4 || f->vlan != 0xffff || f->ttl < 2 ||
            memcmp(f->head, mac, 6) != 0 || !(e = find(l, f)) || e->port != port)
            continue;
        if (take(l, e, i, now))
            f->verdict = FRAME_TAKEN;
        if (!e->in_touched) {
            e->in_touched = 1;
            l->touched[l->touched_n++] = e;
        }
    }
    for (uint32_t i = 0; i < l->touched_n; i++)
        flush_run(l, l->touched[i]);
    for (uint32_t i = 0; i < l->touched_n; i++)
        settle(l, l->touched[i], out, &b->made, now);
    for (uint32_t i = 0; i < l->touched_n; i++) /* acknowledgements made room */
        if (l->touched[i]->hungry)
            queue_more(l, l->touched[i]);
    for (uint32_t i = 0; i < n; i++) {
        left += frames[i].verdict < FRAME_MERGED;
        if (frames[i].verdict == FRAME_TAKEN) {
            b->taken++;
            b->segments += wire_segments(frames + i);
        }
    }
    return left;
}

/* --- from the host --------------------------------------------------------------------------- */

/* Octets of a frame: whole segments, as many as fit. */
static uint32_t super_of(const struct lease *e)
{
    return e->mss < SUPER_MAX ? SUPER_MAX - SUPER_MAX % e->mss : SUPER_MAX;
}

/* How much may leave now; notes in `hungry` that it is not all that could. */
static uint32_t may_send(struct lease *e)
{
    uint32_t flight = e->snd_nxt - e->snd_una;
    uint32_t wnd = e->snd_wnd < e->cwnd ? e->snd_wnd : e->cwnd;

    if (wnd > 1u << RING_MAX)
        wnd = 1u << RING_MAX;
    uint32_t room = wnd > flight ? wnd - flight : 0;
    if (room >= e->wnd_min || (room && !flight))
        return room;
    if (e->cwnd <= e->snd_wnd && e->cwnd < CWND_BULK) /* it has to grow: congestion control's */
        end(e, LEASE_BULK);
    e->hungry = 1; /* until an acknowledgement comes */
    return 0;
}

/* Reads up to n octets of the host into the ring; returns recv's result, *want what was asked.  One
 * large read wakes the host's peer once. */
static ssize_t read_host(struct lane *l, struct lease *e, uint32_t n, int bulk, uint32_t *want)
{
    uint32_t flight = e->snd_nxt - e->snd_una;
    ssize_t got;

    /* A small ring is enough for small answers: it grows when one filled it. */
    uint32_t ask = e->ring_cap - flight >= n || n < 1u << RING_FIRST || bulk ? n
                   : 1u << RING_FIRST;
    if (e->ring_cap < flight + ask && !make_ring(l, e, flight + ask)) {
        errno = ENOMEM;
        return -1;
    }
    uint32_t at = e->snd_nxt & (e->ring_cap - 1);
    *want = ask < e->ring_cap - at ? ask : e->ring_cap - at;
    do
        got = recv(e->fd, e->ring + at, *want, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Makes frames of n octets that were read into the ring at snd_nxt; returns how many. */
static uint32_t send_read(struct lane *l, struct lease *e, uint32_t n, int more, struct frame *out,
                          double now)
{
    uint32_t super = super_of(e), made = 0;

    while (n) {
        uint32_t part = n < super ? n : super;
        n -= part;
        emit(l, e, out + made++, e->ring + (e->snd_nxt & (e->ring_cap - 1)), part,
             n || more ? ACK : ACK | PSH, now);
        e->snd_nxt += part;
        e->bytes_out += part;
        e->data_out++;
    }
    e->last_send = now;
    if (e->timed_at == 0) {
        e->timed_at = now;
        e->timed_end = e->snd_nxt;
    }
    return made;
}

/* Makes up to `room` frames of what the host's socket has, at most a turn's worth.  Returns how
 * many, or -errno for an error of the socket.  e->why says when the lease ended; a flow that has
 * more is in the list of `lane_resume`. */
int lane_send(struct lane *l, struct lease *e, double now, struct frame *out, uint32_t room)
{
    uint32_t made = 0, want = 0, n;
    int error = 0, bulk = e->hungry;

    if (room > TURN)
        room = TURN;
    unlink_more(l, e);
    e->hungry = 0;
    while (made < room && e->why == LEASE_GOES_ON && (n = may_send(e)) > 0) {
        if (n > (room - made) * super_of(e))
            n = (room - made) * super_of(e);
        ssize_t got = read_host(l, e, n, bulk || made, &want);
        if (got <= 0) {
            if (got == 0)
                end(e, LEASE_HOST_EOF);
            else if (errno == ENOMEM)
                end(e, LEASE_BULK);
            else if (errno != EAGAIN)
                error = -errno;
            e->hungry = 0;
            break;
        }
        e->hungry = (uint32_t)got == want;
        made += send_read(l, e, (uint32_t)got, e->hungry, out + made, now);
        if (!e->hungry)
            break;
    }
    if (made)
        fly(l, e, now);
    if (e->snd_nxt == e->snd_una && !e->hungry)
        drop_ring(l, e);
    if (e->hungry && made >= room && e->why == LEASE_GOES_ON)
        queue_more(l, e);
    return error ? error : (int)made;
}

/* How many flows wait for `lane_resume`: 0 or more. */
uint32_t lane_waiting(const struct lane *l)
{
    uint32_t n = 0;

    for (const struct lease *e = l->more_first; e && n < 64; e = e->more_next)
        n++;
    return n;
}

/* Has a flow wait for its turn: its port takes no frames now. */
void lane_wait(struct lane *l, struct lease *e)
{
    e->hungry = 1;
    queue_more(l, e);
}

/* Notes whether a port takes frames. */
void lane_stall(struct lane *l, uint32_t port, int stalled)
{
    if (port < LANE_PORTS)
        l->stalled[port] = (uint8_t)stalled;
}

/* Goes on with the flows whose turn was over, each once. */
void lane_resume(struct lane *l, double now, struct frame *out, uint32_t room,
                 struct lane_burst *b)
{
    b->made = b->n_look = 0;
    for (uint32_t n = lane_waiting(l); n && b->made < room; n--) {
        struct lease *e = l->more_first;
        if (l->stalled[e->port % LANE_PORTS]) {
            unlink_more(l, e);
            queue_more(l, e);
            continue;
        }
        int got = lane_send(l, e, now, out + b->made, room - b->made);
        for (int i = 0; i < got; i++)
            b->ports[b->made++] = e->port;
        if (got < 0)
            end(e, LEASE_HOST_FULL); /* Python meets the socket's end */
        if (e->why != LEASE_GOES_ON)
            look_at(b, e);
    }
}

/* Gives the host what was kept for it.  Returns 1 with a window update in out, 0 without; -errno for
 * an error of the socket.  e->full tells whether some of it still waits. */
int lane_drain(struct lane *l, struct lease *e, double now, struct frame *out)
{
    ssize_t sent = 0;

    while (e->kept_n) {
        sent = send(e->fd, e->kept + e->kept_at, e->kept_n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            break;
        e->kept_at += (uint32_t)sent;
        e->kept_n -= (uint32_t)sent;
    }
    if (sent < 0 && errno != EAGAIN)
        return -errno;
    if (e->kept_n)
        return 0;
    drop_kept(l, e);
    e->full = 0;
    if (e->rcv_adv - e->rcv_nxt >= e->rcv_buf / 2 && e->ack_bytes < 2 * e->rcv_mss)
        return 0;
    emit(l, e, out, NULL, 0, ACK, now);
    return 1;
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
        emit(l, l->acks_first, out + b->made++, NULL, 0, ACK, now);
    }
    if (!l->flying || l->rtx_at > now)
        return;
    for (struct lease *e = l->flying; e; e = e->fly_next) {
        if (e->t_rtx <= now && b->n_look < 64) {
            end(e, LEASE_TIMEOUT);
            look_at(b, e);
        } else if (next == 0 || e->t_rtx < next) {
            next = e->t_rtx;
        }
    }
    l->rtx_at = next;
}
