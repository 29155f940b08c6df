/* vCPUs from outside their threads: made, started, paused, answered, freed.  See run.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kvm_internal.h"

#define STACK_SIZE (128 << 10) /* the run loop needs a page or two */
#define AGAIN_NS 5000000ull    /* after the first kick; then twice as long each time */

struct vcpu *vcpu_at(struct hv_vm *vm, uint32_t index)
{
    return index < vm->vcpu_count ? vm->vcpu[index] : NULL;
}

/* The lock is held: a vCPU that is not RUNNING sees `paused` or `stopping` before it runs. */
static void kick(struct vcpu *v)
{
    if (v->state == HV_VCPU_RUNNING) {
        __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
        pthread_kill(v->thread, SIGRTMIN);
    }
}

static int busy(const struct hv_vm *vm, int ended)
{
    for (uint32_t i = 0; i < vm->vcpu_count; i++) {
        uint32_t state = vm->vcpu[i]->state;
        if (ended ? state != HV_VCPU_ENDED : state == HV_VCPU_RUNNING)
            return 1;
    }
    return 0;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* One kick is enough where interrupts between processors are never lost.  Under QEMU's TCG they
 * are (see tests/kvm/nested.py), so the kick is repeated: each is another interrupt.  Ever more
 * rarely, since a realtime signal queues. */
int vcpus_wait(struct hv_vm *vm, int ended)
{
    uint64_t now = now_ns(), give_up = now + HV_PATIENCE_MS * 1000000ull, again = AGAIN_NS;
    while (busy(vm, ended)) {
        if (now >= give_up)
            return -ETIMEDOUT;
        for (uint32_t i = 0; i < vm->vcpu_count; i++)
            kick(vm->vcpu[i]);
        uint64_t next = now + again;
        struct timespec at = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
        while (busy(vm, ended) && (now = now_ns()) < next)
            pthread_cond_timedwait(&vm->out, &vm->lock, &at);
        again *= 2;
    }
    return 0;
}

static int set_cpuid(struct vcpu *v, const uint8_t *cpuid, uint32_t size)
{
    const uint32_t each = sizeof(struct kvm_cpuid_entry2);
    if (size % each)
        return -EINVAL;
    struct kvm_cpuid2 *table = calloc(1, sizeof *table + size);
    if (!table)
        return -ENOMEM;
    table->nent = size / each;
    memcpy(table->entries, cpuid, size);
    int rc = ioctl(v->fd, KVM_SET_CPUID2, table) < 0 ? -errno : 0;
    free(table);
    return rc;
}

/* Inside KVM_RUN everything but the kick is blocked.  The kernel's set has 64 bits. */
static int set_signal_mask(struct vcpu *v)
{
    union {
        struct kvm_signal_mask mask;
        uint8_t room[sizeof(struct kvm_signal_mask) + sizeof(uint64_t)];
    } m = {.mask = {.len = sizeof(uint64_t)}};
    uint64_t blocked = ~(1ull << (SIGRTMIN - 1));
    memcpy(m.mask.sigset, &blocked, sizeof blocked);
    return ioctl(v->fd, KVM_SET_SIGNAL_MASK, &m.mask) < 0 ? -errno : 0;
}

/* The thread is born with all signals blocked but those that its own faults raise. */
static int start_thread(struct vcpu *v)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    char name[16];
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&v->thread, &attributes, vcpu_main, v);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (rc)
        return -rc;
    v->started = 1;
    snprintf(name, sizeof name, "vcpu %u", (unsigned)v->index);
    pthread_setname_np(v->thread, name);
    return 0;
}

/* The thread, if there is one, has ended or is about to. */
static void vcpu_free(struct vcpu *v)
{
    if (v->started)
        pthread_join(v->thread, NULL);
    if (v->run)
        munmap(v->run, (size_t)v->vm->run_size);
    if (v->fd >= 0)
        close(v->fd);
    pthread_cond_destroy(&v->wake);
    free(v);
}

