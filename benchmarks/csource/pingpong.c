/* pingpong HOST PORT BYTES SECONDS: round trips of one small message in flight.
 *
 * Prints one JSON object: how many, and p50, p99 and the smallest in
 * microseconds. The first WARMUP round trips (or tenth of the time) are not
 * counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SAMPLES = 4000000, MAX_BYTES = 65536, STALL_SECONDS = 5 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    static char buffer[MAX_BYTES];
    if (argc != 5) return fprintf(stderr, "usage: pingpong HOST PORT BYTES SECONDS\n"), 2;
    int size = atoi(argv[3]), one = 1;
    double length = atof(argv[4]);
    if (size < 1 || size > MAX_BYTES || length <= 0) return fprintf(stderr, "bad size or time\n"), 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval stall = {.tv_sec = STALL_SECONDS};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof stall);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof stall);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return perror("connect"), 1;
    float *samples = malloc(sizeof *samples * MAX_SAMPLES);
    size_t count = 0;
    double start = now(), counted = start + length / 10, end = start + length;
    for (double before = start; before < end && count < MAX_SAMPLES; ) {
        if (send(fd, buffer, size, MSG_NOSIGNAL) != size) return perror("send"), 1;
        if (recv(fd, buffer, size, MSG_WAITALL) != size) return perror("recv"), 1;
        double after = now();
        if (before >= counted) samples[count++] = (float)((after - before) * 1e6);
        before = after;
    }
    if (count == 0) return fprintf(stderr, "no round trip within the time\n"), 1;
    qsort(samples, count, sizeof *samples, by_value);
    printf("{\"count\": %zu, \"p50_us\": %.2f, \"p99_us\": %.2f, \"min_us\": %.2f}\n", count,
           samples[count / 2], samples[count * 99 / 100], samples[0]);
    return 0;
}
