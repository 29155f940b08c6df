/* virtio-blk's data path (virtio 1.2, 5.2.6): threads that take requests from a queue, move their
 * data between guest memory and the image, and call the driver; no Python and no exit is in it.
 *
 * cffi reads this file too (build.py): plain declarations only. */
#ifndef HYPERVISOR_BLK_H
#define HYPERVISOR_BLK_H

#include <stdint.h>

#include "vring.h"

#define BLK_SECTOR 512          /* 5.2.4: what everything is counted in, whatever the block size */
#define BLK_ID_LEN 20
#define BLK_SEGMENTS_MAX 64     /* of one DISCARD or WRITE_ZEROES */
#define BLK_CLEAR_MAX 4194304   /* sectors that one segment of these may have: 2 GiB */
#define BLK_THREADS_MAX 16      /* of one queue */
#define BLK_KINDS 6             /* of requests, as counted: */
#define BLK_READ 0
#define BLK_WRITE 1
#define BLK_FLUSH 2
#define BLK_DISCARD 3
#define BLK_ZERO 4
#define BLK_OTHER 5

struct blk_image; /* what the queues of a disk share */
struct blk_queue; /* a queue with its threads */

/* How an image is opened: a descriptor, or a handle of libnbd (blk_nbd_open). */
struct blk_setup {
    int fd;               /* stays the caller's; -1 with nbd */
    uint64_t nbd;         /* becomes the image's; 0 with fd */
    uint64_t sectors;
    uint32_t align;       /* of memory and lengths that O_DIRECT wants; 0 without */
    uint8_t read_only;
    uint8_t named;        /* a file with a name, whose loss is noticed */
    uint8_t id[BLK_ID_LEN];
    int event;            /* eventfd: an error was kept, or a queue ended */
};

/* An error that the guest got, the latest since it was taken.  ENODATA: the image is shorter than
 * it was; ESTALE: it has no name any more. */
struct blk_fault {
    int32_t error;
    uint32_t kind;
    uint64_t sector;
    uint64_t count;       /* of errors since */
};

struct blk_counters {
    uint64_t requests[BLK_KINDS];
    uint64_t octets[BLK_KINDS];
    uint64_t errors;      /* answered with IOERR */
    uint64_t unsupported; /* answered with UNSUPP */
    uint64_t calls;       /* interrupts */
    uint32_t threads;     /* the most at once */
};

struct blk_image *blk_image_new(const struct blk_setup *setup);
void blk_image_free(struct blk_image *image);
void blk_image_writethrough(struct blk_image *image, int on);
int blk_fault_take(struct blk_image *image, struct blk_fault *out);

struct blk_queue *blk_start(struct blk_image *image, struct vq *q, uint64_t features, int kick);
void blk_stop(struct blk_queue *b);
int blk_ended(struct blk_queue *b);
void blk_free(struct blk_queue *b);
void blk_count(struct blk_queue *b, struct blk_counters *out);

int blk_nbd_load(void);
uint64_t blk_nbd_open(int fd, uint64_t *size, uint32_t *flags, char *why, uint32_t room);

#endif
