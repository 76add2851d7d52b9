/* Runs plugins as a container runtime does and says how long each run took.
 *
 * Standard input, little-endian: u32 workers, u32 operations; for each: u32 stages; for each: path, environment, head,
 * tail, where a string is u32 length and bytes, and an environment is u32 count and as many strings. A stage with a
 * tail reads head + what the stage before wrote + tail, as in a chain of plugins; without one it reads head. The
 * workers take the operations in order.
 *
 * Standard output: u64 ns for all of it; for each operation: u64 ns from the first start until the last stage has
 * ended, u64 us of processor time (with all that it waited for), u64 KiB (the largest resident size of any of these),
 * u32 exit code, and what the last stage wrote.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OUTPUT = 65536 }; /* a pipe holds as much: neither side ever waits for the other */

struct text { uint32_t length; char *bytes; };
struct stage { char *path; char **environment; struct text head, tail; };
struct operation {
    uint32_t stages, code, written;
    struct stage *stage;
    uint64_t ns, us, kib;
    char *output;
};

static struct operation *operations;
static uint32_t count, next;
static char *at, *end;

static void fail(const char *what) { perror(what); exit(1); }

static void *room(size_t size) {
    void *made = malloc(size ? size : 1);
    if (!made) fail("malloc");
    return made;
}

static uint32_t number(void) {
    uint32_t value;
    if (end - at < 4) { errno = EBADMSG; fail("input"); }
    memcpy(&value, at, 4);
    at += 4;
    return value;
}

static struct text text(void) {
    struct text read = {number(), 0};
    if (end - at < read.length) { errno = EBADMSG; fail("input"); }
    read.bytes = room(read.length + 1);
    memcpy(read.bytes, at, read.length);
    read.bytes[read.length] = 0;
    at += read.length;
    return read;
}

static uint64_t now(void) {
    struct timespec read;
    clock_gettime(CLOCK_MONOTONIC, &read);
    return (uint64_t)read.tv_sec * 1000000000u + (uint64_t)read.tv_nsec;
}

static void put(int fd, const char *bytes, size_t length) {
    while (length) {
        ssize_t done = write(fd, bytes, length);
        if (done < 0 && errno == EPIPE) return; /* it does not want to read */
        if (done < 0) fail("write");
        bytes += done;
        length -= (size_t)done;
    }
}

static uint32_t get(int fd, char *bytes) {
    uint32_t length = 0;
    ssize_t done;
    while (length < OUTPUT && (done = read(fd, bytes + length, OUTPUT - length)) > 0) length += (uint32_t)done;
    return length;
}

static void run_stage(struct operation *op, const struct stage *stage, char *output) {
    int in[2], out[2], status, error;
    pid_t pid;
    struct rusage used;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t usual;
    char *words[] = {stage->path, 0};
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) fail("pipe2");
    put(in[1], stage->head.bytes, stage->head.length);
    if (stage->tail.length) put(in[1], output, op->written);
    put(in[1], stage->tail.bytes, stage->tail.length);
    close(in[1]);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawnattr_init(&attributes);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    if ((error = posix_spawn(&pid, stage->path, &actions, &attributes, words, stage->environment))) {
        errno = error;
        fail(stage->path);
    }
    close(in[0]);
    close(out[1]);
    op->written = get(out[0], output);
    if (wait4(pid, &status, 0, &used) < 0) fail("wait4");
    close(out[0]);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    op->code = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 128 + (uint32_t)WTERMSIG(status);
    op->us += (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000u;
    op->us += (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    if ((uint64_t)used.ru_maxrss > op->kib) op->kib = (uint64_t)used.ru_maxrss;
}

static void *work(void *nothing) {
    char *output = room(OUTPUT);
    uint32_t mine;
    while ((mine = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < count) {
        struct operation *op = operations + mine;
        uint64_t started = now();
        for (uint32_t each = 0; each < op->stages && !op->code; each++) run_stage(op, op->stage + each, output);
        op->ns = now() - started;
        op->output = room(op->written);
        memcpy(op->output, output, op->written);
    }
    free(output);
    return nothing;
}

static void read_stage(struct stage *stage) {
    stage->path = text().bytes;
    uint32_t variables = number();
    stage->environment = room((variables + 1) * sizeof(char *));
    for (uint32_t each = 0; each < variables; each++) stage->environment[each] = text().bytes;
    stage->environment[variables] = 0;
    stage->head = text();
    stage->tail = text();
}

static uint32_t read_input(void) {
    size_t size = 1 << 20, length = 0;
    char *input = room(size);
    ssize_t done;
    while ((done = read(0, input + length, size - length)) > 0)
        if ((length += (size_t)done) == size && !(input = realloc(input, size *= 2))) fail("realloc");
    at = input;
    end = input + length;
    uint32_t workers = number();
    count = number();
    operations = room(count * sizeof *operations);
    memset(operations, 0, count * sizeof *operations);
    for (uint32_t each = 0; each < count; each++) {
        operations[each].stages = number();
        operations[each].stage = room(operations[each].stages * sizeof(struct stage));
        for (uint32_t stage = 0; stage < operations[each].stages; stage++) read_stage(operations[each].stage + stage);
    }
    return workers;
}

int main(void) {
    uint32_t workers = read_input();
    pthread_t *threads = room(workers * sizeof *threads);
    signal(SIGPIPE, SIG_IGN);
    uint64_t started = now();
    for (uint32_t each = 0; each < workers; each++)
        if (pthread_create(threads + each, 0, work, 0)) fail("pthread_create");
    for (uint32_t each = 0; each < workers; each++) pthread_join(threads[each], 0);
    uint64_t all = now() - started;
    fwrite(&all, 8, 1, stdout);
    for (uint32_t each = 0; each < count; each++) {
        struct operation *op = operations + each;
        fwrite(&op->ns, 8, 3, stdout);
        fwrite(&op->code, 4, 1, stdout);
        fwrite(&op->written, 4, 1, stdout);
        fwrite(op->output, 1, op->written, stdout);
    }
    return fflush(stdout) ? 1 : 0;
}
