/* A vCPU's state as the kernel's structures, copied and checked for size. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_internal.h"

#define MSRS_MAX 512

static const struct {
    unsigned long get;
    unsigned long set;
    uint32_t size;
} parts[HV_STATES] = {
    [HV_REGS] = {KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs)},
    [HV_SREGS] = {KVM_GET_SREGS, KVM_SET_SREGS, sizeof(struct kvm_sregs)},
    [HV_FPU] = {KVM_GET_FPU, KVM_SET_FPU, sizeof(struct kvm_fpu)},
    [HV_LAPIC] = {KVM_GET_LAPIC, KVM_SET_LAPIC, sizeof(struct kvm_lapic_state)},
    [HV_MP_STATE] = {KVM_GET_MP_STATE, KVM_SET_MP_STATE, sizeof(struct kvm_mp_state)},
    [HV_XCRS] = {KVM_GET_XCRS, KVM_SET_XCRS, sizeof(struct kvm_xcrs)},
    [HV_XSAVE] = {KVM_GET_XSAVE, KVM_SET_XSAVE, sizeof(struct kvm_xsave)},
    [HV_EVENTS] = {KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events)},
    [HV_DEBUGREGS] = {KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs)},
};

/* The kernel would let us wait for a vCPU in the guest, maybe for ever. */
static int settled(struct hv_vm *vm, struct vcpu *v)
{
    if (!v)
        return -EINVAL;
    pthread_mutex_lock(&vm->lock);
    int rc = vm->paused || v->state == HV_VCPU_ENDED ? 0 : -EBUSY;
    if (rc == 0) /* an access just answered is being completed */
        rc = vm->paused ? vcpus_wait(vm, 0) : 0;
    pthread_mutex_unlock(&vm->lock);
    return rc;
}

int hv_state_size(uint32_t what)
{
    return what < HV_STATES ? (int)parts[what].size : -EINVAL;
}

int hv_vcpu_get(struct hv_vm *vm, uint32_t index, uint32_t what, uint8_t *out, uint32_t size)
{
    struct vcpu *v = vcpu_at(vm, index);
    if (what >= HV_STATES || size != parts[what].size)
        return -EINVAL;
    int rc = settled(vm, v);
    if (rc == 0 && ioctl(v->fd, parts[what].get, out) < 0)
        rc = -errno;
    return rc;
}

int hv_vcpu_set(struct hv_vm *vm, uint32_t index, uint32_t what, const uint8_t *data,
                uint32_t size)
{
    struct vcpu *v = vcpu_at(vm, index);
    if (what >= HV_STATES || size != parts[what].size)
        return -EINVAL;
    int rc = settled(vm, v);
    if (rc)
        return rc;
    void *copy = malloc(size); /* aligned, which Python's bytes need not be */
    if (!copy)
        return -ENOMEM;
    memcpy(copy, data, size);
    if (ioctl(v->fd, parts[what].set, copy) < 0)
        rc = -errno;
    free(copy);
    return rc;
}

static struct kvm_msrs *msrs_of(const struct hv_msr *msrs, uint32_t count)
{
    struct kvm_msrs *table = calloc(1, sizeof *table + count * sizeof table->entries[0]);
    if (!table)
        return NULL;
    table->nmsrs = count;
    for (uint32_t i = 0; i < count; i++)
        table->entries[i] = (struct kvm_msr_entry){.index = msrs[i].index, .data = msrs[i].data};
    return table;
}

/* Fills the first entries that can be read; returns how many, their indices with them. */
int hv_vcpu_get_msrs(struct hv_vm *vm, uint32_t index, struct hv_msr *msrs, uint32_t count)
{
    struct vcpu *v = vcpu_at(vm, index);
    int rc = count > MSRS_MAX ? -E2BIG : settled(vm, v);
    int found = 0;
    for (uint32_t i = 0; i < count && rc == 0; i++) { /* one by one: KVM stops at an unknown one */
        struct kvm_msrs *one = msrs_of(msrs + i, 1);
        if (!one)
            return -ENOMEM;
        int got = ioctl(v->fd, KVM_GET_MSRS, one);
        if (got == 1)
            msrs[found++] = (struct hv_msr){one->entries[0].index, 0, one->entries[0].data};
        else if (got < 0)
            rc = -errno;
        free(one);
    }
    return rc ? rc : found;
}

/* Returns how many were taken: the next one was refused. */
int hv_vcpu_set_msrs(struct hv_vm *vm, uint32_t index, const struct hv_msr *msrs, uint32_t count)
{
    struct vcpu *v = vcpu_at(vm, index);
    int rc = count > MSRS_MAX ? -E2BIG : settled(vm, v);
    if (rc)
        return rc;
    struct kvm_msrs *table = msrs_of(msrs, count);
    if (!table)
        return -ENOMEM;
    int done = ioctl(v->fd, KVM_SET_MSRS, table);
    rc = done < 0 ? -errno : done;
    free(table);
    return rc;
}
