/* See p9.h.  Buffers come from a small pool, so that an idle connection holds none and a busy one
 * touches no fresh memory.  Only the thread that holds the loop calls in here, but several loops
 * may run in several threads: the pool is per thread. */
#define _GNU_SOURCE
#include "p9.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 7, TGETATTR = 24, TVERSION = 100, TREAD = 116, TWRITE = 118, TCLUNK = 120 };
enum { TCLUNK_SIZE = 11, RREAD_HEAD = 11, TREAD_SIZE = 23, TWRITE_HEAD = 23, TGETATTR_SIZE = 19, RGETATTR_SIZE = 160 };
enum { IO_HEADER = 24, ROOM = 4096, SMALL = 4096, POOL = 4, SLOTS_MIN = 16, SLOTS_MAX = 4096 };
enum { BUDGET = 64, OCTETS_MAX = 4 << 20, SLOW_TURNS = 256 };
#define GETATTR_BASIC 0x7ffULL

struct buffer {
	size_t cap;
	uint8_t data[];
};

struct slot {
	uint32_t fid;
	uint8_t may; /* 0: free */
	uint8_t qtype;
	uint8_t flags; /* of preadv2: RWF_NOWAIT, but where nothing waits and it is not known */
	int io, path;
	uint64_t qpath;
};

struct pump {
	uint32_t limit;
	uint32_t slot_mask; /* of `slots`, which is NULL until something was learned */
	struct slot *slots; /* a cache: a fid that lost its place is learned anew */
	struct buffer *in;  /* bytes start..end were received and not yet taken */
	size_t start, end;
	uint8_t *held; /* a small remainder, in place of `in` */
	struct buffer *out;
	size_t out_start, out_end; /* what waits to be sent */
	size_t message, message_len;
	uint32_t size;
	uint32_t clunked[PUMP_CLUNKED_MAX];
	int clunked_len;
	uint64_t slow_ns;
	uint32_t slow; /* writes that go the long way, after one that took long */
	struct pump_counts counts;
};

static _Thread_local struct buffer *pool[POOL];

static struct buffer *take(size_t need)
{
	struct buffer *b;

	for (int i = 0; i < POOL; i++)
		if (pool[i] && pool[i]->cap >= need && pool[i]->cap / 4 <= need) {
			b = pool[i];
			pool[i] = NULL;
			return b;
		}
	b = malloc(sizeof(*b) + need);
	if (b)
		b->cap = need;
	return b;
}

static void give(struct buffer *b)
{
	if (!b)
		return;
	for (int i = 0; i < POOL; i++)
		if (!pool[i]) {
			pool[i] = b;
			return;
		}
	free(pool[b->cap % POOL]); /* sizes come and go: let the new one stay */
	pool[b->cap % POOL] = b;
}

static uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static uint8_t *put(uint8_t *at, uint64_t v, int n) { memcpy(at, &v, n); return at + n; }

