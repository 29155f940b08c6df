/* Shared by vring.c, net.c and chain.c. */
#ifndef HYPERVISOR_VRING_INTERNAL_H
#define HYPERVISOR_VRING_INTERNAL_H

#include "vring.h"

int vq_break(struct vq *q, uint32_t error, uint64_t a, uint64_t b);
void vq_hint(struct vq *q, int writable);
int vq_walk(struct vq *q, uint16_t *head, int writable);
int vq_walk_mixed(struct vq *q, uint16_t *head);
void vq_used_put(struct vq *q, uint16_t head, uint32_t len);

#endif
