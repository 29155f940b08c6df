/* The run loop of a vCPU, in a thread of its own that never takes the GIL.
 *
 * A vCPU is RUNNING (in KVM_RUN, or in C between two of them), WAITING (an access lies with Python),
 * PAUSED or ENDED; only the thread leaves RUNNING, under the machine's lock, and tells `out`.  To
 * get it out of the guest, `immediate_exit` is set and SIGRTMIN sent to the thread.  The signal is
 * blocked everywhere but inside KVM_RUN (KVM_SET_SIGNAL_MASK): it ends KVM_RUN, or the next one, is
 * taken back afterwards and never delivered, so that this library needs no handler.
 *
 * An access that was answered is completed by the next KVM_RUN; with `immediate_exit` set that does
 * nothing else.  So a paused vCPU completes what it was answered, and its registers are whole. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "kvm_internal.h"

/* One writer, readers that may be a moment behind. */
static void count(uint64_t *counter)
{
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* The lock is held. */
static void set_state(struct vcpu *v, uint32_t state)
{
    v->state = state;
    if (state != HV_VCPU_RUNNING)
        pthread_cond_broadcast(&v->vm->out);
}

/* Hands an exit to Python and, unless it is final, waits; 0 when the machine ends instead.  The
 * lock is not held. */
static int post(struct vcpu *v, uint32_t kind, uint64_t addr, uint32_t size, int write,
                uint64_t data, uint64_t *answer)
{
    struct hv_vm *vm = v->vm;
    int final = kind >= HV_EXIT_HLT;
    count(&v->counters.python);
    pthread_mutex_lock(&vm->lock);
    v->exit = (struct hv_exit){v->index, kind, addr, data, size, (uint32_t)write};
    v->posted = 1;
    set_state(v, final ? HV_VCPU_ENDED : HV_VCPU_WAITING);
    signal_eventfd(vm->exit_fd);
    while (v->state == HV_VCPU_WAITING && !vm->stopping)
        pthread_cond_wait(&v->wake, &vm->lock);
    if (answer)
        *answer = v->answer;
    int answered = v->state == HV_VCPU_RUNNING;
    /* Paused or resumed meanwhile: the next KVM_RUN completes the access and knows which. */
    __atomic_store_n(&v->run->immediate_exit, vm->paused || vm->stopping, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&vm->lock);
    return answered;
}

static void end(struct vcpu *v, uint32_t kind, uint64_t detail)
{
    post(v, kind, detail, 0, 0, 0, NULL);
}

/* One element after the other, as the guest's instruction would; little endian like the guest. */
static int serve_io(struct vcpu *v)
{
    struct kvm_run *run = v->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    int write = run->io.direction == KVM_EXIT_IO_OUT;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        uint64_t value = 0;
        if (uart_access(v->vm, run->io.port, run->io.size, write, data)) {
            count(&v->counters.serial);
            continue;
        }
        if (write)
            memcpy(&value, data, run->io.size);
        if (!post(v, HV_EXIT_IO, run->io.port, run->io.size, write, value, &value))
            return 0;
        if (!write)
            memcpy(data, &value, run->io.size);
    }
    return 1;
}

static int serve_mmio(struct vcpu *v)
{
    struct kvm_run *run = v->run;
    uint64_t value = 0;
    uint32_t size = run->mmio.len < sizeof value ? run->mmio.len : sizeof value;
    if (run->mmio.is_write)
        memcpy(&value, run->mmio.data, size);
    if (!post(v, HV_EXIT_MMIO, run->mmio.phys_addr, size, run->mmio.is_write, value, &value))
        return 0;
    if (!run->mmio.is_write)
        memcpy(run->mmio.data, &value, size);
    return 1;
}

/* Answers one exit; 1 to go on in the guest. */
static int serve(struct vcpu *v)
{
    struct kvm_run *run = v->run;
    uint32_t reason = run->exit_reason;
    count(&v->counters.exits[reason < HV_EXIT_REASONS ? reason : HV_EXIT_REASONS - 1]);
    switch (reason) {
    case KVM_EXIT_IO:
        return v->incomplete = serve_io(v);
    case KVM_EXIT_MMIO:
        return v->incomplete = serve_mmio(v);
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return 1;
    case KVM_EXIT_HLT:
        end(v, HV_EXIT_HLT, 0);
        return 0;
    case KVM_EXIT_SHUTDOWN:
        end(v, HV_EXIT_SHUTDOWN, 0);
        return 0;
    case KVM_EXIT_FAIL_ENTRY:
        end(v, HV_EXIT_FAIL_ENTRY, run->fail_entry.hardware_entry_failure_reason);
        return 0;
    case KVM_EXIT_INTERNAL_ERROR:
        end(v, HV_EXIT_INTERNAL_ERROR, run->internal.suberror);
        return 0;
    case KVM_EXIT_SYSTEM_EVENT:
        end(v, HV_EXIT_SYSTEM_EVENT, run->system_event.type);
        return 0;
    default:
        end(v, HV_EXIT_UNKNOWN, reason);
        return 0;
    }
}

/* Takes back the signal that ended KVM_RUN: it is blocked here, and would end the next one too. */
static void take_kick(struct vcpu *v)
{
    struct timespec now = {0, 0};
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, SIGRTMIN);
    while (sigtimedwait(&kick, NULL, &now) == SIGRTMIN)
        count(&v->counters.kicks);
}

/* Runs the guest until it is kicked, ends, or the machine does. */
static void run_guest(struct vcpu *v)
{
    for (;;) {
        if (ioctl(v->fd, KVM_RUN, 0) == 0) {
            if (!serve(v))
                return;
        } else if (errno == EINTR) {
            v->incomplete = 0;
            take_kick(v);
            return;
        } else if (errno != EAGAIN) { /* EAGAIN: a processor that was not started yet woke up */
            end(v, HV_EXIT_ERROR, (uint64_t)errno);
            return;
        }
    }
}

void *vcpu_main(void *arg)
{
    struct vcpu *v = arg;
    struct hv_vm *vm = v->vm;
    pthread_mutex_lock(&vm->lock);
    while (!vm->stopping && v->state != HV_VCPU_ENDED) {
        if (vm->paused && !v->incomplete) {
            set_state(v, HV_VCPU_PAUSED);
            pthread_cond_wait(&v->wake, &vm->lock);
            continue;
        }
        set_state(v, HV_VCPU_RUNNING);
        __atomic_store_n(&v->run->immediate_exit, vm->paused != 0, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&vm->lock);
        run_guest(v);
        pthread_mutex_lock(&vm->lock);
    }
    set_state(v, HV_VCPU_ENDED);
    pthread_mutex_unlock(&vm->lock);
    return NULL;
}
