/* The Internet checksum (RFC 1071), 32 bytes a step, carries counted in 128-bit accumulators.
 *
 * A sum is kept as the 16-bit value that would be stored as it lies in memory: adding words in the
 * machine's order and storing the result in the machine's order gives the same bytes (RFC 1071,
 * section 2.B), so nothing is swapped. */
#include "core.h"

static uint16_t fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

uint16_t csum_partial(const void *data, uint32_t n, uint16_t start)
{
    const uint8_t *p = data;
    unsigned __int128 x = start, y = 0; /* add and add-with-carry: 8 bytes a cycle */
    uint64_t a, w[4];

    for (; n >= 32; n -= 32, p += 32) {
        memcpy(w, p, 32);
        x += w[0];
        y += w[1];
        x += w[2];
        y += w[3];
    }
    x = (x & UINT64_MAX) + (x >> 64) + (y & UINT64_MAX) + (y >> 64);
    a = (uint64_t)(x & 0xffffffff) + (uint64_t)(x >> 32 & 0xffffffff) + (uint64_t)(x >> 64);
    for (; n >= 2; n -= 2, p += 2) {
        uint16_t h;
        memcpy(&h, p, 2);
        a += h;
    }
    if (n) {
        uint16_t h = 0;
        memcpy(&h, p, 1);
        a += h;
    }
    return fold(a);
}

uint16_t csum_frame(const struct frame *f, uint32_t off, uint32_t n, uint16_t sum)
{
    uint32_t done = 0;

    for (unsigned i = 0; i < f->iovcnt && done < n; i++) {
        size_t len = f->iov[i].iov_len;
        if (off >= len) {
            off -= (uint32_t)len;
            continue;
        }
        uint32_t take = (uint32_t)(len - off);
        if (take > n - done)
            take = n - done;
        uint16_t part = csum_partial((const uint8_t *)f->iov[i].iov_base + off, take, 0);
        if (done & 1) /* a piece that starts at an odd byte: its sum is swapped (RFC 1071 2.B) */
            part = (uint16_t)(part << 8 | part >> 8);
        sum = fold((uint64_t)sum + part);
        done += take;
        off = 0;
    }
    return sum;
}

/* RFC 9293 3.1 and RFC 8200 8.1, from the addresses that parsing found. */
uint16_t csum_pseudo(const struct frame *f, uint32_t l4_len)
{
    uint8_t tail[8] = {l4_len >> 24, l4_len >> 16, l4_len >> 8, l4_len, 0, 0, 0, f->proto};
    uint32_t skip = f->ip_version == 4 ? 12 : 0;
    uint16_t sum = csum_partial(f->src + skip, 16 - skip, 0);

    sum = csum_partial(f->dst + skip, 16 - skip, sum);
    return csum_partial(tail, 8, sum);
}
