/* The native forwarder: what needs no agent is answered here, all else is handed to the agent of the node.
 *
 * It is what a runtime executes as a plugin on a node without Python, so it may need nothing: no C library, no memory to
 * allocate, no file but the agent's socket. What each verb does while the agent is away is the table in
 * docs/agent-protocol.md.
 */
#include "shim.h"

#include "run.h"
#include "spool.h"
#include "wire.h"

/* For tests alone, which cannot wait so long. */
#ifndef AWAY_MS
#define AWAY_MS 10000
#endif
enum { NAP_MS = 20 };

#define LOOK "is it running? It is started with `cni-py agent`; the log of its service or pod says why it ended"

static u8 input[MAX_STDIN + 1];

static struct out standard(int fd)
{
	static u8 buffer[4096];
	ignore_sigpipe(true);
	return (struct out){buffer, sizeof buffer, 0, fd, false};
}

static _Noreturn void give_up(const struct call *call, const struct problem *problem)
{
	struct out out = standard(1);
	write_problem(&out, call, problem);
	sys_exit(1);
}

/* All of stdin, or one byte more than a configuration may have. */
static void read_stdin(struct call *call)
{
	size_t have = 0;
	while (have < sizeof input) {
		long n = sys3(NR_read, 0, input + have, sizeof input - have);
		if (n == 0)
			break;
		if (n > 0) {
			have += (size_t)n;
		} else if (n != -EINTR) {
			struct problem problem;
			fail(&problem, 5, "error reading from stdin: ");
			add_errno(&problem, n);
			details(&problem, "give the configuration on stdin");
			give_up(call, &problem);
		}
	}
	call->stdin = (struct span){input, have};
}

/* What was printed is printed, and the process ends as it did. A reader that hung up is no success. */
static _Noreturn void finish(const struct frame *answer)
{
	int code;
	memcpy(&code, answer->head.at, sizeof code);
	if (code < 0 || code > 255)
		code = 1;
	if (answer->body.size) {
		ignore_sigpipe(true);
		if (write_all(1, answer->body.at, answer->body.size) < 0)
			sys_exit(code ? code : 1);
	}
	sys_exit(code);
}

static enum arrival obey(int fd, const struct call *call, const struct frame *frame, struct problem *problem)
{
	struct order order;
	struct span stdout;
	if (!read_order(&order, frame->head)) {
		fail(problem, 999, "the agent asks for a plugin in a way that is not understood");
		details(problem, "one of the two is older" ONE_RELEASE);
		return BAD;
	}
	int status = run(&order, call->environ, frame->body, &stdout);
	return send_ran(fd, status, stdout);
}

/* One conversation; it ends the process with the agent's answer, or says why there is none. */
static enum arrival converse(int fd, const struct call *call, const int *fds, unsigned fd_count, struct problem *problem)
{
	struct parcel parcel;
	struct frame frame;
	if (!pack_call(&parcel, call, problem)) /* anew for each attempt: sending consumes it */
		return BAD;
	enum arrival arrival = send_parcel(fd, &parcel, fds, fd_count);
	while (arrival == WHOLE || arrival == GONE) { /* an agent that refused the frame answered and left */
		arrival = receive(fd, &frame, problem);
		if (arrival != WHOLE)
			return arrival;
		if (frame.kind == ANSWER)
			finish(&frame);
		arrival = obey(fd, call, &frame, problem);
	}
	return arrival;
}

static _Noreturn void away(const struct call *call, int code, const char *why)
{
	struct problem problem;
	fail(&problem, code, "the agent of cni-py ");
	add_text(&problem, why);
	details(&problem, LOOK);
	give_up(call, &problem);
}

static _Noreturn void keep(const struct call *call, const struct parcel *parcel)
{
	struct problem problem;
	if (!spool(parcel, &problem))
		give_up(call, &problem);
	sys_exit(0);
}

/* The host's namespace of this call, and the container's where it can be opened: how many, into `fds`. */
static unsigned open_namespaces(const struct call *call, int fds[2])
{
	const char *netns = call_value(call, NETNS);
	long own = sys_openat(AT_FDCWD, "/proc/self/ns/net", O_RDONLY, 0);
	if (own < 0) {
		struct problem problem;
		fail(&problem, 5, "cannot open /proc/self/ns/net: ");
		add_errno(&problem, own);
		details(&problem, "the plugin needs /proc");
		give_up(call, &problem);
	}
	fds[0] = above_stdio(own);
	fds[1] = *netns ? above_stdio(sys_openat(AT_FDCWD, netns, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0)) : -1;
	return fds[1] < 0 ? 1 : 2;
}

static _Noreturn void forward(const struct call *call)
{
	const char *verb = call_value(call, COMMAND);
	const bool add = same(verb, "ADD"), del = same(verb, "DEL"), check = same(verb, "CHECK");
	const int at_once = same(verb, "STATUS") ? 50 : 11;
	int fds[2];
	unsigned fd_count = open_namespaces(call, fds);
	struct parcel parcel;
	struct problem problem;
	if (!pack_call(&parcel, call, &problem))
		give_up(call, &problem);
	for (int naps = 0;; naps++) {
		int fd = connect_agent();
		const bool busy = fd == -EAGAIN, lost = fd >= 0;
		if (fd >= 0) {
			enum arrival arrival = converse(fd, call, fds, fd_count, &problem);
			sys_close(fd);
			if (arrival == BAD)
				give_up(call, &problem);
			if (arrival == LATE)
				away(call, 11, "took the call and does not answer");
		} else if (!busy && fd != -ENOENT && fd != -ECONNREFUSED) {
			fail(&problem, 5, "cannot reach the agent of cni-py on " SOCKET_PATH ": ");
			add_errno(&problem, fd);
			details(&problem, "plugins run as root, and so does the agent");
			give_up(call, &problem);
		}
		if (lost && add)
			away(call, 11, "was lost in the middle of ADD; DEL takes back what it did");
		if (del && !busy)
			keep(call, &parcel);
		if (!add && !check && !busy)
			away(call, at_once, lost ? "was lost in the middle of the call" : "is away");
		if (naps >= AWAY_MS / NAP_MS) {
			if (del)
				keep(call, &parcel);
			away(call, at_once, busy ? "has more callers than it can serve" : "is away");
		}
		sleep_ms(NAP_MS);
	}
}

_Noreturn void shim(int argc, char **argv, char **environ)
{
	struct call call;
	struct problem problem;
	call_read(&call, argc > 0 ? argv[0] : NULL, environ);
	if (!*call_value(&call, COMMAND)) {
		struct out out = standard(2);
		write_about(&out, &call);
		sys_exit(0);
	}
	if (!check_environment(&call, &problem))
		give_up(&call, &problem);
	if (same(call_value(&call, COMMAND), "VERSION")) {
		struct out out = standard(1);
		write_version(&out);
		sys_exit(out.broken);
	}
	read_stdin(&call);
	if (!check_stdin(&call, &problem))
		give_up(&call, &problem);
	forward(&call);
}
