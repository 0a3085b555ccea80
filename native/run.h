/* RUN: a plugin that the agent wants to have run, since CNI_PATH is the runtime's. */
#ifndef RUN_H
#define RUN_H

#include "wire.h"

enum { NOT_FOUND = -1, NOT_EXECUTED = -2, MAX_STDOUT = 8 << 20, MAX_SETTINGS = 32 };

/* What RUN asks for. */
struct order {
	const char *name;
	const char *path;                   /* of the variables, CNI_PATH's value */
	unsigned count;
	const char *variable[MAX_SETTINGS]; /* NAME=VALUE */
};

/* The head of a RUN frame taken apart. False where it is not what the protocol says. */
bool read_order(struct order *order, struct span head);

/* The plugin was run on `stdin`: its status as RAN has it, and what it printed. */
int run(const struct order *order, char **environ, struct span stdin, struct span *stdout);

#endif
