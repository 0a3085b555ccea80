/* Characters in and out: UTF-8 and JSON's escapes read, JSON's escapes and Python's repr written. */
#include "text.h"

size_t utf8_size(const u8 *at, const u8 *end)
{
	u8 first = at[0], low = 0x80, high = 0xbf;
	size_t size;
	if (first < 0x80)
		return 1;
	if (first < 0xc2 || first > 0xf4)
		return 0;
	size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
	if ((size_t)(end - at) < size)
		return 0;
	/* the second byte's range excludes longer forms than needed, surrogates and what is above U+10FFFF */
	if (first == 0xe0)
		low = 0xa0;
	if (first == 0xed)
		high = 0x9f;
	if (first == 0xf0)
		low = 0x90;
	if (first == 0xf4)
		high = 0x8f;
	if (at[1] < low || at[1] > high)
		return 0;
	for (size_t i = 2; i < size; i++)
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	return size;
}

static u32 decoded(const u8 *at, size_t size)
{
	static const u8 mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
	u32 c = at[0] & mask[size];
	for (size_t i = 1; i < size; i++)
		c = c << 6 | (at[i] & 0x3f);
	return c;
}

static u32 hex4(const u8 *at)
{
	u32 value = 0;
	for (int i = 0; i < 4; i++)
		value = value << 4 | (at[i] <= '9' ? at[i] & 15 : (at[i] & 15) + 9);
	return value;
}

static void skip(struct span *rest, size_t size)
{
	rest->at += size;
	rest->size -= size;
}

/* The character of the escape at `rest`; the JSON was checked, so its form is right. */
static u32 unescaped(struct span *rest)
{
	u8 letter = rest->at[1];
	if (letter != 'u') {
		skip(rest, 2);
		switch (letter) {
		case 'b': return '\b';
		case 'f': return '\f';
		case 'n': return '\n';
		case 'r': return '\r';
		case 't': return '\t';
		default: return letter;
		}
	}
	u32 c = hex4(rest->at + 2);
	skip(rest, 6);
	if (c < 0xd800 || c > 0xdfff)
		return c;
	if (c < 0xdc00 && rest->size >= 6 && rest->at[0] == '\\' && rest->at[1] == 'u') {
		u32 low = hex4(rest->at + 2);
		if (low >= 0xdc00 && low <= 0xdfff) {
			skip(rest, 6);
			return 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
		}
	}
	return 0xfffd;
}

u32 next_char(enum form form, struct span *rest)
{
	if (form == STRING && rest->at[0] == '\\')
		return unescaped(rest);
	size_t size = utf8_size(rest->at, rest->at + rest->size);
	u32 c = size ? decoded(rest->at, size) : 0xdc00u + rest->at[0];
	skip(rest, size ? size : 1);
	return c;
}

void out_flush(struct out *out)
{
	if (out->fd < 0)
		return;
	if (!out->broken && write_all(out->fd, out->buffer, out->used) < 0)
		out->broken = true;
	out->used = 0;
}

static void out_byte(struct out *out, u32 byte)
{
	if (out->used == out->size)
		out_flush(out);
	if (out->used < out->size)
		out->buffer[out->used++] = (u8)byte;
}

void out_text(struct out *out, const char *text)
{
	while (*text)
		out_byte(out, (u8)*text++);
}

void out_number(struct out *out, long number)
{
	char digits[24], *at = digits + sizeof digits - 1;
	unsigned long rest = number < 0 ? -(unsigned long)number : (unsigned long)number;
	*at = 0;
	do
		*--at = (char)('0' + rest % 10);
	while (rest /= 10);
	if (number < 0)
		*--at = '-';
	out_text(out, at);
}

static void out_hex(struct out *out, const char *prefix, u32 c, int digits)
{
	out_text(out, prefix);
	while (digits--)
		out_byte(out, (u8)"0123456789abcdef"[c >> 4 * digits & 15]);
}

static void out_utf8(struct out *out, u32 c)
{
	if (c < 0x80) {
		out_byte(out, c);
	} else if (c < 0x800) {
		out_byte(out, 0xc0 | c >> 6);
	} else {
		if (c < 0x10000) {
			out_byte(out, 0xe0 | c >> 12);
		} else {
			out_byte(out, 0xf0 | c >> 18);
			out_byte(out, 0x80 | (c >> 12 & 0x3f));
		}
		out_byte(out, 0x80 | (c >> 6 & 0x3f));
	}
	if (c >= 0x80)
		out_byte(out, 0x80 | (c & 0x3f));
}

