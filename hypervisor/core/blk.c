/* The threads of a virtio-blk queue.
 *
 * Theory.  One thread leads: it waits for kicks, takes requests and serves those that will not
 * block, which from the page cache is all of them, so that nothing is handed between threads.  When
 * it is about to block it gives the lead to another thread, which it makes if there is none, and
 * does its request alone; so a slow disk sees as many requests at once as the driver has, and a
 * queue that nobody uses is one thread asleep.  Whether a read would block the kernel says
 * (RWF_NOWAIT); of other requests, how long the last ones of their kind slept.  Time that passed
 * without sleep counts for nothing: it tells of a slow processor, which more threads do not mend.
 *
 * Answers wait for the end of a burst, or for so many or so much of them, before they are shown: an
 * interrupt for each costs the guest more than the request.  They never wait for a request that
 * blocks.
 *
 * The queue is touched by whoever holds the lock; requests are executed without it. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "blk_internal.h"

#define GATHER 16           /* answers that are shown together at most, */
#define GATHER_OCTETS (128u << 10) /* and octets of theirs */
#define SLOW 150000         /* nanoseconds of sleep: worth another thread */
#define LARGE (128u << 10)  /* bytes: answers do not wait for so much */
#define STACK_SIZE (64 << 10)

struct blk_queue {
    struct blk_image *image;
    struct vq *q;
    uint64_t features;
    int kick;
    int wake;               /* eventfd: look at `stop` */
    uint64_t gathered;      /* octets of the answers that are not shown */
    uint64_t cost[BLK_KINDS]; /* nanoseconds of sleep, moving averages */
    pthread_mutex_t lock;
    pthread_cond_t lead;    /* the lead is free */
    uint32_t led;
    uint32_t idle;          /* threads that wait for the lead */
    uint32_t alive;
    uint32_t threads;
    uint32_t most;
    int stop;
    int ended;              /* no thread touches anything any more */
    struct blk_counters counters;
    struct blk_thread *thread[BLK_THREADS_MAX];
};

/* Times that the calling thread slept. */
static long sleeps(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nvcsw;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void signal_fd(int fd)
{
    uint64_t one = 1;
    if (write(fd, &one, sizeof one) < 0)
        return; /* the counter is full: it says so already */
}

static void *thread_main(void *arg);

/* Makes another thread; the lock is held, or nobody else is there yet.  It is born with all
 * signals blocked but those that its own faults raise. */
static int add_thread(struct blk_queue *b)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    struct blk_thread *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->queue = b;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&t->id, &attributes, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (rc) {
        free(t);
        return -rc;
    }
    pthread_setname_np(t->id, "virtio-blk");
    b->thread[b->threads++] = t;
    b->alive++;
    b->counters.threads = b->threads;
    return 0;
}

/* Lets another thread lead; says whether there is one.  The lock is held. */
static int hand_over(struct blk_queue *b)
{
    if (!b->idle && (b->threads == b->most || add_thread(b)))
        return 0;
    b->led = 0;
    pthread_cond_signal(&b->lead);
    return 1;
}

static void finish(struct blk_queue *b, struct blk_request *r)
{
    *r->status_at = r->status;
    b->gathered = r->len + (b->q->pending ? b->gathered : 0);
    vq_chain_push(b->q, r->head, r->written + 1);
    b->counters.requests[r->kind]++;
    b->counters.octets[r->kind] += r->status == BLK_OK ? r->len : 0;
    b->counters.errors += r->status == BLK_IOERR;
    b->counters.unsupported += r->status == BLK_UNSUPP;
}

/* Shows answers that have waited for each other long enough. */
static void show_burst(struct blk_queue *b)
{
    if (b->q->pending >= GATHER || b->gathered >= GATHER_OCTETS)
        vq_publish(b->q);
}

static int will_block(struct blk_queue *b, const struct blk_request *r)
{
    return r->kind >= BLK_FLUSH || b->cost[r->kind] > SLOW;
}

/* Executes a request that may block; the lock is held at both ends.  Says whether we lead still. */
static int serve_slowly(struct blk_thread *t, int blocks)
{
    struct blk_queue *b = t->queue;
    struct blk_request *r = &t->request;
    int leading = 1;
    if (blocks || r->len >= LARGE)
        vq_publish(b->q);
    if (blocks)
        leading = !hand_over(b);
    pthread_mutex_unlock(&b->lock);
    uint64_t begin = now();
    long before = sleeps();
    blk_execute(b->image, t);
    uint64_t slept = sleeps() != before ? now() - begin : 0;
    pthread_mutex_lock(&b->lock);
    b->cost[r->kind] += slept / 8 - b->cost[r->kind] / 8;
    finish(b, r);
    if (!leading || slept)
        vq_publish(b->q);
    else
        show_burst(b);
    return leading;
}

