/* Frames on a byte stream, each behind its length in 4 bytes, big-endian: QEMU's `-netdev stream`,
 * passt, libkrun.  No virtio-net header crosses such a link. */
#include "core.h"

#include <errno.h>
#include <sys/socket.h>

#define TX_FRAMES 64
#define TX_IOV 1000 /* below IOV_MAX */

static uint32_t length_at(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Takes whole frames out of buf[*start, *end). */
static int take(struct frame *frames, uint32_t max, uint8_t *buf, uint32_t *start, uint32_t end)
{
    uint32_t n = 0;

    while (n < max && end - *start >= 4) {
        uint32_t len = length_at(buf + *start);
        if (len > FRAME_LEN_MAX) /* the stream cannot be resynchronised; what came before is good */
            return n ? (int)n : -EPROTO;
        if (end - *start - 4 < len)
            break;
        struct frame *f = frames + n++;
        memset(&f->vnet, 0, sizeof f->vnet);
        f->len = len;
        f->iovcnt = 1;
        f->iov[0].iov_base = buf + *start + 4;
        f->iov[0].iov_len = len;
        *start += 4 + len;
    }
    return (int)n;
}

/* One receive into `buf` (at least 2 * FRAME_LEN_MAX), then whole frames from it.  What stays
 * behind a partial frame lies at [*start, *end) until the next call.  -EPIPE: the peer closed. */
int framed_rx_burst(int fd, struct frame *frames, uint32_t max, void *buf, uint32_t cap,
                    uint32_t *start, uint32_t *end)
{
    int n = take(frames, max, buf, start, *end);

    if (n)
        return n;
    memmove(buf, (uint8_t *)buf + *start, *end - *start);
    *end -= *start;
    *start = 0;
    if (*end >= cap)
        return -ENOBUFS; /* not the end of the stream, which recv() of nothing would look like */
    ssize_t got = recv(fd, (uint8_t *)buf + *end, cap - *end, MSG_DONTWAIT);
    if (got == 0)
        return -EPIPE;
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    *end += (uint32_t)got;
    return take(frames, max, buf, start, *end);
}

/* One sendmsg for as many frames as fit; returns the bytes sent, lengths included. */
int64_t framed_tx_burst(int fd, const struct frame *frames, uint32_t n)
{
    struct iovec iov[TX_IOV];
    uint8_t lengths[TX_FRAMES][4];
    uint32_t k = 0;

    for (uint32_t i = 0; i < n && i < TX_FRAMES; i++) {
        if (!frames[i].len || frames[i].iovcnt > FRAME_IOV_MAX) /* nothing that could be sent */
            continue;
        if (k + 1 + frames[i].iovcnt > TX_IOV)
            break;
        uint32_t len = 0; /* by the pieces: a length that is not theirs would end the stream */
        for (unsigned j = 0; j < frames[i].iovcnt; j++)
            len += (uint32_t)frames[i].iov[j].iov_len;
        lengths[i][0] = (uint8_t)(len >> 24);
        lengths[i][1] = (uint8_t)(len >> 16);
        lengths[i][2] = (uint8_t)(len >> 8);
        lengths[i][3] = (uint8_t)len;
        iov[k].iov_base = lengths[i];
        iov[k++].iov_len = 4;
        memcpy(iov + k, frames[i].iov, sizeof iov[0] * frames[i].iovcnt);
        k += frames[i].iovcnt;
    }
    if (!k)
        return 0;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = k};
    ssize_t sent = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    return sent;
}

/* Copies what stands of the stream behind its first `sent` bytes: the rest of a frame that was
 * begun, and whole frames that end within `room`.  `cap` is what out has.  Returns the bytes
 * written; tally counts frames sent or kept, their octets, and frames left out. */
uint64_t framed_rest(const struct frame *frames, uint32_t n, uint64_t sent, void *out, uint64_t room,
                     uint64_t cap, uint64_t *tally)
{
    uint8_t *p = out;
    uint64_t at = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct frame *f = frames + i;
        uint32_t len = f->len;
        uint64_t size = (uint64_t)len + 4;
        if (sent < size) {
            uint64_t need = size - sent;
            if (need > cap - at || (!sent && (at > room || need > room - at))) {
                tally[2]++;
                continue;
            }
            uint8_t length[4] = {len >> 24, len >> 16, len >> 8, len};
            uint64_t front = sent < 4 ? 4 - sent : 0;
            memcpy(p + at, length + (4 - front), front);
            at += front;
            uint32_t from = sent > 4 ? (uint32_t)(sent - 4) : 0;
            at += frame_copy(f, from, p + at, len - from);
        }
        sent = sent > size ? sent - size : 0;
        tally[0]++;
        tally[1] += len;
    }
    return at;
}
