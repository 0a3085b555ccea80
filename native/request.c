/* The checks that every call has in common, as cni_py/spec/request.py makes them: same order, same texts, same codes. */
#include "request.h"

#include "json.h"

static const char *const commands[] = {"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"};
enum { ADD = 1, DEL = 2, CHECK = 4, GC = 8, STATUS = 16, VERSION = 32 };

#define FAULT "error unmarshall network config: "
#define WHERE "stdin must hold one JSON object, the network configuration"
#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* The verb as one of the bits above, 0 for one that is unknown. */
static unsigned verb(const struct call *call)
{
	for (unsigned i = 0; i < COUNT_OF(commands); i++)
		if (same(call_value(call, COMMAND), commands[i]))
			return 1u << i;
	return 0;
}

/* Letters, digits, and after the first of them also `_.-`. */
static bool is_name(enum form form, struct span span)
{
	for (bool first = true; span.size; first = false) {
		u32 c = next_char(form, &span);
		if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'))
			continue;
		if (first || (c != '_' && c != '.' && c != '-'))
			return false;
	}
	return true;
}

static bool is_space(u32 c)
{
	return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool check_ifname(const char *value, struct problem *problem)
{
	struct span rest = span_of(value);
	bool odd = false;
	while (rest.size) {
		u32 c = next_char(BYTES, &rest);
		if (c >= 0xd800 && c <= 0xdfff) {
			fail(problem, 4, "interface name is not UTF-8");
			details(problem, "");
			add_repr(problem, BYTES, span_of(value), 1 << 20);
			return false;
		}
		odd |= c == '/' || c == ':' || is_space(c);
	}
	if (length(value) > 15) {
		fail(problem, 4, "interface name is too long");
		details(problem, "interface name should be less than 16 characters");
		return false;
	}
	if (same(value, ".") || same(value, "..")) {
		fail(problem, 4, "interface name is . or ..");
		return false;
	}
	if (odd)
		fail(problem, 4, "interface name contains / or : or whitespace characters");
	return !odd;
}

bool check_environment(const struct call *call, struct problem *problem)
{
	static const struct { enum variable variable; unsigned verbs; const char *name; } required[] = {
		{CONTAINERID, ADD | CHECK | DEL, "CNI_CONTAINERID"},
		{NETNS, ADD | CHECK, "CNI_NETNS"},
		{IFNAME, ADD | CHECK | DEL, "CNI_IFNAME"},
		{PATH, ADD | CHECK | DEL | GC | STATUS, "CNI_PATH"},
	};
	struct problem missing = {.code = 0};
	for (unsigned i = 0; i < COUNT_OF(required); i++) {
		const char *value = call_value(call, required[i].variable);
		if (!(required[i].verbs & verb(call)))
			continue;
		if (!*value) {
			if (!missing.code)
				fail(&missing, 4, "required env variables [");
			else
				add_text(&missing, ",");
			add_text(&missing, required[i].name);
		} else if (required[i].variable == CONTAINERID && !is_name(BYTES, span_of(value))) {
			fail(problem, 4, "invalid characters in containerID");
			details(problem, "");
			add_chars(problem, BYTES, span_of(value));
			return false;
		} else if (required[i].variable == IFNAME && !check_ifname(value, problem)) {
			return false;
		}
	}
	if (!missing.code)
		return true;
	add_text(&missing, "] missing");
	*problem = missing;
	return false;
}

/* Three numbers as one, -1 if it is no version: at most three parts of at most nine digits, missing ones are 0. */
static bool parse_version(struct span version, u32 parts[3])
{
	unsigned part = 0, digits = 0;
	parts[0] = parts[1] = parts[2] = 0;
	while (version.size) {
		u32 c = next_char(STRING, &version);
		if (c == '.' && digits && part < 2) {
			part++;
			digits = 0;
		} else if (c >= '0' && c <= '9' && digits < 9) {
			parts[part] = parts[part] * 10 + (c - '0');
			digits++;
		} else {
			return false;
		}
	}
	return digits > 0;
}

/* Below 0, 0, above 0: as `parts` is older than 0.4.0 or 1.1.0, the same, newer. */
static int compare(const u32 parts[3], u32 major, u32 minor)
{
	const u32 other[3] = {major, minor, 0};
	for (int i = 0; i < 3; i++)
		if (parts[i] != other[i])
			return parts[i] < other[i] ? -1 : 1;
	return 0;
}

static bool check_version(struct call *call, struct problem *problem)
{
	unsigned late = verb(call) & (CHECK | GC | STATUS);
	u32 parts[3];
	if (late && !parse_version(call->version, parts)) {
		fail(problem, 6, "invalid version ");
		add_repr(problem, STRING, call->version, 64);
		details(problem, "a CNI version looks like 1.1.0");
		return false;
	}
	if (late && compare(parts, late == CHECK ? 0 : 1, late == CHECK ? 4 : 1) < 0) {
		fail(problem, 1, "config version does not allow ");
		add_text(problem, call_value(call, COMMAND));
		details(problem, "it came with CNI ");
		add_text(problem, late == CHECK ? "0.4.0" : "1.1.0");
		return false;
	}
	if (late && compare(parts, 1, 1) > 0) {
		fail(problem, 1, "plugin version does not allow ");
		add_text(problem, call_value(call, COMMAND));
		return false;
	}
	if (known_version(call->version))
		return true;
	fail(problem, 1, "incompatible CNI versions");
	details(problem, "config is \"");
	add_chars(problem, STRING, call->version);
	add_text(problem, "\", plugin supports [" SUPPORTED("\"", "\" \"", "\"") "]");
	return false;
}

static const char *kind_name(enum kind kind)
{
	static const char *const names[] = {"null", "null", "a boolean", "a number", "a string", "an array", "an object"};
	return names[kind];
}

/* Where in the text, as Python counts: characters, not bytes. */
static void add_position(struct problem *problem, struct span text, long where)
{
	long line = 1, column = 1, character = 0;
	for (const u8 *at = text.at; at < text.at + where; at++) {
		if ((*at & 0xc0) == 0x80)
			continue;
		character++;
		column++;
		if (*at == '\n') {
			line++;
			column = 1;
		}
	}
	add_text(problem, ": line ");
	add_number(problem, line);
	add_text(problem, " column ");
	add_number(problem, column);
	add_text(problem, " (char ");
	add_number(problem, character);
	add_text(problem, ")");
}

/* Stdin is UTF-8 of bearable size. */
static bool check_bytes(struct span text, struct problem *problem)
{
	if (text.size > MAX_STDIN) {
		fail(problem, 6, FAULT "more than 8388608 bytes on stdin");
		details(problem, "check what the runtime sends; a network configuration has a few hundred bytes");
		return false;
	}
	for (const u8 *at = text.at, *end = at + text.size; at < end;) {
		size_t size = utf8_size(at, end);
		if (!size) {
			fail(problem, 6, FAULT "not UTF-8 at byte ");
			add_number(problem, at - text.at);
			details(problem, WHERE);
			return false;
		}
		at += size;
	}
	return true;
}

/* The document is an object; its fields are in `json`. */
static bool check_json(struct json *json, struct span text, struct problem *problem)
{
	json_read(json, text);
	if (json->end == LEFT || (json->end == VALID && json->kind == IS_OBJECT))
		return true;
	fail(problem, 6, FAULT);
	if (json->end == VALID) {
		add_text(problem, "a JSON object is expected, not ");
		add_text(problem, kind_name(json->kind));
	} else if (json->wrong) {
		add_text(problem, json->wrong);
		if (json->where >= 0)
			add_position(problem, text, json->where);
	} else {
		add_text(problem, "Exceeds the limit (4300 digits) for integer string conversion: value has ");
		add_number(problem, (long)json->digits);
		add_text(problem, " digits; use sys.set_int_max_str_digits() to increase the limit");
	}
	details(problem, WHERE);
	return false;
}

/* The field's string, of size 0 when it is unset. */
static bool string_field(const struct field *field, const char *name, struct span *string, struct problem *problem)
{
	struct value value = json_field(field);
	*string = value.inside;
	if (value.kind == IS_STRING || value.kind == IS_UNSET)
		return true;
	fail(problem, 6, FAULT);
	add_text(problem, name);
	add_text(problem, " must be a string, not ");
	add_text(problem, kind_name(value.kind));
	details(problem, WHERE);
	return false;
}

bool check_stdin(struct call *call, struct problem *problem)
{
	struct json json;
	struct span name, version;
	if (!check_bytes(call->stdin, problem) || !check_json(&json, call->stdin, problem))
		return false;
	call->left = json.end == LEFT;
	if (call->left)
		return true;
	/* an error document carries the version of the configuration, if we know it */
	struct problem unused;
	bool versioned = string_field(&json.version, "cniVersion", &version, &unused);
	if (versioned)
		call->version = version.size ? version : span_of("0.1.0");
	if (!string_field(&json.name, "name", &name, problem))
		return false;
	if (!name.size) {
		fail(problem, 7, "missing network name");
		details(problem, "the configuration needs a \"name\"");
		return false;
	}
	if (!is_name(STRING, name)) {
		fail(problem, 7, "invalid characters found in network name");
		details(problem, "");
		add_chars(problem, STRING, name);
		return false;
	}
	if (!versioned)
		return string_field(&json.version, "cniVersion", &version, problem);
	if (!verb(call)) {
		fail(problem, 4, "unknown CNI_COMMAND: ");
		add_chars(problem, BYTES, span_of(call_value(call, COMMAND)));
		details(problem, "known are ADD, DEL, CHECK, GC, STATUS, VERSION");
		return false;
	}
	return check_version(call, problem);
}
