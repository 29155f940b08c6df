/* What vpnstack's C core offers to Python; cffi reads this file too (build.py), so it holds plain
 * declarations only.  Every function is called with the GIL released, keeps no pointer after it
 * returns, and returns -errno on failure. */
#ifndef VPNSTACK_CORE_H
#define VPNSTACK_CORE_H

#include "frame.h"

/* frame.h */
uint32_t frame_read(const struct frame *f, uint32_t off, void *dst, uint32_t n);

#endif
