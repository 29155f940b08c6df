/* What hypervisor's C core offers to Python; plain declarations only, cffi reads them too. */
#ifndef HYPERVISOR_CORE_H
#define HYPERVISOR_CORE_H

#include <stdint.h>

uint32_t hv_frame_size(void);

/* The processor's time stamp counter; 0 where there is none. */
uint64_t hv_tsc(void);

#endif
