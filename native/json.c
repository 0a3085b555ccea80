/* A reader of JSON in the steps of CPython's scanner (Modules/_json.c), so that it finds the same fault in the same place.
 *
 * Its strictness is that of cni_py/spec/gojson.py: valid UTF-8, no NaN, no Infinity, no control characters in strings;
 * and Python's: no byte order mark, no integer of more than 4300 digits.
 */
#include "json.h"

static bool value(struct json *json, struct value *found);

static bool wrong(struct json *json, const char *what, const u8 *at)
{
	json->end = INVALID;
	json->wrong = what;
	json->where = at ? at - json->text.at : -1;
	return false;
}

static bool left(struct json *json)
{
	json->end = LEFT;
	return false;
}

/* How many bytes there are from `at` on. */
static size_t rest(const struct json *json, const u8 *at)
{
	return (size_t)(json->text.at + json->text.size - at);
}

/* The byte at `at`; 0 at the end, and for a NUL, which JSON has nowhere. */
static u8 byte(const struct json *json, const u8 *at)
{
	return rest(json, at) ? *at : 0;
}

static bool digit(u8 c)
{
	return c >= '0' && c <= '9';
}

static bool hex(u8 c)
{
	return digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f');
}

static void blank(struct json *json)
{
	for (u8 c = byte(json, json->at); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = byte(json, json->at))
		json->at++;
}

/* The reader stands behind the opening quote; afterwards behind the closing one. */
static bool string(struct json *json, struct span *inside)
{
	const u8 *begin = json->at, *at = begin, *end = json->text.at + json->text.size;
	for (;; at++) {
		if (at == end)
			return wrong(json, "Unterminated string starting at", begin - 1);
		if (*at == '"')
			break;
		if (*at < 0x20)
			return wrong(json, "Invalid control character at", at);
		if (*at != '\\')
			continue;
		if (++at == end)
			return wrong(json, "Unterminated string starting at", begin - 1);
		switch (*at) {
		case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
			break;
		case 'u':
			if (end - at < 6 || !hex(at[1]) || !hex(at[2]) || !hex(at[3]) || !hex(at[4]))
				return wrong(json, "Invalid \\uXXXX escape", at);
			at += 4;
			break;
		default:
			return wrong(json, "Invalid \\escape", at - 1);
		}
	}
	*inside = (struct span){begin, (size_t)(at - begin)};
	json->at = at + 1;
	return true;
}

/* The word follows; the reader is behind it. */
static bool word(struct json *json, const char *text)
{
	size_t size = length(text);
	if (rest(json, json->at) < size || memcmp(json->at, text, size))
		return false;
	json->at += size;
	return true;
}

static bool number(struct json *json)
{
	const u8 *at = json->at;
	bool whole = true;
	if (byte(json, at) == '-')
		at++;
	const u8 *first = at;
	if (byte(json, at) == '0')
		at++;
	else
		while (digit(byte(json, at)))
			at++;
	if (at == first)
		return wrong(json, "Expecting value", json->at);
	size_t digits = (size_t)(at - first);
	if (byte(json, at) == '.' && rest(json, at) > 1 && digit(at[1])) {
		whole = false;
		for (at++; digit(byte(json, at));)
			at++;
	}
	if ((byte(json, at) | 32) == 'e') { /* only what has a digit is an exponent, else the number ends before it */
		const u8 *exponent = at + 1;
		if (byte(json, exponent) == '-' || byte(json, exponent) == '+')
			exponent++;
		for (; digit(byte(json, exponent)); at = exponent)
			exponent++, whole = false;
	}
	if (whole && digits > 4300) {
		json->digits = digits;
		return wrong(json, NULL, NULL);
	}
	json->at = at;
	return true;
}

/* Which spelling of the field's name a key is, numbered from 0; -1 if it is another key. */
static long spelling(const struct field *field, struct span key)
{
	long number = 0;
	const char *name = field->name;
	for (; *name && key.size; name++) {
		u32 c = next_char(STRING, &key);
		number *= 3;
		if (c == (u32)*name - 32)
			number += 1;
		else if (c == 0x17f && *name == 's') /* the long s folds to s, also in Go */
			number += 2;
		else if (c != (u32)*name)
			return -1;
	}
	return *name || key.size ? -1 : number;
}