static void out_char(struct out *out, u32 c)
{
	switch (c) {
	case '"': out_text(out, "\\\""); return;
	case '\\': out_text(out, "\\\\"); return;
	case '\b': out_text(out, "\\b"); return;
	case '\f': out_text(out, "\\f"); return;
	case '\n': out_text(out, "\\n"); return;
	case '\r': out_text(out, "\\r"); return;
	case '\t': out_text(out, "\\t"); return;
	default: break;
	}
	if (c < 0x20 || (c >= 0xd800 && c <= 0xdfff))
		out_hex(out, "\\u", c, 4);
	else
		out_utf8(out, c);
}

void out_escaped(struct out *out, enum form form, struct span span)
{
	while (span.size)
		out_char(out, next_char(form, &span));
}

/* Of the characters that Python does not print, those that somebody may meet. */
static bool printable(u32 c)
{
	return !(c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad || (c >= 0xd800 && c <= 0xf8ff) || c == 0x1680 ||
		 (c >= 0x2000 && c <= 0x200f) || (c >= 0x2028 && c <= 0x202f) || (c >= 0x205f && c <= 0x206f) ||
		 c == 0x3000 || c == 0xfeff || (c >= 0xfff0 && c <= 0xfffb) || (c & 0xfffe) == 0xfffe || c >= 0xe0000);
}

void out_repr(struct out *out, enum form form, struct span span, size_t most)
{
	bool single = false, twofold = false;
	struct span rest = span;
	for (size_t n = 0; n < most && rest.size; n++) {
		u32 c = next_char(form, &rest);
		single |= c == '\'';
		twofold |= c == '"';
	}
	u32 quote = single && !twofold ? '"' : '\'';
	out_char(out, quote);
	for (size_t n = 0; n < most && span.size; n++) {
		u32 c = next_char(form, &span);
		if (c == '\n' || c == '\r' || c == '\t') {
			out_text(out, c == '\n' ? "\\\\n" : c == '\r' ? "\\\\r" : "\\\\t");
		} else if (c == quote || c == '\\') {
			out_text(out, "\\\\");
			out_char(out, c);
		} else if (printable(c)) {
			out_char(out, c);
		} else {
			out_hex(out, c < 0x100 ? "\\\\x" : c < 0x10000 ? "\\\\u" : "\\\\U", c, c < 0x100 ? 2 : c < 0x10000 ? 4 : 8);
		}
	}
	out_char(out, quote);
}

long write_all(int fd, const void *data, size_t size)
{
	const u8 *at = data;
	while (size) {
		long n = sys3(NR_write, fd, at, size);
		if (n == -EAGAIN) { /* whoever made the stream set it not to wait */
			struct pollfd wait = {fd, POLLOUT, 0};
			sys_poll(&wait, 1, -1);
		} else if (n < 0 && n != -EINTR) {
			return n;
		} else if (n > 0) {
			at += n;
			size -= (size_t)n;
		}
	}
	return 0;
}

const char *error_name(long number)
{
	switch (number) {
	case EPERM: return "Operation not permitted";
	case ENOENT: return "No such file or directory";
	case EIO: return "Input/output error";
	case EBADF: return "Bad file descriptor";
	case EAGAIN: return "Resource temporarily unavailable";
	case ENOMEM: return "Cannot allocate memory";
	case EACCES: return "Permission denied";
	case EEXIST: return "File exists";
	case ENOTDIR: return "Not a directory";
	case EISDIR: return "Is a directory";
	case EINVAL: return "Invalid argument";
	case ENFILE: return "Too many open files in system";
	case EMFILE: return "Too many open files";
	case ENOSPC: return "No space left on device";
	case EROFS: return "Read-only file system";
	case ENAMETOOLONG: return "File name too long";
	case ELOOP: return "Too many levels of symbolic links";
	case EPROTOTYPE: return "Protocol wrong type for socket";
	case ECONNREFUSED: return "Connection refused";
	case EDQUOT: return "Disk quota exceeded";
	default: return NULL;
	}
}
