/* TAP (Linux tun/tap with IFF_VNET_HDR and a header of 12 bytes): a frame a system call. */
#include "core.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BURST_OCTETS (1u << 19) /* what is read at once stays in the processor's cache */

/* Reads until the device is empty, `max` frames or BURST_OCTETS are there, frame i with its header
 * into slot i.
 * `octets` counts on.  One piece instead of two, and no cancellation point of the C library on the
 * way, is a tenth of what a small frame costs here. */
int tap_rx_burst(int fd, struct frame *frames, uint32_t max, void *slots, uint32_t slot_len,
                 uint64_t *octets)
{
    uint32_t n = 0, sum = 0;

    while (n < max && sum < BURST_OCTETS) {
        struct frame *f = frames + n;
        uint8_t *slot = (uint8_t *)slots + (size_t)n * slot_len;
        long got = syscall(SYS_read, fd, slot, (size_t)slot_len);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN || n)
                break;
            return -errno;
        }
        if (got == 0)
            break;
        if (got < FRAME_VNET_LEN)
            continue;
        memcpy(&f->vnet, slot, FRAME_VNET_LEN);
        f->len = (uint32_t)got - FRAME_VNET_LEN;
        f->iovcnt = 1;
        f->iov[0].iov_base = slot + FRAME_VNET_LEN;
        f->iov[0].iov_len = f->len;
        *octets += f->len;
        sum += f->len;
        n++;
    }
    return (int)n;
}

/* Returns how many frames are done with; frames that the device refuses count as *dropped, the
 * others in *octets. */
int tap_tx_burst(int fd, const struct frame *frames, uint32_t n, uint32_t *dropped,
                 uint64_t *octets)
{
    uint32_t i = 0;

    while (i < n) {
        const struct frame *f = frames + i;
        struct iovec iov[1 + FRAME_IOV_MAX];
        if (!f->len || !f->iovcnt || f->iovcnt > FRAME_IOV_MAX) { /* nothing that could be sent */
            ++*dropped;
            i++;
            continue;
        }
        iov[0].iov_base = (void *)&f->vnet;
        iov[0].iov_len = FRAME_VNET_LEN;
        memcpy(iov + 1, f->iov, sizeof f->iov[0] * f->iovcnt);
        if (writev(fd, iov, 1 + f->iovcnt) < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN)
                break;
            if (errno == EBADFD || errno == EBADF)
                return -errno;
            ++*dropped; /* EINVAL, EIO (interface down), ENOBUFS: this frame only */
        } else {
            *octets += f->len;
        }
        i++;
    }
    return (int)i;
}
