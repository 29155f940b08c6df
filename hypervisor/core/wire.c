/* Everything that a board asks of the kernel, in one call: each memory slot, and on older kernels
 * each doorbell, waits for a grace period (milliseconds), so the caller is a thread, and a thread
 * that came back to Python between any two would wait for the interpreter's lock each time. */
#include "kvm.h"

int hv_vm_wire(struct hv_vm *vm, const struct hv_slot *slots, uint32_t slot_count,
               const struct hv_doorbell *doorbells, uint32_t doorbell_count,
               const struct hv_line *lines, uint32_t line_count)
{
    int rc = 0;
    for (uint32_t i = 0; i < slot_count && rc == 0; i++) {
        const struct hv_slot *s = &slots[i];
        rc = hv_vm_map(vm, s->slot, s->gpa, s->host, s->size, (int)s->readonly);
    }
    for (uint32_t i = 0; i < doorbell_count && rc == 0; i++) {
        const struct hv_doorbell *d = &doorbells[i];
        rc = hv_vm_ioeventfd(vm, d->fd, d->addr, d->size, 1, d->value, 0, 0);
    }
    for (uint32_t i = 0; i < line_count && rc == 0; i++)
        rc = hv_vm_irqfd(vm, lines[i].fd, lines[i].gsi, 0);
    return rc;
}
