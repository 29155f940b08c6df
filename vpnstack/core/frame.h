/* The frame contract: the one structure that crosses between ports, core and kits.
 *
 * A frame is a struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6) and an Ethernet frame without FCS that
 * lies in up to FRAME_IOV_MAX pieces.  Whoever receives fills `vnet`, `len`, `iov` and `iovcnt`;
 * frame_parse() then copies the headers into `head` and fills the rest from that private copy, so
 * that a guest that rewrites its memory under us changes nothing that was already checked.
 * Whoever transmits builds the headers in `head`, points iov[0] at them and the other pieces at
 * the payload.  The pieces stay valid from rx_burst() to rx_done() (receive), or during
 * tx_burst() (transmit): a port that cannot send at once makes its own copy.
 *
 * Ports fill and drain arrays of this struct.  Another kit includes this header through
 * vpnstack.get_include(), as users of numpy do.
 */
#ifndef VPNSTACK_FRAME_H
#define VPNSTACK_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#define FRAME_IOV_MAX 20     /* 64 KiB from a Linux guest: 17 page fragments and a linear part */
#define FRAME_HEAD_MAX 256   /* Ethernet 14 + VLAN 4 + IPv6 40 + extensions + TCP 60, with room */
#define FRAME_LEN_MAX 65589  /* IPv6: a payload of 65,535 bytes, its header, and an Ethernet header */
#define FRAME_VNET_LEN 12

#define VNET_NEEDS_CSUM 1
#define VNET_DATA_VALID 2
#define VNET_GSO_NONE 0
#define VNET_GSO_TCPV4 1
#define VNET_GSO_UDP 3
#define VNET_GSO_TCPV6 4
#define VNET_GSO_UDP_L4 5
#define VNET_GSO_ECN 0x80

/* struct virtio_net_hdr_v1, little-endian as on every machine that we run on. */
struct vnet_hdr {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t num_buffers;
};

/* What parsing made of a frame; every value but FRAME_OK is a reason to drop and a counter. */
enum frame_verdict {
    FRAME_OK = 0,
    FRAME_SHORT,          /* a header runs past the end of the frame */
    FRAME_BAD_VNET,       /* offload fields that point outside the frame or contradict it */
    FRAME_BAD_IP,         /* version, header length or total length is wrong */
    FRAME_BAD_IP_CSUM,
    FRAME_BAD_L4,         /* a TCP, UDP or ICMP header is wrong */
    FRAME_BAD_L4_CSUM,
    FRAME_BAD_EXT,        /* an IPv6 extension header chain that is too long or broken */
    FRAME_BAD_ADDR,       /* a source that no host may use (RFC 1122 3.2.1.3, RFC 4291 2.5) */
    FRAME_MERGED,         /* no fault: its payload went to an earlier frame (gro.c) */
    FRAME_TAKEN,          /* no fault: its flow's express lane took it (lane.c) */
    FRAME_VERDICTS
};

/* Bits of frame.opts: which TCP options were present. */
#define TCPOPT_MSS 1
#define TCPOPT_WSCALE 2
#define TCPOPT_SACK_PERMITTED 4
#define TCPOPT_TIMESTAMP 8
#define TCPOPT_SACK 16
#define TCPOPT_BAD 128 /* the option list is malformed; what stands before the fault was taken */

#define FRAME_SACK_MAX 4

struct frame {
    struct vnet_hdr vnet;
    uint32_t len;       /* bytes of the Ethernet frame */
    uint16_t iovcnt;
    uint16_t head_len;  /* bytes valid in `head` */
    uint64_t token;     /* the receiving port's own: which buffer to give back */
    struct iovec iov[FRAME_IOV_MAX];

    /* What parsing found; offsets count from the start of the Ethernet frame. */
    uint16_t verdict;
    uint16_t ethertype;   /* behind a VLAN tag, if there is one */
    uint16_t vlan;        /* tag control information, 0xffff without a tag */
    uint16_t l3;          /* offset of the network header */
    uint16_t l4;          /* offset of the transport header; 0 where there is none (fragments) */
    uint16_t data;        /* offset of the payload behind the deepest header understood */
    uint32_t data_len;    /* bytes of payload, by the network header: padding is not counted */
    uint8_t ip_version;   /* 4, 6 or 0 */
    uint8_t proto;        /* the transport protocol's number, behind any extension headers */
    uint8_t ttl;          /* or hop limit */
    uint8_t tos;          /* or traffic class */
    uint16_t frag_off;    /* in bytes; fragments only */
    uint8_t frag_more;
    uint8_t is_frag;
    uint32_t ip_id;
    uint32_t ip_len;      /* bytes of the whole IP packet */

    /* The flow: addresses in network order (IPv4 as ::ffff:a.b.c.d), ports in host order.  These
     * 40 bytes are a key as they stand. */
    uint8_t src[16];
    uint8_t dst[16];
    uint16_t sport;       /* ICMP: type * 256 + code */
    uint16_t dport;       /* ICMP echo: identifier */
    uint8_t key_proto;
    uint8_t key_pad[3];

    /* TCP */
    uint32_t seq;
    uint32_t ack;
    uint16_t wnd;         /* as on the wire, unscaled */
    uint16_t urg;
    uint16_t tcp_flags;   /* FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128 */
    uint16_t mss;
    uint8_t opts;         /* TCPOPT_* */
    uint8_t wscale;
    uint8_t sack_n;
    uint8_t param_code;   /* FRAME_BAD_EXT: what ICMPv6 Parameter Problem to send, 0xff for none */
    uint32_t param_ptr;   /* ... and where, from the start of the IPv6 header (RFC 4443 3.4) */
    uint32_t tsval;
    uint32_t tsecr;
    uint32_t sack[2 * FRAME_SACK_MAX];  /* left, right, left, right ... */

    uint8_t head[FRAME_HEAD_MAX];
};

/* Copies up to n bytes of a frame from `off` into dst; returns how many there were. */
static inline uint32_t frame_copy(const struct frame *f, uint32_t off, void *dst, uint32_t n)
{
    uint32_t done = 0;
    for (unsigned i = 0; i < f->iovcnt && done < n; i++) {
        size_t len = f->iov[i].iov_len;
        if (off >= len) {
            off -= (uint32_t)len;
            continue;
        }
        size_t take = len - off;
        if (take > n - done)
            take = n - done;
        memcpy((uint8_t *)dst + done, (const uint8_t *)f->iov[i].iov_base + off, take);
        done += (uint32_t)take;
        off = 0;
    }
    return done;
}

#endif
