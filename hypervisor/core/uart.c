/* A 16550A (National Semiconductor PC16550D) served in the vCPU's thread.
 *
 * The line is infinitely fast: a byte written is gone at once into a ring that the loop drains, and
 * input comes from a ring whose next 16 bytes are the receive FIFO.  While the output ring has less
 * room than a FIFO, THR is not empty, so that a driver which looks waits for the loop.  Bauds,
 * parity, breaks and modem lines are stored or constant; receive trigger levels count as one. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kvm_internal.h"

#define PORTS 8
#define FIFO 16

enum { DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };
enum { IER_RX = 1, IER_TX = 2, IER_LINE = 4, IER_ALL = 15 };
enum { IIR_NONE = 1, IIR_TX = 2, IIR_RX = 4, IIR_LINE = 6, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16, MCR_ALL = 31 };
enum { LSR_READY = 1, LSR_OVERRUN = 2, LSR_EMPTY = 0x60 /* THRE and TEMT */ };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

struct ring {
    uint32_t head; /* both run freely; tail - head is the fill */
    uint32_t tail;
    uint8_t data[HV_UART_RING];
};

struct uart {
    struct hv_vm *vm;
    pthread_mutex_t lock;
    uint32_t port;
    uint32_t gsi;
    int fd;
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    uint8_t overrun;    /* until LSR is read */
    uint8_t tx_pending; /* THR became empty, and IIR did not say so yet */
    uint8_t line;       /* level of the interrupt */
    uint8_t starved;    /* input found no room: tell when it would */
    uint8_t loop[FIFO]; /* what was sent in loopback mode */
    uint32_t loop_head, loop_tail;
    uint64_t dropped;
    struct ring tx, rx;
};

static uint32_t fill(const struct ring *r)
{
    return r->tail - r->head;
}

static void put(struct ring *r, uint8_t byte)
{
    r->data[r->tail++ % HV_UART_RING] = byte;
}

static uint8_t get(struct ring *r)
{
    return r->data[r->head++ % HV_UART_RING];
}

static int looped(const struct uart *u)
{
    return u->mcr & MCR_LOOP;
}

static int tx_room(const struct uart *u)
{
    return looped(u) || HV_UART_RING - fill(&u->tx) >= FIFO;
}

static int rx_ready(const struct uart *u)
{
    return looped(u) ? u->loop_tail != u->loop_head : fill(&u->rx) != 0;
}

/* PC16550D, table IV: the source of highest priority. */
static uint8_t source(const struct uart *u)
{
    if ((u->ier & IER_LINE) && u->overrun)
        return IIR_LINE;
    if ((u->ier & IER_RX) && rx_ready(u))
        return IIR_RX;
    if ((u->ier & IER_TX) && u->tx_pending)
        return IIR_TX;
    return IIR_NONE;
}

/* OUT2 gates the interrupt, as PCs are wired; loopback takes it off the pin. */
static void update_line(struct uart *u)
{
    uint8_t line = (u->mcr & MCR_OUT2) && !looped(u) && source(u) != IIR_NONE;
    if (line != u->line && u->vm->irqchip)
        hv_vm_irq_line(u->vm, u->gsi, line);
    u->line = line;
}

static void send_byte(struct uart *u, uint8_t byte)
{
    if (looped(u)) {
        if (u->loop_tail - u->loop_head < FIFO)
            u->loop[u->loop_tail++ % FIFO] = byte;
        else
            u->overrun = 1;
    } else if (fill(&u->tx) == HV_UART_RING) {
        u->dropped++;
    } else {
        put(&u->tx, byte);
        if (fill(&u->tx) == 1)
            signal_eventfd(u->fd); /* later ones find a reader that is told already */
    }
    u->tx_pending = tx_room(u) != 0;
}

/* Input left: the host hears of room once there is a lot, however it came about. */
static void tell_of_room(struct uart *u)
{
    if (u->starved && fill(&u->rx) <= HV_UART_RING / 2) {
        u->starved = 0;
        signal_eventfd(u->fd);
    }
}

static uint8_t receive_byte(struct uart *u)
{
    if (!rx_ready(u))
        return 0;
    if (looped(u))
        return u->loop[u->loop_head++ % FIFO];
    uint8_t byte = get(&u->rx);
    tell_of_room(u);
    return byte;
}

