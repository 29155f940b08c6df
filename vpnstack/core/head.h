/* The private copy of a frame's headers, f->head: most frames need few bytes of it, and the rest
 * of the 256 would be cache misses.  HEAD_FIRST bytes are taken at once, all when parsing asks for
 * more.  No byte is taken twice, so that a guest cannot change what was already looked at. */
#ifndef VPNSTACK_HEAD_H
#define VPNSTACK_HEAD_H

#include "core.h"

#define HEAD_FIRST 128u /* Ethernet, VLAN, IPv6 and the longest TCP header are 118 */

static inline uint16_t be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t be32(const uint8_t *p)
{
    return (uint32_t)be16(p) << 16 | be16(p + 2);
}

/* Copies the first n bytes; two overlapping copies of a fixed size where they lie in one piece.
 * Of a frame that has no piece left, all: what lies in the head needs none (segment.c). */
static inline void head_take(struct frame *f)
{
    uint32_t most = f->iovcnt == FRAME_IOV_MAX ? FRAME_HEAD_MAX : HEAD_FIRST;
    uint32_t n = f->len < most ? f->len : most;
    const uint8_t *p = f->iov[0].iov_base;

    if (f->iovcnt > FRAME_IOV_MAX) {
        f->head_len = 0;
    } else if (f->iovcnt && f->iov[0].iov_len >= n && n >= 64 && n <= 128) {
        memcpy(f->head, p, 64);
        memcpy(f->head + n - 64, p + n - 64, 64);
        f->head_len = (uint16_t)n;
    } else {
        f->head_len = (uint16_t)frame_copy(f, 0, f->head, n);
    }
}

/* Takes what there is behind the first bytes; says whether `end` bytes are there now. */
static __attribute__((noinline, cold)) int head_more(struct frame *f, uint32_t end)
{
    uint32_t n = f->len < FRAME_HEAD_MAX ? f->len : FRAME_HEAD_MAX, at = f->head_len;

    if (end <= n && at < n && at >= HEAD_FIRST && f->iov[0].iov_base != f->head)
        f->head_len = (uint16_t)(at + frame_copy(f, at, f->head + at, n - at));
    return end <= f->head_len;
}

/* True when bytes [off, off + n) of the frame are in the private copy; both are below 65,536. */
static inline int have(struct frame *f, uint32_t off, uint32_t n)
{
    return off + n <= f->head_len || head_more(f, off + n);
}

/* Has the first bytes of a frame that will be parsed soon brought near. */
static inline void head_hint(const struct frame *f)
{
    if (f->iovcnt) {
        const uint8_t *p = f->iov[0].iov_base; /* a hint: an address that is none does no harm */
        __builtin_prefetch(p);
        __builtin_prefetch(p + 64);
    }
}

#endif
