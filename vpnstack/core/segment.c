/* Segmentation and checksums in software, for links that cannot: TCP by RFC 9293 with the rules
 * of large-send offload (flags FIN and PSH on the last piece only, CWR on the first, IPv4
 * identification counting up), UDP by equal datagrams.  Needs a frame that was parsed or built
 * here: headers are taken from `head`, payload pieces are referred to and not copied. */
#include "core.h"

#define OFFLOAD_CSUM 1
#define OFFLOAD_TSO4 2
#define OFFLOAD_TSO6 4
#define OFFLOAD_USO 8

static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The offload bits that this frame needs from a link. */
static uint32_t needs(const struct frame *f)
{
    uint32_t bits = f->vnet.flags & VNET_NEEDS_CSUM ? OFFLOAD_CSUM : 0;

    switch (f->vnet.gso_type & (uint8_t)~VNET_GSO_ECN) {
    case VNET_GSO_TCPV4:
        return bits | OFFLOAD_TSO4;
    case VNET_GSO_TCPV6:
        return bits | OFFLOAD_TSO6;
    case VNET_GSO_UDP_L4:
        return bits | OFFLOAD_USO;
    default:
        return bits;
    }
}

/* What `offload` lacks; segmentation without checksums is of no use (virtio 1.2, 5.1.3.1). */
static uint32_t lacks(const struct frame *f, uint32_t offload)
{
    return needs(f) & ~(offload & OFFLOAD_CSUM ? offload : 0u);
}

/* Is there something to send: a frame that could not be built has no length (emit.c)? */
static int sendable(const struct frame *f)
{
    size_t sum = 0;

    if (!f->len || !f->iovcnt || f->iovcnt > FRAME_IOV_MAX)
        return 0;
    for (unsigned i = 0; i < f->iovcnt; i++)
        sum += f->iov[i].iov_len;
    return sum == f->len;
}

int frame_needs(const struct frame *frames, uint32_t n, uint32_t offload)
{
    for (uint32_t i = 0; i < n; i++)
        if (lacks(frames + i, offload) || !sendable(frames + i))
            return 1;
    return 0;
}

/* Refers out's pieces behind the header to bytes [off, off + n) of in. */
static int refer(struct frame *out, const struct frame *in, uint32_t off, uint32_t n)
{
    out->iovcnt = 1;
    out->iov[0].iov_base = out->head;
    out->iov[0].iov_len = out->head_len;
    out->len = out->head_len + n;
    for (unsigned i = 0; i < in->iovcnt && n; i++) {
        size_t len = in->iov[i].iov_len;
        if (off >= len) {
            off -= (uint32_t)len;
            continue;
        }
        uint32_t take = (uint32_t)(len - off);
        if (take > n)
            take = n;
        if (out->iovcnt == FRAME_IOV_MAX)
            return -1;
        out->iov[out->iovcnt].iov_base = (uint8_t *)in->iov[i].iov_base + off;
        out->iov[out->iovcnt++].iov_len = take;
        n -= take;
        off = 0;
    }
    return n ? -1 : 0;
}

/* Writes the transport checksum of `out`, whose field holds the pseudo-header's sum. */
static int complete(struct frame *out)
{
    uint32_t start = out->vnet.csum_start, at = start + out->vnet.csum_offset;

    /* Padding behind the packet is no part of its sum. */
    uint32_t end = out->l4 && start == out->l4 ? out->data + out->data_len : out->len;
    if (at + 2 > out->head_len || end > out->len)
        return -1;
    uint16_t sum = (uint16_t)~csum_frame(out, start, end - start, 0);
    if (sum == 0 && out->vnet.csum_offset == 6)
        sum = 0xffff; /* RFC 768: zero would mean that there is none */
    memcpy(out->head + at, &sum, 2);
    memset(&out->vnet, 0, sizeof out->vnet);
    out->vnet.flags = VNET_DATA_VALID;
    return 0;
}

/* The addresses and offsets that csum_pseudo() and later readers of a segment go by. */
static void inherit(struct frame *out, const struct frame *in, uint32_t head_len)
{
    const size_t from = offsetof(struct frame, verdict), to = offsetof(struct frame, head);

    memcpy((uint8_t *)out + from, (const uint8_t *)in + from, to - from);
    memcpy(out->head, in->head, head_len);
    out->head_len = (uint16_t)head_len;
    out->vnet = in->vnet;
    out->token = in->token;
}

