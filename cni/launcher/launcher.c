// The executable `netplane` in /opt/cni/bin: takes a container runtime's question to the agent, and the answer back.
//
//   containerd -- environment, stdin --> launcher -- one frame, one descriptor --> agent (cni/server.py)
//              <------- stdout ---------          <---- exit code, stdout ------
//
// One starts for every container that comes or goes, so it is made for starting: no libc, no loader, no heap, a dozen
// system calls, and one file to be read from top to bottom. It decides nothing about networks. While no agent answers,
// the runtime must not be stuck:
//
//   VERSION           is answered here, always; so is who we are, if nothing was asked
//   ADD, CHECK, GC    code 11, "try again later";  STATUS: code 50
//   DEL               is kept on disk (cni/spool.py), where the agent finds it: the runtime hears that it is done
//   with a fallback   PYTHON -I -m cni SPOOL does the work instead
//
// Everything from outside is hostile but what `netplane cni install` wrote into `installed` below: no variable and no
// file says where the agent, the spool or Python are. There are no timeouts here: a runtime that has waited long enough
// kills us, and an agent that dies closes the connection.
//
// Constants and structures are the kernel's, for 64 bits, written down here because headers of libc need libc.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// --- the kernel ------------------------------------------------------------------------------------------------------

enum { EINTR = 4, EPERM = 1, ENOENT = 2, EIO = 5, EEXIST = 17, EPROTO = 71 };
enum { O_WRONLY = 01, O_CREAT = 0100, O_EXCL = 0200, O_NOCTTY = 0400, O_NONBLOCK = 04000, O_CLOEXEC = 02000000 };
enum { AT_FDCWD = -100, AT_EMPTY_PATH = 0x1000, STATX_BASIC_STATS = 0x7ff };
enum { AF_UNIX = 1, SOCK_STREAM = 1, SOL_SOCKET = 1, SO_PEERCRED = 17, SCM_RIGHTS = 1, MSG_NOSIGNAL = 0x4000 };
enum { CLOCK_REALTIME = 0, GRND_NONBLOCK = 1, SEEK_SET = 0 };

struct iovec { const void *base; size_t length; };
struct msghdr {
    const void *name; int name_length;
    struct iovec *parts; size_t part_count;
    const void *control; size_t control_length;
    int flags;
};
struct rights { size_t length; int level, type, descriptor; };  // a cmsghdr with one descriptor in it
struct sockaddr_un { uint16_t family; char path[108]; };
struct ucred { int32_t pid; uint32_t uid, gid; };
struct timespec { int64_t seconds, nanoseconds; };
struct statx { uint32_t mask, block; uint64_t attributes; uint32_t links, uid, gid; uint16_t mode; uint8_t rest[226]; };

_Static_assert(sizeof(struct statx) == 256 && offsetof(struct statx, mode) == 28, "as in linux/stat.h");
_Static_assert(sizeof(struct msghdr) == 56 && offsetof(struct rights, descriptor) == 16, "as in linux/socket.h");

#if defined(__x86_64__)

enum { O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };
enum {
    SYS_read = 0, SYS_write = 1, SYS_close = 3, SYS_lseek = 8, SYS_getpid = 39, SYS_socket = 41, SYS_connect = 42,
    SYS_sendmsg = 46, SYS_getsockopt = 55, SYS_execve = 59, SYS_fsync = 74, SYS_geteuid = 107,
    SYS_clock_gettime = 228, SYS_exit_group = 231, SYS_openat = 257, SYS_mkdirat = 258, SYS_unlinkat = 263,
    SYS_renameat = 264, SYS_dup3 = 292, SYS_getrandom = 318, SYS_memfd_create = 319, SYS_statx = 332,
};

static long call(long number, long a, long b, long c, long d, long e)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "+a"(number)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return number;
}

// The kernel starts us with the count of arguments at the top of the stack, and below it nothing to return to.
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");

#elif defined(__aarch64__)

enum { O_DIRECTORY = 040000, O_NOFOLLOW = 0100000 };
enum {
    SYS_dup3 = 24, SYS_mkdirat = 34, SYS_unlinkat = 35, SYS_renameat = 38, SYS_openat = 56, SYS_close = 57,
    SYS_lseek = 62, SYS_read = 63, SYS_write = 64, SYS_fsync = 82, SYS_exit_group = 94, SYS_clock_gettime = 113,
    SYS_getpid = 172, SYS_geteuid = 175, SYS_socket = 198, SYS_connect = 203, SYS_getsockopt = 209, SYS_sendmsg = 211,
    SYS_execve = 221, SYS_getrandom = 278, SYS_memfd_create = 279, SYS_statx = 291,
};

