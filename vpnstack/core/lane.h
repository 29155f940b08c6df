/* What the files of the express lane share; lane.c has the theory of operation. */
#ifndef VPNSTACK_LANE_H
#define VPNSTACK_LANE_H

#include "core.h"

#define ACK 16
#define PSH 8
#define PIECES_MAX 1000 /* of one sendmsg, below IOV_MAX */
#define RING_FIRST 14   /* 16 KiB; rings are powers of two */
#define RING_MAX 20     /* 1 MiB in flight: more is of no use on a link without delay */
#define SPARE_MAX 8     /* rings of each size that wait for their next user */

/* Leases that wait for `lane_resume`, the first to come first. */
struct lane_queue {
    struct lease *first, *last;
};

enum { QUEUED_NOT, QUEUED_READY, QUEUED_PARKED };

struct lane {
    struct lease **buckets;
    uint32_t mask, count;
    uint64_t seed;
    struct lease *acks_first, *acks_last; /* owe a delayed acknowledgement, the first due first */
    struct lease *flying;                 /* have something unacknowledged */
    double rtx_at;                        /* no lease of `flying` is due before */
    struct lane_queue ready;  /* have more to send than fitted into their turn, or may send again */
    struct lane_queue parked; /* so do they, but their port takes no frames */
    uint8_t stalled[LANE_PORTS];
    /* lanering.c */
    uint64_t octets; /* of rings and kept data */
    uint8_t *spare[RING_MAX + 1][SPARE_MAX];
    uint32_t spare_n[RING_MAX + 1];
    /* laneguest.c: of the call under way.  Runs are chains of indices into `frames`; `pieces` is
     * what one sendmsg will carry, the payloads of a lease's run. */
    struct frame *frames;
    uint8_t run_next[64];
    uint32_t pieces_n, touched_n;
    struct iovec pieces[PIECES_MAX];
    struct lease *touched[64];
    struct lane_burst *became;
};

/* lane.c */
struct lease *lane_find(const struct lane *l, const struct frame *f);
void lane_owe_ack(struct lane *l, struct lease *e, double at);
void lane_fly(struct lane *l, struct lease *e, double now);
void lane_landed(struct lane *l, struct lease *e);
void lane_queue(struct lane *l, struct lease *e);
void lane_unqueue(struct lane *l, struct lease *e);
void lane_end(struct lease *e, uint8_t why);
void lane_look(struct lane_burst *b, struct lease *e);
void lane_emit(struct lane *l, struct lease *e, struct frame *out, const void *data, uint32_t n,
               uint16_t flags, double now);

/* lanering.c */
int lane_make_ring(struct lane *l, struct lease *e, uint32_t n);
void lane_drop_ring(struct lane *l, struct lease *e);
int lane_keep(struct lane *l, struct lease *e, const void *data, uint32_t n);
void lane_drop_kept(struct lane *l, struct lease *e);

#endif
