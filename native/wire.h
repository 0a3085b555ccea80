/* Frames between the shim and the agent: docs/agent-protocol.md. */
#ifndef WIRE_H
#define WIRE_H

#include "request.h"

#define SOCKET_PATH "/run/cni-py/agent.sock"
#define ONE_RELEASE ": install the shim and the agent of one release (cni-py install)"
/* For tests alone, which cannot wait so long. */
#ifndef ANSWER_MS
#define ANSWER_MS 120000
#endif

enum frame_kind { CALL = 1, RUN = 2, RAN = 3, ANSWER = 4 };
enum { PROTOCOL = 1, MAX_HEAD = 1 << 20, MAX_BODY = (8 << 20) + 1 };

struct header {
	char magic[4];
	u8 version, kind;
	u16 zero;
	u32 head, body;
};
_Static_assert(sizeof(struct header) == 16, "as the protocol has it");

/* A frame to be sent, its parts where they are. */
struct parcel {
	struct header header;
	unsigned count;
	struct iovec parts[VARIABLES + 3];
};

/* A frame that came; its parts are in the buffer of whoever received it. */
struct frame {
	enum frame_kind kind;
	struct span head, body;
};

/* GONE: end of file before the frame was whole. LATE: nothing came in time. BAD: `problem` says what came instead. */
enum arrival { WHOLE, MORE, GONE, LATE, BAD };

/* The CALL frame of a call. False: `problem` says that it cannot travel. */
bool pack_call(struct parcel *parcel, const struct call *call, struct problem *problem);

/* The frame in the first `have` bytes of a buffer, or that there is MORE of it to come, or BAD. */
enum arrival unpack(struct frame *frame, const u8 *buffer, size_t have, struct problem *problem);

/* A connection to the agent, or -errno: -EAGAIN where the agent has more callers waiting than it lets wait. */
int connect_agent(void);

/* The parcel is sent, `fds` with its first byte. GONE is no failure yet: the agent may have answered before it left. */
enum arrival send_parcel(int fd, struct parcel *parcel, const int *fds, unsigned fd_count);

/* The next frame from the agent. */
enum arrival receive(int fd, struct frame *frame, struct problem *problem);

/* Status and stdout of a plugin that RUN asked for go back. */
enum arrival send_ran(int fd, int status, struct span stdout);

#endif
