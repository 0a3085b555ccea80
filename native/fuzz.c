/* The parts that read what others wrote, fed by tests/native/test_shim_fuzz.py: case after case from stdin, verdicts to stdout.
 *
 * Each input is in memory of exactly its size, so that AddressSanitizer sees a read of one byte too many. All integers
 * are 32 bits in the machine's order; a string is its length and its bytes.
 *
 *   request: 0, argv[0], count of variables, NAME=VALUE..., stdin -> FORWARDED, REFUSED, ANSWERED or UNDECIDED; document
 *   frame:   1, bytes -> what unpack makes of them, and of a RUN whether it is an order; the problem's document
 */
#include "run.h"
#include "wire.h"

/* of <stdlib.h>, which does not go together with sys.h */
void *malloc(size_t size);
void free(void *memory);

enum { FORWARDED, REFUSED, ANSWERED, UNDECIDED };

static u8 document[64 << 20];

/* The end of the cases is the end of the program. */
static void get(void *to, size_t size)
{
	for (u8 *at = to; size;) {
		long n = sys3(NR_read, 0, at, size);
		if (n <= 0)
			sys_exit(0);
		at += n;
		size -= (size_t)n;
	}
}

static u32 get_number(void)
{
	u32 number;
	get(&number, sizeof number);
	return number;
}

/* A string in memory of its own size, with a NUL behind it if asked for. */
static u8 *get_string(size_t *size, bool ended)
{
	*size = get_number();
	u8 *at = malloc(*size + ended);
	get(at, *size);
	if (ended)
		at[*size] = 0;
	return at;
}

static void put_number(u32 number)
{
	write_all(1, &number, sizeof number);
}

static u32 judge(struct call *call, struct out *out)
{
	struct problem problem;
	if (!*call_value(call, COMMAND)) {
		write_about(out, call);
		return ANSWERED;
	}
	bool good = check_environment(call, &problem);
	if (good && same(call_value(call, COMMAND), "VERSION")) {
		write_version(out);
		return ANSWERED;
	}
	struct span input = call->stdin;
	if (!good)
		call->stdin = (struct span){NULL, 0}; /* not read yet */
	good = good && check_stdin(call, &problem);
	call->stdin = input;
	if (!good)
		write_problem(out, call, &problem);
	return !good ? REFUSED : call->left ? UNDECIDED : FORWARDED;
}

static void request(struct out *out)
{
	size_t size;
	char *argv0 = (char *)get_string(&size, true);
	u32 count = get_number();
	char **environ = malloc((count + 1) * sizeof *environ);
	environ[count] = NULL;
	for (u32 i = 0; i < count; i++)
		environ[i] = (char *)get_string(&size, true);
	struct call call;
	call_read(&call, argv0, environ);
	call.stdin.at = get_string(&call.stdin.size, false);
	put_number(judge(&call, out));
	free((void *)call.stdin.at);
	for (u32 i = 0; i < count; i++)
		free(environ[i]);
	free(environ);
	free(argv0);
}

static void frame(struct out *out)
{
	size_t size;
	u8 *bytes = get_string(&size, false);
	struct frame frame;
	struct problem problem;
	struct order order;
	struct call call = {.name = ""};
	enum arrival arrival = unpack(&frame, bytes, size, &problem);
	put_number(arrival);
	put_number(arrival == WHOLE && frame.kind == RUN && read_order(&order, frame.head));
	if (arrival == BAD)
		write_problem(out, &call, &problem);
	free(bytes);
}

int main(void)
{
	for (;;) {
		struct out out = {document, sizeof document, 0, -1, false};
		if (get_number() == 0)
			request(&out);
		else
			frame(&out);
		put_number((u32)out.used);
		write_all(1, document, out.used);
	}
}
