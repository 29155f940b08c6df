/* Requests of virtio-blk (virtio 1.2, 5.2.6): read out of guest memory once, checked, executed.
 *
 * What the driver may not ask for is answered with IOERR, what we do not know with UNSUPP; only a
 * chain that has no status byte cannot be answered, and breaks its queue. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "blk_internal.h"

#define HEADER 16
#define T_IN 0
#define T_OUT 1
#define T_FLUSH 4
#define T_GET_ID 8
#define T_DISCARD 11
#define T_WRITE_ZEROES 13
#define F_DISCARD (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

static uint64_t total(const struct iovec *iov, uint32_t n)
{
    uint64_t sum = 0; /* at most VQ_IOV_MAX lengths below 2^32: no overflow */
    for (uint32_t i = 0; i < n; i++)
        sum += iov[i].iov_len;
    return sum;
}

/* Copies up to `n` bytes out of the pieces, whatever their cuts; returns how many. */
static uint64_t copy_out(const struct iovec *iov, uint32_t count, void *to, uint64_t n)
{
    uint64_t done = 0;
    for (uint32_t i = 0; i < count && done < n; i++) {
        uint64_t part = iov[i].iov_len < n - done ? iov[i].iov_len : n - done;
        memcpy((uint8_t *)to + done, iov[i].iov_base, part);
        done += part;
    }
    return done;
}

static void answer(struct blk_request *r, uint8_t status)
{
    r->known = 1;
    r->status = status;
}

static int inside(const struct blk_image *image, uint64_t sector, uint64_t sectors)
{
    return sectors <= image->setup.sectors && sector <= image->setup.sectors - sectors;
}

static void parse_transfer(struct blk_image *image, struct blk_request *r)
{
    if (r->kind == BLK_WRITE && image->setup.read_only)
        answer(r, BLK_IOERR);
    else if (r->len % BLK_SECTOR || !inside(image, r->sector, r->len / BLK_SECTOR))
        answer(r, BLK_IOERR);
    else if (!r->len)
        answer(r, BLK_OK);
}

/* 5.2.6.2: a segment too many or too long is IOERR; a flag that is none, or unmap in a discard,
 * UNSUPP. */
static void parse_clear(struct blk_image *image, struct blk_request *r, uint64_t offered)
{
    const uint32_t known = r->kind == BLK_ZERO;
    if (!offered) {
        answer(r, BLK_UNSUPP);
        return;
    }
    if (image->setup.read_only || !r->len || r->len % sizeof *r->segment ||
        r->len > sizeof r->segment) {
        answer(r, BLK_IOERR);
        return;
    }
    r->segments = (uint32_t)(copy_out(r->data, r->pieces, r->segment, r->len) / sizeof *r->segment);
    r->sector = r->segment[0].sector;
    for (uint32_t i = 0; i < r->segments && !r->known; i++) {
        const struct blk_segment *s = &r->segment[i];
        if (s->flags & ~known)
            answer(r, BLK_UNSUPP);
        else if (s->sectors > BLK_CLEAR_MAX || !inside(image, s->sector, s->sectors))
            answer(r, BLK_IOERR);
    }
}

static void get_id(struct blk_image *image, struct blk_request *r)
{
    const uint8_t *id = image->setup.id;
    for (uint32_t i = 0, at = 0; i < r->pieces && at < BLK_ID_LEN; i++) {
        size_t left = BLK_ID_LEN - at, part = r->data[i].iov_len;
        part = part < left ? part : left;
        memcpy(r->data[i].iov_base, id + at, part);
        at += (uint32_t)part;
        r->written = at;
    }
    answer(r, BLK_OK);
}

/* The data are the readable pieces after the header, or the writable ones before the status. */
static void place(struct blk_request *r, struct iovec *iov, uint32_t readable, uint32_t all, int in)
{
    r->data = in ? iov + readable : iov;
    r->pieces = in ? all - readable : readable;
    if (!in)
        blk_advance(&r->data, &r->pieces, HEADER);
    else if (--iov[all - 1].iov_len == 0)
        r->pieces--;
    r->len = total(r->data, r->pieces);
}

