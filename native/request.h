/* One call of a plugin: the checks that need no agent, and the documents that the shim writes itself. */
#ifndef REQUEST_H
#define REQUEST_H

#include "text.h"

/* The variables that travel in CALL, in the order of their names below. */
enum variable { COMMAND, CONTAINERID, NETNS, IFNAME, ARGS, PATH, NETNS_OVERRIDE, TRACEPARENT, VARIABLES };

enum { MAX_STDIN = 8 << 20 };

struct call {
	const char *name;                /* under which the program was started: the last component of argv[0] */
	char **environ;
	const char *variable[VARIABLES]; /* NAME=VALUE, NULL where it is not set */
	struct span stdin;
	struct span version;             /* after check_stdin: the configuration's CNI version, as a string in JSON */
	bool left;                       /* after check_stdin: what it could not decide is left to the agent */
};

/* Why a call fails: the code of the wire, and the pieces of which message and details are put together. */
struct problem {
	int code;
	unsigned count, details; /* pieces, and the first of them that belongs to the details */
	struct piece {
		enum { CHARS, REPR, COUNT } kind;
		enum form form;
		struct span span;
		long number; /* COUNT; REPR: how many characters at most */
	} pieces[20];
};

/* The versions of cni_py/spec/versions.py as one literal: what is before the first, between two, behind the last. */
#define SUPPORTED(before, between, behind)                                                                             \
	before "0.1.0" between "0.2.0" between "0.3.0" between "0.3.1" between "0.4.0" between "1.0.0" between CURRENT behind
#define CURRENT "1.1.0"

struct span span_of(const char *text);

/* A string in JSON is one of the versions above. */
bool known_version(struct span string);

/* argv[0] and the environment taken apart. */
void call_read(struct call *call, char *argv0, char **environ);

/* The value of a variable, "" if it is not set. */
const char *call_value(const struct call *call, enum variable variable);

/* A code and a message; further pieces follow. */
void fail(struct problem *problem, int code, const char *message);
void add_text(struct problem *problem, const char *text);
void add_number(struct problem *problem, long number);
void add_errno(struct problem *problem, long result);
void add_chars(struct problem *problem, enum form form, struct span span);
void add_repr(struct problem *problem, enum form form, struct span span, long most);
/* The pieces from here on are the details: what to do next. */
void details(struct problem *problem, const char *text);

/* The checks of cni_py/spec/request.py in its order, before and after stdin is read. False: `problem` says why. */
bool check_environment(const struct call *call, struct problem *problem);
bool check_stdin(struct call *call, struct problem *problem);

void write_problem(struct out *out, const struct call *call, const struct problem *problem);
void write_version(struct out *out);
void write_about(struct out *out, const struct call *call);

#endif
