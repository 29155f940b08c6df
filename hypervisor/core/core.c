#include "core.h"
#include "frame.h"

uint32_t hv_frame_size(void)
{
    return sizeof(struct frame);
}

uint64_t hv_tsc(void)
{
#ifdef __x86_64__
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}