static void parse_kind(struct blk_image *image, struct blk_request *r, uint32_t type,
                       uint64_t features)
{
    switch (type) {
    case T_IN:
    case T_OUT:
        r->kind = type == T_IN ? BLK_READ : BLK_WRITE;
        parse_transfer(image, r);
        break;
    case T_FLUSH:
        r->kind = BLK_FLUSH;
        break;
    case T_DISCARD:
        r->kind = BLK_DISCARD;
        parse_clear(image, r, features & F_DISCARD);
        break;
    case T_WRITE_ZEROES:
        r->kind = BLK_ZERO;
        parse_clear(image, r, features & F_WRITE_ZEROES);
        break;
    case T_GET_ID:
        get_id(image, r);
        break;
    default:
        answer(r, BLK_UNSUPP);
    }
}

/* Makes a request of the chain that was taken; returns 0 and a broken queue if nobody could be
 * told how it ended.  The pieces are the thread's own copy: the queue goes on meanwhile. */
int blk_parse(struct blk_image *image, struct vq *q, uint64_t features, struct blk_thread *t)
{
    struct blk_request *r = &t->request;
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header = {0};
    memset(r, 0, offsetof(struct blk_request, segment));
    r->head = q->head;
    r->kind = BLK_OTHER;
    uint64_t readable = total(q->iov, q->readable);
    if (q->iovcnt == q->readable) {
        vq_break(q, VQ_BAD_REQUEST, q->head, readable);
        return 0;
    }
    memcpy(t->iov, q->iov, q->iovcnt * sizeof *q->iov);
    const struct iovec *last = &t->iov[q->iovcnt - 1];
    r->status_at = (uint8_t *)last->iov_base + last->iov_len - 1; /* no piece is empty (vring.c) */
    if (copy_out(t->iov, q->readable, &header, HEADER) < HEADER) {
        answer(r, BLK_IOERR);
        return 1;
    }
    __asm__ volatile("" : "+m"(header) : : "memory"); /* read once, whatever the compiler thinks */
    r->sector = header.sector;
    place(r, t->iov, q->readable, q->iovcnt, header.type == T_IN || header.type == T_GET_ID);
    parse_kind(image, r, header.type, features);
    return 1;
}

static void conclude(struct blk_image *image, struct blk_request *r, int rc)
{
    answer(r, rc ? BLK_IOERR : BLK_OK);
    if (rc)
        blk_failed(image, r, -rc);
    else if (r->kind == BLK_READ)
        r->written = (uint32_t)(r->len < UINT32_MAX ? r->len : UINT32_MAX - 1);
}

/* Tries to read without waiting; says whether the request is done. */
int blk_try(struct blk_image *image, struct blk_request *r)
{
    ssize_t n = blk_read_now(image, r);
    if (n < 0 && errno == EOPNOTSUPP)
        __atomic_store_n(&image->no_nowait, 1, __ATOMIC_RELAXED);
    if (r->done != r->len)
        return 0; /* an error, or an end of file, is met again by who may wait */
    conclude(image, r, 0);
    return 1;
}

/* Does what the request asks for; blocks. */
void blk_execute(struct blk_image *image, struct blk_thread *t)
{
    struct blk_request *r = &t->request;
    int rc = 0;
    switch (r->kind) {
    case BLK_READ:
    case BLK_WRITE:
        rc = blk_transfer(image, t);
        break;
    case BLK_FLUSH:
        rc = blk_flush(image);
        break;
    default:
        for (uint32_t i = 0; i < r->segments && !rc; i++)
            rc = r->segment[i].sectors ? blk_clear(image, &r->segment[i], r->kind) : 0;
    }
    conclude(image, r, rc);
}
