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
#define HELD_FIRST 16384
#define HELD_MAX 65475 /* one super-segment in flight: more is bulk, and Python's */

struct lane {
    struct lease **buckets;
    uint32_t mask, count;
    uint64_t seed;
    struct lease *acks_first, *acks_last; /* owe a delayed acknowledgement, the first due first */
    struct lease *flying; /* have something unacknowledged */
    double rtx_at;        /* no lease of `flying` is due before */
    /* The run of frames that one sendmsg will carry. */
    struct lease *run;
    struct frame *run_frames[64];
    uint32_t run_n, run_octets, pieces_n;
    struct iovec pieces[PIECES_MAX];
    struct lease *touched[64];
    uint32_t touched_n;
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
    if (l)
        free(l->buckets);
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
    return 0;
}

/* Takes a connection back; what is unacknowledged lies at e->held + e->held_at. */
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
    e->active = 0;
    l->count--;
}

/* Forgets what `lane_recall` left. */
void lease_free(struct lease *e)
{
    free(e->held);
    e->held = NULL;
    e->held_cap = 0;
}

static void end(struct lease *e, uint8_t why)
{
    if (e->why == LEASE_GOES_ON)
        e->why = why;
}

/* --- frames to the guest --------------------------------------------------------------------- */

static void emit(struct lane *l, struct lease *e, struct frame *out, const void *data, uint32_t n,
                 double now)
{
    uint8_t opts[12] = {1, 1, 8, 10};
    uint32_t wnd = e->rcv_buf, offered = e->rcv_adv - e->rcv_nxt;
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
    frame_emit_tcp(out, e->tmpl, e->tmpl_len, e->snd_nxt, e->rcv_nxt, n ? ACK | PSH : ACK,
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

/* Sends the run to the host's socket. */
static void flush_run(struct lane *l)
{
    struct lease *e = l->run;
    struct msghdr msg = {.msg_iov = l->pieces, .msg_iovlen = l->pieces_n};
    ssize_t sent;

    l->run = NULL;
    if (!e || !l->run_n)
        return;
    do
        sent = sendmsg(e->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    uint32_t left = sent < 0 ? 0 : (uint32_t)sent;
    e->rcv_nxt += left;
    e->ack_bytes += left;
    e->bytes_in += left;
    e->in_burst += left;
    if (left < l->run_octets) { /* full, or dead: Python finds out which */
        end(e, LEASE_HOST_FULL);
        for (uint32_t i = 0; i < l->run_n; i++) {
            struct frame *f = l->run_frames[i];
            uint32_t taken = f->data_len < left ? f->data_len : left;
            left -= taken;
            if (taken < f->data_len) {
                give_back(f, taken);
                e->data_in--;
                e->segs_in--;
            }
        }
    }
    l->run_n = l->run_octets = l->pieces_n = 0;
}

static int add_to_run(struct lane *l, struct lease *e, struct frame *f)
{
    uint32_t off = f->data, n = f->data_len;

    if (l->run_n == 64 || l->pieces_n + f->iovcnt > PIECES_MAX)
        flush_run(l);
    if (e->why != LEASE_GOES_ON)
        return 0;
    l->run = e;
    for (unsigned i = 0; i < f->iovcnt && n; i++) {
        size_t len = f->iov[i].iov_len;
        if (off >= len) {
            off -= (uint32_t)len;
            continue;
        }
        size_t take = len - off < n ? len - off : n;
        l->pieces[l->pieces_n].iov_base = (uint8_t *)f->iov[i].iov_base + off;
        l->pieces[l->pieces_n++].iov_len = take;
        n -= (uint32_t)take;
        off = 0;
    }
    l->run_frames[l->run_n++] = f;
    l->run_octets += f->data_len;
    e->data_in++;
    return 1;
}

/* Is this the very segment that comes next? */
static int expected(const struct lane *l, const struct lease *e, const struct frame *f)
{
    uint32_t ahead = l->run == e ? l->run_octets : 0;

    return (f->tcp_flags & ~PSH) == ACK && f->opts == (e->ts_ok ? TCPOPT_TIMESTAMP : 0) &&
           f->seq == e->rcv_nxt + ahead && f->data_len <= e->rcv_adv - f->seq &&
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
    e->held_at += n;
    e->bytes_acked += n;
    if (e->timed_at != 0 && (int32_t)(ack - e->timed_end) >= 0) {
        e->rtt = now - e->timed_at;
        e->timed_at = 0;
    }
    if (ack == e->snd_nxt) {
        e->held_at = 0;
        unlink_flying(l, e);
        lease_free(e);
    } else {
        e->t_rtx = now + e->pto;
    }
}

/* Takes one frame of a lent connection; 0 where it is Python's. */
static int take(struct lane *l, struct lease *e, struct frame *f, double now)
{
    if (l->run && (l->run != e || !f->data_len))
        flush_run(l);
    if (e->why != LEASE_GOES_ON)
        return 0;
    if (!expected(l, e, f)) {
        flush_run(l);
        end(e, LEASE_UNEXPECTED);
        return 0;
    }
    if (f->data_len && !add_to_run(l, e, f))
        return 0;
    if (e->ts_ok && (int32_t)(f->seq - e->last_ack_sent) <= 0) /* RFC 7323, 4.3 */
        e->ts_recent = f->tsval;
    acknowledged(l, e, f->ack, now);
    e->snd_wnd = (uint32_t)f->wnd << e->snd_wscale;
    e->last_recv = now;
    e->segs_in++;
    if (f->data_len)
        e->last_data = now;
    if (e->snd_wnd < e->mss) /* the silly-window rules and probes are Python's */
        end(e, LEASE_WINDOW);
    return 1;
}

/* After a burst: acknowledges (RFC 9293 3.8.6.3, every second segment at the latest). */
static void settle(struct lane *l, struct lease *e, struct frame *out, uint32_t *made, double now)
{
    e->in_touched = 0;
    if (e->in_burst * 4u > e->rcv_buf && e->rcv_buf < e->rcv_max)
        e->rcv_buf = e->rcv_buf * 2 < e->rcv_max ? e->rcv_buf * 2 : e->rcv_max;
    e->in_burst = 0;
    if (!e->ack_bytes)
        return;
    if ((e->why == LEASE_GOES_ON || e->why == LEASE_WINDOW) &&
        (e->ack_bytes >= 2 * e->rcv_mss || e->delack <= 0))
        emit(l, e, out + (*made)++, NULL, 0, now);
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

    memset(b, 0, sizeof *b);
    l->touched_n = 0;
    for (uint32_t i = 0; i < n && i < 64; i++) {
        struct frame *f = frames + i;
        struct lease *e;
        if (f->verdict == FRAME_MERGED)
            continue;
        if (f->verdict != FRAME_OK || f->proto != 6 || !f->l4 || f->vlan != 0xffff || f->ttl < 2 ||
            memcmp(f->head, mac, 6) != 0 || !(e = find(l, f)) || e->port != port)
            continue;
        if (take(l, e, f, now))
            f->verdict = FRAME_TAKEN;
        if (!e->in_touched) {
            e->in_touched = 1;
            l->touched[l->touched_n++] = e;
        }
    }
    flush_run(l);
    for (uint32_t i = 0; i < l->touched_n; i++)
        settle(l, l->touched[i], out, &b->made, now);
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

static int make_room(struct lease *e, uint32_t flight, uint32_t want)
{
    uint8_t *more;
    uint32_t cap = e->held_cap ? e->held_cap : HELD_FIRST;

    if (e->held_at && e->held_at + flight + want > e->held_cap) {
        memmove(e->held, e->held + e->held_at, flight);
        e->held_at = 0;
    }
    if (e->held && flight + want <= e->held_cap)
        return 1;
    while (cap < flight + want)
        cap *= 2;
    more = realloc(e->held, cap);
    if (!more)
        return 0;
    e->held = more;
    e->held_cap = cap;
    return 1;
}

/* Reads the host's socket once and makes a frame of what it gave.  Returns 1 with a frame in out, 0
 * where there was nothing; -errno for an error of the socket.  e->why says when the lease ended. */
int lane_send(struct lane *l, struct lease *e, double now, struct frame *out)
{
    uint32_t flight = e->snd_nxt - e->snd_una;
    uint32_t wnd = e->snd_wnd < e->cwnd ? e->snd_wnd : e->cwnd;
    uint32_t room = wnd > flight ? wnd - flight : 0;
    uint32_t want = HELD_FIRST;

    if (want > room)
        want = room;
    if (flight + want > HELD_MAX)
        want = flight < HELD_MAX ? HELD_MAX - flight : 0;
    if (e->why != LEASE_GOES_ON || !want || !make_room(e, flight, want)) {
        end(e, LEASE_BULK);
        return 0;
    }
    ssize_t got;
    do
        got = recv(e->fd, e->held + e->held_at + flight, want, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got == 0)
        end(e, LEASE_HOST_EOF);
    if (got <= 0)
        return got == 0 || errno == EAGAIN ? 0 : -errno;
    if ((uint32_t)got == want) /* there may be more: let it flow */
        end(e, LEASE_BULK);
    emit(l, e, out, e->held + e->held_at + flight, (uint32_t)got, now);
    e->snd_nxt += (uint32_t)got;
    e->bytes_out += (uint64_t)got;
    e->data_out++;
    e->last_send = now;
    if (e->timed_at == 0) {
        e->timed_at = now;
        e->timed_end = e->snd_nxt;
    }
    fly(l, e, now);
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

/* Makes the acknowledgements that are due (those of `port` only; `*made` of them in out), and ends
 * the leases whose data stayed unacknowledged for too long, up to `max` of them in `ended`. */
uint32_t lane_expire(struct lane *l, double now, struct frame *out, uint32_t *ports, uint32_t room,
                     uint32_t *made, struct lease **ended, uint32_t max)
{
    uint32_t n = 0;
    double next = 0;

    *made = 0;
    while (l->acks_first && l->acks_first->t_ack <= now && *made < room) {
        ports[*made] = l->acks_first->port;
        emit(l, l->acks_first, out + (*made)++, NULL, 0, now);
    }
    if (!l->flying || l->rtx_at > now)
        return 0;
    for (struct lease *e = l->flying; e; e = e->fly_next) {
        if (e->t_rtx <= now && n < max) {
            end(e, LEASE_TIMEOUT);
            ended[n++] = e;
        } else if (next == 0 || e->t_rtx < next) {
            next = e->t_rtx;
        }
    }
    l->rtx_at = next;
    return n;
}
