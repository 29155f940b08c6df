/* Parsing of received frames: Ethernet, 802.1Q, ARP, IPv4, IPv6 with its extension headers, TCP,
 * UDP, ICMP.  Everything is read from f->head, a private copy: the frame itself may lie in memory
 * that a guest writes to at any moment.  Only checksums of payloads read the frame again. */
#include "ext.h"
#include "head.h"

#define SEGMENTS_MAX 1024 /* a guest's gso_size of 1 must not cost us 65,000 frames */

uint32_t frame_read(const struct frame *f, uint32_t off, void *dst, uint32_t n)
{
    return frame_copy(f, off, dst, n);
}

/* virtio 1.2, 5.1.6.3.2: offload fields come from the peer and are believed only inside the frame. */
static int vnet_ok(struct frame *f)
{
    const struct vnet_hdr *h = &f->vnet;
    uint8_t gso = h->gso_type & (uint8_t)~VNET_GSO_ECN;

    if (h->flags & VNET_NEEDS_CSUM) {
        uint32_t at = (uint32_t)h->csum_start + h->csum_offset;
        if (at > f->len || f->len - at < 2)
            return 0;
        have(f, at, 2); /* a tunnel's inner checksum is completed in the copy (segment.c) */
    }
    if (gso == VNET_GSO_NONE)
        return h->gso_type == VNET_GSO_NONE; /* ECN alone means nothing */
    return (gso == VNET_GSO_TCPV4 || gso == VNET_GSO_TCPV6 || gso == VNET_GSO_UDP_L4) &&
           (h->flags & VNET_NEEDS_CSUM) && h->gso_size != 0;
}

/* Once the headers are known: the checksum field is the transport's own, or one inside the payload
 * (a tunnel's).  Anywhere else, completing it would rewrite addresses that were already checked. */
static int csum_fits(const struct frame *f)
{
    uint16_t field = f->proto == 6 ? 16 : f->proto == 17 ? 6 : 2;

    if (!(f->vnet.flags & VNET_NEEDS_CSUM) || f->vnet.csum_start >= f->data)
        return 1;
    return f->l4 && f->vnet.csum_start == f->l4 && f->vnet.csum_offset == field;
}

static int gso_fits(const struct frame *f)
{
    if (f->vnet.gso_size && f->data_len / f->vnet.gso_size > SEGMENTS_MAX &&
        f->vnet.gso_type != VNET_GSO_NONE)
        return 0;
    switch (f->vnet.gso_type & (uint8_t)~VNET_GSO_ECN) {
    case VNET_GSO_NONE:
        return 1;
    case VNET_GSO_TCPV4:
        return f->ip_version == 4 && f->proto == 6 && f->l4 && f->vnet.csum_start == f->l4;
    case VNET_GSO_TCPV6:
        return f->ip_version == 6 && f->proto == 6 && f->l4 && f->vnet.csum_start == f->l4;
    default:
        return f->proto == 17 && f->l4 && f->vnet.csum_start == f->l4;
    }
}

static int l4_csum_ok(const struct frame *f, uint32_t l4_len)
{
    if (f->vnet.flags & (VNET_NEEDS_CSUM | VNET_DATA_VALID))
        return 1; /* never left the machine, or was checked: the header vouches */
    uint16_t sum = f->proto == 1 ? 0 : csum_pseudo(f, l4_len);
    return csum_frame(f, f->l4, l4_len, sum) == 0xffff;
}

