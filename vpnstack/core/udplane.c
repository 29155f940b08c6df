/* The express lane of forwarded datagrams: what has a route passes here, the rest is Python's.
 *
 * Theory of operation.  Python decides once for each pair of ends and enters a route (udptable.c).
 * Up, the datagrams of a burst become messages, one sendmmsg() for each socket; equal ones that
 * follow each other on a route are one message that the kernel segments (UDP_SEGMENT, udp(7)).
 * Down, one recvmmsg() fills a burst.  Whatever has no route, is not plain, or was refused by the
 * socket is left to Python, which knows about fragments, errors and neighbours. */
#include "udplane.h"

#include <errno.h>
#include <netinet/udp.h>

#define PIECES_MAX 1000   /* of one message, below IOV_MAX */
#define PAYLOAD_MAX 65507 /* of one message: what IPv4 can say */
#define SEGMENTS_MAX 64   /* the kernel's UDP_MAX_SEGMENTS, in its older versions */

/* --- up: from the guest ---------------------------------------------------------------------- */

/* A whole datagram to us as a router, without anything that only Python knows about. */
static int plain(const struct frame *f, const uint8_t *mac)
{
    return f->verdict == FRAME_OK && f->proto == 17 && f->l4 && !f->is_frag && f->vlan == 0xffff &&
           f->ttl >= 2 && f->sport && f->data_len <= PAYLOAD_MAX &&
           f->l4 - f->l3 == (f->ip_version == 4 ? 20 : 40) && memcmp(f->head, mac, 6) == 0;
}

static uint32_t size_of(const struct frame *f)
{
    return f->vnet.gso_type != VNET_GSO_NONE ? f->vnet.gso_size : f->data_len;
}

static uint32_t segments_of(const struct frame *f)
{
    uint32_t size = size_of(f);

    return f->data_len > size ? (f->data_len + size - 1) / size : 1;
}

/* May the frame be the end of the message?  Only the last segment may be shorter. */
static int fits(const struct udp_lane *l, const struct message *m, const struct frame *f)
{
    uint32_t size = size_of(f), n = segments_of(f);

    return l->segments && !m->ended && !m->route->whole_only && f->data_len &&
           (size == m->size || (n == 1 && f->data_len < m->size)) &&
           n <= SEGMENTS_MAX - m->segments && f->data_len <= PAYLOAD_MAX - m->octets &&
           f->iovcnt <= PIECES_MAX - m->pieces;
}

static void assign(struct udp_lane *l, struct route *e, const struct frame *f, uint8_t i)
{
    uint32_t n = segments_of(f);
    struct message *m = e->open ? l->messages + (e->open - 1) : NULL;

    if (n > 1 && (!l->segments || e->whole_only || n > SEGMENTS_MAX))
        return;
    if (m && fits(l, m, f)) {
        l->chain[m->last] = i;
    } else {
        m = l->messages + l->messages_n++;
        e->open = (uint8_t)l->messages_n;
        memset(m, 0, sizeof *m);
        m->route = e;
        m->size = size_of(f);
        m->first = i;
    }
    m->last = i;
    m->octets += f->data_len;
    m->segments += n;
    m->pieces += f->iovcnt;
    m->ended = !f->data_len || f->data_len % m->size != 0;
}

/* Refers to the payload; returns the pieces. */
static uint32_t refer(const struct frame *f, struct iovec *out)
{
    uint32_t off = f->data, n = f->data_len, k = 0;

    for (unsigned i = 0; i < f->iovcnt && n; i++) {
        size_t len = f->iov[i].iov_len;
        if (off >= len) {
            off -= (uint32_t)len;
            continue;
        }
        size_t take = len - off < n ? len - off : n;
        out[k].iov_base = (uint8_t *)f->iov[i].iov_base + off;
        out[k++].iov_len = take;
        n -= (uint32_t)take;
        off = 0;
    }
    return k;
}

