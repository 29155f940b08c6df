/* The routes of the datagrams' lane (udplane.c), one a direction and pair of ends: up, from a guest's
 * endpoint and a destination to an address of the host's network; down, from a peer of the host's
 * network to the headers that the guest shall see.
 *
 * They live in one pool, so a guest that speaks with everybody takes the place of the routes that
 * were used longest ago, first of all its own; a route that is gone costs one turn through Python. */
#include "udplane.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <unistd.h>

#define DOWN_PROTO 254 /* in a key: no packet of UDP has it */

/* --- rings and the table -------------------------------------------------------------------- */

static void ring_init(struct udp_ring *r) { r->newer = r->older = r; }

static void ring_remove(struct udp_ring *r)
{
    r->newer->older = r->older;
    r->older->newer = r->newer;
    ring_init(r);
}

/* `head->older` is the latest, `head->newer` the one that was used longest ago. */
static void ring_latest(struct udp_ring *head, struct udp_ring *r)
{
    if (head->older == r)
        return;
    ring_remove(r);
    r->newer = head;
    r->older = head->older;
    head->older->newer = r;
    head->older = r;
}

static struct route *by_use(struct udp_ring *r)
{
    return (struct route *)((uint8_t *)r - offsetof(struct route, use));
}

static struct route *by_sibling(struct udp_ring *r)
{
    return (struct route *)((uint8_t *)r - offsetof(struct route, sibling));
}

static int kernel_segments(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), value = 0;
    socklen_t len = sizeof value;
    int ok = fd >= 0 && getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &value, &len) == 0;

    if (fd >= 0)
        close(fd);
    return ok;
}

/* `routes` is a power of two and bounds the routes, `per_mapping` those of one mapping. */
struct udp_lane *udplane_new(uint32_t routes, uint32_t per_mapping, uint64_t seed)
{
    struct udp_lane *l = calloc(1, sizeof *l);

    if (!l || !routes || routes & (routes - 1) || !per_mapping) {
        free(l);
        return NULL;
    }
    l->pool = calloc(routes, sizeof *l->pool);
    l->buckets = calloc(routes, sizeof *l->buckets);
    l->slots = malloc((size_t)BURST * SLOT); /* pages come as datagrams do */
    if (!l->pool || !l->buckets || !l->slots) {
        udplane_free(l);
        return NULL;
    }
    for (uint32_t i = routes; i-- > 0;) {
        l->pool[i].next = l->spare;
        l->spare = l->pool + i;
    }
    ring_init(&l->use);
    l->mask = routes - 1;
    l->per_mapping = per_mapping;
    l->seed = seed;
    l->segments = (uint8_t)kernel_segments();
    return l;
}

void udplane_free(struct udp_lane *l)
{
    if (!l)
        return;
    free(l->pool);
    free(l->buckets);
    free(l->slots);
    free(l);
}

/* Keyed, as guests and their peers choose what is hashed. */
static uint32_t bucket_of(const struct udp_lane *l, const uint8_t *key)
{
    uint64_t h = l->seed, w;

    for (unsigned i = 0; i < 40; i += 8) {
        memcpy(&w, key + i, 8);
        unsigned __int128 p = (unsigned __int128)(h ^ w ^ 0x9e3779b97f4a7c15u) * (l->seed | 1);
        h = (uint64_t)p ^ (uint64_t)(p >> 64);
    }
    return (uint32_t)(h >> 32) & l->mask;
}

struct route *route_find(const struct udp_lane *l, const uint8_t *key)
{
    struct route *e = l->buckets[bucket_of(l, key)];

    while (e && memcmp(e->key, key, 40) != 0)
        e = e->next;
    return e;
}

static void forget(struct udp_lane *l, struct route *e)
{
    struct route **at = &l->buckets[bucket_of(l, e->key)];

    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    ring_remove(&e->use);
    ring_remove(&e->sibling);
    e->mapping->routes--;
    e->mapping = NULL;
    e->next = l->spare;
    l->spare = e;
}

