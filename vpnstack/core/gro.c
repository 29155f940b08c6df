/* Generic receive offload: consecutive segments of a flow within one burst become one frame, as the
 * kernel's does (Documentation/networking/segmentation-offloads).  Whatever would tell the receiver
 * more than the sum says ends a run: a gap, other flags, acknowledgements, windows, timestamps or
 * ECN marks, any option but timestamps, a segment shorter than the first.
 *
 * The first frame of a run takes the payloads of the others by reference and says what size they
 * had (gso_size); those others become FRAME_MERGED and own their buffers until rx_done(). */
#include "core.h"

#define OPEN_MAX 8 /* runs of different flows at once */
#define ACK 16
#define PSH 8
#define PAYLOAD_MAX 65475 /* below 64 KiB with the longest headers */

static uint32_t size_of(const struct frame *f)
{
    return f->vnet.gso_type != VNET_GSO_NONE ? f->vnet.gso_size : f->data_len;
}

/* A data segment that says nothing special, in a frame without padding. */
static int plain(const struct frame *f, const uint8_t *mac)
{
    return f->verdict == FRAME_OK && f->ip_version && f->proto == 6 && f->l4 && f->data_len &&
           (f->tcp_flags & ~PSH) == ACK && !(f->opts & ~TCPOPT_TIMESTAMP) &&
           f->len == f->data + f->data_len && !(f->vnet.gso_type & VNET_GSO_ECN) &&
           f->l4 - f->l3 == (f->ip_version == 4 ? 20 : 40) && /* no IP options, no extensions */
           f->data - f->l4 == (f->opts ? 32 : 20) && memcmp(f->head, mac, 6) == 0;
}

static int same_run(const struct frame *h, const struct frame *f)
{
    return memcmp(h->src, f->src, 40) == 0 && h->ack == f->ack && h->wnd == f->wnd &&
           h->tos == f->tos && h->vlan == f->vlan && h->ttl == f->ttl && h->opts == f->opts &&
           h->tsval == f->tsval && h->tsecr == f->tsecr && h->data == f->data &&
           f->seq == h->seq + h->data_len && memcmp(h->head + 6, f->head + 6, 6) == 0;
}

/* May something follow `f`?  Not behind a short last segment.  PSH ends no run: our receivers are
 * told of all data at once (RFC 9293 3.9.1), and senders of tiny segments set it on each. */
static int goes_on(const struct frame *f)
{
    return f->data_len % size_of(f) == 0;
}

/* Appends the payload of f to h; 0 where its pieces or octets do not fit. */
static int append(struct frame *h, const struct frame *f)
{
    uint32_t off = f->data, n = f->data_len;
    unsigned k = h->iovcnt;

    if (n > PAYLOAD_MAX - h->data_len)
        return 0;
    for (unsigned i = 0; i < f->iovcnt && n; i++) {
        size_t len = f->iov[i].iov_len;
        if (off >= len) {
            off -= (uint32_t)len;
            continue;
        }
        size_t take = len - off < n ? len - off : n;
        if (k == FRAME_IOV_MAX)
            return 0;
        h->iov[k].iov_base = (uint8_t *)f->iov[i].iov_base + off;
        h->iov[k++].iov_len = take;
        n -= (uint32_t)take;
        off = 0;
    }
    if (n)
        return 0;
    h->iovcnt = (uint16_t)k;
    return 1;
}

static int merge(struct frame *h, struct frame *f)
{
    uint32_t size = size_of(h);

    if (!same_run(h, f) || size_of(f) > size || (size_of(f) < size && f->data_len > size_of(f)) ||
        size > UINT16_MAX || !append(h, f))
        return 0;
    h->vnet.flags = VNET_DATA_VALID;
    h->vnet.gso_type = h->ip_version == 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
    h->vnet.gso_size = (uint16_t)size;
    h->len += f->data_len;
    h->ip_len += f->data_len;
    h->data_len += f->data_len;
    h->tcp_flags |= f->tcp_flags;
    f->verdict = FRAME_MERGED;
    return 1;
}

/* Coalesces the parsed frames for the station `mac` in place; returns how many were merged away. */
uint32_t frame_coalesce(struct frame *frames, uint32_t n, const uint8_t *mac)
{
    struct frame *open[OPEN_MAX];
    unsigned used = 0, next = 0;
    uint32_t merged = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct frame *f = frames + i;
        unsigned k = 0;
        if (f->proto != 6 || !f->ip_version)
            continue;
        while (k < used && memcmp(open[k]->src, f->src, 40) != 0)
            k++;
        int fits = plain(f, mac);
        if (k < used && fits && merge(open[k], f)) {
            merged++;
            if (!goes_on(open[k]))
                open[k] = open[--used];
        } else if (fits && goes_on(f)) {
            if (k == used)
                k = used < OPEN_MAX ? used++ : next++ % OPEN_MAX;
            open[k] = f;
        } else if (k < used) { /* what comes after it must not overtake it */
            open[k] = open[--used];
        }
    }
    return merged;
}
