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

/* lane.c, lanering.c, laneguest.c and lanehost.c: established connections that Python lends to C as
 * long as everything is as expected. */
enum lease_why {
    LEASE_GOES_ON = 0,
    LEASE_UNEXPECTED, /* a segment that is not simply the next one */
    LEASE_HOST_FULL,  /* the host's socket is dead, or there is no memory for what it does not take */
    LEASE_HOST_EOF,
    LEASE_BULK,       /* the congestion window has to grow, or there is no memory for a ring */
    LEASE_WINDOW,     /* the guest's window is nearly closed */
    LEASE_TIMEOUT,    /* no acknowledgement came */
    LEASE_HOST_DEAD   /* reading the host's socket told of an error, which it does once */
};

/* Variables of the control block (RFC 9293 3.3.1) while C has them; sequence numbers as on the wire,
 * times in seconds.  Python fills what stands before `active` and reads it back. */
struct lease {
    uint8_t key[40];   /* struct frame's: from the guest */
    uint8_t tmpl[104]; /* emit.c's: to the guest */
    uint32_t tmpl_len;
    int32_t fd;        /* the host's socket */
    uint32_t port;     /* through which the guest is reached */
    uint32_t rcv_nxt, rcv_adv, last_ack_sent;
    uint32_t rcv_buf, rcv_max, rcv_mss;
    uint32_t snd_una, snd_nxt, snd_wnd, wnd_min, cwnd, mss; /* wnd_min: less ends the lease */
    uint32_t ts_recent, ts_offset;
    uint8_t ts_ok, rcv_wscale, snd_wscale;
    uint32_t ack_bytes; /* received since our last acknowledgement */
    double t_ack, delack, pto, rtt; /* rtt: the last one measured, 0 for none */
    double last_recv, last_data, last_send;
    uint64_t bytes_in, bytes_out, bytes_acked;
    uint32_t segs_in, segs_out, data_in, data_out;

    uint8_t active, why, owes, flies, in_touched;
    uint8_t hungry;    /* the host has more than the windows let go */
    uint8_t queued;    /* waits for its turn, or for its port */
    uint8_t full;      /* the host's socket takes no more: what the guest sends waits in `kept` */
    uint8_t run_first, run_last, run_n; /* frames of the burst under way, to be sent as one */
    uint32_t run_octets, in_burst, timed_end;
    double t_rtx, timed_at;
    uint8_t *ring;     /* sent and unacknowledged: the octet with sequence s at s % ring_cap */
    uint32_t ring_cap;
    uint8_t *kept;     /* accepted and not yet taken by the host: kept_n octets from kept_at on */
    uint32_t kept_at, kept_n, kept_cap;
    struct lease *next, *ack_older, *ack_newer, *fly_prev, *fly_next, *more_prev, *more_next;
};

/* What became of a burst: frames made, ports[i] is the port of frame i; frames taken, and segments as
 * on the wire; leases at which Python has to look, as they ended or their host socket became full. */
struct lane_burst {
    uint32_t made, taken, segments, n_look;
    uint32_t ports[64];
    struct lease *look[64];
};

#define LANE_PORTS 4096
struct lane;
struct lane *lane_new(uint32_t buckets, uint64_t seed);
void lane_free(struct lane *l);
int lane_lend(struct lane *l, struct lease *e);
void lane_recall(struct lane *l, struct lease *e);
void lease_free(struct lane *l, struct lease *e);
uint32_t lane_receive(struct lane *l, struct frame *frames, uint32_t n, const uint8_t *mac,
                      uint32_t port, double now, struct frame *out, struct lane_burst *b);
int lease_load(struct lane *l, struct lease *e, const void *data, uint32_t n);
void lease_kept(const struct lease *e, void *out);
void lease_flight(const struct lease *e, void *out);
uint32_t lane_send(struct lane *l, struct lease *e, double now, struct frame *out, uint32_t room);
void lane_wait(struct lane *l, struct lease *e);
void lane_resume(struct lane *l, double now, struct frame *out, uint32_t room,
                 struct lane_burst *b);
