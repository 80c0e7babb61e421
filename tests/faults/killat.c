/* killat: run a command, count every system call of any of its descendants that changes something below a folder,
   and do harm at a chosen one.

     killat -r FOLDER [-r FOLDER ...] [-n N] [-a ACT] [-l TRACE] [-d DATA] -- COMMAND ...
     killat -r FOLDER [-r FOLDER ...] [-n N] [-a ACT] [-l TRACE] [-d DATA] -p PID

   -p takes a process that is there already, and that calls only_steps() as soon as it is traced; compiled with -shared,
   this file is the library to load that from.

   ACT, at step N, before the call is made:
     kill        everybody dies
     kill1       only the process that makes the call dies
     torn        half of a write is made, then everybody dies
     short       half of a write is made, and said so
     eio enospc erofs eintr    the call fails once
     dead        this and every later call fails with EIO
     full        this and every later call that takes room fails with ENOSPC
     readonly    this and every later call fails with EROFS
     term int hup    the command gets the signal, and the call is made
     power       the filesystem of the first FOLDER is shut down: what was not synced is gone
     powerflush  the same, but names survive without their content

   A call that fails and sends to a socket fails as it would: the connection breaks.

   TRACE gets a line a step: number, call, path, second path, length or flags, offset (-1: append), where the bytes lie
   in DATA (-1: nowhere); of a mode or owner that is set, it and the group in the place of length and offset; of times
   and attributes, what is given, an attribute's name with a zero behind it in front of its value, lies in DATA; tabs
   between, and tabs, newlines and backslashes in paths as \ooo. What is sent to a socket of the Unix kind is a step, too,
   if that lies below a FOLDER: its server is told something. Exit status: the command's; 137 if all
   were killed; 250 if step N was not reached. The last line of TRACE tells the status of the command then.

   Linux on x86-64. ptrace with a seccomp filter that stops at the calls of the table only, so that it costs little. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHUTDOWN 0x8004587dUL /* FS_IOC_SHUTDOWN; 1: the journal is flushed, 2: it is not */
#define LONGEST (PATH_MAX * 2)
#define OPTIONS                                                                                                        \
    (PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |      \
     PTRACE_O_EXITKILL)

enum kind { FD, PATH, AT, TWO_PATHS, TWO_AT, OPEN, OPEN_AT, SOCKET };

static const struct call {
    int number;
    const char *name;
    enum kind kind;
    int takes_room;
} CALLS[] = {
    {SYS_open, "open", OPEN, 1},
    {SYS_creat, "creat", PATH, 1},
    {SYS_openat, "openat", OPEN_AT, 1},
    {SYS_write, "write", FD, 1},
    {SYS_pwrite64, "pwrite", FD, 1},
    {SYS_writev, "writev", FD, 1},
    {SYS_pwritev, "pwritev", FD, 1},
    {SYS_pwritev2, "pwritev2", FD, 1},
    {SYS_rename, "rename", TWO_PATHS, 0},
    {SYS_renameat, "renameat", TWO_AT, 0},
    {SYS_renameat2, "renameat2", TWO_AT, 0},
    {SYS_link, "link", TWO_PATHS, 1},
    {SYS_linkat, "linkat", TWO_AT, 1},
    {SYS_symlink, "symlink", TWO_PATHS, 1},
    {SYS_symlinkat, "symlinkat", TWO_AT, 1},
    {SYS_unlink, "unlink", PATH, 0},
    {SYS_unlinkat, "unlinkat", AT, 0},
    {SYS_rmdir, "rmdir", PATH, 0},
    {SYS_mkdir, "mkdir", PATH, 1},
    {SYS_mkdirat, "mkdirat", AT, 1},
    {SYS_mknod, "mknod", PATH, 1},
    {SYS_mknodat, "mknodat", AT, 1},
    {SYS_truncate, "truncate", PATH, 0},
    {SYS_ftruncate, "ftruncate", FD, 0},
    {SYS_fallocate, "fallocate", FD, 1},
    {SYS_fsync, "fsync", FD, 0},
    {SYS_fdatasync, "fdatasync", FD, 0},
    {SYS_syncfs, "syncfs", FD, 0},
    {SYS_chmod, "chmod", PATH, 0},
    {SYS_fchmod, "fchmod", FD, 0},
    {SYS_fchmodat, "fchmodat", AT, 0},
    {SYS_chown, "chown", PATH, 0},
    {SYS_lchown, "lchown", PATH, 0},
    {SYS_fchown, "fchown", FD, 0},
    {SYS_fchownat, "fchownat", AT, 0},
    {SYS_utimensat, "utimensat", AT, 0},
    {SYS_setxattr, "setxattr", PATH, 1},
    {SYS_lsetxattr, "lsetxattr", PATH, 1},
    {SYS_fsetxattr, "fsetxattr", FD, 1},
    {SYS_copy_file_range, "copy_file_range", FD, 1},
    {SYS_sendfile, "sendfile", FD, 1},
    {SYS_sendto, "sendto", SOCKET, 0},
};
#define COUNT (sizeof CALLS / sizeof *CALLS)

