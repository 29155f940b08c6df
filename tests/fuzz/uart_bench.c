/* core/uart.c without a machine around it: what fuzz_uart.py calls, and what uart.c calls. */
#include "uart.c"

#define BASE 0x3f8

static int level;

int hv_vm_irq_line(struct hv_vm *vm, uint32_t gsi, int line)
{
    level = line;
    return 0;
}

void signal_eventfd(int fd)
{
    uint64_t one = 1;
    ssize_t done = write(fd, &one, sizeof one);
    (void)done;
}

void clear_eventfd(int fd)
{
    uint64_t count;
    ssize_t done = read(fd, &count, sizeof count);
    (void)done;
}

static struct hv_vm *bench_new(void)
{
    struct hv_vm *vm = calloc(1, sizeof *vm);
    vm->irqchip = vm->paused = 1;
    hv_uart_new(vm, BASE, 4);
    level = 0;
    return vm;
}

static void bench_free(struct hv_vm *vm)
{
    uart_free(vm);
    free(vm);
}

static int bench_fd(struct hv_vm *vm)
{
    return vm->uart->fd;
}

static int bench_level(void)
{
    return level;
}

/* One access of a vCPU, `count` times over. */
static int bench_access(struct hv_vm *vm, uint32_t offset, uint32_t size, int write, uint8_t *data,
                        uint32_t count)
{
    int ours = 0;
    for (uint32_t i = 0; i < count; i++)
        ours = uart_access(vm, (uint16_t)(BASE + offset), (uint8_t)size, write, data);
    return ours;
}