uint32_t lane_waiting(const struct lane *l);
uint64_t lane_octets(const struct lane *l);
void lane_stall(struct lane *l, uint32_t port, int stalled);
int lane_drain(struct lane *l, struct lease *e, double now, struct frame *out);
double lane_deadline(const struct lane *l);
void lane_expire(struct lane *l, double now, struct frame *out, uint32_t room,
                 struct lane_burst *b);

/* udptable.c and udplane.c: datagrams between guests and the host's network that Python has decided
 * about.  Ports are in host order, addresses of 16 octets, IPv4 as ::ffff:a.b.c.d. */
struct udp_ring {
    struct udp_ring *newer, *older;
};

/* A guest's endpoint.  Python fills what stands before `used` and keeps the memory. */
struct udp_mapping {
    int32_t fd;     /* the host's socket */
    uint32_t port;  /* through which the guest is reached */
    uint8_t mac[6]; /* the guest's */
    double used;    /* when the lane carried something last */
    uint64_t questions, answers; /* datagrams that it carried up, and down */

    struct udp_ring ring;
    uint32_t routes, number;
};

/* A datagram that is Python's, or several of `size` octets that the kernel joined. */
struct udp_stray {
    const uint8_t *data;
    uint32_t len, size;
    uint8_t addr[16];
    uint16_t port;
    uint8_t version;
};

struct udp_lane;
struct udp_lane *udplane_new(uint32_t routes, uint32_t per_mapping, uint64_t seed);
void udplane_free(struct udp_lane *l);
void udplane_admit(struct udp_lane *l, struct udp_mapping *m);
void udplane_drop(struct udp_lane *l, struct udp_mapping *m);
void udplane_bound(struct udp_lane *l, const uint8_t *addr, uint16_t port);
void udplane_up(struct udp_lane *l, struct udp_mapping *m, const uint8_t *key, const uint8_t *addr,
                uint16_t port);
int udplane_down(struct udp_lane *l, struct udp_mapping *m, const uint8_t *addr, uint16_t port,
                 const void *tmpl, uint32_t tmpl_len);
uint32_t udplane_receive(struct udp_lane *l, struct frame *frames, uint32_t n, const uint8_t *mac,
                         uint32_t port, double now, uint32_t *datagrams);
int udplane_read(struct udp_lane *l, struct udp_mapping *m, uint32_t mtu, double now,
                 struct frame *out, uint32_t *made, struct udp_stray *strays, uint32_t *strays_n,
                 uint32_t *datagrams);

/* pause.c */
int pause_timer(void);
int pause_start(int fd, uint32_t ns);

/* spin.c */
int spin_readable(int fd, uint32_t usec);

/* view.c */
const uint8_t *frame_payload(const struct frame *f);
void frame_alias(const struct frame *in, struct frame *out);

/* pack.c: whole bursts copied out of and pointed into one buffer. */
uint64_t frame_pack(const struct frame *frames, uint32_t n, void *out, uint64_t cap,
                    uint32_t *packed);
uint32_t frame_unpack(struct frame *frames, uint32_t max, void *buf, uint64_t end, uint64_t *at);
uint32_t frame_fit(const struct frame *frames, uint32_t n, uint32_t cost, uint64_t *budget,
                   uint64_t *bytes);
uint64_t frame_skip(const void *buf, uint64_t end, uint64_t *at, uint32_t n, uint32_t *skipped);

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
uint32_t frame_soften_burst(const struct frame *in, uint32_t n, uint32_t offload, uint32_t *at,
                            uint32_t *cursor, struct frame *out, uint32_t max, uint32_t *dropped);
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
uint64_t framed_rest(const struct frame *frames, uint32_t n, uint64_t sent, void *out, uint64_t room,
                     uint64_t cap, uint64_t *tally);

#endif