/* Python keeps a key in its first place and takes its last value; `null` leaves the value that there is. */
static bool note(struct json *json, struct field *field, struct span key, struct value value)
{
	long number = spelling(field, key);
	if (number < 0)
		return true;
	for (unsigned i = 0; i < field->count; i++) {
		if (field->seen[i].spelling != (u32)number)
			continue;
		if (value.kind != IS_NULL)
			field->seen[i].value = value;
		return true;
	}
	if (field->count == SPELLINGS)
		return left(json);
	field->seen[field->count].spelling = (u32)number;
	field->seen[field->count++].value = value;
	return true;
}

static bool object(struct json *json)
{
	blank(json);
	if (byte(json, json->at) == '}') {
		json->at++;
		return true;
	}
	for (;;) {
		struct span key;
		struct value found;
		if (byte(json, json->at) != '"')
			return wrong(json, "Expecting property name enclosed in double quotes", json->at);
		json->at++;
		if (!string(json, &key))
			return false;
		blank(json);
		if (byte(json, json->at) != ':')
			return wrong(json, "Expecting ':' delimiter", json->at);
		json->at++;
		blank(json);
		if (!value(json, &found))
			return false;
		if (json->depth == 1 && !(note(json, &json->name, key, found) && note(json, &json->version, key, found)))
			return false;
		blank(json);
		u8 c = byte(json, json->at);
		if (c != '}' && c != ',')
			return wrong(json, "Expecting ',' delimiter", json->at);
		json->at++;
		if (c == '}')
			return true;
		blank(json);
	}
}

static bool array(struct json *json)
{
	blank(json);
	if (byte(json, json->at) == ']') {
		json->at++;
		return true;
	}
	for (;;) {
		struct value found;
		if (!value(json, &found))
			return false;
		blank(json);
		u8 c = byte(json, json->at);
		if (c != ']' && c != ',')
			return wrong(json, "Expecting ',' delimiter", json->at);
		json->at++;
		if (c == ']')
			return true;
		blank(json);
	}
}

static bool nested(struct json *json, bool (*read)(struct json *))
{
	json->at++;
	if (json->depth == DEEPEST)
		return left(json);
	json->depth++;
	bool good = read(json);
	json->depth--;
	return good;
}

static bool value(struct json *json, struct value *found)
{
	*found = (struct value){IS_UNSET, {NULL, 0}};
	switch (byte(json, json->at)) {
	case '"':
		found->kind = IS_STRING;
		json->at++;
		return string(json, &found->inside);
	case '{':
		found->kind = IS_OBJECT;
		return nested(json, object);
	case '[':
		found->kind = IS_ARRAY;
		return nested(json, array);
	default:
		break;
	}
	found->kind = IS_NULL;
	if (word(json, "null"))
		return true;
	found->kind = IS_BOOLEAN;
	if (word(json, "true") || word(json, "false"))
		return true;
	if (word(json, "NaN"))
		return wrong(json, "invalid number NaN", NULL);
	if (word(json, "Infinity"))
		return wrong(json, "invalid number Infinity", NULL);
	if (word(json, "-Infinity"))
		return wrong(json, "invalid number -Infinity", NULL);
	found->kind = IS_NUMBER;
	return number(json);
}

void json_read(struct json *json, struct span text)
{
	struct value found;
	memset(json, 0, sizeof *json);
	json->text = text;
	json->at = text.at;
	json->name.name = "name";
	json->version.name = "cniversion";
	if (text.size >= 3 && !memcmp(text.at, "\xef\xbb\xbf", 3)) {
		wrong(json, "Unexpected UTF-8 BOM (decode using utf-8-sig)", text.at);
		return;
	}
	blank(json);
	if (!value(json, &found))
		return;
	json->kind = found.kind;
	blank(json);
	if (rest(json, json->at))
		wrong(json, "Extra data", json->at);
}

struct value json_field(const struct field *field)
{
	struct value found = {IS_UNSET, {NULL, 0}};
	for (unsigned i = 0; i < field->count; i++)
		if (field->seen[i].value.kind != IS_NULL)
			found = field->seen[i].value;
	return found;
}
