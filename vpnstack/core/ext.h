/* Extension headers of IPv6 (RFC 8200 4), a part of parse.c. */
#ifndef VPNSTACK_EXT_H
#define VPNSTACK_EXT_H

#include "head.h"

#define EXT_MAX 8 /* extension headers a packet may carry before we call it an attack */

static enum frame_verdict param_problem(struct frame *f, uint8_t code, uint32_t off)
{
    /* RFC 4443 2.4 (e): a multicast packet is answered for an unknown option only. */
    f->param_code = f->dst[0] == 0xff && code != 2 ? 0xff : code;
    f->param_ptr = off - f->l3;
    return FRAME_BAD_EXT;
}

/* RFC 8200 4.2: options of a hop-by-hop or destination header, unknown ones by their two high bits. */
static enum frame_verdict ext_options(struct frame *f, uint32_t off, uint32_t end)
{
    while (off < end) {
        uint8_t type = f->head[off];
        if (type == 0) {
            off++;
            continue;
        }
        if (end - off < 2 || f->head[off + 1] > end - off - 2)
            return param_problem(f, 0, off);
        if (type != 1 && type != 5) { /* neither PadN nor Router Alert */
            uint8_t action = type >> 6;
            int multicast = f->dst[0] == 0xff;
            if (action == 1 || (action == 3 && multicast))
                return FRAME_BAD_EXT;
            if (action >= 2)
                return param_problem(f, 2, off);
        }
        off += 2u + f->head[off + 1];
    }
    return FRAME_OK;
}

/* One extension header at *off; moves *off behind it.  *next names it and then what follows. */
static enum frame_verdict ext_header(struct frame *f, uint32_t *off, uint32_t end, uint8_t *next)
{
    const uint8_t *p = f->head + *off;

    if (end - *off < 8 || !have(f, *off, 8))
        return FRAME_BAD_EXT;
    uint32_t len = *next == 44 ? 8 : (uint32_t)(p[1] + 1) * 8;
    if (len > end - *off || !have(f, *off, len))
        return FRAME_BAD_EXT;
    if (*next == 43 && p[3] != 0) /* RFC 8200 4.4 and RFC 5095: segments left, type unknown */
        return param_problem(f, 0, *off + 2);
    if (*next == 44) {
        f->frag_off = be16(p + 2) & 0xfff8;
        f->frag_more = p[3] & 1;
        f->ip_id = be32(p + 4);
        f->is_frag = f->frag_off || f->frag_more; /* RFC 6946: an atomic fragment is whole */
    }
    if (*next == 0 || *next == 60) {
        enum frame_verdict v = ext_options(f, *off + 2, *off + len);
        if (v != FRAME_OK)
            return v;
    }
    *next = p[0];
    *off += len;
    return FRAME_OK;
}

#endif