static void number(struct frame *out, uint32_t index, uint32_t l4_len)
{
    uint8_t *ip = out->head + out->l3;

    out->ip_len = out->l4 - out->l3 + l4_len;
    if (out->ip_version == 6) {
        put16(ip + 4, out->l4 - out->l3 - 40u + l4_len);
        return;
    }
    put16(ip + 2, out->l4 - out->l3 + l4_len);
    put16(ip + 4, (uint32_t)(ip[4] << 8 | ip[5]) + index);
    out->ip_id = (uint32_t)(ip[4] << 8 | ip[5]);
    ip[10] = ip[11] = 0;
    uint16_t sum = (uint16_t)~csum_partial(ip, out->l4 - out->l3, 0);
    memcpy(ip + 10, &sum, 2);
}

/* Segment `off` of the payload of `in`; returns the bytes it took, 0 when it cannot be made. */
static uint32_t segment(const struct frame *in, uint32_t off, struct frame *out)
{
    uint32_t size = in->vnet.gso_size, left = in->data_len - off, n = left < size ? left : size;
    uint32_t index = off / size;

    inherit(out, in, in->data);
    uint8_t *l4 = out->head + out->l4;
    uint32_t l4_len = in->data - in->l4 + n;
    number(out, index, l4_len);
    if (in->proto == 6) {
        uint32_t seq = get32(l4 + 4) + off;
        put16(l4 + 4, seq >> 16);
        put16(l4 + 6, seq);
        if (n < left)
            l4[13] &= (uint8_t)~(1 | 8);
        if (index)
            l4[13] &= (uint8_t)~0x80;
        out->seq = seq;
        out->tcp_flags = (uint16_t)((l4[12] & 1) << 8 | l4[13]);
    } else {
        put16(l4 + 4, l4_len);
    }
    uint16_t sum = csum_pseudo(out, l4_len);
    memcpy(l4 + out->vnet.csum_offset, &sum, 2);
    out->data_len = n;
    if (refer(out, in, in->data + off, n) < 0 || complete(out) < 0)
        return 0;
    return n;
}

/* The same frame again, its pieces still those of `in`. */
static int alias(const struct frame *in, struct frame *out)
{
    inherit(out, in, in->head_len);
    out->len = in->len;
    out->iovcnt = in->iovcnt;
    memcpy(out->iov, in->iov, sizeof in->iov[0] * in->iovcnt);
    if (in->iov[0].iov_base == in->head)
        out->iov[0].iov_base = out->head;
    return 1;
}

uint32_t frame_soften(const struct frame *in, uint32_t offload, uint32_t *cursor,
                      struct frame *out, uint32_t max)
{
    uint32_t missing = lacks(in, offload), made = 0, off = *cursor;

    *cursor = 0;
    if (!max || !sendable(in))
        return 0;
    if (!missing)
        return (uint32_t)alias(in, out);
    /* The checksum field must lie where the protocol has it: a guest chose these numbers. */
    uint32_t field = in->proto == 6 ? 16 : 6;
    int gso = (missing & ~OFFLOAD_CSUM) != 0 && in->data_len > in->vnet.gso_size;
    if (gso && (in->vnet.csum_start != in->l4 || in->vnet.csum_offset != field || !in->l4 ||
                !in->vnet.gso_size || in->data > in->head_len))
        return 0;
    if (!gso) {
        uint32_t head = in->head_len;
        inherit(out, in, head);
        if (in->vnet.csum_start >= in->len || refer(out, in, head, in->len - head) < 0)
            return 0;
        return complete(out) < 0 ? 0 : 1;
    }
    while (made < max && off < in->data_len) {
        uint32_t n = segment(in, off, out + made);
        if (!n) { /* the next call finds this segment again, makes nothing, and the port counts */
            *cursor = made ? off : 0;
            return made;
        }
        off += n;
        made++;
    }
    *cursor = off < in->data_len ? off : 0;
    return made;
}

/* Softens frames[*at .. n) into out until it is full; *at and *cursor, 0 at first, say where to go
 * on.  Frames that cannot be sent are added to *dropped.  Returns how many of out it filled. */
uint32_t frame_soften_burst(const struct frame *in, uint32_t n, uint32_t offload, uint32_t *at,
                            uint32_t *cursor, struct frame *out, uint32_t max, uint32_t *dropped)
{
    uint32_t count = 0;

    while (*at < n && count < max) {
        uint32_t made = frame_soften(in + *at, offload, cursor, out + count, max - count);
        count += made;
        *dropped += !made;
        *at += *cursor == 0;
    }
    return count;
}
