/* The image behind a disk: data in and out, durability, holes; and the errors that the guest got.
 *
 * Everything but blk_read_now() may block, and is called by a thread of its queue alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blk_internal.h"

#define VECTOR 1024         /* IOV_MAX of Linux */
#define BOUNCE_MAX (4u << 20)
#define ZEROES (64u << 10)
#define WZ_UNMAP 1          /* 5.2.6: virtio_blk_discard_write_zeroes.flags */

static const uint8_t zeroes[ZEROES];

struct blk_image *blk_image_new(const struct blk_setup *setup)
{
    struct blk_image *image = calloc(1, sizeof *image);
    if (!image)
        return NULL;
    image->setup = *setup;
    pthread_mutex_init(&image->lock, NULL);
    return image;
}

/* Its queues have been freed. */
void blk_image_free(struct blk_image *image)
{
    if (!image)
        return;
    if (image->setup.nbd)
        blk_nbd_close(image->setup.nbd);
    pthread_mutex_destroy(&image->lock);
    free(image);
}

/* Whether a write is durable when it is answered (5.2.5: FLUSH was not negotiated, or `writeback`
 * is 0); from the next write on. */
void blk_image_writethrough(struct blk_image *image, int on)
{
    __atomic_store_n(&image->writethrough, on != 0, __ATOMIC_SEQ_CST);
}

/* Keeps the error for blk_fault_take(), and wakes who takes it for the first since then. */
void blk_failed(struct blk_image *image, const struct blk_request *r, int error)
{
    uint64_t one = 1;
    pthread_mutex_lock(&image->lock);
    int first = image->fault.count++ == 0;
    image->fault.error = error;
    image->fault.kind = r->kind;
    image->fault.sector = r->sector;
    pthread_mutex_unlock(&image->lock);
    if (first && write(image->setup.event, &one, sizeof one) < 0)
        return; /* the counter is full: it wakes already */
}

int blk_fault_take(struct blk_image *image, struct blk_fault *out)
{
    pthread_mutex_lock(&image->lock);
    *out = image->fault;
    image->fault = (struct blk_fault){0};
    pthread_mutex_unlock(&image->lock);
    return out->count != 0;
}

/* Takes `n` bytes off the front of the pieces, which have them. */
void blk_advance(struct iovec **iov, uint32_t *count, uint64_t n)
{
    while (n) {
        size_t part = (*iov)->iov_len < n ? (*iov)->iov_len : n;
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + part;
        (*iov)->iov_len -= part;
        n -= part;
        if ((*iov)->iov_len == 0) {
            (*iov)++;
            (*count)--;
        }
    }
}

/* Reads what the page cache has, counted in r->done; returns -1 with errno if that is nothing. */
ssize_t blk_read_now(struct blk_image *image, struct blk_request *r)
{
    int count = r->pieces < VECTOR ? (int)r->pieces : VECTOR;
    ssize_t n = preadv2(image->setup.fd, r->data, count, (off_t)(r->sector * BLK_SECTOR),
                        RWF_NOWAIT);
    if (n > 0) {
        r->done = (uint64_t)n;
        blk_advance(&r->data, &r->pieces, (uint64_t)n);
    }
    return n;
}

static int file_transfer(struct blk_image *image, struct blk_request *r, struct iovec *iov,
                         uint32_t count, uint64_t len, uint64_t offset)
{
    int through = __atomic_load_n(&image->writethrough, __ATOMIC_SEQ_CST) ? RWF_DSYNC : 0;
    while (len) {
        int n = count < VECTOR ? (int)count : VECTOR;
        ssize_t got = r->kind == BLK_READ
                          ? preadv(image->setup.fd, iov, n, (off_t)offset)
                          : pwritev2(image->setup.fd, iov, n, (off_t)offset, through);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return r->kind == BLK_READ ? -ENODATA : -ENOSPC;
        len -= (uint64_t)got; /* at most what was asked for */
        offset += (uint64_t)got;
        blk_advance(&iov, &count, (uint64_t)got);
    }
    return 0;
}

static int piece_transfer(struct blk_image *image, struct blk_request *r, void *at, uint64_t len,
                          uint64_t offset)
{
    if (!image->setup.nbd) {
        struct iovec one = {at, len};
        return file_transfer(image, r, &one, 1, len, offset);
    }
    if (r->kind == BLK_READ)
        return blk_nbd_pread(image->setup.nbd, at, len, offset);
    int through = __atomic_load_n(&image->writethrough, __ATOMIC_SEQ_CST);
    return blk_nbd_pwrite(image->setup.nbd, at, len, offset, through);
}

