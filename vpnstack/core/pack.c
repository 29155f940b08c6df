/* Bursts that wait in memory of our own: for each frame its length, its virtio-net header and its
 * octets, the next one aligned to 8 bytes.  Only frame_pack() writes such a buffer. */
#include "core.h"

#define RECORD 16u /* length 4, virtio-net header 12 */

static uint64_t record_len(uint32_t len)
{
    return (RECORD + (uint64_t)len + 7) & ~(uint64_t)7;
}

/* The bytes that there are of a frame: at most what its pieces hold. */
static uint32_t held(const struct frame *f)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < f->iovcnt; i++)
        sum += f->iov[i].iov_len;
    return sum < f->len ? (uint32_t)sum : f->len;
}

/* How many of the first frames fit where each costs its length and `cost`; takes that off *budget
 * and adds what packing them needs to *bytes. */
uint32_t frame_fit(const struct frame *frames, uint32_t n, uint32_t cost, uint64_t *budget,
                   uint64_t *bytes)
{
    uint32_t i;

    for (i = 0; i < n; i++) {
        const struct frame *f = frames + i;
        if (f->len > FRAME_LEN_MAX || f->iovcnt > FRAME_IOV_MAX)
            break;
        uint32_t len = held(f);
        if ((uint64_t)len + cost > *budget)
            break;
        *budget -= (uint64_t)len + cost;
        *bytes += record_len(f->len);
    }
    return i;
}

/* Copies frames into out until one does not fit; returns the bytes used, *packed the frames. */
uint64_t frame_pack(const struct frame *frames, uint32_t n, void *out, uint64_t cap,
                    uint32_t *packed)
{
    uint64_t at = 0;
    uint32_t i;

    for (i = 0; i < n; i++) {
        const struct frame *f = frames + i;
        uint8_t *p = (uint8_t *)out + at;
        if (f->len > FRAME_LEN_MAX || record_len(f->len) > cap - at)
            break;
        memcpy(p + 4, &f->vnet, FRAME_VNET_LEN);
        uint32_t got = frame_copy(f, 0, p + RECORD, f->len);
        memcpy(p, &got, 4);
        at += record_len(got);
    }
    *packed = i;
    return at;
}

/* Points up to max frames at the records from *at on, and moves *at behind them. */
uint32_t frame_unpack(struct frame *frames, uint32_t max, void *buf, uint64_t end, uint64_t *at)
{
    uint32_t made = 0;

    while (made < max && *at < end && end - *at >= RECORD) {
        uint8_t *p = (uint8_t *)buf + *at;
        struct frame *f = frames + made;
        uint32_t len;
        memcpy(&len, p, 4);
        if (len > end - *at - RECORD)
            break;
        memcpy(&f->vnet, p + 4, FRAME_VNET_LEN);
        f->len = len;
        f->iovcnt = 1;
        f->iov[0].iov_base = p + RECORD;
        f->iov[0].iov_len = len;
        *at += record_len(len);
        made++;
    }
    return made;
}

/* Moves *at behind up to n records; returns the octets of their frames, *skipped their number. */
uint64_t frame_skip(const void *buf, uint64_t end, uint64_t *at, uint32_t n, uint32_t *skipped)
{
    uint64_t octets = 0;
    uint32_t i;

    for (i = 0; i < n && *at < end && end - *at >= RECORD; i++) {
        uint32_t len;
        memcpy(&len, (const uint8_t *)buf + *at, 4);
        octets += len;
        *at += record_len(len);
    }
    *skipped = i;
    return octets;
}
