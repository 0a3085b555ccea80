/* Find a plugin, execute it, feed it and read it; both at once, as either pipe may be full. */
#include "run.h"

static u8 printed[MAX_STDOUT];

/* A file name that can be a plugin's, as cni_py/invoke/delegate.py has it. */
static bool is_plugin_name(const char *name)
{
	for (const char *at = name; *at; at++) {
		bool letter = (*at >= '0' && *at <= '9') || ((*at | 32) >= 'a' && (*at | 32) <= 'z');
		if (!letter && (at == name || (*at != '.' && *at != '_' && *at != '-')))
			return false;
	}
	return *name && length(name) <= 255;
}

bool read_order(struct order *order, struct span head)
{
	*order = (struct order){.name = (const char *)head.at, .path = ""};
	if (!head.size || head.at[head.size - 1] || !is_plugin_name(order->name))
		return false;
	const char *end = order->name + head.size;
	for (const char *at = order->name + length(order->name) + 1; at < end; at += length(at) + 1) {
		const char *value = after(at, "CNI_PATH=");
		const char *name = after(at, "CNI_");
		if (!name || order->count == MAX_SETTINGS)
			return false;
		while (*name && *name != '=')
			name++;
		if (!*name)
			return false;
		if (value)
			order->path = value;
		order->variable[order->count++] = at;
	}
	return true;
}

/* The first regular file of that name in the directories of `path`, put into `found`. */
static bool find(const char *name, const char *path, char found[4096])
{
	size_t size = length(name);
	for (const char *at = path; *at;) {
		size_t directory = 0;
		while (at[directory] && at[directory] != ':')
			directory++;
		if (directory && directory + size + 2 <= 4096) {
			struct statx seen;
			memcpy(found, at, directory);
			found[directory] = '/';
			memcpy(found + directory + 1, name, size + 1);
			if (sys5(NR_statx, AT_FDCWD, found, 0, STATX_BASIC, &seen) == 0 && (seen.mode & S_IFMT) == S_IFREG)
				return true;
		}
		at += directory;
		if (*at)
			at++;
	}
	return false;
}

/* Both set the same variable. */
static bool same_variable(const char *a, const char *b)
{
	while (*a && *a == *b && *a != '=')
		a++, b++;
	return *a == '=' && *b == '=';
}

/* Our own environment with the order's variables over it; NULL without memory. */
static const char **environment(const struct order *order, char **environ)
{
	size_t count = order->count + 1, n = 0;
	for (char **entry = environ; *entry; entry++)
		count++;
	long memory = sys6(NR_mmap, 0, ARG(count * sizeof(char *)), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory < 0)
		return NULL;
	const char **made = (const char **)memory;
	for (unsigned i = 0; i < order->count; i++)
		made[n++] = order->variable[i];
	for (char **entry = environ; *entry; entry++) {
		bool replaced = false;
		for (unsigned i = 0; i < order->count; i++)
			replaced |= same_variable(*entry, order->variable[i]);
		if (!replaced)
			made[n++] = *entry;
	}
	made[n] = NULL;
	return made;
}

/* A pipe whose ends are above the standard streams. */
static bool make_pipe(int ends[2])
{
	if (sys2(NR_pipe2, ends, O_CLOEXEC) < 0)
		return false;
	ends[0] = above_stdio(ends[0]);
	ends[1] = above_stdio(ends[1]);
	return ends[0] >= 0 && ends[1] >= 0;
}

/* In the child: `path` is executed, or the reason why not goes into `failure`. */
static _Noreturn void become(const char *path, const char **environ, int in, int out, int failure)
{
	const char *argv[] = {path, NULL};
	ignore_sigpipe(false);
	sys3(NR_dup3, in, 0, 0);
	sys3(NR_dup3, out, 1, 0);
	int result = (int)sys3(NR_execve, path, argv, environ);
	write_all(failure, &result, sizeof result);
	sys_exit(127);
}

static void close_once(int *fd)
{
	if (*fd >= 0)
		sys_close(*fd);
	*fd = -1;
}

/* `stdin` goes to `in`, what comes from `out` to `printed`, until the plugin wants and says no more: the size of that. */
static size_t pump(int in, int out, struct span stdin)
{
	size_t size = 0;
	sys3(NR_fcntl, in, F_SETFL, O_NONBLOCK);
	while (in >= 0 || out >= 0) {
		struct pollfd wait[] = {{out, POLLIN, 0}, {in, POLLOUT, 0}};
		if (!stdin.size) {
			close_once(&in);
			wait[1].fd = -1;
		}
		if (in < 0 && out < 0)
			break;
		if (sys_poll(wait, 2, -1) < 0)
			continue;
		if (wait[1].revents) {
			long n = sys3(NR_write, in, stdin.at, stdin.size);
			if (n > 0) {
				stdin.at += n;
				stdin.size -= (size_t)n;
			} else if (n != -EAGAIN && n != -EINTR) {
				close_once(&in); /* it does not read on, which is its right */
			}
		}
		if (wait[0].revents) {
			long n = sys3(NR_read, out, printed + size, MAX_STDOUT - size);
			if (n > 0)
				size += (size_t)n;
			if ((n <= 0 && n != -EINTR) || size == MAX_STDOUT)
				close_once(&out);
		}
	}
	return size;
}

static int wait_for(int pid)
{
	int status = 0;
	while (sys4(NR_wait4, pid, &status, 0, 0) == -EINTR)
		;
	return status & 0x7f ? 256 + (status & 0x7f) : status >> 8 & 0xff;
}

int run(const struct order *order, char **environ, struct span stdin, struct span *stdout)
{
	static char path[4096];
	int in[2], out[2], failure[2], reason;
	*stdout = (struct span){printed, 0};
	if (!find(order->name, order->path, path))
		return NOT_FOUND;
	const char **made = environment(order, environ);
	ignore_sigpipe(true);
	if (!made || !make_pipe(in) || !make_pipe(out) || !make_pipe(failure))
		return NOT_EXECUTED;
	long pid = sys5(NR_clone, SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		become(path, made, in[0], out[1], failure[1]);
	sys_close(in[0]);
	sys_close(out[1]);
	sys_close(failure[1]);
	bool failed = pid < 0;
	while (!failed) { /* end of file here is the exec's doing */
		long n = sys3(NR_read, failure[0], &reason, sizeof reason);
		if (n == -EINTR)
			continue;
		failed = n > 0;
		break;
	}
	sys_close(failure[0]);
	if (failed) {
		sys_close(in[1]);
		sys_close(out[0]);
		if (pid > 0)
			wait_for((int)pid);
		return NOT_EXECUTED;
	}
	stdout->size = pump(in[1], out[0], stdin);
	return wait_for((int)pid);
}
