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

/* Copies the template, notes the offsets and writes the IP lengths; l4_len covers header and data. */
static void begin(struct frame *f, const void *tmpl, uint32_t tmpl_len, uint32_t l4_len)
{
    uint8_t *h = f->head;

    memcpy(h, tmpl, tmpl_len);
    memset(&f->vnet, 0, sizeof f->vnet);
    f->vlan = 0xffff;
    f->l3 = h[12] == 0x81 && h[13] == 0 ? 18 : 14;
    f->l4 = (uint16_t)(tmpl_len - 4); /* the template ends with the ports */
    uint8_t *ip = h + f->l3;
    f->ip_version = ip[0] >> 4;
    if (f->ip_version == 4) {
        f->proto = ip[9];
        memcpy(f->src + 12, ip + 12, 4);
        memcpy(f->dst + 12, ip + 16, 4);
        put16(ip + 2, f->l4 - f->l3 + l4_len);
        ip[10] = ip[11] = 0;
        uint16_t sum = (uint16_t)~csum_partial(ip, f->l4 - f->l3, 0);
        memcpy(ip + 10, &sum, 2);
    } else {
        f->proto = ip[6];
        memcpy(f->src, ip + 8, 16);
        memcpy(f->dst, ip + 24, 16);
        put16(ip + 4, l4_len);
    }
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
    if (tmpl_len < 38 || tmpl_len > 100 || opts_len > 40 || opts_len % 4)
        return;
    begin(f, tmpl, tmpl_len, 20 + opts_len + data_len);
    uint8_t *tcp = f->head + f->l4;
    put32(tcp + 4, seq);
    put32(tcp + 8, ack);
    put16(tcp + 12, (5 + opts_len / 4) << 12 | (flags & 0x1ff));
    put16(tcp + 14, wnd);
    put32(tcp + 16, urg);
    memcpy(tcp + 20, opts, opts_len);
    finish(f, f->l4 + 20u + opts_len, data, data_len, 16);
    if (gso_size && gso_size < data_len) {
        f->vnet.gso_type = f->ip_version == 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
        f->vnet.gso_size = gso_size;
    }
}

void frame_emit_udp(struct frame *f, const void *tmpl, uint32_t tmpl_len, const void *data,
                    uint32_t data_len)
{
    if (tmpl_len < 38 || tmpl_len > 100)
        return;
    begin(f, tmpl, tmpl_len, 8 + data_len);
    put16(f->head + f->l4 + 4, 8 + data_len);
    finish(f, f->l4 + 8u, data, data_len, 6);
}