static int vcpu_make(struct vcpu *v, const uint8_t *cpuid, uint32_t size)
{
    v->fd = ioctl(v->vm->fd, KVM_CREATE_VCPU, (unsigned long)v->index);
    if (v->fd < 0)
        return -errno;
    void *run = mmap(NULL, (size_t)v->vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (run == MAP_FAILED)
        return -errno;
    v->run = run;
    int rc = size ? set_cpuid(v, cpuid, size) : 0;
    if (rc == 0)
        rc = set_signal_mask(v);
    return rc ? rc : start_thread(v);
}

/* Adds the vCPU `index`, which is the number of those there are, paused. */
int hv_vcpu_new(struct hv_vm *vm, uint32_t index, const uint8_t *cpuid, uint32_t size)
{
    if (index >= HV_VCPUS_MAX)
        return -ENOSPC;
    if (index != vm->vcpu_count)
        return -EINVAL;
    if (!vm->paused)
        return -EBUSY;
    struct vcpu *v = calloc(1, sizeof *v);
    if (!v)
        return -ENOMEM;
    v->vm = vm;
    v->index = index;
    v->fd = -1;
    pthread_cond_init(&v->wake, NULL);
    int rc = vcpu_make(v, cpuid, size);
    if (rc) {
        vcpu_free(v); /* the thread is started last: there is none */
        return rc;
    }
    vm->vcpu[vm->vcpu_count++] = v;
    return 0;
}

int hv_vm_stop(struct hv_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->stopping = 1;
    for (uint32_t i = 0; i < vm->vcpu_count; i++) {
        kick(vm->vcpu[i]);
        pthread_cond_signal(&vm->vcpu[i]->wake);
    }
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

void vcpus_free(struct hv_vm *vm)
{
    while (vm->vcpu_count)
        vcpu_free(vm->vcpu[--vm->vcpu_count]);
}

int hv_vcpu_state(struct hv_vm *vm, uint32_t index)
{
    struct vcpu *v = vcpu_at(vm, index);
    if (!v)
        return -EINVAL;
    pthread_mutex_lock(&vm->lock);
    int state = (int)v->state;
    pthread_mutex_unlock(&vm->lock);
    return state;
}

int hv_vcpu_counters(struct hv_vm *vm, uint32_t index, struct hv_counters *out)
{
    struct vcpu *v = vcpu_at(vm, index);
    if (!v)
        return -EINVAL;
    const uint64_t *from = (const uint64_t *)&v->counters;
    for (unsigned i = 0; i < sizeof *out / sizeof *from; i++)
        ((uint64_t *)out)[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
    return 0;
}

int hv_vm_resume(struct hv_vm *vm)
{
    if (!vm->paused)
        return 0;
    for (uint32_t i = 0; i < vm->vcpu_count; i++) /* EINVAL: no kvmclock in use, nothing to tell */
        ioctl(vm->vcpu[i]->fd, KVM_KVMCLOCK_CTRL, 0);
    pthread_mutex_lock(&vm->lock);
    vm->paused = 0;
    for (uint32_t i = 0; i < vm->vcpu_count; i++)
        pthread_cond_signal(&vm->vcpu[i]->wake);
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

/* Returns when no vCPU is in the guest. */
int hv_vm_pause(struct hv_vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->paused = 1;
    int rc = vcpus_wait(vm, 0);
    pthread_mutex_unlock(&vm->lock);
    return rc;
}

/* A vCPU has at most one exit that waits, so that nothing here can overflow. */
int hv_vm_exits(struct hv_vm *vm, struct hv_exit *out, uint32_t count)
{
    uint32_t found = 0;
    clear_eventfd(vm->exit_fd); /* before the look: what is posted after it signals again */
    pthread_mutex_lock(&vm->lock);
    for (uint32_t i = 0; i < vm->vcpu_count && found < count; i++)
        if (vm->vcpu[i]->posted) {
            out[found++] = vm->vcpu[i]->exit;
            vm->vcpu[i]->posted = 0;
        }
    pthread_mutex_unlock(&vm->lock);
    return (int)found;
}

int hv_vm_answer(struct hv_vm *vm, uint32_t index, uint64_t data)
{
    struct vcpu *v = vcpu_at(vm, index);
    if (!v)
        return -EINVAL;
    pthread_mutex_lock(&vm->lock);
    int rc = vm->stopping || (v->state == HV_VCPU_WAITING && !v->posted) ? 0 : -EINVAL;
    if (rc == 0 && !vm->stopping) { /* nobody waits for an answer any more */
        v->answer = data;
        v->state = HV_VCPU_RUNNING; /* here already: pause waits until the access is complete */
        pthread_cond_signal(&v->wake);
    }
    pthread_mutex_unlock(&vm->lock);
    return rc;
}
