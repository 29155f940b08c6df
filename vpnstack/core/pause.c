/* A timer with a descriptor, for pauses of microseconds (timerfd_create(2)). */
#include "core.h"

#include <errno.h>
#include <sys/timerfd.h>

/* Returns a descriptor that is the caller's, or -errno. */
int pause_timer(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* The descriptor is readable in `ns` nanoseconds. */
int pause_start(int fd, uint32_t ns)
{
    struct itimerspec at = {.it_value = {.tv_nsec = ns}};

    return timerfd_settime(fd, 0, &at, NULL) < 0 ? -errno : 0;
}
