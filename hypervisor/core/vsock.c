/* virtio-vsock's data from a socket of the host to the guest (virtio 1.2, 5.10.6): Linux gives
 * buffers of 4 KiB, so that it is the packets that cost, not their octets. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "vring_internal.h"

#define HEADER 44     /* struct virtio_vsock_hdr, little endian */
#define HEADER_LEN 24 /* where its `len` lies */
#define CHAINS 32     /* buffers of one call */
#define PIECES 256    /* of guest memory in these */

/* Pieces q->iov[from..] but for the header and what is beyond `most`; how many came to `out`. */
static uint32_t payload(const struct vq *q, uint32_t from, uint32_t most, struct iovec *out)
{
    size_t skip = HEADER;
    uint32_t n = 0;
    for (uint32_t i = from; i < q->iovcnt && most; i++) {
        struct iovec piece = q->iov[i];
        if (skip >= piece.iov_len) {
            skip -= piece.iov_len;
            continue;
        }
        piece.iov_base = (char *)piece.iov_base + skip;
        piece.iov_len -= skip;
        if (piece.iov_len > most)
            piece.iov_len = most;
        skip = 0;
        most -= (uint32_t)piece.iov_len;
        out[n++] = piece;
    }
    return n;
}

/* Receives up to `most` octets from `fd` into the driver's next buffers, behind copies of `header`
 * that say how many are in each.  Returns what recvmsg(2) gave, or minus its errno; -ENOBUFS when
 * the next buffer is not there, not only to be written, without room or of many pieces (or the
 * queue is broken).  Buffers without data are not taken; `packets` are those that were, for
 * vq_publish() to show. */
int64_t vq_receive(struct vq *q, int fd, const void *header, uint32_t most, uint32_t *packets)
{
    struct iovec out[PIECES];
    uint32_t heads[CHAINS], begins[CHAINS + 1], rooms[CHAINS], count = 0, pieces = 0, room = 0;
    const uint16_t first = q->last_avail;
    *packets = 0;
    q->iovcnt = 0;
    while (count < CHAINS && room < most && vq_ready(q)) {
        uint16_t head;
        begins[count] = q->readable = q->iovcnt;
        if (vq_walk_mixed(q, &head))
            break;
        size_t len = vq_iov_len(q->iov + begins[count], q->iovcnt - begins[count]);
        if (q->readable != begins[count] || len <= HEADER || q->iovcnt - begins[count] > PIECES - pieces)
            break; /* Python's, when it is the first: it takes any */
        len -= HEADER;
        rooms[count] = len < most - room ? (uint32_t)len : most - room;
        pieces += payload(q, begins[count], rooms[count], out + pieces);
        room += rooms[count];
        heads[count++] = head;
        begins[count] = q->iovcnt;
        q->last_avail++;
    }
    q->last_avail = first;
    if (!count || q->error)
        return -ENOBUFS;
    struct msghdr message = {.msg_iov = out, .msg_iovlen = pieces};
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
    if (got < 0)
        return -errno;
    uint8_t own[HEADER];
    memcpy(own, header, HEADER);
    for (ssize_t left = got; left; ++*packets) {
        uint32_t i = *packets, size = left < rooms[i] ? (uint32_t)left : rooms[i];
        memcpy(own + HEADER_LEN, &size, sizeof size);
        vq_iov_write(q->iov + begins[i], begins[i + 1] - begins[i], 0, own, HEADER);
        q->last_avail++;
        q->inflight++;
        q->frames++;
        vq_chain_push(q, heads[i], HEADER + size);
        left -= size;
    }
    return got;
}