static const char *folders[8], *act = "kill";
static int folder_count, hit;
static long wanted = -1, steps;
static FILE *trace, *data;
static long long data_end;
static pid_t command;

static int is(const char *name) { return !strcmp(act, name); }

/* What the descriptor `fd` of the process `pid` names. */
static void path_of_fd(pid_t pid, int fd, char *out) {
    char link[64];
    sprintf(link, fd == AT_FDCWD ? "/proc/%d/cwd" : "/proc/%d/fd/%d", pid, fd);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    out[length < 0 ? 0 : length] = 0;
}

/* A copy of the descriptor `fd` of the process, or thread, `pid`; -1 if it cannot be had. */
static int copy_of(pid_t pid, int fd) {
    int process = syscall(SYS_pidfd_open, pid, 0);
    if (process < 0) process = syscall(SYS_pidfd_open, pid, O_EXCL); /* PIDFD_THREAD */
    int copy = process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, process, fd, 0);
    if (process >= 0) close(process);
    return copy;
}

/* The path of the Unix socket that the descriptor `fd` of the process, or thread, `pid` is connected to. */
static void path_of_peer(pid_t pid, int fd, char *out) {
    struct sockaddr_un peer = {0};
    socklen_t length = sizeof peer - 1;
    char link[64], target[64] = "";
    sprintf(link, "/proc/%d/fd/%d", pid, fd);
    if (readlink(link, target, sizeof target - 1) < 0 || strncmp(target, "socket:", 7)) return;
    int copy = copy_of(pid, fd);
    if (copy >= 0 && !getpeername(copy, (struct sockaddr *)&peer, &length) && peer.sun_family == AF_UNIX)
        strcpy(out, peer.sun_path);
    if (copy >= 0) close(copy);
}

/* The string at `address` in the process `pid`, read in pieces that do not cross a page. */
static void string_of(pid_t pid, unsigned long address, char *out) {
    size_t length = 0;
    while (length < PATH_MAX - 64) {
        size_t piece = 64 - (address + length) % 64;
        struct iovec here = {out + length, piece}, there = {(void *)(address + length), piece};
        ssize_t read = process_vm_readv(pid, &here, 1, &there, 1, 0);
        if (read <= 0) break;
        if (memchr(out + length, 0, read)) return;
        length += read;
    }
    out[length] = 0;
}

/* The path that a call names by a folder's descriptor and a string; through /proc/self/fd/N, too. */
static void path_at(pid_t pid, int fd, unsigned long address, char *out) {
    char name[PATH_MAX];
    int other, used = 0;
    string_of(pid, address, name);
    if (sscanf(name, "/proc/self/fd/%d%n", &other, &used) == 1 && used) {
        path_of_fd(pid, other, out);
        strncat(out, name + used, LONGEST - strlen(out) - 1);
    } else if (name[0] == '/') {
        strcpy(out, name);
    } else {
        path_of_fd(pid, fd, out);
        if (name[0]) {
            strncat(out, "/", LONGEST - strlen(out) - 1);
            strncat(out, name, LONGEST - strlen(out) - 1);
        }
    }
}

static int is_below(const char *path) {
    for (int i = 0; i < folder_count; i++) {
        size_t length = strlen(folders[i]);
        if (!strncmp(path, folders[i], length) && (!path[length] || path[length] == '/')) return 1;
    }
    return 0;
}

static const struct call *call_of(unsigned long number) {
    for (size_t i = 0; i < COUNT; i++)
        if (CALLS[i].number == (int)number) return &CALLS[i];
    return NULL;
}

