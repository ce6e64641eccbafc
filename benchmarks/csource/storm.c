/* storm HOST PORT CONCURRENCY SECONDS: connect, one byte there and back, close, again.
 *
 * Prints one JSON object: connections that came back with their byte, failures
 * (refused, reset, or late by STALL_SECONDS) and the seconds it took. Against
 * 127.0.0.0/8 the source address goes round 127.0.1.1-127.0.1.16, so that ports
 * in TIME_WAIT never become the limit.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONCURRENCY = 1024, SOURCES = 16, STALL_SECONDS = 5, TICK_MS = 50 };

struct attempt {
    int fd;
    int asked;
    double begun;
};

static struct sockaddr_in target;
static int poller, loopback;
static unsigned opened;
static long done, failed;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void begin(struct attempt *a) {
    int one = 1;
    a->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (a->fd < 0) { perror("socket"); exit(1); }
    a->asked = 0;
    a->begun = now();
    setsockopt(a->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (loopback) {
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(0x7f000101u + opened++ % SOURCES);
        setsockopt(a->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        bind(a->fd, (struct sockaddr *)&source, sizeof source);
    }
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = a};
    epoll_ctl(poller, EPOLL_CTL_ADD, a->fd, &event);
    connect(a->fd, (struct sockaddr *)&target, sizeof target); /* result comes by epoll */
}

static void finish(struct attempt *a, int good) {
    close(a->fd);
    if (good) done++;
    else failed++;
    begin(a);
}

static void advance(struct attempt *a) {
    char byte = 'x';
    if (!a->asked) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = a};
        if (send(a->fd, &byte, 1, MSG_NOSIGNAL) != 1) { finish(a, 0); return; }
        a->asked = 1;
        epoll_ctl(poller, EPOLL_CTL_MOD, a->fd, &event);
        return;
    }
    ssize_t got = recv(a->fd, &byte, 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    finish(a, got == 1);
}

int main(int argc, char **argv) {
    static struct attempt attempts[MAX_CONCURRENCY];
    struct epoll_event ready[MAX_CONCURRENCY];
    if (argc != 5) return fprintf(stderr, "usage: storm HOST PORT CONCURRENCY SECONDS\n"), 2;
    int concurrency = atoi(argv[3]);
    if (concurrency < 1 || concurrency > MAX_CONCURRENCY) return fprintf(stderr, "concurrency\n"), 2;
    target.sin_family = AF_INET;
    target.sin_port = htons(atoi(argv[2]));
    inet_pton(AF_INET, argv[1], &target.sin_addr);
    loopback = ntohl(target.sin_addr.s_addr) >> 24 == 127;
    poller = epoll_create1(0);
    double start = now(), end = start + atof(argv[4]), swept = start;
    for (int i = 0; i < concurrency; i++) begin(&attempts[i]);
    while (now() < end) {
        int count = epoll_wait(poller, ready, MAX_CONCURRENCY, TICK_MS);
        for (int i = 0; i < count; i++) advance(ready[i].data.ptr);
        double t = now();
        for (int i = 0; t - swept > 1 && i < concurrency; i++)
            if (t - attempts[i].begun > STALL_SECONDS) finish(&attempts[i], 0);
        if (t - swept > 1) swept = t;
    }
    printf("{\"connections\": %ld, \"failures\": %ld, \"seconds\": %.4f}\n", done, failed, now() - start);
    return 0;
}