/* Copies between the pieces and `flat`, and moves them past. */
static void gather(struct blk_request *r, uint8_t *flat, uint64_t len, int out)
{
    while (len) {
        size_t part = r->data->iov_len < len ? r->data->iov_len : len;
        if (out)
            memcpy(flat, r->data->iov_base, part);
        else
            memcpy(r->data->iov_base, flat, part);
        flat += part;
        len -= part;
        blk_advance(&r->data, &r->pieces, part);
    }
}

/* One piece of memory at a time where vectors cannot be: over NBD, and unaligned under O_DIRECT. */
static int bounce(struct blk_image *image, struct blk_thread *t, uint64_t len, uint64_t offset)
{
    struct blk_request *r = &t->request;
    if (!t->bounce && posix_memalign((void **)&t->bounce, 4096, BOUNCE_MAX)) {
        t->bounce = NULL;
        return -ENOMEM;
    }
    while (len) {
        uint64_t part = len < BOUNCE_MAX ? len : BOUNCE_MAX;
        if (r->kind == BLK_WRITE)
            gather(r, t->bounce, part, 1);
        int rc = piece_transfer(image, r, t->bounce, part, offset);
        if (rc)
            return rc;
        if (r->kind == BLK_READ)
            gather(r, t->bounce, part, 0);
        len -= part;
        offset += part;
    }
    return 0;
}

static int aligned(const struct blk_request *r, uint32_t align)
{
    uint64_t all = 0;
    for (uint32_t i = 0; i < r->pieces; i++)
        all |= (uint64_t)(uintptr_t)r->data[i].iov_base | r->data[i].iov_len;
    return !(all & (align - 1));
}

/* Moves the data of a read or write, from r->done on; returns 0 or -errno. */
int blk_transfer(struct blk_image *image, struct blk_thread *t)
{
    struct blk_request *r = &t->request;
    uint64_t offset = r->sector * BLK_SECTOR + r->done, len = r->len - r->done;
    if (image->setup.nbd && r->pieces == 1)
        return piece_transfer(image, r, r->data->iov_base, len, offset);
    if (image->setup.nbd || (image->setup.align && !aligned(r, image->setup.align)))
        return bounce(image, t, len, offset);
    return file_transfer(image, r, r->data, r->pieces, len, offset);
}

/* Makes all writes that were answered durable.  A file that lost its name, or its end, keeps
 * nothing for anybody: to say yes would be a lie. */
int blk_flush(struct blk_image *image)
{
    const struct blk_setup *s = &image->setup;
    struct stat st;
    if (s->nbd)
        return s->read_only ? 0 : blk_nbd_flush(s->nbd);
    if (fdatasync(s->fd) < 0)
        return -errno;
    if (s->named && fstat(s->fd, &st) == 0) {
        if (st.st_nlink == 0)
            return -ESTALE;
        if ((uint64_t)st.st_size < s->sectors * BLK_SECTOR)
            return -ENODATA;
    }
    return 0;
}

static int write_zeroes(int fd, uint64_t offset, uint64_t len)
{
    while (len) {
        ssize_t n = pwrite(fd, zeroes, len < ZEROES ? len : ZEROES, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

/* Discards or zeroes one segment; it lies inside the image. */
int blk_clear(struct blk_image *image, const struct blk_segment *s, int kind)
{
    uint64_t offset = s->sector * BLK_SECTOR, len = (uint64_t)s->sectors * BLK_SECTOR;
    int unmap = kind == BLK_DISCARD || s->flags & WZ_UNMAP;
    int fd = image->setup.fd;
    if (image->setup.nbd)
        return blk_nbd_clear(image->setup.nbd, len, offset, kind, unmap);
    int mode = FALLOC_FL_KEEP_SIZE | (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
    int rc;
    do {
        rc = fallocate(fd, mode, (off_t)offset, (off_t)len);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    if (rc < 0 && kind == BLK_DISCARD)
        return 0; /* a hint that this file system cannot take */
    if (rc < 0 && (rc = write_zeroes(fd, offset, len)))
        return rc;
    if (kind == BLK_ZERO && __atomic_load_n(&image->writethrough, __ATOMIC_SEQ_CST))
        return fdatasync(fd) < 0 ? -errno : 0;
    return 0;
}
