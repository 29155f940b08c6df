/* What hypervisor's C core offers to Python; plain declarations only, cffi reads them too. */
#ifndef HYPERVISOR_CORE_H
#define HYPERVISOR_CORE_H

#include <stdint.h>

uint32_t hv_frame_size(void);

#endif