static long call(long number, long a, long b, long c, long d, long e)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}

__asm__(".globl _start\n_start:\n mov x29, xzr\n mov x30, xzr\n mov x0, sp\n bl begin\n");

#else
#error "the launcher knows the system calls of x86_64 and aarch64"
#endif

// A system call gives a result, or an error number below zero. Nothing here installs a signal handler, but a debugger
// or SIGSTOP interrupts as well: what was interrupted is done again.
static long again(long number, long a, long b, long c, long d, long e)
{
    long result;
    do
        result = call(number, a, b, c, d, e);
    while (result == -EINTR);
    return result;
}

#define SYSCALL(name, a, b, c, d, e) again(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

_Noreturn static void leave(int code)
{
    for (;;)
        SYSCALL(exit_group, code, 0, 0, 0, 0);
}

// The compiler may turn any assignment into a call of these two.
void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    for (size_t at = 0; at < size; at++)
        ((char *)to)[at] = ((const char *)from)[at];
    return to;
}

void *memset(void *to, int value, size_t size)
{
    for (size_t at = 0; at < size; at++)
        ((char *)to)[at] = (char)value;
    return to;
}

// --- what `netplane cni install` writes into a copy of this file -----------------------------------------------------

struct installed {
    char marker[32];     // cni/install.py looks for it: to find the place, and to know that a file is ours
    char socket[108];    // where the agent listens
    char spool[256];     // a folder for DELs nobody could take
    char fallback[256];  // an executable Python that has the package `cni`; empty: there is none
};

__attribute__((used)) static const struct installed installed = {
    "netplane cni launcher block 1", "/run/netplane/cni.sock", "/var/lib/netplane/cni/spool", "",
};

// The compiler must not know what is written there, or it would put copies of it into the code.
static const struct installed *settings(void)
{
    const struct installed *found = &installed;
    __asm__("" : "+r"(found));
    return found;
}

// --- words -----------------------------------------------------------------------------------------------------------

struct text { char bytes[2048]; size_t length; };  // longer than all that is ever put together; the rest is cut off

static size_t length_of(const char *words)
{
    size_t length = 0;
    while (words[length] != '\0')
        length++;
    return length;
}

static void add_bytes(struct text *to, const char *bytes, size_t length)
{
    for (size_t at = 0; at < length && to->length < sizeof to->bytes - 1; at++)
        to->bytes[to->length++] = bytes[at];
    to->bytes[to->length] = '\0';
}

static void add(struct text *to, const char *words) { add_bytes(to, words, length_of(words)); }

static void add_number(struct text *to, uint64_t number, int base, int width)
{
    char digits[24];
    int at = sizeof digits;
    for (; number != 0 || width > 0; number /= base, width--)
        digits[--at] = "0123456789abcdef"[number % base];
    add_bytes(to, digits + at, sizeof digits - at);
}

static bool starts_with(const char *words, const char *start)
{
    while (*start != '\0')
        if (*words++ != *start++)
            return false;
    return true;
}

static bool equal(const char *one, const char *other)
{
    return starts_with(one, other) && one[length_of(other)] == '\0';
}

static bool write_all(int descriptor, const void *bytes, size_t size)
{
    for (const char *at = bytes; size > 0;) {
        long written = SYSCALL(write, descriptor, at, size, 0, 0);
        if (written <= 0)
            return false;
        at += written;
        size -= written;
    }
    return true;
}

// --- the request: a frame as cni/wire.py describes it ----------------------------------------------------------------

enum { ENVIRONMENT_LIMIT = 256 << 10, STDIN_LIMIT = 4 << 20, STDOUT_LIMIT = 4 << 20 };

// Memory that is never touched costs nothing: the kernel gives it page by page.
static struct { uint32_t magic, netns_errno, environment_size, stdin_size; } head = {.magic = 0x3143504e};  // "NPC1"
static char asked_environment[ENVIRONMENT_LIMIT];
static char asked_stdin[STDIN_LIMIT + 1];  // one more, to see that there is more

static struct { uint32_t magic, code, stdout_size; } answer;
static const uint32_t ANSWER_MAGIC = 0x3152504e;  // "NPR1"
static char answer_stdout[STDOUT_LIMIT];

