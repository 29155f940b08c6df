/* Images that another process serves over NBD, qcow2 by qemu-nbd: through libnbd, which is loaded
 * when the first one is opened, so that nobody else needs it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "blk_internal.h"

#define NBD_NO_HOLE 2     /* libnbd.h */
#define PIECE (32u << 20) /* a server takes at least this much in one command */
#define CLEAR (1u << 30)

struct nbd_handle;

static struct {
    struct nbd_handle *(*create)(void);
    void (*close)(struct nbd_handle *);
    int (*connect_socket)(struct nbd_handle *, int);
    int (*pread)(struct nbd_handle *, void *, size_t, uint64_t, uint32_t);
    int (*pwrite)(struct nbd_handle *, const void *, size_t, uint64_t, uint32_t);
    int (*flush)(struct nbd_handle *, uint32_t);
    int (*trim)(struct nbd_handle *, uint64_t, uint64_t, uint32_t);
    int (*zero)(struct nbd_handle *, uint64_t, uint64_t, uint32_t);
    int64_t (*get_size)(struct nbd_handle *);
    int (*is_read_only)(struct nbd_handle *);
    int (*can_trim)(struct nbd_handle *);
    int (*can_zero)(struct nbd_handle *);
    const char *(*get_error)(void);
    int (*get_errno)(void);
} nbd;

static const struct {
    const char *name;
    void *at;
} symbols[] = {
    {"nbd_create", &nbd.create}, {"nbd_close", &nbd.close},
    {"nbd_connect_socket", &nbd.connect_socket}, {"nbd_pread", &nbd.pread},
    {"nbd_pwrite", &nbd.pwrite}, {"nbd_flush", &nbd.flush}, {"nbd_trim", &nbd.trim},
    {"nbd_zero", &nbd.zero}, {"nbd_get_size", &nbd.get_size},
    {"nbd_is_read_only", &nbd.is_read_only}, {"nbd_can_trim", &nbd.can_trim},
    {"nbd_can_zero", &nbd.can_zero}, {"nbd_get_error", &nbd.get_error},
    {"nbd_get_errno", &nbd.get_errno},
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int loaded;

static void load(void)
{
    void *library = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (!symbol)
            return;
        *(void **)symbols[i].at = symbol;
    }
    loaded = 1;
}

static int failed(void)
{
    int error = nbd.get_errno();
    return error ? -error : -EIO;
}

/* Says whether libnbd is here. */
int blk_nbd_load(void)
{
    pthread_once(&once, load);
    return loaded;
}

/* Opens the export behind the connected socket `fd`, which is taken in any case, after
 * blk_nbd_load() said yes.  Returns a handle, or 0 and `why` not.  `flags`: 1 read-only, 2 trims,
 * 4 writes zeroes.  Blocks for a handshake. */
uint64_t blk_nbd_open(int fd, uint64_t *size, uint32_t *flags, char *why, uint32_t room)
{
    struct nbd_handle *h = nbd.create();
    int64_t bytes = -1;
    if (h && nbd.connect_socket(h, fd) == 0 && (bytes = nbd.get_size(h)) >= 0) {
        *size = (uint64_t)bytes;
        *flags = (nbd.is_read_only(h) == 1) | (nbd.can_trim(h) == 1) << 1 |
                 (nbd.can_zero(h) == 1) << 2;
        return (uint64_t)(uintptr_t)h;
    }
    snprintf(why, room, "%s", nbd.get_error());
    if (h)
        nbd.close(h);
    return 0;
}

static struct nbd_handle *handle(uint64_t h)
{
    return (struct nbd_handle *)(uintptr_t)h;
}

int blk_nbd_pread(uint64_t h, void *to, uint64_t len, uint64_t offset)
{
    for (uint64_t at = 0; at < len; at += PIECE) {
        uint64_t part = len - at < PIECE ? len - at : PIECE;
        if (nbd.pread(handle(h), (uint8_t *)to + at, part, offset + at, 0) < 0)
            return failed();
    }
    return 0;
}

int blk_nbd_pwrite(uint64_t h, const void *from, uint64_t len, uint64_t offset, int through)
{
    for (uint64_t at = 0; at < len; at += PIECE) {
        uint64_t part = len - at < PIECE ? len - at : PIECE;
        if (nbd.pwrite(handle(h), (const uint8_t *)from + at, part, offset + at, 0) < 0)
            return failed();
    }
    return through ? blk_nbd_flush(h) : 0;
}

int blk_nbd_flush(uint64_t h)
{
    return nbd.flush(handle(h), 0) < 0 ? failed() : 0;
}

/* A trim is a hint: what a server cannot do is no error. */
int blk_nbd_clear(uint64_t h, uint64_t len, uint64_t offset, int kind, int unmap)
{
    if (kind == BLK_DISCARD && nbd.can_trim(handle(h)) != 1)
        return 0;
    for (uint64_t at = 0; at < len; at += CLEAR) {
        uint64_t part = len - at < CLEAR ? len - at : CLEAR;
        int rc = kind == BLK_DISCARD
                     ? nbd.trim(handle(h), part, offset + at, 0)
                     : nbd.zero(handle(h), part, offset + at, unmap ? 0 : NBD_NO_HOLE);
        if (rc < 0)
            return failed();
    }
    return 0;
}

void blk_nbd_close(uint64_t h)
{
    nbd.close(handle(h));
}