static void parse_tcp_options(struct frame *f, uint32_t off, uint32_t end)
{
    while (off < end) {
        uint8_t kind = f->head[off];
        if (kind == 0)
            return;
        if (kind == 1) {
            off++;
            continue;
        }
        /* RFC 9293 3.1: a length that is too short or runs past the header ends the list. */
        if (end - off < 2 || f->head[off + 1] < 2 || f->head[off + 1] > end - off) {
            f->opts |= TCPOPT_BAD;
            return;
        }
        uint8_t len = f->head[off + 1];
        const uint8_t *p = f->head + off + 2;
        if (kind == 2 && len == 4) {
            f->mss = be16(p);
            f->opts |= TCPOPT_MSS;
        } else if (kind == 3 && len == 3) {
            f->wscale = p[0];
            f->opts |= TCPOPT_WSCALE;
        } else if (kind == 4 && len == 2) {
            f->opts |= TCPOPT_SACK_PERMITTED;
        } else if (kind == 8 && len == 10) {
            f->tsval = be32(p);
            f->tsecr = be32(p + 4);
            f->opts |= TCPOPT_TIMESTAMP;
        } else if (kind == 5 && len >= 10 && (len - 2) % 8 == 0) {
            f->sack_n = (uint8_t)((len - 2) / 8 > FRAME_SACK_MAX ? FRAME_SACK_MAX : (len - 2) / 8);
            for (unsigned i = 0; i < 2u * f->sack_n; i++)
                f->sack[i] = be32(p + 4 * i);
            f->opts |= TCPOPT_SACK;
        }
        off += len;
    }
}

static enum frame_verdict parse_tcp(struct frame *f, uint32_t l4_len)
{
    const uint8_t *p = f->head + f->l4;

    if (l4_len < 20 || !have(f, f->l4, 20))
        return FRAME_BAD_L4;
    uint32_t doff = (uint32_t)(p[12] >> 4) * 4;
    if (doff < 20 || doff > l4_len || !have(f, f->l4, doff))
        return FRAME_BAD_L4;
    f->sport = be16(p);
    f->dport = be16(p + 2);
    f->seq = be32(p + 4);
    f->ack = be32(p + 8);
    f->tcp_flags = be16(p + 12) & 0x1ff;
    f->wnd = be16(p + 14);
    f->urg = be16(p + 18);
    f->data = (uint16_t)(f->l4 + doff);
    f->data_len = l4_len - doff;
    if (!f->sport || !f->dport) /* RFC 6335 6: reserved, nobody can be there */
        return FRAME_BAD_L4;
    parse_tcp_options(f, f->l4 + 20u, f->data);
    return l4_csum_ok(f, l4_len) ? FRAME_OK : FRAME_BAD_L4_CSUM;
}

static enum frame_verdict parse_udp(struct frame *f, uint32_t l4_len)
{
    const uint8_t *p = f->head + f->l4;

    if (l4_len < 8 || !have(f, f->l4, 8))
        return FRAME_BAD_L4;
    uint32_t len = be16(p + 4);
    if (len < 8 || len > l4_len)
        return FRAME_BAD_L4;
    f->sport = be16(p);
    f->dport = be16(p + 2);
    f->data = f->l4 + 8;
    f->data_len = len - 8;
    if (!f->dport) /* RFC 6335 6; a source of 0 means that no answer is wanted (RFC 768) */
        return FRAME_BAD_L4;
    if (be16(p + 6) == 0) /* RFC 768: not computed; RFC 8200 8.1: not allowed */
        return f->ip_version == 4 ? FRAME_OK : FRAME_BAD_L4_CSUM;
    return l4_csum_ok(f, len) ? FRAME_OK : FRAME_BAD_L4_CSUM;
}

static enum frame_verdict parse_icmp(struct frame *f, uint32_t l4_len)
{
    const uint8_t *p = f->head + f->l4;

    if (l4_len < 8 || !have(f, f->l4, 8))
        return FRAME_BAD_L4;
    f->sport = be16(p); /* type and code */
    f->dport = be16(p + 4);
    f->data = f->l4 + 8;
    f->data_len = l4_len - 8;
    return l4_csum_ok(f, l4_len) ? FRAME_OK : FRAME_BAD_L4_CSUM;
}

