/* What vpnstack's C core offers to Python; cffi reads this file too (build.py), so it holds plain
 * declarations only.  Every function is called with the GIL released and keeps no pointer after it
 * returns.  Where a count is returned, a negative value is -errno. */
#ifndef VPNSTACK_CORE_H
#define VPNSTACK_CORE_H

#include "frame.h"

/* checksum.c: RFC 1071.  Sums are 16-bit ones' complement, folded, in network order of bytes. */
uint16_t csum_partial(const void *data, uint32_t n, uint16_t sum);
uint16_t csum_frame(const struct frame *f, uint32_t off, uint32_t n, uint16_t sum);
uint16_t csum_pseudo(const struct frame *f, uint32_t l4_len);

/* parse.c */
uint32_t frame_read(const struct frame *f, uint32_t off, void *dst, uint32_t n);
void frame_parse_burst(struct frame *frames, uint32_t n);

/* gro.c: data segments of one flow that follow each other in a burst become one frame. */
uint32_t frame_coalesce(struct frame *frames, uint32_t n, const uint8_t *mac);

/* view.c */
const uint8_t *frame_payload(const struct frame *f);
void frame_alias(const struct frame *in, struct frame *out);

/* pack.c: whole bursts copied out of and pointed into one buffer. */
uint64_t frame_pack(const struct frame *frames, uint32_t n, void *out, uint64_t cap,
                    uint32_t *packed);
uint32_t frame_unpack(struct frame *frames, uint32_t max, void *buf, uint64_t end, uint64_t *at);

/* emit.c: headers from a flow's template (Ethernet, IP and the ports), payload by reference. */
void frame_emit_tcp(struct frame *f, const void *tmpl, uint32_t tmpl_len, uint32_t seq,
                    uint32_t ack, uint16_t flags, uint16_t wnd, uint16_t urg, const void *opts,
                    uint32_t opts_len, const void *data, uint32_t data_len, uint16_t gso_size);
void frame_emit_udp(struct frame *f, const void *tmpl, uint32_t tmpl_len, const void *data,
                    uint32_t data_len);

/* segment.c: what a link without offloads needs.  Fills up to `max` frames of `out` with what `in`
 * is without the offloads missing from `offload` (link/port.py's Offload bits); *cursor starts at
 * 0, and is 0 again when `in` is used up.  The pieces of `out` point into `in`.  Returns 0 for what
 * cannot be sent: a frame without bytes, one whose pieces are not its length, one that needs more
 * than FRAME_IOV_MAX pieces behind a header of its own.  frame_needs() is true for the first two,
 * so that a port that asks it never sends them. */
uint32_t frame_soften(const struct frame *in, uint32_t offload, uint32_t *cursor,
                      struct frame *out, uint32_t max);
int frame_needs(const struct frame *frames, uint32_t n, uint32_t offload);

/* tap.c: one frame a read and a write, with a virtio-net header of 12 bytes. */
int tap_rx_burst(int fd, struct frame *frames, uint32_t max, void *slots, uint32_t slot_len,
                 uint64_t *octets);
int tap_tx_burst(int fd, const struct frame *frames, uint32_t n, uint32_t *dropped,
                 uint64_t *octets);

/* framed.c: a byte stream of frames, each behind its length (4 bytes, big-endian). */
int framed_rx_burst(int fd, struct frame *frames, uint32_t max, void *buf, uint32_t cap,
                    uint32_t *start, uint32_t *end);
int64_t framed_tx_burst(int fd, const struct frame *frames, uint32_t n);

#endif
