/* JSON checked as Python's json checks it, and two fields of the top level found as Go's encoding/json finds them. */
#ifndef JSON_H
#define JSON_H

#include "text.h"

enum kind { IS_UNSET, IS_NULL, IS_BOOLEAN, IS_NUMBER, IS_STRING, IS_ARRAY, IS_OBJECT };

struct value {
	enum kind kind;
	struct span inside; /* of a string, between its quotes */
};

/* Deeper nesting, or more spellings of one key, is left to the agent. */
enum { DEEPEST = 128, SPELLINGS = 16 };

/* A field of the top level. Keys match without regard to case, so one document may hold it in several spellings. */
struct field {
	const char *name; /* in lower case */
	unsigned count;
	struct { u32 spelling; struct value value; } seen[SPELLINGS]; /* in the order of their first appearance */
};

struct json {
	struct span text;
	enum { VALID, INVALID, LEFT } end; /* LEFT: not decided here */
	const char *wrong;  /* INVALID: what */
	long where;         /* and at which byte, -1 where that is not told */
	size_t digits;      /* INVALID without `wrong`: an integer of so many */
	enum kind kind;     /* VALID: of the document */
	struct field name, version;
	const u8 *at;       /* where the reader stands */
	unsigned depth;
};

/* The document in `text` is read: `end` and the fields say with what outcome. */
void json_read(struct json *json, struct span text);

/* The value that Go would put into the field; its kind is IS_UNSET when there is none, or null. */
struct value json_field(const struct field *field);

#endif