static char **environment;

// The first of that name counts, as for getenv(3). One that is missing and an empty one are the same to a CNI plugin.
static const char *variable(const char *name)
{
    size_t length = length_of(name);
    for (char **each = environment; *each != NULL; each++)
        if (starts_with(*each, name) && (*each)[length] == '=')
            return *each + length + 1;
    return "";
}

// The configuration's version for an error we tell ourselves: of the first "cniVersion" that looks like one. Not a JSON
// parser: what is wrong with the input is found by whoever understands it.
static void add_version(struct text *to)
{
    static const char key[] = "\"cniVersion\"";
    const char *at = asked_stdin, *end = asked_stdin + head.stdin_size;  // a 0 byte follows
    for (; at < end; at++) {
        if (!starts_with(at, key))
            continue;
        at += sizeof key - 1;
        while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r' || *at == ':')
            at++;
        size_t length = 0;
        if (*at == '"')
            while (((at[length + 1] >= '0' && at[length + 1] <= '9') || at[length + 1] == '.') && length < 16)
                length++;
        if (length > 0 && at[length + 1] == '"') {
            add_bytes(to, at + 1, length);
            return;
        }
    }
    add(to, "1.0.0");
}

// Tells the runtime an error (CNI specification, section 5) and ends. The words hold nothing that JSON would escape:
// they are ours, and `cni install` writes no such path.
_Noreturn static void fail(int code, const char *message, const char *details)
{
    struct text said = {.length = 0};
    add(&said, "{\"cniVersion\":\"");
    add_version(&said);
    add(&said, "\",\"code\":");
    add_number(&said, code, 10, 1);
    add(&said, ",\"msg\":\"");
    add(&said, message);
    add(&said, "\",\"details\":\"");
    add(&said, details);
    add(&said, "\"}\n");
    write_all(1, said.bytes, said.length);
    leave(1);
}

static void read_stdin(void)
{
    size_t size = 0;
    for (;;) {
        long got = SYSCALL(read, 0, asked_stdin + size, sizeof asked_stdin - size, 0, 0);
        if (got < 0)
            fail(5, "cannot read standard input", "");
        if (got == 0)
            break;
        size += got;
        if (size > STDIN_LIMIT) {
            asked_stdin[STDIN_LIMIT] = '\0';
            head.stdin_size = STDIN_LIMIT;
            fail(5, "standard input is too long", "the limit is 4 MiB");
        }
    }
    head.stdin_size = size;
}

// What CNI plugins are told, and nothing else of the environment: it may hold secrets of the runtime.
static void gather_environment(void)
{
    for (char **each = environment; *each != NULL; each++) {
        if (!starts_with(*each, "CNI_"))
            continue;
        size_t size = length_of(*each) + 1;
        if (size > ENVIRONMENT_LIMIT - head.environment_size)
            fail(4, "the CNI_ variables are too long", "the limit is 256 KiB");
        memcpy(asked_environment + head.environment_size, *each, size);
        head.environment_size += size;
    }
}

// --- the agent -------------------------------------------------------------------------------------------------------

static struct text why;  // no agent answered

static void say_why(const char *words, long error)
{
    why.length = 0;
    add(&why, words);
    add(&why, " at ");
    add(&why, settings()->socket);
    if (error != 0) {
        add(&why, " (errno ");
        add_number(&why, -error, 10, 1);
        add(&why, ")");
    }
    add(&why, "; netplane agent run starts one");
}

// A connection to an agent that is root, or who we are; -1 if there is none.
static int reach(void)
{
    struct sockaddr_un at = {.family = AF_UNIX};
    memcpy(at.path, settings()->socket, sizeof at.path);
    long made = SYSCALL(socket, AF_UNIX, SOCK_STREAM | O_CLOEXEC, 0, 0, 0);
    long error = made < 0 ? made : SYSCALL(connect, made, &at, sizeof at, 0, 0);
    if (error < 0) {
        say_why("no agent listens", error);
        return -1;
    }
    // The folder is root's alone; this holds even where it is not. The kernel noted who called listen(2).
    struct ucred who = {.uid = 0};
    uint32_t size = sizeof who;
    error = SYSCALL(getsockopt, made, SOL_SOCKET, SO_PEERCRED, &who, &size);
    if (error < 0 || (who.uid != 0 && who.uid != (uint32_t)SYSCALL(geteuid, 0, 0, 0, 0, 0))) {
        say_why("somebody who is not root listens", error);
        return -1;
    }
    return made;
}

