/* The device side of split virtqueues (virtio 1.2, 2.7) for virtio-net, moving `struct frame`
 * arrays; and the table of guest memory that they may touch.
 *
 * cffi reads this file too (build.py): plain declarations only.  Every function is called with the
 * GIL released and by one thread at a time for one queue. */
#ifndef HYPERVISOR_VRING_H
#define HYPERVISOR_VRING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define HV_REGIONS_MAX 32   /* vhost-user: 8 in a table, more with memory slots */
#define VQ_SIZE_MAX 32768   /* virtio 1.2, 2.7: the largest split queue */
#define VQ_CHAIN_MAX 1024   /* descriptors in one chain, whatever the queue's size */
#define VQ_IOV_MAX 2048     /* pieces that one frame may use, chains merged */
#define VQ_ARENA 262196     /* four of the largest frames: what is merged by copying a burst */
#define VQ_FULL 0xffffffff

/* A piece of guest memory: `size` bytes at guest physical `gpa`, at `uva` in the front-end and at
 * `host` in this process.  gpa + size and uva + size do not wrap (hv_memory_add). */
struct hv_region {
    uint64_t gpa;
    uint64_t size;
    uint64_t uva;
    uint64_t host;
};

struct hv_memory {
    uint32_t count;
    uint32_t pad;
    struct hv_region region[HV_REGIONS_MAX];
};

/* Why a queue broke; `error_a` and `error_b` carry the values named here. */
enum vq_error {
    VQ_OK = 0,
    VQ_BAD_SIZE,        /* attach: size */
    VQ_BAD_ALIGN,       /* attach: address, alignment */
    VQ_BAD_RING,        /* attach: address, bytes: not inside one region */
    VQ_BAD_AVAIL_IDX,   /* index found, index of the next entry */
    VQ_BAD_HEAD,        /* head, size */
    VQ_BAD_NEXT,        /* next, size of the table */
    VQ_BAD_LOOP,        /* head, most descriptors allowed */
    VQ_BAD_ADDR,        /* address, length: not inside the regions */
    VQ_BAD_LEN,         /* address, length: zero */
    VQ_BAD_INDIRECT,    /* address, length of the table: zero, not whole or too long */
    VQ_BAD_NESTED,      /* head, flags: indirect inside indirect, or with NEXT */
    VQ_BAD_FEATURE,     /* head, flags: indirect without the feature */
    VQ_BAD_DIRECTION,   /* head, flags: writable on transmit, readable on receive or after writable */
    VQ_BAD_PIECES,      /* head, most pieces allowed */
    VQ_BAD_REQUEST,     /* head, readable bytes: no room for an answer */
    VQ_ERRORS
};

struct vq {
    const struct hv_memory *memory;
    uint8_t *desc;       /* host addresses, whole rings inside one region each (vq_attach) */
    uint8_t *avail;
    uint8_t *used;
    uint32_t size;       /* a power of two */
    uint16_t last_avail; /* the next entry of the available ring to take */
    uint16_t avail_idx;  /* private copy of the driver's index, checked */
    uint16_t used_idx;   /* as published */
    uint16_t pending;    /* used elements written behind used_idx and not published yet */
    uint16_t hdr_len;    /* 12, or 10 for a legacy driver without mergeable buffers */
    uint8_t event_idx;   /* features */
    uint8_t mergeable;
    uint8_t indirect;
    uint8_t guest_csum;
    uint8_t guest_ecn;
    uint8_t silent;      /* the driver was told not to kick (without event_idx) */
    int call_fd;         /* -1: the driver polls */
    uint32_t error;      /* enum vq_error */
    uint64_t error_a;
    uint64_t error_b;
    uint64_t frames;     /* counters; frames, or chains where they are no frames */
    uint64_t octets;
    uint64_t dropped;
    uint64_t calls;
    uint64_t merged;
    uint8_t *arena;      /* VQ_ARENA bytes: frames of too many pieces are gathered here */
    uint32_t arena_used;
    uint32_t region;     /* of the memory table: where the last buffer lay */
    uint32_t iovcnt;
    uint16_t head;       /* of the chain that vq_chain_pop() took */
    uint32_t readable;   /* of its pieces in iov; the others are writable */
    uint32_t inflight;   /* chains taken by vq_chain_pop() and not pushed yet */
    struct iovec *iov;   /* VQ_IOV_MAX of them while it is attached; few are ever touched */
};

/* Which queue pair a flow lives on: the one it last transmitted on (virtio 1.2, 5.1.6.5.6). */
struct hv_steer {
    uint32_t pairs;
    uint32_t held; /* not 0: frames wait, and a flow that moved would overtake its own */
    uint8_t pair[256];
};

/* memory.c */
int64_t hv_map(int fd, uint64_t size, uint64_t offset, uint64_t *base, uint64_t *length);
int hv_unmap(uint64_t base, uint64_t length);
int hv_faulted(uint64_t base);
uint32_t hv_faults(void);
int hv_memory_add(struct hv_memory *m, uint64_t gpa, uint64_t size, uint64_t uva, uint64_t host);

/* discard.c */
int64_t hv_discard(uint64_t host, uint64_t size);
uint64_t hv_discard_pfns(const struct hv_memory *m, const uint8_t *pfns, uint32_t count,
                         uint32_t *refused);

/* vring.c */
int vq_attach(struct vq *q, const struct hv_memory *m, uint32_t size, uint64_t desc_uva,
              uint64_t avail_uva, uint64_t used_uva);
void vq_detach(struct vq *q);
void vq_free(struct vq *q);
uint32_t vq_ready(struct vq *q);
uint32_t vq_arm(struct vq *q);
void vq_suppress(struct vq *q);
int vq_publish(struct vq *q);

/* chain.c */
int vq_chain_pop(struct vq *q);
void vq_chain_push(struct vq *q, uint32_t head, uint32_t written);
size_t vq_iov_len(const struct iovec *iov, uint32_t count);
size_t vq_iov_read(const struct iovec *iov, uint32_t count, size_t offset, void *data, size_t size);
size_t vq_iov_write(const struct iovec *iov, uint32_t count, size_t offset, const void *data,
                    size_t size);

/* vsock.c */
int64_t vq_receive(struct vq *q, int fd, const void *header, uint32_t most, uint32_t *packets);

/* net.c */
uint32_t vq_tx_pop(struct vq *q, uintptr_t frames, uint32_t at, uint32_t capacity,
                   struct hv_steer *steer, uint32_t pair);
uint32_t vq_rx_push(struct vq *q, uintptr_t frames, uint32_t from, uint32_t count,
                    struct hv_steer *steer, uint32_t pair);
uint32_t hv_frames_need(uintptr_t frames, uint32_t count);
uint32_t hv_steer_pair(struct hv_steer *steer, uintptr_t frames, uint32_t index);
uint32_t hv_steer_select(struct hv_steer *steer, uintptr_t frames, uint32_t from, uint32_t count,
                         uint32_t pair, uintptr_t out);

#endif
