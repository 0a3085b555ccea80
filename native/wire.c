/* Frames out and in. The socket never blocks: what waits is a poll with an end, so a stuck agent is not our end. */
#include "wire.h"

/* Anything longer than the longest frame is seen as such; pages that nobody touches cost nothing. */
static u8 incoming[sizeof(struct header) + MAX_HEAD + MAX_BODY + 1];

static void start(struct parcel *parcel, enum frame_kind kind)
{
	parcel->header = (struct header){{'c', 'n', 'p', 'y'}, PROTOCOL, (u8)kind, 0, 0, 0};
	parcel->parts[0] = (struct iovec){&parcel->header, sizeof parcel->header};
	parcel->count = 1;
}

static void add_part(struct parcel *parcel, const void *base, size_t size)
{
	if (size)
		parcel->parts[parcel->count++] = (struct iovec){base, size};
}

bool pack_call(struct parcel *parcel, const struct call *call, struct problem *problem)
{
	start(parcel, CALL);
	size_t head = length(call->name) + 1;
	add_part(parcel, call->name, head);
	for (unsigned i = 0; i < VARIABLES; i++) {
		size_t size = call->variable[i] ? length(call->variable[i]) + 1 : 0;
		add_part(parcel, call->variable[i], size);
		head += size;
	}
	if (head > MAX_HEAD) { /* a body is at most what check_stdin lets pass */
		fail(problem, 4, "the CNI_ variables are longer than 1 MiB together");
		details(problem, "check what the runtime sets");
		return false;
	}
	add_part(parcel, call->stdin.at, call->stdin.size);
	parcel->header.head = (u32)head;
	parcel->header.body = (u32)call->stdin.size;
	return true;
}

static enum arrival bad(struct problem *problem, const char *what)
{
	fail(problem, 999, "what answered on " SOCKET_PATH " is not understood: ");
	add_text(problem, what);
	return BAD;
}

enum arrival unpack(struct frame *frame, const u8 *buffer, size_t have, struct problem *problem)
{
	struct header header;
	if (memcmp(buffer, "cnpy", have < 4 ? have : 4)) {
		bad(problem, "no frame");
		details(problem, "is the agent of cni-py listening there?");
		return BAD;
	}
	if (have < 12)
		return MORE;
	memcpy(&header, buffer, have < sizeof header ? 12 : sizeof header);
	if (header.version != PROTOCOL) {
		bad(problem, "protocol version ");
		add_number(problem, header.version);
		details(problem, header.version > PROTOCOL ? "the forwarder is older" : "the agent is older");
		add_text(problem, ONE_RELEASE);
		return BAD;
	}
	if ((header.kind != ANSWER && header.kind != RUN) || header.zero || header.head > MAX_HEAD) {
		bad(problem, "a frame of kind ");
		add_number(problem, header.kind);
		add_text(problem, ", head of ");
		add_number(problem, header.head);
		add_text(problem, " bytes");
		details(problem, "the forwarder is older" ONE_RELEASE);
		return BAD;
	}
	if (have < sizeof header)
		return MORE;
	size_t whole = sizeof header + header.head + header.body;
	if (header.body > MAX_BODY || have > whole || (header.kind == ANSWER && header.head != 4)) {
		bad(problem, header.body > MAX_BODY ? "a frame that is too long"
			     : have > whole      ? "more than one frame"
						 : "an answer without its status");
		details(problem, "one of the two is older" ONE_RELEASE);
		return BAD;
	}
	if (have < whole)
		return MORE;
	frame->kind = (enum frame_kind)header.kind;
	frame->head = (struct span){buffer + sizeof header, header.head};
	frame->body = (struct span){frame->head.at + header.head, header.body};
	return WHOLE;
}

int connect_agent(void)
{
	static const struct sockaddr_un address = {AF_UNIX, SOCKET_PATH};
	int fd = above_stdio(sys3(NR_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	if (fd < 0)
		return fd;
	long result = sys3(NR_connect, fd, &address, sizeof address.family + sizeof SOCKET_PATH);
	if (result == 0)
		return fd;
	sys_close(fd);
	return (int)result;
}

/* Wait until the socket has `event`, for as long as an answer may take. */
static bool ready(int fd, short event)
{
	struct pollfd wait = {fd, event, 0};
	long result;
	do
		result = sys_poll(&wait, 1, ANSWER_MS);
	while (result == -EINTR);
	return result > 0;
}

/* `size` bytes of the parts are sent. */
static void advance(struct msghdr *message, size_t size)
{
	while (size) {
		struct iovec *part = message->iov;
		size_t step = size < part->size ? size : part->size;
		part->base = (const u8 *)part->base + step;
		part->size -= step;
		size -= step;
		if (!part->size) {
			message->iov++;
			message->iov_count--;
		}
	}
}

enum arrival send_parcel(int fd, struct parcel *parcel, const int *fds, unsigned fd_count)
{
	struct cmsg_fds control = {offsetof(struct cmsg_fds, fds) + fd_count * sizeof *fds, SOL_SOCKET, SCM_RIGHTS, {0, 0}};
	struct msghdr message = {.iov = parcel->parts, .iov_count = parcel->count};
	for (unsigned i = 0; i < fd_count; i++)
		control.fds[i] = fds[i];
	if (fd_count) {
		message.control = &control;
		message.control_size = control.size;
	}
	while (message.iov_count) {
		long n = sys3(NR_sendmsg, fd, &message, MSG_NOSIGNAL);
		if (n >= 0) {
			message.control = NULL;
			message.control_size = 0;
			advance(&message, (size_t)n);
		} else if (n == -EAGAIN) {
			if (!ready(fd, POLLOUT))
				return LATE;
		} else if (n != -EINTR) {
			return GONE;
		}
	}
	return WHOLE;
}

enum arrival receive(int fd, struct frame *frame, struct problem *problem)
{
	size_t have = 0;
	for (;;) {
		if (!ready(fd, POLLIN))
			return LATE;
		long n = sys6(NR_recvfrom, fd, ARG(incoming + have), ARG(sizeof incoming - have), 0, 0, 0);
		if (n == -EINTR || n == -EAGAIN)
			continue;
		if (n <= 0)
			return GONE;
		have += (size_t)n;
		enum arrival arrival = unpack(frame, incoming, have, problem);
		if (arrival != MORE)
			return arrival;
	}
}

enum arrival send_ran(int fd, int status, struct span stdout)
{
	struct parcel parcel;
	start(&parcel, RAN);
	add_part(&parcel, &status, sizeof status);
	add_part(&parcel, stdout.at, stdout.size);
	parcel.header.head = sizeof status;
	parcel.header.body = (u32)stdout.size;
	return send_parcel(fd, &parcel, NULL, 0);
}
