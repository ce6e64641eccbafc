/* delaybox NETNS_A NETNS_B DEVICE DELAY_US LOSS: a slow, lossy wire between two namespaces.
 *
 * Opens a TUN device of the given name in each of the two network namespaces
 * (files, as under /run/netns) and carries IP packets between them: each waits
 * DELAY_US microseconds, each is lost with probability LOSS, order is kept. It
 * stands in for `tc netem` on kernels built without it; like netem it queues at
 * most QUEUE_PACKETS a direction and drops beyond. Prints "ready" once both
 * devices exist.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE_PACKETS = 65536, PACKET_BYTES = 1600, BATCH = 64 };

struct packet {
    int64_t due_ns;
    uint16_t length;
    char bytes[PACKET_BYTES];
};

struct direction {
    int from, to;
    uint32_t head, tail; /* free-running; index modulo QUEUE_PACKETS */
    struct packet *queue;
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double chance(void) { /* xorshift64*, fixed seed: the same losses in every run */
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (state * 0x2545f4914f6cdd1du >> 11) * 0x1p-53;
}

static int open_device(const char *namespace, const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int place = open(namespace, O_RDONLY | O_CLOEXEC);
    if (place < 0 || setns(place, CLONE_NEWNET) < 0) { perror(namespace); exit(1); }
    close(place);
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (device < 0 || ioctl(device, TUNSETIFF, &request) < 0) { perror("/dev/net/tun"); exit(1); }
    return device;
}

static void take(struct direction *d, int64_t delay_ns, double loss) {
    for (int i = 0; i < BATCH; i++) {
        static char spill[PACKET_BYTES];
        int full = d->tail - d->head == QUEUE_PACKETS;
        struct packet *p = &d->queue[d->tail % QUEUE_PACKETS];
        ssize_t got = read(d->from, full ? spill : p->bytes, PACKET_BYTES);
        if (got <= 0) return;
        if (full || chance() < loss) continue;
        p->length = got;
        p->due_ns = now_ns() + delay_ns;
        d->tail++;
    }
}

static int64_t give(struct direction *d) { /* returns when the next packet is due */
    int64_t t = now_ns();
    while (d->head != d->tail) {
        struct packet *p = &d->queue[d->head % QUEUE_PACKETS];
        if (p->due_ns > t) return p->due_ns;
        if (write(d->to, p->bytes, p->length) < 0 && errno == EAGAIN) return t + 100000;
        d->head++;
    }
    return INT64_MAX;
}

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "usage: delaybox NS_A NS_B DEVICE DELAY_US LOSS\n"), 2;
    int64_t delay_ns = atoll(argv[4]) * 1000;
    double loss = atof(argv[5]);
    int a = open_device(argv[1], argv[3]), b = open_device(argv[2], argv[3]);
    struct direction ways[2] = {{.from = a, .to = b}, {.from = b, .to = a}};
    for (int i = 0; i < 2; i++) ways[i].queue = malloc(sizeof(struct packet) * QUEUE_PACKETS);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int64_t first = give(&ways[0]), second = give(&ways[1]), next = first < second ? first : second;
        int64_t wait = next == INT64_MAX ? 1000000000 : next - now_ns();
        if (wait < 0) wait = 0;
        struct timespec timeout = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
        struct pollfd ready[2] = {{a, POLLIN, 0}, {b, POLLIN, 0}};
        if (ppoll(ready, 2, &timeout, NULL) < 0) return 1;
        if (ready[0].revents) take(&ways[0], delay_ns, loss);
        if (ready[1].revents) take(&ways[1], delay_ns, loss);
    }
}
