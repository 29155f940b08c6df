/* The guest's side of the express lane: what is the next in order goes to the host's socket.
 *
 * The data segments of a lease that follow each other in a burst, its run, go there with one
 * sendmsg.  What the socket does not take is kept (lanering.c) and the lease is `full` until
 * lane_drain() got rid of it; the window shrinks by as much, so the guest stops by itself. */
#include "lane.h"

#include <errno.h>
#include <sys/socket.h>

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
        if (!lane_keep(l, e, (uint8_t *)p->iov_base + off, (uint32_t)p->iov_len - off)) {
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
            lane_look(l->became, e);
        e->full = 1;
    }
    if (done + kept < e->run_octets) { /* dead, or no memory: Python finds out which */
        lane_end(e, LEASE_HOST_FULL);
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
        lane_landed(l, e);
        if (!e->hungry)
            lane_drop_ring(l, e);
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
        lane_end(e, LEASE_UNEXPECTED);
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
        lane_end(e, LEASE_WINDOW);

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
        lane_emit(l, e, out + (*made)++, NULL, 0, ACK, now);
    else /* Python takes the debt over with the lease, if something makes it do so in time */
        lane_owe_ack(l, e, now + e->delack);
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
            memcmp(f->head, mac, 6) != 0 || !(e = lane_find(l, f)) || e->port != port)
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
            lane_queue(l, l->touched[i]);
    for (uint32_t i = 0; i < n; i++) {
        left += frames[i].verdict < FRAME_MERGED;
        if (frames[i].verdict == FRAME_TAKEN) {
            b->taken++;
            b->segments += wire_segments(frames + i);
        }
    }
    return left;
}