/* Serves the chain that was just taken; says whether we lead still.  The lock is held. */
static int serve(struct blk_thread *t)
{
    struct blk_queue *b = t->queue;
    struct blk_request *r = &t->request;
    if (!blk_parse(b->image, b->q, b->features, t))
        return 1;
    int may_try = r->kind == BLK_READ && !b->image->setup.nbd && !b->image->setup.align &&
                  !__atomic_load_n(&b->image->no_nowait, __ATOMIC_RELAXED);
    if (!r->known && may_try) {
        if (r->len >= LARGE)
            vq_publish(b->q);
        pthread_mutex_unlock(&b->lock);
        int done = blk_try(b->image, r);
        pthread_mutex_lock(&b->lock);
        if (!done)
            return serve_slowly(t, 1);
    } else if (!r->known) {
        return serve_slowly(t, will_block(b, r));
    }
    finish(b, r);
    show_burst(b);
    return 1;
}

static void wait_kick(struct blk_queue *b)
{
    struct pollfd fds[2] = {{.fd = b->kick, .events = POLLIN}, {.fd = b->wake, .events = POLLIN}};
    uint64_t count;
    if (poll(fds, 2, -1) > 0 && fds[0].revents && read(b->kick, &count, sizeof count) < 0)
        return; /* somebody was faster */
}

/* Leads until the lead is given away or all is over.  The lock is held at both ends. */
static void lead(struct blk_thread *t)
{
    struct blk_queue *b = t->queue;
    while (!b->stop) {
        vq_suppress(b->q);
        while (!b->stop && vq_chain_pop(b->q))
            if (!serve(t))
                return;
        vq_publish(b->q);
        if (b->q->error)
            b->stop = 1;
        if (b->stop || vq_arm(b->q))
            continue;
        if (b->q->error)
            continue;
        pthread_mutex_unlock(&b->lock);
        wait_kick(b);
        pthread_mutex_lock(&b->lock);
    }
    b->led = 0;
    pthread_cond_broadcast(&b->lead);
}

static void *thread_main(void *arg)
{
    struct blk_thread *t = arg;
    struct blk_queue *b = t->queue;
    pthread_mutex_lock(&b->lock);
    while (!b->stop) {
        if (!b->led) {
            b->led = 1;
            lead(t);
            continue;
        }
        b->idle++;
        pthread_cond_wait(&b->lead, &b->lock);
        b->idle--;
    }
    pthread_cond_broadcast(&b->lead);
    int last = --b->alive == 0;
    int event = b->image->setup.event; /* b may be freed as soon as it has ended */
    if (last)
        __atomic_store_n(&b->ended, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&b->lock);
    if (last)
        signal_fd(event);
    return NULL;
}

/* Serves `q`, which is attached, with the descriptor `kick`, until blk_stop() or until its driver
 * breaks a rule: q->error says so.  Image, queue and descriptor must live until blk_free(). */
struct blk_queue *blk_start(struct blk_image *image, struct vq *q, uint64_t features, int kick)
{
    struct blk_queue *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->image = image;
    b->q = q;
    b->features = features;
    b->kick = kick;
    b->most = image->setup.nbd ? 1 : BLK_THREADS_MAX; /* a handle of libnbd has one user at a time */
    b->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->lead, NULL);
    pthread_mutex_lock(&b->lock);
    int rc = b->wake < 0 ? -errno : add_thread(b);
    pthread_mutex_unlock(&b->lock);
    if (rc == 0)
        return b;
    b->ended = 1;
    blk_free(b);
    return NULL;
}

/* Asks the threads to end after what they do now; never waits for a request. */
void blk_stop(struct blk_queue *b)
{
    pthread_mutex_lock(&b->lock);
    b->stop = 1;
    pthread_cond_broadcast(&b->lead);
    pthread_mutex_unlock(&b->lock);
    signal_fd(b->wake);
}

/* Says whether no thread touches guest memory, the queue or the image any more. */
int blk_ended(struct blk_queue *b)
{
    return __atomic_load_n(&b->ended, __ATOMIC_ACQUIRE);
}

/* After the end; waits for threads that have nothing left to do. */
void blk_free(struct blk_queue *b)
{
    if (!b)
        return;
    for (uint32_t i = 0; i < b->threads; i++) {
        pthread_join(b->thread[i]->id, NULL);
        free(b->thread[i]->bounce);
        free(b->thread[i]);
    }
    if (b->wake >= 0)
        close(b->wake);
    pthread_cond_destroy(&b->lead);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

void blk_count(struct blk_queue *b, struct blk_counters *out)
{
    pthread_mutex_lock(&b->lock);
    *out = b->counters;
    out->calls = b->q->calls;
    pthread_mutex_unlock(&b->lock);
}
