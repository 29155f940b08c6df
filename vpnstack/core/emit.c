/* Building of transmitted frames.  A flow has a template: Ethernet and IP headers and the two
 * ports, with every other field zero but version, DSCP, TTL and protocol.  Checksums of the
 * transport are left to the link (virtio 1.2, 5.1.6.2): the field holds the pseudo-header's sum. */
#include "core.h"

static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

/* The headers that we build: no IPv6 extensions, lengths that IP can say (RFC 8200 3, RFC 791 3.1). */
static int template_ok(const uint8_t *t, uint32_t len, uint32_t l4_len)
{
    if (len < 38 || len > 100)
        return 0;
    uint32_t l3 = t[12] == 0x81 && t[13] == 0 ? 18 : 14;
    if (len < l3 + 24)
        return 0;
    uint32_t ip_len = len - 4 - l3;
    if (t[l3] >> 4 == 4)
        return ip_len == (t[l3] & 15u) * 4 && l4_len <= 65535 - ip_len;
    return t[l3] >> 4 == 6 && ip_len == 40 && l4_len <= 65535;
}

/* A frame that cannot be: ports send nothing for it. */
static void nothing(struct frame *f)
{
    f->len = 0;
    f->iovcnt = 0;
    f->head_len = 0;
    memset(&f->vnet, 0, sizeof f->vnet);
}

static void note_ip(struct frame *f)
{
    const uint8_t *ip = f->head + f->l3;

    if (f->ip_version == 4) {
        f->src[10] = f->src[11] = f->dst[10] = f->dst[11] = 0xff;
        memcpy(f->src + 12, ip + 12, 4);
        memcpy(f->dst + 12, ip + 16, 4);
        f->proto = ip[9];
        f->ttl = ip[8];
        f->tos = ip[1];
        f->ip_id = (uint32_t)(ip[4] << 8 | ip[5]);
    } else {
        memcpy(f->src, ip + 8, 16);
        memcpy(f->dst, ip + 24, 16);
        f->proto = ip[6];
        f->ttl = ip[7];
        f->tos = (uint8_t)(ip[0] << 4 | ip[1] >> 4);
    }
    f->key_proto = f->proto;
}

/* Copies the template, notes what parsing would, writes the IP lengths; l4_len has header and data. */
static void begin(struct frame *f, const void *tmpl, uint32_t tmpl_len, uint32_t l4_len)
{
    const size_t from = offsetof(struct frame, verdict), to = offsetof(struct frame, head);
    uint8_t *h = f->head;

    memset((uint8_t *)f + from, 0, to - from); /* what a frame before this one left */
    memset(&f->vnet, 0, sizeof f->vnet);
    memset(h + tmpl_len, 0, 60);
    memcpy(h, tmpl, tmpl_len);
    f->param_code = 0xff;
    f->vlan = 0xffff;
    f->l3 = 14;
    if (h[12] == 0x81 && h[13] == 0) {
        f->vlan = (uint16_t)(h[14] << 8 | h[15]);
        f->l3 = 18;
    }
    f->ethertype = (uint16_t)(h[f->l3 - 2] << 8 | h[f->l3 - 1]);
    f->l4 = (uint16_t)(tmpl_len - 4); /* the template ends with the ports */
    f->sport = (uint16_t)(h[f->l4] << 8 | h[f->l4 + 1]);
    f->dport = (uint16_t)(h[f->l4 + 2] << 8 | h[f->l4 + 3]);
    uint8_t *ip = h + f->l3;
    f->ip_version = ip[0] >> 4;
    f->ip_len = f->l4 - f->l3 + l4_len;
    note_ip(f);
    if (f->ip_version == 6) {
        put16(ip + 4, l4_len);
        return;
    }
    put16(ip + 2, f->ip_len);
    ip[10] = ip[11] = 0;
    uint16_t sum = (uint16_t)~csum_partial(ip, f->l4 - f->l3, 0);
    memcpy(ip + 10, &sum, 2);
}

/* Points the pieces at headers and payload and asks the link for the checksum. */
static void finish(struct frame *f, uint32_t head_len, const void *data, uint32_t data_len,
                   uint32_t csum_offset)
{
    uint16_t sum = csum_pseudo(f, head_len - f->l4 + data_len);

    memcpy(f->head + f->l4 + csum_offset, &sum, 2);
    f->vnet.flags = VNET_NEEDS_CSUM;
    f->vnet.csum_start = f->l4;
    f->vnet.csum_offset = (uint16_t)csum_offset;
    f->vnet.hdr_len = (uint16_t)head_len;
    f->head_len = (uint16_t)head_len;
    f->data = (uint16_t)head_len;
    f->data_len = data_len;
    f->len = head_len + data_len;
    f->iov[0].iov_base = f->head;
    f->iov[0].iov_len = head_len;
    f->iov[1].iov_base = (void *)data;
    f->iov[1].iov_len = data_len;
    f->iovcnt = data_len ? 2 : 1;
}

void frame_emit_tcp(struct frame *f, const void *tmpl, uint32_t tmpl_len, uint32_t seq,
                    uint32_t ack, uint16_t flags, uint16_t wnd, uint16_t urg, const void *opts,
                    uint32_t opts_len, const void *data, uint32_t data_len, uint16_t gso_size)
{
    if (opts_len > 40 || opts_len % 4 || data_len > 65535 ||
        !template_ok(tmpl, tmpl_len, 20 + opts_len + data_len)) {
        nothing(f);
        return;
    }
    begin(f, tmpl, tmpl_len, 20 + opts_len + data_len);
    uint8_t *tcp = f->head + f->l4;
    put32(tcp + 4, seq);
    put32(tcp + 8, ack);
    put16(tcp + 12, (5 + opts_len / 4) << 12 | (flags & 0x1ff));
    put16(tcp + 14, wnd);
    put32(tcp + 16, urg);
    if (opts_len)
        memcpy(tcp + 20, opts, opts_len);
    f->seq = seq;
    f->ack = ack;
    f->tcp_flags = flags & 0x1ff;
    f->wnd = wnd;
    f->urg = urg;
    finish(f, f->l4 + 20u + opts_len, data, data_len, 16);
    if (gso_size && gso_size < data_len) {
        f->vnet.gso_type = f->ip_version == 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
        f->vnet.gso_size = gso_size;
    }
}

void frame_emit_udp(struct frame *f, const void *tmpl, uint32_t tmpl_len, const void *data,
                    uint32_t data_len)
{
    if (data_len > 65535 || !template_ok(tmpl, tmpl_len, 8 + data_len)) {
        nothing(f);
        return;
    }
    begin(f, tmpl, tmpl_len, 8 + data_len);
    put16(f->head + f->l4 + 4, 8 + data_len);
    finish(f, f->l4 + 8u, data, data_len, 6);
}
