/* echo HOST PORT: returns every byte it is sent, to many connections at once.
 *
 * The origin behind every tunnel for round trips, connection storms and idle
 * connections. One thread, level-triggered epoll, no state per connection:
 * what cannot be written at once is waited for, at most a second, because the
 * loads here keep one small message in flight.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, EVENTS = 256, BUFFER_BYTES = 65536, WRITE_WAIT_MS = 1000 };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void accept_all(int listener, int poller) {
    int one = 1, client;
    while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = client};
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (epoll_ctl(poller, EPOLL_CTL_ADD, client, &event) < 0) close(client);
    }
}

static void echo_once(int client) {
    static char buffer[BUFFER_BYTES];
    ssize_t got = read(client, buffer, sizeof buffer), sent = 0;
    if (got < 0 && errno == EAGAIN) return;
    while (got > 0 && sent < got) {
        ssize_t n = write(client, buffer + sent, got - sent);
        struct pollfd writable = {.fd = client, .events = POLLOUT};
        if (n > 0) sent += n;
        else if (errno != EAGAIN || poll(&writable, 1, WRITE_WAIT_MS) != 1) got = -1;
    }
    if (got <= 0) close(client);
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: echo HOST PORT\n"), 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) die("address");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (listen(listener, BACKLOG) < 0) die("listen");
    int poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poller, ready, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener) accept_all(listener, poller);
            else echo_once(ready[i].data.fd);
        }
    }
}
