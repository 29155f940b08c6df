/* The machine itself: what the kernel makes of /dev/kvm, and giving it all back. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "kvm_internal.h"

/* Three pages and one that VMX needs below 4 GiB, outside RAM and devices; SVM ignores them. */
#define TSS_ADDRESS 0xfffbd000u
#define IDENTITY_MAP 0xfffbc000u

#define NEED(cap) {cap, "needs " #cap ", which this kernel lacks"}
static const struct {
    int cap;
    const char *step;
} needed[] = {
    NEED(KVM_CAP_USER_MEMORY), NEED(KVM_CAP_EXT_CPUID), NEED(KVM_CAP_IRQCHIP),
    NEED(KVM_CAP_PIT2), NEED(KVM_CAP_IRQFD), NEED(KVM_CAP_IOEVENTFD),
    NEED(KVM_CAP_READONLY_MEM), NEED(KVM_CAP_ADJUST_CLOCK), NEED(KVM_CAP_IMMEDIATE_EXIT),
};

void signal_eventfd(int fd)
{
    uint64_t one = 1;
    ssize_t done = write(fd, &one, sizeof one); /* EAGAIN: it is readable already */
    (void)done;
}

void clear_eventfd(int fd)
{
    uint64_t count;
    ssize_t done = read(fd, &count, sizeof count);
    (void)done;
}

/* Returns the step that failed, with errno set; NULL when all went well. */
static const char *vm_open(struct hv_vm *vm, const char *path)
{
    vm->kvm_fd = open(path, O_RDWR | O_CLOEXEC);
    if (vm->kvm_fd < 0)
        return "open the KVM device";
    int version = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        if (version >= 0)
            errno = EPROTO;
        return "ask for version 12 of the KVM interface";
    }
    for (unsigned i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0) {
            errno = EOPNOTSUPP;
            return needed[i].step;
        }
    vm->run_size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vm->run_size < (int)sizeof(struct kvm_run))
        return "ask for the size of a vCPU's page";
    do
        vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    while (vm->fd < 0 && errno == EINTR);
    return vm->fd < 0 ? "create a virtual machine" : NULL;
}

static const char *vm_chips(struct hv_vm *vm)
{
    uint64_t identity = IDENTITY_MAP;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
        return "set the identity map's address";
    if (ioctl(vm->fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_ADDRESS) < 0)
        return "set the TSS's address";
    if (vm->irqchip && ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
        return "create the interrupt controllers";
    if (vm->irqchip && ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
        return "create the timer";
    vm->exit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return vm->exit_fd < 0 ? "create an eventfd" : NULL;
}

struct hv_vm *hv_vm_new(const char *path, int irqchip, struct hv_failure *failure)
{
    *failure = (struct hv_failure){ENOMEM, "allocate"};
    struct hv_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return NULL;
    vm->kvm_fd = vm->fd = vm->exit_fd = -1;
    vm->irqchip = irqchip;
    vm->paused = 1;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&vm->out, &monotonic);
    pthread_condattr_destroy(&monotonic);
    const char *step = vm_open(vm, path);
    if (!step)
        step = vm_chips(vm);
    if (step) {
        *failure = (struct hv_failure){errno, step};
        hv_vm_free(vm);
        return NULL;
    }
    return vm;
}

/* Whatever the state: threads first, then what they use. */
int hv_vm_free(struct hv_vm *vm)
{
    hv_vm_stop(vm);
    pthread_mutex_lock(&vm->lock);
    int rc = vcpus_wait(vm, 1);
    pthread_mutex_unlock(&vm->lock);
    if (rc)
        return rc;
    vcpus_free(vm);
    uart_free(vm);
    if (vm->exit_fd >= 0)
        close(vm->exit_fd);
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    pthread_cond_destroy(&vm->out);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
    return 0;
}

int hv_vm_exit_fd(struct hv_vm *vm)
{
    return vm->exit_fd;
}

/* Fills `out` with the entries that KVM supports; returns their bytes. */
int hv_vm_cpuid(struct hv_vm *vm, uint8_t *out, uint32_t size)
{
    uint32_t room = size / sizeof(struct kvm_cpuid_entry2);
    struct kvm_cpuid2 *table = calloc(1, sizeof *table + room * sizeof table->entries[0]);
    if (!table)
        return -ENOMEM;
    table->nent = room;
    int rc = ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, table) < 0 ? -errno : 0;
    if (rc == 0 && table->nent <= room) {
        rc = (int)(table->nent * sizeof table->entries[0]);
        memcpy(out, table->entries, (size_t)rc);
    }
    free(table);
    return rc;
}

/* A size of 0 takes the slot away. */
int hv_vm_map(struct hv_vm *vm, uint32_t slot, uint64_t gpa, uint64_t host, uint64_t size,
              int readonly)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = readonly ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = host,
    };
    return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

int hv_vm_ioeventfd(struct hv_vm *vm, int fd, uint64_t addr, uint32_t size, int match,
                    uint64_t value, int port, int remove)
{
    struct kvm_ioeventfd doorbell = {
        .datamatch = value,
        .addr = addr,
        .len = size,
        .fd = fd,
        .flags = (match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u) |
                 (port ? KVM_IOEVENTFD_FLAG_PIO : 0u) |
                 (remove ? KVM_IOEVENTFD_FLAG_DEASSIGN : 0u),
    };
    return ioctl(vm->fd, KVM_IOEVENTFD, &doorbell) < 0 ? -errno : 0;
}

int hv_vm_irqfd(struct hv_vm *vm, int fd, uint32_t gsi, int remove)
{
    struct kvm_irqfd irqfd = {
        .fd = (uint32_t)fd, .gsi = gsi, .flags = remove ? KVM_IRQFD_FLAG_DEASSIGN : 0};
    return ioctl(vm->fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

int hv_vm_irq_line(struct hv_vm *vm, uint32_t gsi, int level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level != 0};
    return ioctl(vm->fd, KVM_IRQ_LINE, &line) < 0 ? -errno : 0;
}

int hv_vm_signal_msi(struct hv_vm *vm, uint64_t addr, uint32_t data)
{
    struct kvm_msi msi = {
        .address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};
    return ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) < 0 ? -errno : 0;
}

int hv_vm_clock(struct hv_vm *vm, uint64_t *ns, int set)
{
    struct kvm_clock_data clock = {.clock = set ? *ns : 0};
    if (ioctl(vm->fd, set ? KVM_SET_CLOCK : KVM_GET_CLOCK, &clock) < 0)
        return -errno;
    *ns = clock.clock;
    return 0;
}
