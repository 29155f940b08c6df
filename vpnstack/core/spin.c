/* Busy waiting, for answers that come sooner than a sleeping thread is woken. */
#include "core.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Waits up to `usec` for `fd` to be readable; returns whether it is. */
int spin_readable(int fd, uint32_t usec)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int64_t end = now_ns() + (int64_t)usec * 1000;

    for (;;) {
        if (poll(&p, 1, 0) != 0)
            return 1;
        if (now_ns() >= end)
            return 0;
        sched_yield(); /* whoever is to answer may wait for this very processor */
    }
}
