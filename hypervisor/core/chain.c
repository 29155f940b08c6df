/* Chains of any device: requests that the driver wrote, with room for our answer (virtio 1.2,
 * 2.7.4.2: all readable buffers come before the writable ones), given back in any order. */
#define _GNU_SOURCE
#include "vring_internal.h"

/* Takes the next chain into q->head and q->iov, the first q->readable pieces readable.  Returns 0
 * when none waits or the queue is broken.  A driver that makes more available than the ring can
 * hold has done so twice with some descriptor: it would have us keep any number of chains. */
int vq_chain_pop(struct vq *q)
{
    if (!vq_ready(q))
        return 0;
    if (q->inflight >= q->size) {
        vq_break(q, VQ_BAD_AVAIL_IDX, q->avail_idx, q->last_avail);
        return 0;
    }
    q->iovcnt = q->readable = 0;
    if (vq_walk_mixed(q, &q->head))
        return 0;
    q->last_avail++;
    q->inflight++;
    q->frames++;
    for (uint32_t i = 0; i < q->readable; i++)
        q->octets += q->iov[i].iov_len;
    return 1;
}

/* Gives back a chain that was taken, with so many bytes written; vq_publish() shows it.  Does
 * nothing on a queue that was detached or broken meanwhile. */
void vq_chain_push(struct vq *q, uint32_t head, uint32_t written)
{
    if (!q->size || q->error || !q->inflight)
        return;
    if (q->pending >= q->size)
        vq_publish(q); /* elements that wait must not be written over */
    q->inflight--;
    q->octets += written;
    vq_used_put(q, (uint16_t)head, written);
}
