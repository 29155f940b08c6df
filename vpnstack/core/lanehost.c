/* The host's side of the express lane: what its sockets have leaves for the guests, in turns.
 *
 * The socket's edge is told once (epoll(7)), so whoever reads less than there is has to remember it:
 * `hungry`.  A hungry lease whose turn is over waits in a queue for lane_resume(); one that the
 * windows stop waits for an acknowledgement, which puts it there.  A lease that ends while it is
 * hungry says so to Python, which reads on. */
#include "lane.h"

#include <errno.h>
#include <sys/socket.h>

#define SUPER_MAX 65475 /* payload of a super-segment, whatever its headers */
#define TURN 4          /* super-segments of one flow before the next one's turn */
#define CWND_BULK (1u << 18) /* from here on a congestion window need not grow, nor Python see it */

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
        lane_end(e, LEASE_BULK);
    e->hungry = 1; /* until an acknowledgement comes */
    return 0;
}

static uint32_t ring_space(const struct lease *e)
{
    return e->ring_cap - (e->snd_nxt - e->snd_una);
}

/* Reads up to n octets of the host into the ring; returns recv's result, *want what was asked.  One
 * large read wakes the host's peer once. */
static ssize_t read_host(struct lane *l, struct lease *e, uint32_t n, int bulk, uint32_t *want)
{
    uint32_t ask = n;
    ssize_t got;

    /* A small ring is enough for small answers: it grows when one filled it. */
    if (n > ring_space(e) && !bulk && n > 1u << RING_FIRST)
        ask = 1u << RING_FIRST;
    if (ask > ring_space(e) && !lane_make_ring(l, e, e->snd_nxt - e->snd_una + ask)) {
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
        lane_emit(l, e, out + made++, e->ring + (e->snd_nxt & (e->ring_cap - 1)), part,
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

/* Ends the lease, or not, by what recv() said instead of octets.  An error is told once: Python,
 * which would read an end of the stream behind it, has to hear of it. */
static void read_ended(struct lease *e, ssize_t got, int error)
{
    e->hungry = 0;
    if (got == 0)
        lane_end(e, LEASE_HOST_EOF);
    else if (error == ENOMEM)
        lane_end(e, LEASE_BULK);
    else if (error != EAGAIN)
        lane_end(e, LEASE_HOST_DEAD);
}

/* Makes up to `room` frames of what the host's socket has, at most a turn's worth, and returns how
 * many.  They point into the ring: they have to be sent before the next call for this lease.  e->why
 * says when the lease ended; a flow that has more waits for `lane_resume`. */
uint32_t lane_send(struct lane *l, struct lease *e, double now, struct frame *out, uint32_t room)
{
    uint32_t made = 0, want = 0, n;
    int over = 0, bulk = e->hungry;

    if (room > TURN)
        room = TURN;
    lane_unqueue(l, e);
    e->hungry = 0;
    while (!over && e->why == LEASE_GOES_ON && (n = may_send(e)) > 0) {
        if (n > (room - made) * super_of(e))
            n = (room - made) * super_of(e);
        if (made && n > ring_space(e)) /* it cannot grow below the frames of this turn */
            n = ring_space(e);
        if (n < e->wnd_min && made) {
            over = 1;
            break;
        }
        ssize_t got = read_host(l, e, n, bulk, &want);
        if (got <= 0) {
            read_ended(e, got, errno);
            break;
        }
        e->hungry = (uint32_t)got == want;
        made += send_read(l, e, (uint32_t)got, e->hungry, out + made, now);
        if (!e->hungry)
            break;
        over = made >= room;
    }
    if (made)
        lane_fly(l, e, now);
    if (e->snd_nxt == e->snd_una && !e->hungry)
        lane_drop_ring(l, e);
    if (over && e->why == LEASE_GOES_ON)
        lane_queue(l, e);
    return made;
}

/* How many flows are ready for `lane_resume`, counted up to 64. */
uint32_t lane_waiting(const struct lane *l)
{
    uint32_t n = 0;

    for (const struct lease *e = l->ready.first; e && n < 64; e = e->more_next)
        n++;
    return n;
}

/* Has a flow wait for its turn: its port takes no frames now. */
void lane_wait(struct lane *l, struct lease *e)
{
    e->hungry = 1;
    lane_queue(l, e);
}

/* Goes on with the flows whose turn was over, each once; what is left waits in the same order. */
void lane_resume(struct lane *l, double now, struct frame *out, uint32_t room,
                 struct lane_burst *b)
{
    b->made = b->n_look = 0;
    for (uint32_t n = lane_waiting(l); n && b->made < room; n--) {
        struct lease *e = l->ready.first;
        if (l->stalled[e->port % LANE_PORTS]) {
            lane_unqueue(l, e);
            lane_queue(l, e); /* parks it */
            continue;
        }
        uint32_t got = lane_send(l, e, now, out + b->made, room - b->made);
        while (got--)
            b->ports[b->made++] = e->port;
        if (e->why != LEASE_GOES_ON)
            lane_look(b, e);
    }
}

/* Should the guest hear of the window now?  As send.py's update_due. */
static int update_due(const struct lease *e)
{
    uint32_t wnd = e->rcv_adv - e->rcv_nxt;
    int64_t gain = (int64_t)e->rcv_buf - e->kept_n - wnd;

    if (wnd < 2 * e->rcv_mss)
        return gain >= (e->rcv_buf / 2 < e->rcv_mss ? e->rcv_buf / 2 : e->rcv_mss);
    return gain >= e->rcv_buf / 4;
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
    if (!e->kept_n) {
        lane_drop_kept(l, e);
        e->full = 0;
    }
    if (!update_due(e) && e->ack_bytes < 2 * e->rcv_mss)
        return 0;
    lane_emit(l, e, out, NULL, 0, ACK, now);
    return 1;
}
