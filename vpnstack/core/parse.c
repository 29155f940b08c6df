#include "core.h"
uint32_t frame_read(const struct frame *f, uint32_t off, void *dst, uint32_t n)
{
    return frame_copy(f, off, dst, n);
}