/* The paths of a call; 0 if it opens something without making or emptying it. */
static int paths_of(pid_t pid, const struct user_regs_struct *r, enum kind kind, char *a, char *b) {
    unsigned long number = r->orig_rax;
    switch (kind) {
    case FD:
        path_of_fd(pid, number == SYS_copy_file_range ? (int)r->rdx : (int)r->rdi, a);
        break;
    case SOCKET:
        path_of_peer(pid, r->rdi, a);
        break;
    case PATH:
        path_at(pid, AT_FDCWD, r->rdi, a);
        break;
    case TWO_PATHS:
        if (number == SYS_symlink) string_of(pid, r->rdi, a); /* what it says is no path of ours */
        else path_at(pid, AT_FDCWD, r->rdi, a);
        path_at(pid, AT_FDCWD, r->rsi, b);
        break;
    case AT:
        if (number == SYS_utimensat && !r->rsi) path_of_fd(pid, r->rdi, a);
        else path_at(pid, r->rdi, r->rsi, a);
        break;
    case TWO_AT:
        if (number == SYS_symlinkat) {
            string_of(pid, r->rdi, a);
            path_at(pid, r->rsi, r->rdx, b);
        } else {
            path_at(pid, r->rdi, r->rsi, a);
            path_at(pid, r->rdx, r->r10, b);
        }
        break;
    case OPEN:
    case OPEN_AT: {
        unsigned long flags = kind == OPEN ? r->rsi : r->rdx;
        if (!(flags & (O_CREAT | O_TRUNC))) return 0;
        path_at(pid, kind == OPEN ? AT_FDCWD : (int)r->rdi, kind == OPEN ? r->rdi : r->rsi, a);
    }
    }
    return 1;
}

/* Where a write goes: its offset, or -1 for the end of the file. */
static long long offset_of(pid_t pid, int fd) {
    char name[64], text[256];
    long long position = 0;
    unsigned flags = 0;
    sprintf(name, "/proc/%d/fdinfo/%d", pid, fd);
    int info = open(name, O_RDONLY);
    ssize_t length = info < 0 ? 0 : read(info, text, sizeof text - 1);
    if (info >= 0) close(info);
    text[length < 0 ? 0 : length] = 0;
    sscanf(text, "pos:\t%lld\nflags:\t%o", &position, &flags);
    return flags & O_APPEND ? -1 : position;
}

static long long dumped(pid_t pid, unsigned long address, size_t length) {
    static char buffer[1 << 20];
    long long at = data_end;
    while (length) {
        size_t piece = length > sizeof buffer ? sizeof buffer : length;
        struct iovec here = {buffer, piece}, there = {(void *)address, piece};
        ssize_t read = process_vm_readv(pid, &here, 1, &there, 1, 0);
        if (read <= 0) break;
        fwrite(buffer, 1, read, data);
        data_end += read, address += read, length -= read;
    }
    fflush(data);
    return at;
}

/* What a sendfile is about to send, put into DATA; its length. */
static long long dumped_file(pid_t pid, const struct user_regs_struct *r, long long *where) {
    static char buffer[1 << 20];
    char name[64];
    long long offset = offset_of(pid, r->rsi), length = 0;
    struct iovec here = {&offset, sizeof offset}, there = {(void *)r->rdx, sizeof offset};
    if (r->rdx && process_vm_readv(pid, &here, 1, &there, 1, 0) != sizeof offset) return 0;
    sprintf(name, "/proc/%d/fd/%d", pid, (int)r->rsi);
    int source = open(name, O_RDONLY);
    *where = data_end;
    while (source >= 0 && length < (long long)r->r10) {
        long long left = r->r10 - length;
        ssize_t got = pread(source, buffer, left > (1 << 20) ? 1 << 20 : left, offset + length);
        if (got <= 0) break;
        fwrite(buffer, 1, got, data);
        length += got;
    }
    if (source >= 0) close(source);
    data_end += length;
    fflush(data);
    return length;
}

static void print_path(const char *path) {
    for (; *path; path++)
        if (*path == '\t' || *path == '\n' || *path == '\\') fprintf(trace, "\\%03o", *path);
        else fputc(*path, trace);
    fputc('\t', trace);
}

/* What a call gives a file besides content: a mode, or an owner and a group, or times, or an attribute. */
static void set(
    pid_t pid, const struct user_regs_struct *r, int number, long long *length, long long *offset, long long *where) {
    char name[PATH_MAX];
    switch (number) {
    case SYS_chmod: case SYS_fchmod: case SYS_mknod: case SYS_mkdir:
        *length = (unsigned)r->rsi;
        break;
    case SYS_fchmodat: case SYS_mknodat: case SYS_mkdirat:
        *length = (unsigned)r->rdx;
        break;
    case SYS_chown: case SYS_lchown: case SYS_fchown:
        *length = (int)r->rsi, *offset = (int)r->rdx;
        break;
    case SYS_fchownat:
        *length = (int)r->rdx, *offset = (int)r->r10;
        break;
    case SYS_utimensat:
        *length = r->rdx ? 32 : 0;
        if (data && *length) *where = dumped(pid, r->rdx, *length);
        break;
    case SYS_setxattr: case SYS_lsetxattr: case SYS_fsetxattr:
        string_of(pid, r->rsi, name);
        *length = strlen(name) + 1 + r->r10;
        if (!data) break;
        *where = data_end;
        data_end += fwrite(name, 1, strlen(name) + 1, data);
        dumped(pid, r->rdx, r->r10);
    }
}

