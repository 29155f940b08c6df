/* A virtual machine on KVM: memory slots, interrupts, vCPU threads with their run loop, a 16550.
 *
 * cffi reads this file too (build.py): plain declarations only, none of the kernel's types; state
 * passes as the kernel's packed structures.  Functions return -errno on failure.  They are called
 * with the GIL released, by one thread at a time for one machine; but while one thread is in
 * hv_vm_pause, another may call all that touches neither it, hv_vm_resume nor hv_vm_free.
 *
 * Nothing waits for ever: who waits for a vCPU kicks it again and again, and gives up with
 * -ETIMEDOUT after HV_PATIENCE_MS, which only a kernel that lost the vCPU makes happen. */
#ifndef HYPERVISOR_KVM_H
#define HYPERVISOR_KVM_H

#include <stdint.h>

#define HV_VCPUS_MAX 16
#define HV_UART_RING 65536 /* bytes each way, a power of two */
#define HV_EXIT_REASONS 64
#define HV_PATIENCE_MS 10000

struct hv_vm; /* kvm_internal.h */

/* Why hv_vm_new failed: at which step (a static string), and the errno. */
struct hv_failure {
    int error;
    const char *step;
};

enum hv_exit_kind {
    HV_EXIT_NONE = 0,
    HV_EXIT_IO,
    HV_EXIT_MMIO,
    HV_EXIT_HLT,            /* from here on the vCPU has ended; addr is the detail */
    HV_EXIT_SHUTDOWN,
    HV_EXIT_FAIL_ENTRY,     /* hardware's reason */
    HV_EXIT_INTERNAL_ERROR, /* suberror */
    HV_EXIT_SYSTEM_EVENT,   /* type */
    HV_EXIT_UNKNOWN,        /* KVM's exit number */
    HV_EXIT_ERROR           /* errno of KVM_RUN */
};

struct hv_exit {
    uint32_t vcpu;
    uint32_t kind;
    uint64_t addr;
    uint64_t data; /* what was written */
    uint32_t size;
    uint32_t write;
};

enum hv_vcpu_state {
    HV_VCPU_PAUSED = 0,
    HV_VCPU_RUNNING,
    HV_VCPU_WAITING,
    HV_VCPU_ENDED
};

enum hv_state {
    HV_REGS = 0,
    HV_SREGS,
    HV_FPU,
    HV_LAPIC,
    HV_MP_STATE,
    HV_XCRS,
    HV_XSAVE,
    HV_EVENTS,
    HV_DEBUGREGS,
    HV_STATES
};

struct hv_msr {
    uint32_t index;
    uint32_t reserved;
    uint64_t data;
};

struct hv_counters {
    uint64_t exits[HV_EXIT_REASONS]; /* by KVM's exit number; the last one counts larger ones */
    uint64_t python;
    uint64_t serial;
    uint64_t kicks;
};

/* For hv_vm_wire: memory, a doorbell (a write of `value`) and an interrupt line. */
struct hv_slot {
    uint32_t slot;
    uint32_t readonly;
    uint64_t gpa;
    uint64_t host;
    uint64_t size;
};

struct hv_doorbell {
    int fd;
    uint32_t size;
    uint64_t addr;
    uint64_t value;
};

struct hv_line {
    int fd;
    uint32_t gsi;
};

/* wire.c */
int hv_vm_wire(struct hv_vm *vm, const struct hv_slot *slots, uint32_t slot_count,
               const struct hv_doorbell *doorbells, uint32_t doorbell_count,
               const struct hv_line *lines, uint32_t line_count);

/* kvm.c */
struct hv_vm *hv_vm_new(const char *path, int irqchip, struct hv_failure *failure);
int hv_vm_free(struct hv_vm *vm); /* on -ETIMEDOUT all is left as it is */
int hv_vm_exit_fd(struct hv_vm *vm);
int hv_vm_cpuid(struct hv_vm *vm, uint8_t *out, uint32_t size);
int hv_vm_map(struct hv_vm *vm, uint32_t slot, uint64_t gpa, uint64_t host, uint64_t size,
              int readonly);
int hv_vm_ioeventfd(struct hv_vm *vm, int fd, uint64_t addr, uint32_t size, int match,
                    uint64_t value, int port, int remove);
int hv_vm_irqfd(struct hv_vm *vm, int fd, uint32_t gsi, int remove);
int hv_vm_irq_line(struct hv_vm *vm, uint32_t gsi, int level);
int hv_vm_signal_msi(struct hv_vm *vm, uint64_t addr, uint32_t data);
int hv_vm_clock(struct hv_vm *vm, uint64_t *ns, int set);

/* vcpu.c; the run loop is in run.c */
int hv_vcpu_new(struct hv_vm *vm, uint32_t index, const uint8_t *cpuid, uint32_t size);
int hv_vcpu_state(struct hv_vm *vm, uint32_t index);
int hv_vcpu_counters(struct hv_vm *vm, uint32_t index, struct hv_counters *out);
int hv_vm_resume(struct hv_vm *vm);
int hv_vm_pause(struct hv_vm *vm);
int hv_vm_stop(struct hv_vm *vm); /* ends the vCPUs, and does not wait for it */
int hv_vm_exits(struct hv_vm *vm, struct hv_exit *out, uint32_t count);
int hv_vm_answer(struct hv_vm *vm, uint32_t index, uint64_t data);

/* state.c: a vCPU's state, while the machine is paused (-EBUSY) */
int hv_state_size(uint32_t what);
int hv_vcpu_get(struct hv_vm *vm, uint32_t index, uint32_t what, uint8_t *out, uint32_t size);
int hv_vcpu_set(struct hv_vm *vm, uint32_t index, uint32_t what, const uint8_t *data,
                uint32_t size);
int hv_vcpu_get_msrs(struct hv_vm *vm, uint32_t index, struct hv_msr *msrs, uint32_t count);
int hv_vcpu_set_msrs(struct hv_vm *vm, uint32_t index, const struct hv_msr *msrs, uint32_t count);

/* uart.c */
int hv_uart_new(struct hv_vm *vm, uint32_t port, uint32_t gsi);
int hv_uart_read(struct hv_vm *vm, uint8_t *out, uint32_t size);
int hv_uart_write(struct hv_vm *vm, const uint8_t *data, uint32_t size);
int64_t hv_uart_dropped(struct hv_vm *vm);

#endif