/* Fills header `h` with a message whose pieces go to `out`; returns how many there are. */
static uint32_t build(struct udp_lane *l, const struct frame *frames, const struct message *m,
                      uint32_t h, struct iovec *out)
{
    struct msghdr *msg = &l->hdrs[h].msg_hdr;
    uint32_t k = 0;
    uint8_t i = m->first;

    for (;; i = l->chain[i]) {
        k += refer(frames + i, out + k);
        if (i == m->last)
            break;
    }
    memset(msg, 0, sizeof *msg);
    msg->msg_name = &m->route->to;
    msg->msg_namelen = m->route->to_len;
    msg->msg_iov = out;
    msg->msg_iovlen = k;
    if (m->segments > 1) {
        uint16_t size = (uint16_t)m->size;
        struct cmsghdr *c = (struct cmsghdr *)l->control[h].buf;
        c->cmsg_level = IPPROTO_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof size);
        memcpy(CMSG_DATA(c), &size, sizeof size);
        msg->msg_control = c;
        msg->msg_controllen = CMSG_SPACE(sizeof size);
    }
    return k;
}

static void was_sent(struct udp_lane *l, struct frame *frames, struct message *m, double now)
{
    for (uint8_t i = m->first;; i = l->chain[i]) {
        frames[i].verdict = FRAME_TAKEN;
        if (i == m->last)
            break;
    }
    m->route->mapping->questions += m->segments;
    route_used(l, m->route, now);
}

/* What a socket refuses stays Python's: it sends it again, and tells the guest why. */
static void was_refused(struct message *m, int code)
{
    if (m->segments > 1 && (code == EINVAL || code == EIO || code == EMSGSIZE))
        m->route->whole_only = 1; /* a device without checksums, or a smaller MTU on the way */
}