static void note(pid_t pid, const struct user_regs_struct *r, const struct call *call, const char *a, const char *b) {
    long long length = 0, offset = 0, where = -1;
    if (call->kind == FD || call->kind == OPEN_AT || call->kind == SOCKET) length = r->rdx;
    if (call->kind == OPEN || call->number == SYS_ftruncate || call->number == SYS_truncate) length = r->rsi;
    if (call->number == SYS_renameat2) length = r->r8;
    if (call->number == SYS_write || call->number == SYS_pwrite64) {
        offset = offset_of(pid, r->rdi);
        if (call->number == SYS_pwrite64 && offset >= 0) offset = r->r10;
        if (data) where = dumped(pid, r->rsi, r->rdx);
    }
    set(pid, r, call->number, &length, &offset, &where);
    if (call->number == SYS_sendfile) {
        offset = offset_of(pid, r->rdi);
        length = data ? dumped_file(pid, r, &where) : (long long)r->r10;
    }
    fprintf(trace, "%ld\t%s\t", steps, call->name);
    print_path(a);
    print_path(b);
    fprintf(trace, "%lld\t%lld\t%lld\n", length, offset, where);
    fflush(trace);
}

static void fail(pid_t pid, struct user_regs_struct *r, int error) {
    r->orig_rax = -1;
    r->rax = -error;
    ptrace(PTRACE_SETREGS, pid, 0, r);
}

static int is_write(const struct call *call) {
    return call->number == SYS_write || call->number == SYS_pwrite64 || call->number == SYS_sendto;
}

/* Whether a signal may end a call that has done nothing yet: what Linux says of local disks, and programs expect. */
static int can_be_interrupted(const struct call *call) {
    return is_write(call) || call->kind == OPEN || call->kind == OPEN_AT || call->number == SYS_fsync ||
           call->number == SYS_fdatasync || call->number == SYS_syncfs || call->number == SYS_ftruncate;
}

/* Whether a call of a full disk would fail: it makes something, or makes it larger. */
static int needs_room(const struct call *call, const char *path) {
    if (call->kind == OPEN || call->kind == OPEN_AT) return access(path, F_OK) != 0;
    return call->takes_room;
}

static void power_off(int flag) {
    int fd = open(folders[0], O_RDONLY | O_DIRECTORY);
    if (ioctl(fd, SHUTDOWN, &flag)) perror("killat: shutdown");
    _exit(137);
}

/* Have a call fail as one to a disk does. A connection breaks instead, and the call finds that: nothing that is sent to a
   socket ever fails alone, and a client of PostgreSQL would wait for the answer of a server that was not asked. */
static void fail_or_break(pid_t pid, struct user_regs_struct *r, const struct call *call, int error) {
    int copy = call->kind == SOCKET ? copy_of(pid, r->rdi) : -1;
    if (copy < 0) return fail(pid, r, error);
    shutdown(copy, SHUT_RDWR);
    close(copy);
}

/* Do the harm of step `wanted`, or of one behind it. */
static void harm(pid_t pid, struct user_regs_struct *r, const struct call *call, const char *path) {
    if (steps > wanted) {
        if (is("dead")) fail_or_break(pid, r, call, EIO);
        else if (is("readonly") && call->kind != SOCKET) fail(pid, r, EROFS);
        else if (is("full") && needs_room(call, path)) fail(pid, r, ENOSPC);
        return;
    }
    hit = 1;
    if (trace) fprintf(trace, "# %s\n", act), fflush(trace);
    if (is("power")) power_off(2);
    else if (is("powerflush")) power_off(1);
    else if (is("kill")) _exit(137); /* PTRACE_O_EXITKILL: everybody gets SIGKILL, before the call */
    else if (is("kill1")) kill(pid, SIGKILL);
    else if (is("term")) kill(command, SIGTERM);
    else if (is("int")) kill(command, SIGINT);
    else if (is("hup")) kill(command, SIGHUP);
    else if (is("torn") || is("short")) {
        if (is_write(call) && r->rdx > 1) {
            r->rdx /= 2;
            ptrace(PTRACE_SETREGS, pid, 0, r);
        }
        if (is("torn")) wanted = steps + 1, act = "kill";
    } else if (is("eintr")) {
        if (can_be_interrupted(call)) fail(pid, r, EINTR);
    } else if (is("enospc")) fail_or_break(pid, r, call, ENOSPC);
    else if (is("erofs") || is("readonly")) fail_or_break(pid, r, call, EROFS);
    else if (is("eio") || is("dead")) fail_or_break(pid, r, call, EIO);
    else if (is("full") && needs_room(call, path)) fail(pid, r, ENOSPC);
}

