/* virtio-net on split queues (virtio 1.2, 5.1.6): frames out of the driver's transmit queues
 * without a copy, and into its receive queues with one. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "frame.h"
#include "vring_internal.h"

#define ETH_LEN 14
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_VLAN 0x8100

static uint64_t total(const struct iovec *iov, uint32_t n)
{
    uint64_t sum = 0; /* at most VQ_IOV_MAX lengths below 2^32: no overflow */
    for (uint32_t i = 0; i < n; i++)
        sum += iov[i].iov_len;
    return sum;
}

/* Copies the first `n` bytes out of the pieces and moves them past; they hold that many. */
static void take(struct iovec **iov, uint32_t *count, void *dst, size_t n)
{
    uint8_t *out = dst;
    while (n) {
        size_t len = (*iov)->iov_len < n ? (*iov)->iov_len : n;
        memcpy(out, (*iov)->iov_base, len);
        out += len;
        n -= len;
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
        (*iov)->iov_len -= len;
        if ((*iov)->iov_len == 0) {
            (*iov)++;
            (*count)--;
        }
    }
}

/* Gathers the pieces from FRAME_IOV_MAX - 1 on in the arena, which has room (vq_tx_pop). */
static void merge(struct vq *q, struct frame *f, const struct iovec *iov, uint32_t n)
{
    uint8_t *start = q->arena + q->arena_used, *at = start;
    memcpy(f->iov, iov, (FRAME_IOV_MAX - 1) * sizeof *iov);
    for (uint32_t i = FRAME_IOV_MAX - 1; i < n; i++) {
        memcpy(at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    f->iov[FRAME_IOV_MAX - 1] = (struct iovec){start, (size_t)(at - start)};
    f->iovcnt = FRAME_IOV_MAX;
    q->arena_used += (uint32_t)(at - start);
    q->merged++;
}

/* Makes a frame of the chain in q->iov; returns 0 for one that cannot be a frame. */
static int frame_from_chain(struct vq *q, struct frame *f, uint64_t bytes)
{
    struct iovec *iov = q->iov;
    uint32_t n = q->iovcnt;
    if (bytes < (uint64_t)q->hdr_len + ETH_LEN || bytes - q->hdr_len > FRAME_LEN_MAX)
        return 0;
    f->len = (uint32_t)(bytes - q->hdr_len);
    f->head_len = 0;
    if (q->hdr_len == sizeof f->vnet && iov->iov_len > sizeof f->vnet) {
        memcpy(&f->vnet, iov->iov_base, sizeof f->vnet);
        iov->iov_base = (uint8_t *)iov->iov_base + sizeof f->vnet;
        iov->iov_len -= sizeof f->vnet;
        if (n == 1) {
            f->iov[0] = *iov;
            f->iovcnt = 1;
            return 1;
        }
    } else {
        memset(&f->vnet, 0, sizeof f->vnet);
        take(&iov, &n, &f->vnet, q->hdr_len);
    }
    if (n > FRAME_IOV_MAX) {
        merge(q, f, iov, n);
    } else {
        memcpy(f->iov, iov, n * sizeof *iov);
        f->iovcnt = (uint16_t)n;
    }
    return 1;
}

/* A hash that both directions of a flow share: addresses and ports are folded by xor. */
static uint8_t flow_hash(const struct frame *f)
{
    uint8_t b[64] = {0};
    uint32_t n = frame_copy(f, 0, b, sizeof b), h = 0, at = ETH_LEN;
    uint16_t type = (uint16_t)(b[12] << 8 | b[13]);
    if (type == ETHERTYPE_VLAN) {
        type = (uint16_t)(b[16] << 8 | b[17]);
        at += 4;
    }
    uint32_t first, last, ports;
    if (type == ETHERTYPE_IPV4) {
        int fragment = (b[at + 6] & 0x3f) | b[at + 7];
        first = at + 12;
        last = at + 20;
        ports = fragment ? sizeof b : at + 4 * (b[at] & 15);
    } else if (type == ETHERTYPE_IPV6) {
        first = at + 8;
        last = at + 40;
        ports = at + 40;
    } else {
        return 0;
    }
    for (uint32_t i = first; i + 4 <= last && i + 4 <= n; i += 4) {
        uint32_t word;
        memcpy(&word, b + i, sizeof word);
        h ^= word;
    }
    if (ports + 4 <= n)
        h ^= (uint32_t)((b[ports] ^ b[ports + 2]) << 8 | (b[ports + 1] ^ b[ports + 3])) * 0x10001u;
    return (uint8_t)((h * 2654435761u) >> 24);
}

static uint32_t steer_of(const struct hv_steer *steer, const struct frame *f)
{
    uint32_t pair = steer->pair[flow_hash(f)];
    return pair < steer->pairs ? pair : 0;
}

/* The queue pair that frame `index` goes to. */
uint32_t hv_steer_pair(struct hv_steer *steer, uintptr_t frames, uint32_t index)
{
    const struct frame *f = (const struct frame *)frames + index;
    return steer->pairs > 1 ? steer_of(steer, f) : 0;
}

/* Refers `out`, which has room for them all, to the frames[from .. count) that go to `pair`; returns
 * how many there are.  Their pieces stay those of `frames`. */
uint32_t hv_steer_select(struct hv_steer *steer, uintptr_t frames, uint32_t from, uint32_t count,
                         uint32_t pair, uintptr_t out)
{
    const struct frame *f = (const struct frame *)frames;
    struct frame *o = (struct frame *)out;
    uint32_t made = 0;
    for (; from < count; from++)
        if (hv_steer_pair(steer, frames, from) == pair)
            memcpy(&o[made++], &f[from], offsetof(struct frame, verdict));
    return made;
}

/* Fills frames[at .. capacity) with what the driver transmitted; returns the new fill.  The
 * frames point into guest memory until vq_publish().  A chain that is no frame is given back and
 * counted.  Stops early at a full burst, an empty or a broken queue. */
uint32_t vq_tx_pop(struct vq *q, uintptr_t frames, uint32_t at, uint32_t capacity,
                   struct hv_steer *steer, uint32_t pair)
{
    struct frame *f = (struct frame *)frames;
    for (uint32_t seen = 0; at < capacity && seen < VQ_SIZE_MAX && vq_ready(q); seen++) {
        uint16_t head;
        q->iovcnt = 0;
        vq_hint(q, 0);
        if (q->pending >= q->size || vq_walk(q, &head, 0))
            break;
        uint64_t bytes = total(q->iov, q->iovcnt);
        if (q->iovcnt > FRAME_IOV_MAX && bytes <= (uint64_t)FRAME_LEN_MAX + q->hdr_len &&
            bytes > VQ_ARENA - q->arena_used)
            break; /* no room to merge it in this burst; the next one starts with it */
        q->last_avail++;
        vq_used_put(q, head, 0);
        if (!frame_from_chain(q, &f[at], bytes)) {
            q->dropped++;
            continue;
        }
        f[at].token = (uint64_t)pair << 16 | head;
        q->frames++;
        q->octets += f[at].len;
        if (steer && steer->pairs > 1 && !steer->held)
            steer->pair[flow_hash(&f[at])] = (uint8_t)pair;
        at++;
    }
    return at;
}

/* Where vq_rx_push stands in the driver's pieces. */
struct sink {
    struct iovec *iov;
    size_t at;
};

/* The pieces hold the bytes: they were counted before. */
static void pour(struct sink *s, const void *src, size_t n)
{
    const uint8_t *in = src;
    while (n) {
        size_t room = s->iov->iov_len - s->at;
        size_t len = room < n ? room : n;
        memcpy((uint8_t *)s->iov->iov_base + s->at, in, len);
        in += len;
        n -= len;
        s->at += len;
        if (s->at == s->iov->iov_len) {
            s->iov++;
            s->at = 0;
        }
    }
}

static void frame_into_chains(struct vq *q, const struct frame *f, uint16_t buffers)
{
    struct sink s = {q->iov, 0};
    struct vnet_hdr h = f->vnet;
    h.num_buffers = buffers;
    if (!q->guest_csum)
        h.flags = 0; /* 5.1.6.4.1: no flag without GUEST_CSUM */
    if (!q->guest_ecn)
        h.gso_type &= (uint8_t)~VNET_GSO_ECN;
    if (q->iovcnt == 1) { /* as drivers have it: a buffer for a frame */
        uint8_t *to = q->iov[0].iov_base;
        memcpy(to, &h, q->hdr_len);
        to += q->hdr_len;
        for (uint32_t i = 0; i < f->iovcnt; i++) {
            memcpy(to, f->iov[i].iov_base, f->iov[i].iov_len);
            to += f->iov[i].iov_len;
        }
        return;
    }
    pour(&s, &h, q->hdr_len);
    for (uint32_t i = 0; i < f->iovcnt; i++)
        pour(&s, f->iov[i].iov_base, f->iov[i].iov_len);
}

enum push { PUSH_OK, PUSH_WAIT, PUSH_DROP };

/* Takes as many chains as `need` bytes want, writes their used elements, and counts them in
 * `buffers`.  On PUSH_WAIT and PUSH_DROP everything is as it was. */
static enum push reserve(struct vq *q, uint64_t need, uint16_t *buffers)
{
    uint16_t last_avail = q->last_avail, pending = q->pending, head;
    enum push why = PUSH_WAIT;
    uint64_t have = 0;
    q->iovcnt = 0;
    *buffers = 0;
    while (q->pending < q->size && vq_ready(q)) {
        uint32_t before = q->iovcnt;
        vq_hint(q, 1);
        if (before > VQ_IOV_MAX - VQ_CHAIN_MAX) {
            why = PUSH_DROP; /* buffers of a few bytes: no frame is worth that */
            break;
        }
        if (vq_walk(q, &head, 1))
            break;
        uint64_t bytes = total(q->iov + before, q->iovcnt - before);
        uint64_t part = bytes < need - have ? bytes : need - have;
        q->last_avail++;
        vq_used_put(q, head, (uint32_t)part); /* need fits 32 bits */
        have += part;
        ++*buffers;
        if (have == need)
            return PUSH_OK;
        if (!q->mergeable) {
            why = PUSH_DROP; /* the driver's buffers are too small for this frame */
            break;
        }
    }
    if (*buffers && *buffers == q->size)
        why = PUSH_DROP; /* not even the whole ring holds it */
    q->last_avail = last_avail;
    q->pending = pending;
    return why;
}

/* Copies frames[from .. count) that belong on `pair` into the driver's buffers, publishes them and
 * notifies once; returns the index of the first that found no room, `count` when all went. */
uint32_t vq_rx_push(struct vq *q, uintptr_t frames, uint32_t from, uint32_t count,
                    struct hv_steer *steer, uint32_t pair)
{
    const struct frame *f = (const struct frame *)frames;
    for (; from < count; from++) {
        if (steer && steer->pairs > 1 && steer_of(steer, &f[from]) != pair)
            continue;
        uint64_t len = total(f[from].iov, f[from].iovcnt);
        if (len != f[from].len || len > FRAME_LEN_MAX) {
            q->dropped++;
            continue;
        }
        uint16_t buffers;
        enum push result = reserve(q, len + q->hdr_len, &buffers);
        if (result == PUSH_WAIT)
            break;
        if (result == PUSH_DROP) {
            q->dropped++;
            continue;
        }
        frame_into_chains(q, &f[from], buffers);
        q->frames++;
        q->octets += len;
    }
    vq_publish(q);
    return from;
}

/* Which offloads (bits of vpnstack's Offload: CSUM 1, TSO4 2, TSO6 4, USO 8) the frames need. */
uint32_t hv_frames_need(uintptr_t frames, uint32_t count)
{
    const struct frame *f = (const struct frame *)frames;
    uint32_t need = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (f[i].vnet.flags & VNET_NEEDS_CSUM)
            need |= 1;
        switch (f[i].vnet.gso_type & ~VNET_GSO_ECN) {
        case VNET_GSO_TCPV4: need |= 2; break;
        case VNET_GSO_TCPV6: need |= 4; break;
        case VNET_GSO_UDP:
        case VNET_GSO_UDP_L4: need |= 8; break;
        default: break;
        }
    }
    return need;
}
