/* Access to payloads for Python. */
#include "core.h"

/* The payload of a parsed frame where it lies in one piece, else NULL. */
const uint8_t *frame_payload(const struct frame *f)
{
    uint32_t off = f->data;

    for (unsigned i = 0; i < f->iovcnt; i++) {
        size_t len = f->iov[i].iov_len;
        if (off < len)
            return f->data_len <= len - off ? (const uint8_t *)f->iov[i].iov_base + off : NULL;
        off -= (uint32_t)len;
    }
    return NULL;
}

/* A copy of the descriptor, its pieces still those of `in`. */
void frame_alias(const struct frame *in, struct frame *out)
{
    memcpy(out, in, offsetof(struct frame, head));
    memcpy(out->head, in->head, in->head_len);
    if (in->iovcnt && in->iov[0].iov_base == in->head)
        out->iov[0].iov_base = out->head;
}
