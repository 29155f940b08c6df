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
    for (; n >= 4; n -= 4, p += 4) {
        uint32_t h;
        memcpy(&h, p, 4);
        a += h;
    }
    if (n >= 2) {
        uint16_t h;
        memcpy(&h, p, 2);
        a += h;
        n -= 2;
        p += 2;
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
    uint32_t w[8];

    memcpy(w, f->src, 16);
    memcpy(w + 4, f->dst, 16);
    /* Length and protocol: two words in network order, so that their bytes change places here. */
    uint64_t sum = (uint64_t)__builtin_bswap32(l4_len) + (uint32_t)f->proto * 0x1000000u + w[3] + w[7];
    if (f->ip_version != 4) /* an IPv4 address has 12 bytes in front that do not count */
        sum += (uint64_t)w[0] + w[1] + w[2] + w[4] + w[5] + w[6];
    return fold(sum);
}