/* Sends messages first..., those that share its socket. */
static uint32_t send_alike(struct udp_lane *l, struct frame *frames, uint32_t first, double now)
{
    struct message *which[BURST];
    struct udp_mapping *mapping = l->messages[first].route->mapping;
    uint32_t n = 0, k = 0, at = 0, sent = 0;

    for (uint32_t i = first; i < l->messages_n; i++) {
        struct message *m = l->messages + i;
        if (m->route->mapping != mapping || !m->route->open)
            continue;
        k += build(l, frames, m, n, l->pieces + k);
        which[n++] = m;
    }
    while (at < n) {
        int got = sendmmsg(mapping->fd, l->hdrs + at, n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            was_refused(which[at++], errno);
        for (int i = 0; i < got; i++) {
            sent += which[at]->segments;
            was_sent(l, frames, which[at++], now);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        which[i]->route->open = 0;
    return sent;
}

/* Takes what has a route out of a parsed burst that came through `port`; those frames become
 * FRAME_TAKEN, *datagrams counts them (a super-datagram as many).  Returns how many frames are left
 * for Python. */
uint32_t udplane_receive(struct udp_lane *l, struct frame *frames, uint32_t n, const uint8_t *mac,
                         uint32_t port, double now, uint32_t *datagrams)
{
    uint32_t left = 0;

    *datagrams = 0;
    l->messages_n = 0;
    for (uint32_t i = 0; i < n && i < BURST; i++) {
        struct route *e;
        struct frame *f = frames + i;
        if (plain(f, mac) && (e = route_find(l, f->src)) && e->mapping->port == port &&
            memcmp(f->head + 6, e->mapping->mac, 6) == 0)
            assign(l, e, f, (uint8_t)i);
    }
    for (uint32_t i = 0; i < l->messages_n; i++)
        if (l->messages[i].route->open)
            *datagrams += send_alike(l, frames, i, now);
    for (uint32_t i = 0; i < n; i++)
        left += frames[i].verdict < FRAME_MERGED;
    return left;
}

/* --- down: to the guest ---------------------------------------------------------------------- */

static void prepare(struct udp_lane *l)
{
    for (uint32_t i = 0; i < BURST; i++) {
        struct msghdr *msg = &l->hdrs[i].msg_hdr;
        l->pieces[i].iov_base = l->slots + (size_t)i * SLOT;
        l->pieces[i].iov_len = SLOT;
        msg->msg_name = l->names + i;
        msg->msg_namelen = sizeof l->names[i];
        msg->msg_iov = l->pieces + i;
        msg->msg_iovlen = 1;
        msg->msg_control = l->control[i].buf;
        msg->msg_controllen = sizeof l->control[i].buf;
        msg->msg_flags = 0;
    }
}

/* The octets of each datagram in what the kernel joined (UDP_GRO, udp(7)). */
static uint32_t joined_size(struct msghdr *msg, uint32_t len)
{
    struct cmsghdr *c = CMSG_FIRSTHDR(msg);
    int size = 0;

    if (c && c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
        memcpy(&size, CMSG_DATA(c), sizeof size);
    return size > 0 && (uint32_t)size < len ? (uint32_t)size : len;
}

/* Notes what message `i` is; 0 for an address of no family that we know. */
static int note(const struct udp_lane *l, uint32_t i, struct udp_stray *s)
{
    const struct mmsghdr *h = l->hdrs + i;
    const struct sockaddr_in6 *six = l->names + i;
    const struct sockaddr_in *four = (const struct sockaddr_in *)six;

    s->data = l->slots + (size_t)i * SLOT;
    s->len = h->msg_len;
    s->size = joined_size((struct msghdr *)&h->msg_hdr, s->len);
    if (six->sin6_family == AF_INET6) {
        s->version = 6;
        s->port = ntohs(six->sin6_port);
        memcpy(s->addr, &six->sin6_addr, 16);
        return 1;
    }
    memset(s->addr, 0, 10);
    memset(s->addr + 10, 0xff, 2);
    memcpy(s->addr + 12, &four->sin_addr, 4);
    s->version = 4;
    s->port = ntohs(four->sin_port);
    return four->sin_family == AF_INET;
}

/* Makes the frame of a datagram, or of several that the link or the port segments. */
static void to_guest(const struct route *e, const struct udp_stray *s, struct frame *out)
{
    frame_emit_udp(out, e->tmpl, e->tmpl_len, s->data, s->len);
    if (s->size < s->len && out->len) {
        out->vnet.gso_type = VNET_GSO_UDP_L4;
        out->vnet.gso_size = (uint16_t)s->size;
    }
}

/* Reads a mapping's socket once.  Frames of datagrams whose peer has a route and that fit into `mtu`
 * (0: none does) are made in `out`, the others are told in `strays`; both have room for 64, refer to
 * memory of the lane and are good until its next call.  *datagrams counts those in `out`.  Returns
 * how many messages there were, or -errno. */
int udplane_read(struct udp_lane *l, struct udp_mapping *m, uint32_t mtu, double now,
                 struct frame *out, uint32_t *made, struct udp_stray *strays, uint32_t *strays_n,
                 uint32_t *datagrams)
{
    int got;
    uint8_t key[40];

    *made = *strays_n = *datagrams = 0;
    prepare(l);
    do
        got = recvmmsg(m->fd, l->hdrs, BURST, MSG_DONTWAIT, NULL);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == EAGAIN ? 0 : -errno;
    for (int i = 0; i < got; i++) {
        struct udp_stray *s = strays + *strays_n;
        struct route *e = NULL;
        if (!note(l, (uint32_t)i, s))
            continue;
        route_down_key(key, m, s->addr, s->port);
        if (s->size + (s->version == 4 ? 28u : 48u) <= mtu)
            e = route_find(l, key);
        if (!e) {
            ++*strays_n;
            continue;
        }
        to_guest(e, s, out + (*made)++);
        uint32_t n = s->len > s->size ? (s->len + s->size - 1) / s->size : 1;
        *datagrams += n;
        m->answers += n;
        route_used(l, e, now);
    }
    return got;
}
