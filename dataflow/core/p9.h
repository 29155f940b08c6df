/* The hot half of a 9P server: requests of open host files, answered without Python.
 *
 * A pump reads messages from a connected stream socket.  Tread, Twrite and Tgetattr of fids that
 * Python taught it (pump_learn) are answered at once, and Tclunk of those that hold nothing; every other message is handed to Python, and
 * so is each of these that might wait (data that is not cached, a disk that stalls).  A pump is
 * used by one thread at a time and never keeps a pointer that it was given.
 */
#ifndef DATAFLOW_P9_H
#define DATAFLOW_P9_H

#include <stddef.h>
#include <stdint.h>

#define PUMP_IDLE 0    /* all was answered: wait until the socket is readable */
#define PUMP_MORE 1    /* there is more, but others want their turn: call again soon */
#define PUMP_MESSAGE 2 /* `message` holds one whole message for Python, until the next call */
#define PUMP_LARGE 3   /* `message` holds the beginning of one; the rest is Python's to receive */
#define PUMP_FULL 4    /* an answer waits for the socket: pump_flush when it is writable */
#define PUMP_END 5     /* the peer hung up, or the socket broke */
#define PUMP_BAD 6     /* no message can have the size that `size` tells */

#define PUMP_CLUNKED 8 /* is added where pump_clunked has something to tell */

#define PUMP_READ 1  /* what pump_learn permits */
#define PUMP_WRITE 2
#define PUMP_ATTR 4
#define PUMP_CLUNK 8 /* and then to say so in pump_clunked */

#define PUMP_CLUNKED_MAX 64

struct pump_counts {
	uint64_t requests;
	uint64_t octets_in;
	uint64_t octets_out;
};

struct pump_said {
	const char *at;
	size_t len;    /* what came */
	uint32_t size; /* what the message says it has */
};

struct p9_found {
	int fd; /* O_PATH, or a negative errno */
	uint32_t mode;
	uint64_t dev, ino, size;
	int64_t mtime_ns;
};

struct pump;

/* After a write that took longer than `slow_ns` some more go to Python, which has threads. */
struct pump *pump_new(uint32_t limit, uint64_t slow_ns);
void pump_free(struct pump *p);

/* Sets the largest message (msize). */
void pump_limit(struct pump *p, uint32_t limit);

/* Lets the pump serve `fid`: `io` is its descriptor for data, `path` one for attributes (-1 for
 * none), both open until the fid's next message that is none of the three.  False without memory. */
int pump_learn(struct pump *p, uint32_t fid, int may, int io, int path, int qtype, uint64_t qpath);

/* Reads and answers; returns one of PUMP_*.  Without `fast` everything is handed to Python.
 * `spin` is how many nanoseconds to wait for the next request before giving up the thread. */
int pump_serve(struct pump *p, int sock, int fast, uint64_t spin);

/* Sends what waits; returns PUMP_IDLE, PUMP_FULL or PUMP_END. */
int pump_flush(struct pump *p, int sock);

/* The message of PUMP_MESSAGE or PUMP_LARGE, valid until the next call. */
struct pump_said pump_message(struct pump *p);

struct pump_counts pump_count(struct pump *p);

/* Moves the numbers of fids that the pump clunked to `into`, which holds PUMP_CLUNKED_MAX of them,
 * and returns how many: ask after every pump_serve, before anything else looks at a fid. */
int pump_clunked(struct pump *p, uint32_t *into);

/* Finds `name` (one element) below the directory `dir` without following it or leaving, and without
 * waiting for a disk: EAGAIN for what is not cached. */
struct p9_found p9_lookup(int dir, const char *name);

/* Whether a file lies in a file system that is nothing but memory. */
int p9_in_memory(int fd);

#endif