static void head(uint8_t *at, uint32_t size, uint8_t kind, uint16_t tag)
{
	put(put(put(at, size, 4), kind, 1), tag, 2);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

struct pump *pump_new(uint32_t limit, uint64_t slow_ns)
{
	struct pump *p = calloc(1, sizeof(*p));

	if (p) {
		p->limit = limit;
		p->slow_ns = slow_ns;
	}
	return p;
}

void pump_free(struct pump *p)
{
	if (!p)
		return;
	give(p->in);
	give(p->out);
	free(p->held);
	free(p->slots);
	free(p);
}

void pump_limit(struct pump *p, uint32_t limit)
{
	if (p)
		p->limit = limit;
}

struct pump_counts pump_count(struct pump *p)
{
	return p ? p->counts : (struct pump_counts){ 0, 0, 0 };
}

int pump_clunked(struct pump *p, uint32_t *into)
{
	int n = p ? p->clunked_len : 0;

	for (int i = 0; i < n; i++)
		into[i] = p->clunked[i];
	if (n)
		p->clunked_len = 0;
	return n;
}

struct pump_said pump_message(struct pump *p)
{
	const char *at = p && p->in ? (const char *)p->in->data + p->message : NULL;

	return (struct pump_said){ at, at ? p->message_len : 0, p ? p->size : 0 };
}

static struct slot *find(struct pump *p, uint32_t fid, int may)
{
	struct slot *s;

	if (!p->slots)
		return NULL;
	s = &p->slots[fid & p->slot_mask];
	return s->fid == fid && s->may & may ? s : NULL;
}

static void forget(struct pump *p, uint32_t fid)
{
	if (p->slots && p->slots[fid & p->slot_mask].fid == fid)
		p->slots[fid & p->slot_mask].may = 0;
}

static bool grow(struct pump *p)
{
	uint32_t count = p->slots ? 2 * (p->slot_mask + 1) : SLOTS_MIN;
	struct slot *more = calloc(count, sizeof(*more));

	if (!more)
		return false;
	for (uint32_t i = 0; p->slots && i <= p->slot_mask; i++)
		if (p->slots[i].may)
			more[p->slots[i].fid & (count - 1)] = p->slots[i];
	free(p->slots);
	p->slots = more;
	p->slot_mask = count - 1;
	return true;
}

int pump_learn(struct pump *p, uint32_t fid, int may, int io, int path, int qtype, uint64_t qpath)
{
	struct slot *s;

	if (!p || (!p->slots && !grow(p)))
		return 0;
	s = &p->slots[fid & p->slot_mask];
	while (s->may && s->fid != fid && p->slot_mask + 1 < SLOTS_MAX && grow(p))
		s = &p->slots[fid & p->slot_mask];
	*s = (struct slot){
		.fid = fid, .may = may, .qtype = qtype, .io = io, .path = path, .qpath = qpath,
		.flags = may & PUMP_READ && p9_in_memory(io) ? 0 : RWF_NOWAIT,
	};
	return 1;
}

int pump_flush(struct pump *p, int sock)
{
	if (!p)
		return PUMP_END;
	while (p->out_start < p->out_end) {
		ssize_t n = send(sock, p->out->data + p->out_start, p->out_end - p->out_start,
				 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? PUMP_FULL : PUMP_END;
		p->out_start += n;
	}
	give(p->out);
	p->out = NULL;
	p->out_start = p->out_end = 0;
	return PUMP_IDLE;
}

/* Sends `len` bytes of `b`, which is then the pump's. */
static int answer(struct pump *p, int sock, struct buffer *b, size_t len)
{
	p->out = b;
	p->out_start = 0;
	p->out_end = len;
	p->counts.requests++;
	p->counts.octets_out += len;
	return pump_flush(p, sock);
}

/* The three operations return PUMP_MESSAGE for what is Python's to do or to refuse. */

static int do_read(struct pump *p, int sock, const uint8_t *m)
{
	struct slot *s = find(p, get32(m + 7), PUMP_READ);
	uint64_t offset = get64(m + 11);
	uint32_t count = get32(m + 19);
	struct buffer *b;
	struct stat st;
	struct iovec iov;
	ssize_t n;

	if (!s || offset > INT64_MAX)
		return PUMP_MESSAGE;
	if (count > p->limit - IO_HEADER)
		count = p->limit - IO_HEADER;
	b = take(RREAD_HEAD + (size_t)count);
	if (!b)
		return PUMP_MESSAGE;
	iov = (struct iovec){ b->data + RREAD_HEAD, count };
	n = preadv2(s->io, &iov, 1, offset, s->flags);
	/* Less than was asked for is right at the end of the file only; else the rest is not cached. */
	if (n < 0 || (n < count && (fstat(s->io, &st) || (off_t)(offset + n) < st.st_size))) {
		give(b);
		return PUMP_MESSAGE;
	}
	head(b->data, RREAD_HEAD + n, TREAD + 1, get16(m + 5));
	put(b->data + HEADER, n, 4);
	return answer(p, sock, b, RREAD_HEAD + n);
}

static int do_write(struct pump *p, int sock, const uint8_t *m, uint32_t size)
{
	struct slot *s = find(p, get32(m + 7), PUMP_WRITE);
	uint64_t offset = get64(m + 11), before;
	uint32_t count = get32(m + 19);
	struct buffer *b;
	ssize_t n;

	if (!s || p->slow || offset > INT64_MAX || count != size - TWRITE_HEAD)
		return PUMP_MESSAGE;
	b = take(SMALL);
	if (!b)
		return PUMP_MESSAGE;
	before = now();
	n = pwrite(s->io, m + TWRITE_HEAD, count, offset);
	if (now() - before > p->slow_ns)
		p->slow = SLOW_TURNS;
	if (n < 0) { /* nothing was written: Python's attempt finds out why */
		give(b);
		return PUMP_MESSAGE;
	}
	head(b->data, RREAD_HEAD, TWRITE + 1, get16(m + 5));
	put(b->data + HEADER, n, 4);
	return answer(p, sock, b, RREAD_HEAD);
}

static int do_getattr(struct pump *p, int sock, const uint8_t *m)
{
	struct slot *s = find(p, get32(m + 7), PUMP_ATTR);
	struct buffer *b;
	struct stat st;
	uint8_t *at;

	if (!s || fstat(s->path, &st))
		return PUMP_MESSAGE;
	b = take(SMALL);
	if (!b)
		return PUMP_MESSAGE;
	head(b->data, RGETATTR_SIZE, TGETATTR + 1, get16(m + 5));
	at = put(b->data + HEADER, GETATTR_BASIC, 8);
	at = put(at, s->qtype, 1);
	at = put(at, (st.st_mtim.tv_sec * 1000000000ULL + st.st_mtim.tv_nsec) ^ st.st_size, 4);
	at = put(at, s->qpath, 8);
	at = put(put(put(at, st.st_mode, 4), st.st_uid, 4), st.st_gid, 4);
	at = put(put(at, st.st_nlink, 8), st.st_rdev, 8);
	at = put(put(at, st.st_size, 8), st.st_blksize, 8);
	at = put(at, st.st_blocks, 8);
	at = put(put(at, st.st_atim.tv_sec, 8), st.st_atim.tv_nsec, 8);
	at = put(put(at, st.st_mtim.tv_sec, 8), st.st_mtim.tv_nsec, 8);
	at = put(put(at, st.st_ctim.tv_sec, 8), st.st_ctim.tv_nsec, 8);
	memset(at, 0, 32); /* btime, gen, data_version: not said to be valid */
	return answer(p, sock, b, RGETATTR_SIZE);
}

static int do_clunk(struct pump *p, int sock, const uint8_t *m)
{
	uint32_t fid = get32(m + 7);
	struct buffer *b;

	if (!find(p, fid, PUMP_CLUNK) || p->clunked_len == PUMP_CLUNKED_MAX)
		return PUMP_MESSAGE;
	b = take(SMALL);
	if (!b)
		return PUMP_MESSAGE;
	forget(p, fid);
	p->clunked[p->clunked_len++] = fid;
	head(b->data, HEADER, TCLUNK + 1, get16(m + 5));
	return answer(p, sock, b, HEADER);
}

static int one(struct pump *p, int sock, const uint8_t *m, uint32_t size, int fast)
{
	uint8_t kind = m[4];

	if (kind == TREAD && size == TREAD_SIZE)
		return fast ? do_read(p, sock, m) : PUMP_MESSAGE;
	if (kind == TWRITE && size >= TWRITE_HEAD) {
		int done = fast ? do_write(p, sock, m, size) : PUMP_MESSAGE;
		if (done == PUMP_MESSAGE && p->slow)
			p->slow--;
		return done;
	}
	if (kind == TGETATTR && size == TGETATTR_SIZE)
		return fast ? do_getattr(p, sock, m) : PUMP_MESSAGE;
	if (kind == TCLUNK && size == TCLUNK_SIZE && fast) {
		int done = do_clunk(p, sock, m);
		if (done != PUMP_MESSAGE)
			return done;
	}
	/* It may change what its fid stands for, and all others begin with their fid. */
	if (kind == TVERSION)
		for (uint32_t i = 0; p->slots && i <= p->slot_mask; i++)
			p->slots[i].may = 0;
	else if (size >= HEADER + 4)
		forget(p, get32(m + HEADER));
	return PUMP_MESSAGE;
}

/* Keeps what was received and not taken until the next call, a little of it in as little memory. */
static int park(struct pump *p, int outcome)
{
	size_t rest = p->end - p->start;

	if (!p->in || rest > SMALL)
		return outcome;
	if (rest) {
		p->held = malloc(rest);
		if (!p->held)
			return PUMP_END;
		memcpy(p->held, p->in->data + p->start, rest);
	}
	p->start = 0;
	p->end = rest;
	give(p->in);
	p->in = NULL;
	return outcome;
}

/* Makes room for a message of `need` bytes behind `start`. */
static bool make_room(struct pump *p, size_t need)
{
	size_t rest = p->end - p->start;
	struct buffer *b;

	if (p->in && p->in->cap - p->start >= need && p->in->cap > p->end)
		return true;
	if (p->in && p->in->cap >= need) {
		memmove(p->in->data, p->in->data + p->start, rest);
	} else {
		b = take((need > p->limit ? need : p->limit) + ROOM);
		if (!b)
			return false;
		if (rest)
			memcpy(b->data, p->in ? p->in->data + p->start : p->held, rest);
		give(p->in);
		free(p->held);
		p->held = NULL;
		p->in = b;
	}
	p->start = 0;
	p->end = rest;
	return true;
}

/* Receives; 1 when something came, 0 when there is nothing, -1 at the end. */
static int more(struct pump *p, int sock, uint64_t spin)
{
	uint64_t until = 0;

	for (;;) {
		ssize_t n = recv(sock, p->in->data + p->end, p->in->cap - p->end, MSG_DONTWAIT);
		if (n > 0) {
			p->end += n;
			return 1;
		}
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			return -1;
		if (!spin)
			return 0;
		if (!until)
			until = now() + spin;
		else if (now() > until)
			return 0;
	}
}

/* Whether the message that begins at `m` would be answered here once it is whole. */
static bool ours(struct pump *p, const uint8_t *m, size_t have, int fast)
{
	return fast && have >= HEADER + 4 && m[4] == TWRITE && !p->slow &&
	       find(p, get32(m + HEADER), PUMP_WRITE);
}

static int serve(struct pump *p, int sock, int fast, uint64_t spin)
{
	uint64_t before = p->counts.octets_in + p->counts.octets_out;
	int served = 0;

	if (p->out)
		return PUMP_FULL;
	for (;;) {
		size_t have = p->end - p->start;
		uint32_t size = 0;
		int done;

		if (!p->in && !make_room(p, have + 1))
			return PUMP_END;
		if (have >= 4) {
			size = p->size = get32(p->in->data + p->start);
			if (size < HEADER || size > p->limit)
				return PUMP_BAD;
		}
		if (size && have >= size) {
			if (served == BUDGET || p->counts.octets_in + p->counts.octets_out - before > OCTETS_MAX)
				return park(p, PUMP_MORE);
			p->message = p->start;
			p->message_len = size;
			p->start += size;
			done = one(p, sock, p->in->data + p->message, size, fast);
			if (done == PUMP_MESSAGE)
				return done;
			p->counts.octets_in += size;
			if (done != PUMP_IDLE)
				return park(p, done);
			served++;
			continue;
		}
		if (size > SMALL && have >= HEADER + 4 && !ours(p, p->in->data + p->start, have, fast)) {
			one(p, sock, p->in->data + p->start, size, 0); /* only to forget its fid */
			p->message = p->start;
			p->message_len = have;
			p->start = p->end;
			return PUMP_LARGE;
		}
		if (!make_room(p, size ? size : have + 1))
			return PUMP_END;
		done = more(p, sock, served ? spin : 0);
		if (done <= 0)
			return park(p, done ? PUMP_END : PUMP_IDLE);
	}
}

int pump_serve(struct pump *p, int sock, int fast, uint64_t spin)
{
	return p ? serve(p, sock, fast, spin) | (p->clunked_len ? PUMP_CLUNKED : 0) : PUMP_END;
}

/* linux/openat2.h, which older headers lack */
struct how {
	uint64_t flags, mode, resolve;
};
enum { RESOLVE_NO_MAGICLINKS = 0x02, RESOLVE_BENEATH = 0x08, RESOLVE_CACHED = 0x20 };
#ifndef SYS_openat2
#define SYS_openat2 437
#endif

struct p9_found p9_lookup(int dir, const char *name)
{
	struct how how = {
		.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED,
	};
	int fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));
	struct stat st;

	if (fd < 0)
		return (struct p9_found){ .fd = -errno };
	if (fstat(fd, &st)) {
		int error = errno;
		close(fd);
		return (struct p9_found){ .fd = -error };
	}
	return (struct p9_found){
		.fd = fd, .mode = st.st_mode, .dev = st.st_dev, .ino = st.st_ino, .size = st.st_size,
		.mtime_ns = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec,
	};
}

int p9_in_memory(int fd)
{
	struct statfs s;

	return !fstatfs(fd, &s) && (s.f_type == TMPFS_MAGIC || s.f_type == RAMFS_MAGIC);
}
