/* Shared by blk.c, blk_request.c, blk_image.c and blk_nbd.c. */
#ifndef HYPERVISOR_BLK_INTERNAL_H
#define HYPERVISOR_BLK_INTERNAL_H

#include <pthread.h>
#include <sys/types.h>

#include "blk.h"
#include "vring_internal.h"

#define BLK_OK 0       /* 5.2.6: what the status byte says */
#define BLK_IOERR 1
#define BLK_UNSUPP 2

struct blk_image {
    struct blk_setup setup;
    uint8_t writethrough; /* atomic */
    uint8_t no_nowait;    /* atomic: this file system cannot say whether a read would wait */
    pthread_mutex_t lock;
    struct blk_fault fault;
};

struct blk_segment { /* 5.2.6 */
    uint64_t sector;
    uint32_t sectors;
    uint32_t flags;
};

/* A request, out of guest memory: only the data is still there. */
struct blk_request {
    uint16_t head;
    uint8_t kind;
    uint8_t known;        /* the status is, without any work */
    uint8_t status;
    uint8_t *status_at;
    uint64_t sector;
    uint64_t len;
    uint64_t done;        /* bytes of it that a read without waiting found */
    uint32_t written;     /* bytes that we wrote for the driver */
    uint32_t pieces;
    uint32_t segments;
    struct iovec *data;
    struct blk_segment segment[BLK_SEGMENTS_MAX];
};

struct blk_thread {
    struct blk_queue *queue;
    pthread_t id;
    uint8_t *bounce;      /* for what cannot go straight to or from guest memory */
    struct blk_request request;
    struct iovec iov[VQ_IOV_MAX];
};

/* blk_request.c */
int blk_parse(struct blk_image *image, struct vq *q, uint64_t features, struct blk_thread *t);
int blk_try(struct blk_image *image, struct blk_request *r);
void blk_execute(struct blk_image *image, struct blk_thread *t);

/* blk_image.c */
void blk_failed(struct blk_image *image, const struct blk_request *r, int error);
void blk_advance(struct iovec **iov, uint32_t *count, uint64_t n);
ssize_t blk_read_now(struct blk_image *image, struct blk_request *r);
int blk_transfer(struct blk_image *image, struct blk_thread *t);
int blk_flush(struct blk_image *image);
int blk_clear(struct blk_image *image, const struct blk_segment *s, int kind);

/* blk_nbd.c: 0 or -errno */
int blk_nbd_pread(uint64_t nbd, void *to, uint64_t len, uint64_t offset);
int blk_nbd_pwrite(uint64_t nbd, const void *from, uint64_t len, uint64_t offset, int through);
int blk_nbd_flush(uint64_t nbd);
int blk_nbd_clear(uint64_t nbd, uint64_t len, uint64_t offset, int kind, int unmap);
void blk_nbd_close(uint64_t nbd);

#endif
