/* What the process was started with, taken apart; and the documents that the shim writes itself. */
#include "request.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

struct span span_of(const char *text)
{
	return (struct span){(const u8 *)text, length(text)};
}

/* Path(argv0).name in Python; the slashes at its end are cut off in place. */
static const char *last_component(char *path)
{
	size_t size = path ? length(path) : 0;
	while (size && path[size - 1] == '/')
		path[--size] = 0;
	const char *name = path ? path : "";
	for (const char *at = name; *at; at++)
		if (*at == '/')
			name = at + 1;
	return name;
}

void call_read(struct call *call, char *argv0, char **environ)
{
	static const char *const names[VARIABLES] = {
		"CNI_COMMAND=", "CNI_CONTAINERID=", "CNI_NETNS=", "CNI_IFNAME=", "CNI_ARGS=", "CNI_PATH=",
		"CNI_NETNS_OVERRIDE=", "TRACEPARENT=",
	};
	memset(call, 0, sizeof *call);
	call->name = last_component(argv0);
	call->environ = environ;
	for (char **entry = environ; *entry; entry++) {
		if ((*entry)[0] != 'C' && (*entry)[0] != 'T')
			continue;
		for (unsigned i = 0; i < VARIABLES; i++) /* of equal names the first counts, as in Python */
			if (!call->variable[i] && after(*entry, names[i]))
				call->variable[i] = *entry;
	}
}

const char *call_value(const struct call *call, enum variable variable)
{
	const char *entry = call->variable[variable];
	if (!entry)
		return "";
	while (*entry++ != '=')
		;
	return entry;
}

void fail(struct problem *problem, int code, const char *message)
{
	problem->code = code;
	problem->count = 0;
	problem->details = ~0u;
	add_text(problem, message);
}

static void add(struct problem *problem, struct piece piece)
{
	if (problem->count < COUNT_OF(problem->pieces))
		problem->pieces[problem->count++] = piece;
}

void add_text(struct problem *problem, const char *text)
{
	add(problem, (struct piece){CHARS, TEXT, span_of(text), 0});
}

void add_number(struct problem *problem, long number)
{
	add(problem, (struct piece){COUNT, TEXT, {NULL, 0}, number});
}

void add_errno(struct problem *problem, long result)
{
	const char *name = error_name(-result);
	if (name) {
		add_text(problem, name);
	} else {
		add_text(problem, "error ");
		add_number(problem, -result);
	}
}

void add_chars(struct problem *problem, enum form form, struct span span)
{
	add(problem, (struct piece){CHARS, form, span, 0});
}

void add_repr(struct problem *problem, enum form form, struct span span, long most)
{
	add(problem, (struct piece){REPR, form, span, most});
}

void details(struct problem *problem, const char *text)
{
	problem->details = problem->count;
	add_text(problem, text);
}

bool known_version(struct span string)
{
	const char *known = SUPPORTED("", "\0", "\0"); /* the literal's own NUL makes an empty one the last */
	for (; *known; known += length(known) + 1) {
		struct span rest = string;
		const char *at = known;
		while (*at && rest.size && next_char(STRING, &rest) == (u8)*at)
			at++;
		if (!*at && !rest.size)
			return true;
	}
	return false;
}

static void write_piece(struct out *out, const struct piece *piece)
{
	if (piece->kind == CHARS)
		out_escaped(out, piece->form, piece->span);
	else if (piece->kind == REPR)
		out_repr(out, piece->form, piece->span, (size_t)piece->number);
	else
		out_number(out, piece->number);
}

void write_problem(struct out *out, const struct call *call, const struct problem *problem)
{
	out_text(out, "{\n    \"cniVersion\": \"");
	if (known_version(call->version))
		out_escaped(out, STRING, call->version);
	else
		out_text(out, CURRENT);
	out_text(out, "\",\n    \"code\": ");
	out_number(out, problem->code);
	out_text(out, ",\n    \"msg\": \"");
	for (unsigned i = 0; i < problem->count; i++) {
		if (i == problem->details)
			out_text(out, "\",\n    \"details\": \"");
		write_piece(out, &problem->pieces[i]);
	}
	out_text(out, "\"\n}");
	out_flush(out);
}

void write_version(struct out *out)
{
	out_text(out, "{\"cniVersion\": \"" CURRENT "\", \"supportedVersions\": [" SUPPORTED("\"", "\", \"", "\"") "]}");
	out_flush(out);
}

void write_about(struct out *out, const struct call *call)
{
	static const char *const names[] = {
		"cni-py-ipam", "cni-py-policy", "bridge", "ptp", "host-local", "portmap", "bandwidth", "loopback",
	};
	const char *name = "cni-py";
	for (unsigned i = 0; i < COUNT_OF(names); i++)
		if (same(call->name, names[i]))
			name = names[i];
	out_text(out, "CNI plugin ");
	out_text(out, name);
	out_text(out, " of cni-py\nCNI protocol versions supported: " SUPPORTED("", ", ", "") "\n");
	out_flush(out);
}
