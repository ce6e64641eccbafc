/* relayload HOST PORT PAYLOAD VISITORS SECONDS: frames through a proxy port.
 *
 * Registers a node at the main port, opens VISITORS connections to its proxy
 * port and sends from a child process prebuilt batches of frames, each frame
 * with a nonce and a number of its own. The node checks the order of every
 * visitor's frames and their bytes: all of them in small frames, in large ones
 * both ends of every piece it receives. VISITORS 0 keeps one frame of one
 * visitor in flight instead and measures its way from send to the last byte.
 *
 * Prints one JSON object. The first fifth of the time is not counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    NETWORK_ID = 1564141146, HEADER = 10, MAX_VISITORS = 64, MAX_PAYLOAD = 1 << 24,
    BATCH_BYTES = 1 << 19, RECEIVE_BYTES = 1 << 20, COMPARED_WHOLE = 4096, COMPARED_ENDS = 64,
    STALL_SECONDS = 10, MAX_SAMPLES = 4000000, PROXY_REQUEST = 15, APPLICATION = 1000,
};
typedef unsigned char byte;

struct batch { byte *bytes; size_t frame, count, numbers; }; /* numbers: offset in a frame */
struct expected { size_t frame, offset; };                   /* the next byte of a visitor */

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static byte *put_varint(byte *to, uint64_t value) {
    for (; value > 127; value >>= 7) *to++ = value | 128;
    *to++ = value;
    return to;
}

static byte *put_bytes(byte *to, int field, const void *from, size_t length) {
    to = put_varint(put_varint(to, field << 3 | 2), length);
    if (from) memcpy(to, from, length);
    return to + length;
}

static byte *put_sender(byte *to, int who) {
    byte id[128], key[32], *end = id;
    memset(key, who + 1, sizeof key);
    end = put_bytes(end, 1, key, sizeof key);
    end = put_bytes(end, 2, "tcp://127.0.0.1:60001", 21);
    end = put_bytes(end, 3, key, sizeof key);
    end = put_bytes(end, 4, key, sizeof key);
    return put_bytes(to, 2, id, end - id);
}

/* One frame at `to`; returns its end, and in *payload where the payload went. */
static byte *put_frame(byte *to, int who, int opcode, size_t length, uint64_t nonce, byte **payload) {
    byte *body = to + HEADER, *end = body;
    if (length) {
        end = put_varint(put_varint(end, 1 << 3 | 2), length);
        *payload = end;
        for (size_t i = 0; i < length; i++) *end++ = i * 31 + nonce;
    }
    end = put_sender(end, who);
    end = put_varint(put_varint(end, 5 << 3), nonce);
    end = put_varint(put_varint(end, 7 << 3), opcode);
    end = put_varint(put_varint(end, 8 << 3), NETWORK_ID);
    uint32_t head[2] = {htonl(NETWORK_ID), htonl(end - body)};
    memcpy(to, &head[0], 4);
    memcpy(to + 4, "\0\2", 2);
    memcpy(to + 6, &head[1], 4);
    return end;
}

static struct batch make_batch(int visitor, size_t payload) {
    struct batch batch = {.count = 1 + BATCH_BYTES / (payload + 200)};
    batch.bytes = malloc(batch.count * (payload + 512));
    byte *end = batch.bytes;
    for (size_t i = 0; i < batch.count; i++) {
        byte *start = end, *at = NULL;
        uint32_t numbers[2] = {visitor, i};
        end = put_frame(start, visitor + 1, APPLICATION, payload, (1 << 14) + i, &at);
        memcpy(at, numbers, sizeof numbers);
        batch.frame = end - start;
        batch.numbers = at - start;
    }
    return batch;
}

static int dial(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval stall = {.tv_sec = STALL_SECONDS};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    inet_pton(AF_INET, host, &address.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof stall);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof stall);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    return fd;
}

static void receive(int fd, byte *to, size_t length) {
    if (recv(fd, to, length, MSG_WAITALL) != (ssize_t)length) fail("an answer or a frame did not come");
}

/* Ask for a lease; returns the port of the proxy address. */
static int registered(int fd) {
    byte frame[512], *none, *end = put_frame(frame, 0, PROXY_REQUEST, 0, 1, &none);
    uint32_t length;
    if (send(fd, frame, end - frame, MSG_NOSIGNAL) != end - frame) die("send");
    receive(fd, frame, HEADER);
    memcpy(&length, frame + 6, sizeof length);
    length = ntohl(length);
    if (length < 8 || length >= sizeof frame) fail("an odd answer");
    receive(fd, frame, length);
    frame[length] = 0;
    /* message (field 1) with proxy_address (field 2), all shorter than 128 bytes */
    if (frame[0] != 0x0a || frame[2] != 0x12) fail("no ProxyResponse");
    frame[4 + frame[3]] = 0;
    return atoi(strrchr((char *)frame + 4, ':') + 1);
}

