#include "core.h"
#include "frame.h"

uint32_t hv_frame_size(void)
{
    return sizeof(struct frame);
}