// Sends the frame, and with its first byte the container's namespace: the agent need not see the runtime's mounts.
static bool send_request(int connection, int netns)
{
    struct iovec parts[] = {
        {&head, sizeof head}, {asked_environment, head.environment_size}, {asked_stdin, head.stdin_size},
    };
    struct rights rights = {offsetof(struct rights, descriptor) + sizeof netns, SOL_SOCKET, SCM_RIGHTS, netns};
    struct msghdr message = {.parts = parts, .part_count = 3};
    if (netns >= 0) {
        message.control = &rights;
        message.control_length = sizeof rights;
    }
    for (;;) {
        long sent = SYSCALL(sendmsg, connection, &message, MSG_NOSIGNAL, 0, 0);
        if (sent < 0)
            return false;
        message.control = NULL;
        message.control_length = 0;
        while (message.part_count > 0 && (size_t)sent >= message.parts->length) {
            sent -= message.parts->length;
            message.parts++;
            message.part_count--;
        }
        if (message.part_count == 0)
            return true;
        message.parts->base = (const char *)message.parts->base + sent;
        message.parts->length -= sent;
    }
}

static bool receive(int connection, void *to, size_t size)
{
    for (char *at = to; size > 0;) {
        long got = SYSCALL(read, connection, at, size, 0, 0);
        if (got <= 0)
            return false;
        at += got;
        size -= got;
    }
    return true;
}

// Does not return if the agent answered: nothing is said to the runtime before the whole answer is here.
static void ask(int netns)
{
    int connection = reach();
    if (connection < 0)
        return;
    // An agent that sends us away answers without reading: its answer counts even if sending failed.
    send_request(connection, netns);
    bool answered = receive(connection, &answer, sizeof answer) && answer.magic == ANSWER_MAGIC &&
                    answer.code <= 255 && answer.stdout_size <= STDOUT_LIMIT &&
                    receive(connection, answer_stdout, answer.stdout_size);
    if (!answered) {
        say_why("an agent took the request and ended before it answered", 0);
        return;
    }
    leave(write_all(1, answer_stdout, answer.stdout_size) ? (int)answer.code : 1);
}

// --- without an agent ------------------------------------------------------------------------------------------------

// Does not return if Python could be started. It finds on standard input what we have read from it, and its state
// beside the spool.
static void fall_back(void)
{
    char *arguments[] = {(char *)settings()->fallback, "-I", "-m", "cni", (char *)settings()->spool, NULL};
    long memory = SYSCALL(memfd_create, "cni-stdin", 0, 0, 0, 0);
    if (memory < 0 || !write_all(memory, asked_stdin, head.stdin_size))
        return;
    SYSCALL(lseek, memory, 0, SEEK_SET, 0, 0);
    if (memory != 0) {
        SYSCALL(dup3, memory, 0, 0, 0, 0);
        SYSCALL(close, memory, 0, 0, 0, 0);
    }
    SYSCALL(execve, arguments[0], arguments, environment, 0, 0);
}

// Makes a folder and those it is in.
static void make_folder(const char *path)
{
    char part[sizeof settings()->spool + 1];
    for (size_t at = 0;; at++) {
        if (at > 0 && (path[at] == '/' || path[at] == '\0')) {
            part[at] = '\0';
            SYSCALL(mkdirat, AT_FDCWD, part, 0700, 0, 0);
        }
        if (path[at] == '\0')
            return;
        part[at] = path[at];
    }
}

// The folder for DELs, made if it is missing; refused if somebody else could write there.
static long open_spool(void)
{
    const char *path = settings()->spool;
    const int flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    long folder = SYSCALL(openat, AT_FDCWD, path, flags, 0, 0);
    if (folder == -ENOENT) {
        make_folder(path);
        folder = SYSCALL(openat, AT_FDCWD, path, flags, 0, 0);
    }
    if (folder < 0)
        return folder;
    struct statx found;
    long error = SYSCALL(statx, folder, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &found);
    if (error < 0)
        return error;
    bool ours = found.uid == (uint32_t)SYSCALL(geteuid, 0, 0, 0, 0, 0) && (found.mode & 022) == 0;
    return ours ? folder : -EPERM;
}

