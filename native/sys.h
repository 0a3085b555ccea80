/* The kernel without a C library: the system calls of both machines that the shim uses, and what they take.
 *
 * Each call returns what the kernel returns: a number, or -errno. Only calls that both machines have are used (the *at
 * forms, statx, ppoll), so that nothing above this file knows on which machine it is.
 */
#ifndef SYS_H
#define SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#if defined __x86_64__
enum {
	NR_read = 0, NR_write = 1, NR_close = 3, NR_mmap = 9, NR_rt_sigaction = 13, NR_nanosleep = 35, NR_getpid = 39,
	NR_socket = 41, NR_connect = 42, NR_recvfrom = 45, NR_sendmsg = 46, NR_clone = 56, NR_execve = 59, NR_wait4 = 61,
	NR_fcntl = 72, NR_getdents64 = 217, NR_clock_gettime = 228, NR_exit_group = 231, NR_openat = 257,
	NR_mkdirat = 258, NR_unlinkat = 263, NR_ppoll = 271, NR_dup3 = 292, NR_pipe2 = 293, NR_renameat2 = 316,
	NR_statx = 332
};
#define O_DIRECTORY 00200000
#define O_NOFOLLOW 00400000

static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined __aarch64__
enum {
	NR_dup3 = 24, NR_fcntl = 25, NR_mkdirat = 34, NR_unlinkat = 35, NR_openat = 56, NR_close = 57, NR_pipe2 = 59,
	NR_getdents64 = 61, NR_read = 63, NR_write = 64, NR_ppoll = 73, NR_exit_group = 94, NR_nanosleep = 101,
	NR_clock_gettime = 113, NR_rt_sigaction = 134, NR_getpid = 172, NR_socket = 198, NR_connect = 203,
	NR_recvfrom = 207, NR_sendmsg = 211, NR_clone = 220, NR_execve = 221, NR_mmap = 222, NR_wait4 = 260,
	NR_renameat2 = 276, NR_statx = 291
};
#define O_DIRECTORY 040000
#define O_NOFOLLOW 0100000

static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}
#else
#error "the shim knows x86-64 and arm64"
#endif

/* An integer or a pointer, as the kernel takes it. */
#define ARG(x) ((long)(x))
#define sys0(n) sys6(n, 0, 0, 0, 0, 0, 0)
#define sys1(n, a) sys6(n, ARG(a), 0, 0, 0, 0, 0)
#define sys2(n, a, b) sys6(n, ARG(a), ARG(b), 0, 0, 0, 0)
#define sys3(n, a, b, c) sys6(n, ARG(a), ARG(b), ARG(c), 0, 0, 0)
#define sys4(n, a, b, c, d) sys6(n, ARG(a), ARG(b), ARG(c), ARG(d), 0, 0)
#define sys5(n, a, b, c, d, e) sys6(n, ARG(a), ARG(b), ARG(c), ARG(d), ARG(e), 0)

enum {
	EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, EBADF = 9, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EEXIST = 17,
	ENOTDIR = 20, EISDIR = 21, EINVAL = 22, ENFILE = 23, EMFILE = 24, ENOSPC = 28, EROFS = 30, EPIPE = 32,
	ENAMETOOLONG = 36, ELOOP = 40, EPROTOTYPE = 91, ECONNRESET = 104, ECONNREFUSED = 111, EDQUOT = 122
};

enum {
	AT_FDCWD = -100, AT_EMPTY_PATH = 0x1000,
	O_RDONLY = 0, O_WRONLY = 1, O_CREAT = 0100, O_EXCL = 0200, O_NOCTTY = 0400, O_NONBLOCK = 04000,
	O_CLOEXEC = 02000000,
	F_DUPFD_CLOEXEC = 1030, F_SETFL = 4,
	AF_UNIX = 1, SOCK_STREAM = 1, SOCK_NONBLOCK = 04000, SOCK_CLOEXEC = 02000000,
	SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_NOSIGNAL = 0x4000,
	POLLIN = 1, POLLOUT = 4,
	PROT_READ = 1, PROT_WRITE = 2, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0x20,
	SIGPIPE = 13, SIGCHLD = 17,
	CLOCK_BOOTTIME = 7,
	STATX_BASIC = 0x7ff, S_IFMT = 0170000, S_IFREG = 0100000, S_IFDIR = 0040000
};

struct timespec { int64_t seconds, nanoseconds; };
struct pollfd { int fd; short events, revents; };
struct iovec { const void *base; size_t size; };
struct sockaddr_un { u16 family; char path[108]; };
struct msghdr {
	void *name; u32 name_size;
	struct iovec *iov; size_t iov_count;
	void *control; size_t control_size;
	int flags;
};
struct cmsg_fds { size_t size; int level, type; int fds[2]; };
struct sigaction { long handler; u64 flags; long restorer; u64 mask; };
struct statx {
	u32 mask, block_size; u64 attributes; u32 links, uid, gid; u16 mode, pad; u64 ino, size, blocks, attributes_mask;
	u8 rest[256 - 64];
};
_Static_assert(sizeof(struct statx) == 256, "the kernel writes 256 bytes");
struct dirent64 { u64 ino; int64_t offset; u16 size; u8 type; char name[]; };

static inline _Noreturn void sys_exit(int code)
{
	for (;;)
		sys1(NR_exit_group, code);
}

/* Open a file relative to a directory. What the shim opens never passes into a plugin that it runs. */
static inline long sys_openat(int dir, const char *path, int flags, int mode)
{
	return sys4(NR_openat, dir, path, flags | O_CLOEXEC, mode);
}

static inline void sys_close(int fd)
{
	sys1(NR_close, fd);
}

static inline void sleep_ms(long ms)
{
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};
	sys2(NR_nanosleep, &time, 0);
}

/* Wait for events on descriptors, `ms` < 0 for ever: the count that have any, 0 after the time, -errno. */
static inline long sys_poll(struct pollfd *fds, int count, long ms)
{
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};
	return sys5(NR_ppoll, fds, count, ms < 0 ? 0 : &time, 0, 8);
}

/* SIGPIPE is ignored, or has its default again: a reader that is gone is an error of write, never our death. */
static inline void ignore_sigpipe(bool ignored)
{
	struct sigaction action = {ignored ? 1 : 0, 0, 0, 0};
	sys4(NR_rt_sigaction, SIGPIPE, &action, 0, 8);
}

/* `fd`, or a copy of it above 2: where the caller closed a standard stream, an open would take its number. */
static inline int above_stdio(long fd)
{
	if (fd < 0 || fd > 2)
		return (int)fd;
	long copy = sys3(NR_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	sys_close((int)fd);
	return (int)copy;
}

static inline size_t length(const char *text)
{
	size_t n = 0;
	while (text[n])
		n++;
	return n;
}

static inline bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* What follows `prefix` in `text`; NULL if it does not begin with it. */
static inline const char *after(const char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return NULL;
	return text;
}

#ifdef HOSTED
#include <string.h>
#else
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memset(void *to, int byte, size_t size);
void *memmove(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
#endif

#endif