static enum frame_verdict parse_l4(struct frame *f, uint32_t off, uint32_t end)
{
    f->l4 = (uint16_t)off;
    f->data = (uint16_t)off;
    f->data_len = end - off;
    if (f->proto == 6)
        return parse_tcp(f, end - off);
    if (f->proto == 17)
        return parse_udp(f, end - off);
    if (f->proto == (f->ip_version == 4 ? 1 : 58))
        return parse_icmp(f, end - off);
    return FRAME_OK;
}

/* RFC 1122 3.2.1.3: addresses that never stand on a wire as source or destination. */
static int ipv4_addrs_ok(const uint8_t *src, const uint8_t *dst)
{
    if (src[0] == 127 || dst[0] == 127 || src[0] >= 224 || dst[0] == 0)
        return 0;
    return src[0] != 0 || be32(src) == 0;
}

/* RFC 791 3.1: the header with its checksum sums to all ones; nearly always it has 20 bytes. */
static int ipv4_csum_ok(const uint8_t *p, uint32_t ihl)
{
    uint32_t w[5];

    if (ihl != sizeof w)
        return csum_partial(p, ihl, 0) == 0xffff;
    memcpy(w, p, sizeof w);
    uint64_t sum = (uint64_t)w[0] + w[1] + w[2] + w[3] + w[4];
    return sum && sum % 0xffff == 0; /* modulo 65,535 a word is worth the sum of its halves */
}

static enum frame_verdict parse_ipv4(struct frame *f)
{
    const uint8_t *p = f->head + f->l3;
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

    if (!have(f, f->l3, 20))
        return FRAME_SHORT;
    uint32_t ihl = (uint32_t)(p[0] & 15) * 4, total = be16(p + 2);
    if (p[0] >> 4 != 4 || ihl < 20 || total < ihl || total > f->len - f->l3 || !have(f, f->l3, ihl))
        return FRAME_BAD_IP;
    f->ip_version = 4;
    if (!ipv4_csum_ok(p, ihl))
        return FRAME_BAD_IP_CSUM;
    f->tos = p[1];
    f->ip_len = total;
    f->ip_id = be16(p + 4);
    f->ttl = p[8];
    f->proto = f->key_proto = p[9];
    memcpy(f->src, mapped, 12);
    memcpy(f->src + 12, p + 12, 4);
    memcpy(f->dst, mapped, 12);
    memcpy(f->dst + 12, p + 16, 4);
    if (!ipv4_addrs_ok(p + 12, p + 16))
        return FRAME_BAD_ADDR;
    uint16_t frag = be16(p + 6);
    if (frag & 0x3fff) {
        f->is_frag = 1;
        f->frag_more = frag >> 13 & 1;
        f->frag_off = (uint16_t)((frag & 0x1fff) * 8);
        f->data = (uint16_t)(f->l3 + ihl);
        f->data_len = total - ihl;
        return FRAME_OK;
    }
    return parse_l4(f, f->l3 + ihl, f->l3 + total);
}

/* RFC 4291 2.5, 2.7: no multicast source, no loopback, no IPv4-mapped address on a wire. */
static int ipv6_addrs_ok(const uint8_t *src, const uint8_t *dst)
{
    static const uint8_t loop[16] = {[15] = 1}, none[16] = {0};
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    return src[0] != 0xff && memcmp(src, loop, 16) && memcmp(dst, loop, 16) &&
           memcmp(src, mapped, 12) && memcmp(dst, mapped, 12) &&
           memcmp(dst, none, 16);
}

static enum frame_verdict parse_ipv6(struct frame *f)
{
    const uint8_t *p = f->head + f->l3;

