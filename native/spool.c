/* /run/cni-py/del: one file a DEL, whole or not there, its name in the order of the calls. */
#include "spool.h"

#define DIRECTORY "/run/cni-py/del"
enum { MOST = 256, NOT_OURS = -4096 };

static bool refused(struct problem *problem, const char *what, long result)
{
	fail(problem, 11, "DEL cannot be kept for the agent of cni-py, which is away: ");
	add_text(problem, what);
	if (result < 0)
		add_errno(problem, result);
	details(problem, "start the agent (cni-py agent), or repair " DIRECTORY "; the runtime tries again");
	return false;
}

/* The spool's directory, made if need be; -errno, or NOT_OURS. */
static long open_directory(void)
{
	long made = sys3(NR_mkdirat, AT_FDCWD, "/run/cni-py", 0700);
	if (made == 0 || made == -EEXIST)
		made = sys3(NR_mkdirat, AT_FDCWD, DIRECTORY, 0700);
	if (made < 0 && made != -EEXIST)
		return made;
	long dir = sys_openat(AT_FDCWD, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (dir < 0)
		return dir;
	dir = above_stdio(dir);
	struct statx seen;
	long result = sys5(NR_statx, dir, "", AT_EMPTY_PATH, STATX_BASIC, &seen);
	if (result == 0 && (seen.uid != 0 || (seen.mode & 022)))
		result = NOT_OURS;
	if (result == 0)
		return dir;
	sys_close((int)dir);
	return result;
}

/* How many files wait; MOST at the latest ends the counting. */
static long waiting(int dir)
{
	static u8 entries[8192] __attribute__((aligned(8)));
	long count = 0, size;
	while ((size = sys3(NR_getdents64, dir, entries, sizeof entries)) > 0) {
		for (long at = 0; at < size;) {
			const struct dirent64 *entry = (const void *)(entries + at);
			count += entry->name[0] != '.';
			at += entry->size;
		}
		if (count >= MOST)
			break;
	}
	return size < 0 ? size : count;
}

/* `number` in decimal, with zeros up to `width`; behind it. */
static char *put_number(char *at, u64 number, unsigned width)
{
	char digits[20];
	unsigned count = 0;
	do
		digits[count++] = (char)('0' + number % 10);
	while (number /= 10);
	for (; width > count; width--)
		*at++ = '0';
	while (count)
		*at++ = digits[--count];
	return at;
}

static long write_file(int dir, const char *name, const struct parcel *parcel)
{
	long fd = sys_openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (fd == -EEXIST) { /* left by a process of our number that was killed; what it is does not matter */
		sys3(NR_unlinkat, dir, name, 0);
		fd = sys_openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	}
	if (fd < 0)
		return fd;
	fd = above_stdio(fd);
	long result = 0;
	for (unsigned i = 0; i < parcel->count && result == 0; i++)
		result = write_all((int)fd, parcel->parts[i].base, parcel->parts[i].size);
	sys_close((int)fd);
	return result;
}

bool spool(const struct parcel *parcel, struct problem *problem)
{
	long dir = open_directory();
	if (dir == NOT_OURS)
		return refused(problem, DIRECTORY " is not root's alone", 0);
	if (dir < 0)
		return refused(problem, DIRECTORY ": ", dir);
	long count = waiting((int)dir);
	if (count >= MOST)
		return refused(problem, "256 wait in " DIRECTORY " already", 0);
	if (count < 0)
		return refused(problem, DIRECTORY ": ", count);
	char draft[32] = ".", name[48];
	u64 pid = (u64)sys0(NR_getpid);
	struct timespec now;
	sys2(NR_clock_gettime, CLOCK_BOOTTIME, &now);
	memcpy(put_number(draft + 1, pid, 0), ".new", 5);
	char *at = put_number(name, (u64)now.seconds * 1000000000 + (u64)now.nanoseconds, 20);
	*at++ = '-';
	*put_number(at, pid, 0) = 0;
	long result = write_file((int)dir, draft, parcel);
	if (result == 0)
		result = sys5(NR_renameat2, dir, draft, dir, name, 0);
	if (result == 0)
		return true;
	sys3(NR_unlinkat, dir, draft, 0);
	return refused(problem, "a file in " DIRECTORY ": ", result);
}
