/* Bursts that wait in memory of our own: for each frame its length, its virtio-net header and its
 * octets, the next one aligned to 8 bytes.  Only frame_pack() writes such a buffer. */
#include "core.h"

#define RECORD 16u /* length 4, virtio-net header 12 */

static uint64_t record_len(uint32_t len)
{
    return (RECORD + (uint64_t)len + 7) & ~(uint64_t)7;
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