static void send_batches(const int *fds, const struct batch *batches, int visitors) {
    struct pollfd polled[MAX_VISITORS];
    size_t at[MAX_VISITORS] = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < visitors; i++) polled[i] = (struct pollfd){fds[i], POLLOUT, 0};
    while (poll(polled, visitors, STALL_SECONDS * 1000) > 0)
        for (int i = 0; i < visitors; i++) {
            if (!polled[i].revents) continue;
            size_t size = batches[i].frame * batches[i].count;
            ssize_t sent = send(fds[i], batches[i].bytes + at[i], size - at[i],
                                MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent < 0 && errno != EAGAIN) die("a visitor was closed");
            if (sent > 0) at[i] = (at[i] + sent) % size;
        }
    _exit(0);
}

static int same(const byte *a, const byte *b, size_t length, size_t frame) {
    if (frame <= COMPARED_WHOLE || length <= 2 * COMPARED_ENDS) return !memcmp(a, b, length);
    return !memcmp(a, b, COMPARED_ENDS) &&
           !memcmp(a + length - COMPARED_ENDS, b + length - COMPARED_ENDS, COMPARED_ENDS);
}

/* Receive and check until `end`; returns the frames completed since `counted`. */
static size_t check_frames(int fd, const struct batch *batches, int visitors, double counted,
                           double end) {
    static byte buffer[RECEIVE_BYTES];
    struct expected next[MAX_VISITORS] = {{0}};
    size_t kept = 0, frames = 0, frame = batches->frame, numbers = batches->numbers;
    uint32_t who = 0;
    for (double t = now(); t < end; t = now()) {
        ssize_t more = recv(fd, buffer + kept, sizeof buffer - kept, 0);
        if (more <= 0) fail("nothing came, or the node's connection ended");
        size_t at = 0, filled = kept + more;
        while (at < filled) {
            if (next[who].offset == 0) {
                if (filled - at < numbers + 4) break;
                memcpy(&who, buffer + at + numbers, 4);
                if (who >= (uint32_t)visitors) fail("a frame of nobody");
            }
            struct expected *due = &next[who];
            size_t left = frame - due->offset;
            size_t piece = left < filled - at ? left : filled - at;
            const byte *sent = batches[who].bytes + due->frame * frame + due->offset;
            if (!same(buffer + at, sent, piece, frame)) fail("other bytes came");
            at += piece;
            due->offset += piece;
            if (due->offset < frame) continue;
            *due = (struct expected){(due->frame + 1) % batches[who].count, 0};
            frames += t >= counted;
        }
        kept = filled - at;
        memmove(buffer, buffer + at, kept);
    }
    return frames;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void one_in_flight(int node, int visitor, const struct batch *batch, double counted, double end) {
    byte *got = malloc(batch->frame);
    float *samples = malloc(sizeof *samples * MAX_SAMPLES);
    size_t count = 0, turn = 0;
    for (double before = now(); before < end && count < MAX_SAMPLES; turn++) {
        const byte *frame = batch->bytes + turn % batch->count * batch->frame;
        if (send(visitor, frame, batch->frame, MSG_NOSIGNAL) != (ssize_t)batch->frame) die("send");
        receive(node, got, batch->frame);
        double after = now();
        if (memcmp(got, frame, batch->frame)) fail("other bytes came");
        if (before >= counted) samples[count++] = (float)((after - before) * 1e6);
        before = now();
    }
    if (!count) fail("no frame within the time");
    qsort(samples, count, sizeof *samples, by_value);
    printf("{\"count\": %zu, \"p50_us\": %.2f, \"p99_us\": %.2f}\n", count, samples[count / 2],
           samples[count * 99 / 100]);
}

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "usage: relayload HOST PORT PAYLOAD VISITORS SECONDS\n"), 2;
    int payload = atoi(argv[3]), wanted = atoi(argv[4]), visitors = wanted ? wanted : 1;
    double length = atof(argv[5]);
    if (payload < 8 || payload > MAX_PAYLOAD || wanted < 0 || visitors > MAX_VISITORS || length <= 0)
        return fprintf(stderr, "bad size, visitors or time\n"), 2;
    struct batch batches[MAX_VISITORS];
    int fds[MAX_VISITORS], node = dial(argv[1], atoi(argv[2])), port = registered(node);
    for (int i = 0; i < visitors; i++) {
        batches[i] = make_batch(i, payload);
        fds[i] = dial(argv[1], port);
    }
    double start = now(), counted = start + length / 5, end = start + length;
    if (!wanted) return one_in_flight(node, fds[0], batches, counted, end), 0;
    pid_t sender = fork();
    if (sender < 0) die("fork");
    if (!sender) send_batches(fds, batches, visitors);
    size_t frames = check_frames(node, batches, visitors, counted, end);
    double seconds = now() - counted;
    kill(sender, SIGKILL);
    printf("{\"frames\": %zu, \"frames_per_second\": %.0f, \"gigabytes_per_second\": %.4f}\n", frames,
           frames / seconds, frames * (double)payload / seconds / 1e9);
    return 0;
}