/* A write of one piece with flags becomes one without: the flags only tell how it gets to the disk. */
static void simplify(pid_t pid, struct user_regs_struct *r) {
    struct iovec piece, here = {&piece, sizeof piece}, there = {(void *)r->rsi, sizeof piece};
    if (r->orig_rax != SYS_pwritev2 || r->rdx != 1 || (long long)r->r10 < 0) return;
    if (process_vm_readv(pid, &here, 1, &there, 1, 0) != sizeof piece) return;
    r->orig_rax = SYS_pwrite64;
    r->rsi = (unsigned long long)piece.iov_base;
    r->rdx = piece.iov_len;
    ptrace(PTRACE_SETREGS, pid, 0, r);
}

/* Whether a call changes something below a folder; what a link says is nothing that changes. */
static int concerns_us(const struct call *call, const char *a, const char *b) {
    int is_link = call->number == SYS_symlink || call->number == SYS_symlinkat;
    return (!is_link && is_below(a)) || is_below(b);
}

static void stopped_at_call(pid_t pid) {
    struct user_regs_struct r;
    char a[LONGEST] = "", b[LONGEST] = "";
    if (ptrace(PTRACE_GETREGS, pid, 0, &r)) return;
    simplify(pid, &r);
    const struct call *call = call_of(r.orig_rax);
    if (!call || !paths_of(pid, &r, call->kind, a, b) || !concerns_us(call, a, b)) return;
    steps++;
    if (trace) note(pid, &r, call, a, b);
    if (wanted > 0 && steps >= wanted) harm(pid, &r, call, *a ? a : b);
}

/* Have the tracer of this process, and of all that it starts, told of every call of the table; of an open only if it may
   make or empty something, for programs open thousands of files that they only read. 0, or -1 with errno. */
int only_steps(void) {
    struct sock_filter filter[2 * COUNT + 8];
    size_t n = 0;
    const unsigned makes = O_CREAT | O_TRUNC;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < COUNT; i++)
        if (CALLS[i].kind != OPEN && CALLS[i].kind != OPEN_AT) {
            filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)CALLS[i].number, 0, 1);
            filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
        }
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 2);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2]));
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, makes, 3, 4);
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_open, 0, 3);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1]));
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, makes, 0, 1);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, filter};
    if (!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 0;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); /* needed without root; with it, set-id programs must work */
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void run(char **words) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    if (only_steps()) perror("killat: seccomp"), _exit(70);
    execvp(words[0], words);
    perror("killat: exec");
    _exit(71);
}

int main(int count, char **words) {
    int option, status, result = 0;
    while ((option = getopt(count, words, "+r:n:a:l:d:p:")) != -1)
        switch (option) {
        case 'r':
            if (folder_count == 8) return 64;
            folders[folder_count++] = optarg;
            break;
        case 'n': wanted = atol(optarg); break;
        case 'a': act = optarg; break;
        case 'l': trace = fopen(optarg, "we"); break;
        case 'd': data = fopen(optarg, "we"); break;
        case 'p': command = atoi(optarg); break;
        default: return 64;
        }
    if (command) {
        if (ptrace(PTRACE_SEIZE, command, 0, OPTIONS)) perror("killat: seize"), _exit(72);
    } else {
        command = fork();
        if (!command) run(words + optind);
        waitpid(command, &status, 0);
        ptrace(PTRACE_SETOPTIONS, command, 0, OPTIONS);
        ptrace(PTRACE_CONT, command, 0, 0);
    }
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0) break;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == command) result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int number = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_SECCOMP) stopped_at_call(pid);
        int ours = event || number == SIGTRAP || number == SIGSTOP;
        ptrace(PTRACE_CONT, pid, 0, ours ? 0 : number);
    }
    if (trace) fprintf(trace, "# total %ld status %d\n", steps, result), fclose(trace);
    return wanted > 0 && !hit ? 250 : result;
}