static uint8_t read_iir(struct uart *u)
{
    uint8_t found = source(u);
    if (found == IIR_TX)
        u->tx_pending = 0;
    return found | ((u->fcr & FCR_ENABLE) ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct uart *u)
{
    uint8_t found = (rx_ready(u) ? LSR_READY : 0) | (u->overrun ? LSR_OVERRUN : 0) |
                    (tx_room(u) ? LSR_EMPTY : 0);
    u->overrun = 0;
    return found;
}

static uint8_t read_msr(const struct uart *u)
{
    if (!looped(u))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return ((u->mcr & MCR_RTS) ? MSR_CTS : 0) | ((u->mcr & MCR_DTR) ? MSR_DSR : 0) |
           ((u->mcr & MCR_OUT1) ? MSR_RI : 0) | ((u->mcr & MCR_OUT2) ? MSR_DCD : 0);
}

static uint8_t read_register(struct uart *u, uint32_t offset)
{
    int divisor = u->lcr & LCR_DLAB;
    switch (offset) {
    case DATA: return divisor ? u->dll : receive_byte(u);
    case IER: return divisor ? u->dlm : u->ier;
    case IIR_FCR: return read_iir(u);
    case LCR: return u->lcr;
    case MCR: return u->mcr;
    case LSR: return read_lsr(u);
    case MSR: return read_msr(u);
    default: return u->scr;
    }
}

static void write_ier(struct uart *u, uint8_t value)
{
    if ((value & IER_TX) && !(u->ier & IER_TX)) /* an empty THR interrupts as soon as it may */
        u->tx_pending = tx_room(u) != 0;
    u->ier = value & IER_ALL;
}

static void write_fcr(struct uart *u, uint8_t value)
{
    if (value & FCR_CLEAR_RX) {
        u->rx.head += fill(&u->rx) < FIFO ? fill(&u->rx) : FIFO;
        u->loop_head = u->loop_tail;
        tell_of_room(u);
    }
    u->fcr = value;
}

static void write_register(struct uart *u, uint32_t offset, uint8_t value)
{
    int divisor = u->lcr & LCR_DLAB;
    switch (offset) {
    case DATA:
        if (divisor)
            u->dll = value;
        else
            send_byte(u, value);
        break;
    case IER:
        if (divisor)
            u->dlm = value;
        else
            write_ier(u, value);
        break;
    case IIR_FCR: write_fcr(u, value); break;
    case LCR: u->lcr = value; break;
    case MCR: u->mcr = value & MCR_ALL; break;
    case SCR: u->scr = value; break;
    default: break; /* LSR and MSR: a factory's tests only */
    }
}

/* A wide access is one for each byte, as on an 8-bit bus. */
int uart_access(struct hv_vm *vm, uint16_t port, uint8_t size, int write, uint8_t *data)
{
    struct uart *u = vm->uart;
    if (!u || port < u->port || port - u->port >= PORTS)
        return 0;
    pthread_mutex_lock(&u->lock);
    for (uint32_t i = 0, offset = port - u->port; i < size; i++, offset++) {
        if (write && offset < PORTS)
            write_register(u, offset, data[i]);
        else if (!write)
            data[i] = offset < PORTS ? read_register(u, offset) : 0xff;
    }
    update_line(u);
    pthread_mutex_unlock(&u->lock);
    return 1;
}

/* Returns the eventfd that tells of output and of room for input; it stays the machine's. */
int hv_uart_new(struct hv_vm *vm, uint32_t port, uint32_t gsi)
{
    if (vm->uart || !vm->paused)
        return -EBUSY;
    if (port > 0x10000 - PORTS)
        return -EINVAL;
    struct uart *u = calloc(1, sizeof *u);
    if (!u)
        return -ENOMEM;
    u->vm = vm;
    u->port = port;
    u->gsi = gsi;
    u->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->fd < 0) {
        int rc = -errno;
        free(u);
        return rc;
    }
    pthread_mutex_init(&u->lock, NULL);
    vm->uart = u;
    return u->fd;
}

/* The vCPU threads have ended. */
void uart_free(struct hv_vm *vm)
{
    if (!vm->uart)
        return;
    close(vm->uart->fd);
    pthread_mutex_destroy(&vm->uart->lock);
    free(vm->uart);
    vm->uart = NULL;
}

int hv_uart_read(struct hv_vm *vm, uint8_t *out, uint32_t size)
{
    struct uart *u = vm->uart;
    uint32_t found = 0;
    if (!u)
        return -ENODEV;
    clear_eventfd(u->fd); /* before the look: what is written after it signals again */
    pthread_mutex_lock(&u->lock);
    int full = HV_UART_RING - fill(&u->tx) < FIFO; /* in loopback mode too: it ends some time */
    while (found < size && fill(&u->tx))
        out[found++] = get(&u->tx);
    if (fill(&u->tx))
        signal_eventfd(u->fd);
    if (full && HV_UART_RING - fill(&u->tx) >= FIFO)
        u->tx_pending = 1;
    update_line(u);
    pthread_mutex_unlock(&u->lock);
    return (int)found;
}

int hv_uart_write(struct hv_vm *vm, const uint8_t *data, uint32_t size)
{
    struct uart *u = vm->uart;
    uint32_t taken = 0;
    if (!u)
        return -ENODEV;
    pthread_mutex_lock(&u->lock);
    while (taken < size && fill(&u->rx) < HV_UART_RING)
        put(&u->rx, data[taken++]);
    u->starved |= taken < size;
    update_line(u);
    pthread_mutex_unlock(&u->lock);
    return (int)taken;
}

int64_t hv_uart_dropped(struct hv_vm *vm)
{
    struct uart *u = vm->uart;
    if (!u)
        return -ENODEV;
    pthread_mutex_lock(&u->lock);
    int64_t dropped = (int64_t)u->dropped;
    pthread_mutex_unlock(&u->lock);
    return dropped;
}
