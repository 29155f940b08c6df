/* What the two halves of the datagrams' lane share: udptable.c, the routes, and udplane.c. */
#ifndef VPNSTACK_UDPLANE_H
#define VPNSTACK_UDPLANE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* recvmmsg, sendmmsg */
#endif
#include "core.h"

#include <netinet/in.h>
#include <sys/socket.h>

#define BURST 64
#define SLOT 65536 /* for one datagram, or what the kernel joined */

struct route {
    struct udp_ring use, sibling; /* all routes, and those of the mapping; the latest used first */
    struct route *next;           /* in its bucket */
    struct udp_mapping *mapping;
    uint8_t key[40];
    uint8_t tmpl[104];            /* down */
    uint32_t tmpl_len;
    struct sockaddr_in6 to;       /* up */
    uint32_t to_len;
    uint8_t whole_only;           /* the kernel does not segment on this way */
    uint8_t open;                 /* 1 + its latest message in this burst */
};

struct message {
    struct route *route;
    uint32_t size, octets, segments, pieces;
    uint8_t first, last;  /* frames, chained by udp_lane.chain */
    uint8_t ended;
};

struct udp_lane {
    struct route *pool, *spare, **buckets;
    struct udp_ring use;
    uint32_t mask, per_mapping, numbers;
    uint64_t seed;
    uint8_t segments; /* the kernel has UDP_SEGMENT */
    struct message messages[BURST];
    uint32_t messages_n;
    uint8_t chain[BURST];
    struct mmsghdr hdrs[BURST];
    struct iovec pieces[BURST * FRAME_IOV_MAX];
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control[BURST];
    struct sockaddr_in6 names[BURST];
    uint8_t *slots;
};

struct route *route_find(const struct udp_lane *l, const uint8_t *key);
void route_used(struct udp_lane *l, struct route *e, double now);
void route_down_key(uint8_t *key, const struct udp_mapping *m, const uint8_t *addr, uint16_t port);

#endif