void route_used(struct udp_lane *l, struct route *e, double now)
{
    ring_latest(&l->use, &e->use);
    ring_latest(&e->mapping->ring, &e->sibling);
    e->mapping->used = now;
}

/* Returns the route that `key` has, with what was learnt about the way, or makes room for one. */
static struct route *enter(struct udp_lane *l, struct udp_mapping *m, const uint8_t *key)
{
    struct route *e = route_find(l, key);

    if (e && e->mapping == m)
        return e;
    if (e)
        forget(l, e);
    if (m->routes >= l->per_mapping)
        forget(l, by_sibling(m->ring.newer));
    if (!l->spare)
        forget(l, by_use(l->use.newer));
    e = l->spare;
    l->spare = e->next;
    memset(e, 0, sizeof *e);
    memcpy(e->key, key, 40);
    ring_init(&e->use);
    ring_init(&e->sibling);
    e->mapping = m;
    m->routes++;
    ring_latest(&l->use, &e->use);
    ring_latest(&m->ring, &e->sibling);
    struct route **at = &l->buckets[bucket_of(l, key)];
    e->next = *at;
    *at = e;
    return e;
}

/* Prepares a mapping, whose memory is Python's until udplane_drop(). */
void udplane_admit(struct udp_lane *l, struct udp_mapping *m)
{
    ring_init(&m->ring);
    m->routes = 0;
    m->number = ++l->numbers;
}

/* Forgets all routes of a mapping. */
void udplane_drop(struct udp_lane *l, struct udp_mapping *m)
{
    while (m->routes)
        forget(l, by_sibling(m->ring.newer));
}

/* Somebody took a port of ours: what a guest sends to it goes there; an address of NULL is any. */
void udplane_bound(struct udp_lane *l, const uint8_t *addr, uint16_t port)
{
    struct udp_ring *r = l->use.newer, *next;

    for (; r != &l->use; r = next) {
        struct route *e = by_use(r);
        uint16_t dport;
        next = r->newer;
        memcpy(&dport, e->key + 34, 2);
        if (e->to_len && dport == port && (!addr || memcmp(e->key + 16, addr, 16) == 0))
            forget(l, e);
    }
}

static const uint8_t MAPPED[12] = {[10] = 0xff, [11] = 0xff};

/* From frames with this key to `addr` (IPv4 as ::ffff:a.b.c.d) and `port` (host order). */
void udplane_up(struct udp_lane *l, struct udp_mapping *m, const uint8_t *key, const uint8_t *addr,
                uint16_t port)
{
    struct route *e = enter(l, m, key);

    memset(&e->to, 0, sizeof e->to);
    if (memcmp(addr, MAPPED, 12) == 0) {
        struct sockaddr_in *to = (struct sockaddr_in *)&e->to;
        to->sin_family = AF_INET;
        to->sin_port = htons(port);
        memcpy(&to->sin_addr, addr + 12, 4);
        e->to_len = sizeof *to;
    } else {
        e->to.sin6_family = AF_INET6;
        e->to.sin6_port = htons(port);
        memcpy(&e->to.sin6_addr, addr, 16);
        e->to_len = sizeof e->to;
    }
}

void route_down_key(uint8_t *key, const struct udp_mapping *m, const uint8_t *addr, uint16_t port)
{
    memset(key, 0, 40);
    memcpy(key, addr, 16);
    memcpy(key + 16, &m->number, 4);
    memcpy(key + 32, &port, 2);
    key[36] = DOWN_PROTO;
}

/* From `addr` and `port` to the mapping's guest, behind the headers of a template (emit.c). */
int udplane_down(struct udp_lane *l, struct udp_mapping *m, const uint8_t *addr, uint16_t port,
                 const void *tmpl, uint32_t tmpl_len)
{
    uint8_t key[40];
    struct route *e;

    if (tmpl_len > sizeof e->tmpl)
        return -EINVAL;
    route_down_key(key, m, addr, port);
    e = enter(l, m, key);
    memcpy(e->tmpl, tmpl, tmpl_len);
    e->tmpl_len = tmpl_len;
    return 0;
}
