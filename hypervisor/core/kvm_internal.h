/* Shared by kvm.c, vcpu.c, run.c, state.c and uart.c. */
#ifndef HYPERVISOR_KVM_INTERNAL_H
#define HYPERVISOR_KVM_INTERNAL_H

#include <pthread.h>
#include <stdint.h>

#include "kvm.h"

struct kvm_run;
struct uart;

/* One processor and its thread.  `state`, `posted`, `answer` and `exit` are the machine's lock's;
 * `run` and `counters` are the thread's while it runs. */
struct vcpu {
    struct hv_vm *vm;
    uint32_t index;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    pthread_cond_t wake; /* told of an answer, of resume and of the end */
    int started;
    uint32_t state;      /* enum hv_vcpu_state */
    int incomplete;      /* an access was answered that KVM_RUN has not completed yet */
    int posted;          /* `exit` waits for hv_vm_exits */
    uint64_t answer;
    struct hv_exit exit;
    struct hv_counters counters;
};

struct hv_vm {
    int kvm_fd;
    int fd;
    int exit_fd;
    int run_size;
    int irqchip;
    pthread_mutex_t lock;
    pthread_cond_t out; /* told when a vCPU leaves guest code; on the monotonic clock */
    int paused;
    int stopping;
    uint32_t vcpu_count;
    struct vcpu *vcpu[HV_VCPUS_MAX];
    struct uart *uart;
};

struct vcpu *vcpu_at(struct hv_vm *vm, uint32_t index);
/* Waits, with the lock held, until no vCPU is in the guest, or all have ended; -ETIMEDOUT. */
int vcpus_wait(struct hv_vm *vm, int ended);
void vcpus_free(struct hv_vm *vm); /* all have ended */
void *vcpu_main(void *arg); /* the thread of a struct vcpu */

/* Serves one access of `size` bytes; 0 where the port is not the UART's. */
int uart_access(struct hv_vm *vm, uint16_t port, uint8_t size, int write, uint8_t *data);
void uart_free(struct hv_vm *vm);

void signal_eventfd(int fd);
void clear_eventfd(int fd);

#endif