    if (!have(f, f->l3, 40))
        return FRAME_SHORT;
    uint32_t total = 40u + be16(p + 4);
    if (p[0] >> 4 != 6 || total > f->len - f->l3)
        return FRAME_BAD_IP;
    f->ip_version = 6;
    f->tos = (uint8_t)(p[0] << 4 | p[1] >> 4);
    f->ip_len = total;
    f->ttl = p[7];
    memcpy(f->src, p + 8, 16);
    memcpy(f->dst, p + 24, 16);
    if (!ipv6_addrs_ok(f->src, f->dst))
        return FRAME_BAD_ADDR;
    uint32_t off = f->l3 + 40u, end = f->l3 + total;
    uint8_t next = p[6];
    for (unsigned n = 0; next == 0 || next == 43 || next == 44 || next == 60; n++) {
        if (n == EXT_MAX)
            return FRAME_BAD_EXT;
        if (next == 0 && n != 0) /* RFC 8200 4.1: hop-by-hop stands first or not at all */
            return param_problem(f, 1, off);
        enum frame_verdict v = ext_header(f, &off, end, &next);
        if (v != FRAME_OK)
            return v;
        if (f->is_frag)
            break;
    }
    f->proto = f->key_proto = next;
    f->data = (uint16_t)off;
    f->data_len = end - off;
    if (f->is_frag || next == 59)
        return FRAME_OK;
    return parse_l4(f, off, end);
}

/* Do the pieces hold the `len` bytes that the port promised? */
static int whole(const struct frame *f)
{
    uint64_t sum = 0;

    if (f->iovcnt > FRAME_IOV_MAX)
        return 0;
    for (unsigned i = 0; i < f->iovcnt; i++)
        sum += f->iov[i].iov_len;
    return sum >= f->len;
}

static enum frame_verdict parse(struct frame *f)
{
    if (f->len < 14 || f->len > FRAME_LEN_MAX || f->head_len < 14)
        return FRAME_SHORT;
    if (!whole(f))
        return FRAME_SHORT;
    if (!vnet_ok(f))
        return FRAME_BAD_VNET;
    f->ethertype = be16(f->head + 12);
    f->l3 = 14;
    if (f->ethertype == 0x8100) {
        if (f->head_len < 18)
            return FRAME_SHORT;
        f->vlan = be16(f->head + 14);
        f->ethertype = be16(f->head + 16);
        f->l3 = 18;
    }
    f->data = f->l3;
    f->data_len = f->len - f->l3;
    enum frame_verdict v = FRAME_OK;
    if (f->ethertype == 0x0800)
        v = parse_ipv4(f);
    else if (f->ethertype == 0x86dd)
        v = parse_ipv6(f);
    if (v == FRAME_OK && !(csum_fits(f) && gso_fits(f)))
        v = FRAME_BAD_VNET;
    return v;
}

/* Clears what parsing fills, but the SACK blocks, which sack_n counts: as vectors, because for a
 * size like this compilers choose string instructions, which take longer to start than this takes. */
static void clear(struct frame *f)
{
    typedef uint64_t pair __attribute__((vector_size(16), aligned(8), may_alias));
    const size_t from = offsetof(struct frame, verdict), to = offsetof(struct frame, sack);
    pair *p = (pair *)(void *)((uint8_t *)f + from);

    _Static_assert(offsetof(struct frame, verdict) % 8 == 0, "aligned as the vectors are");
    _Static_assert(offsetof(struct frame, sack) - offsetof(struct frame, verdict) == 6 * 16 + 8,
                   "six vectors and a half");
    p[0] = p[1] = p[2] = p[3] = p[4] = p[5] = (pair){0, 0}; /* a loop would become one again */
    memset((uint8_t *)f + to - 8, 0, 8);
    f->vlan = 0xffff;
    f->param_code = 0xff;
}

#define AHEAD 3 /* frames: about what a miss takes */

void frame_parse_burst(struct frame *frames, uint32_t n)
{
    for (uint32_t i = 0; i < n && i < AHEAD; i++)
        head_hint(frames + i);
    for (uint32_t i = 0; i < n; i++) {
        struct frame *f = frames + i;
        if (n - i > AHEAD)
            head_hint(f + AHEAD);
        clear(f);
        if (!(f->iovcnt && f->iov[0].iov_base == f->head)) /* else it was built here */
            head_take(f);
        f->verdict = (uint16_t)parse(f);
    }
}