// `.NANOSECONDS-PID-RANDOM.del`, without the dot when it is whole: names sort by age, and nobody outside chooses them.
static void name_file(struct text *name)
{
    struct timespec now = {.seconds = 0};
    uint64_t random = 0;
    SYSCALL(clock_gettime, CLOCK_REALTIME, &now, 0, 0, 0);
    SYSCALL(getrandom, &random, sizeof random, GRND_NONBLOCK, 0, 0);
    add(name, ".");
    add_number(name, (uint64_t)now.seconds * 1000000000u + (uint64_t)now.nanoseconds, 10, 20);
    add(name, "-");
    add_number(name, SYSCALL(getpid, 0, 0, 0, 0, 0), 10, 1);
    add(name, "-");
    add_number(name, random, 16, 16);
    add(name, ".del");
}

// Keeps the request on disk, the very bytes the agent would have got: it is there whole, even after a power cut, or we
// say that it is not.
static long spool(void)
{
    long folder = open_spool();
    if (folder < 0)
        return folder;
    struct text name = {.length = 0};
    name_file(&name);
    const char *unfinished = name.bytes, *finished = name.bytes + 1;
    long file = SYSCALL(openat, folder, unfinished, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600, 0);
    if (file < 0)
        return file;
    bool written = write_all(file, &head, sizeof head) &&
                   write_all(file, asked_environment, head.environment_size) &&
                   write_all(file, asked_stdin, head.stdin_size);
    long error = written ? SYSCALL(fsync, file, 0, 0, 0, 0) : -EIO;
    if (error == 0)
        error = SYSCALL(renameat, folder, unfinished, folder, finished, 0);
    if (error < 0) {
        SYSCALL(unlinkat, folder, unfinished, 0, 0, 0);
        return error;
    }
    return SYSCALL(fsync, folder, 0, 0, 0, 0);
}

_Noreturn static void keep_for_later(void)
{
    bool container = *variable("CNI_CONTAINERID") != '\0', interface = *variable("CNI_IFNAME") != '\0';
    if (!container || !interface) {
        struct text said = {.length = 0};
        add(&said, "required env variables [");
        add(&said, container ? "" : "CNI_CONTAINERID");
        add(&said, container || interface ? "" : ",");
        add(&said, interface ? "" : "CNI_IFNAME");
        add(&said, "] missing");
        fail(4, said.bytes, "");
    }
    long error = spool();
    if (error == 0)
        leave(0);
    struct text said = {.length = 0};
    add(&said, why.bytes);
    add(&said, "; keeping the request for it in ");
    add(&said, settings()->spool);
    add(&said, " failed (errno ");
    add_number(&said, -error, 10, 1);
    add(&said, ")");
    fail(11, "the agent does not answer", said.bytes);
}

// --- what was asked --------------------------------------------------------------------------------------------------

// The same as cni/versions.py says for the agent.
static const char VERSIONS[] =
    "{\"cniVersion\": \"1.1.0\", \"supportedVersions\": "
    "[\"0.1.0\", \"0.2.0\", \"0.3.0\", \"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\"]}\n";
static const char ABOUT[] =
    "netplane: gives containers their network; a container runtime starts it (CNI specification 1.1.0)\n"
    "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n";

_Noreturn static void without_agent(const char *command)
{
    if (*settings()->fallback != '\0')
        fall_back();
    if (equal(command, "DEL"))
        keep_for_later();
    if (equal(command, "STATUS"))
        fail(50, "the agent does not answer", why.bytes);
    if (equal(command, "ADD") || equal(command, "CHECK") || equal(command, "GC"))
        fail(11, "the agent does not answer", why.bytes);
    fail(4, "unknown CNI_COMMAND", "");
}

__attribute__((used)) _Noreturn void begin(long *stack)
{
    environment = (char **)(stack + 1 + *stack + 1);  // count, arguments, NULL, environment, NULL
    const char *command = variable("CNI_COMMAND");
    if (*command == '\0') {
        write_all(2, ABOUT, sizeof ABOUT - 1);
        leave(0);
    }
    if (equal(command, "VERSION"))
        leave(write_all(1, VERSIONS, sizeof VERSIONS - 1) ? 0 : 1);
    read_stdin();
    gather_environment();
    const char *path = variable("CNI_NETNS");
    long netns = -1;
    if (*path != '\0') {
        // It may be anything: never wait for the other end of a pipe, never get a terminal.
        netns = SYSCALL(openat, AT_FDCWD, path, O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0, 0);
        head.netns_errno = netns < 0 ? -netns : 0;
    }
    ask(netns);
    without_agent(command);
}
