/* Characters: taken out of what came in, put into what goes out. */
#ifndef TEXT_H
#define TEXT_H

#include "sys.h"

/* Bytes of somebody else's memory; nothing here copies them. */
struct span {
	const u8 *at;
	size_t size;
};

/* How the bytes of a span stand for characters. */
enum form {
	TEXT,   /* ours, ASCII */
	BYTES,  /* a variable: UTF-8 if all is well; each byte that is not is a character 0xdc00 + byte, as in Python */
	STRING, /* the inside of a string in valid JSON; half a surrogate pair is U+FFFD, as in Go */
};

/* The length of the valid UTF-8 sequence at `at`, 0 if there is none. */
size_t utf8_size(const u8 *at, const u8 *end);

/* The first character of `rest`, which is not empty; `rest` is what follows. */
u32 next_char(enum form form, struct span *rest);

/* A buffered writer. With `fd` < 0 what does not fit is dropped. */
struct out {
	u8 *buffer;
	size_t size, used;
	int fd;
	bool broken; /* the reader is gone; all else is dropped */
};

void out_flush(struct out *out);
void out_text(struct out *out, const char *text);
void out_number(struct out *out, long number);

/* The characters as the inside of a JSON string: as json.dumps(ensure_ascii=False) has them. */
void out_escaped(struct out *out, enum form form, struct span span);

/* The first `most` characters as Python's repr() shows them, quotes and all, inside of a JSON string. */
void out_repr(struct out *out, enum form form, struct span span, size_t most);

/* All of `size` bytes written, also where the reader is slow; 0 or -errno. */
long write_all(int fd, const void *data, size_t size);

/* What an errno is called, NULL for one that no call of ours gives. */
const char *error_name(long number);

#endif
