/* Where the kernel enters the program, and the four functions that a compiler calls without being asked. */
#include "shim.h"

#ifdef HOSTED /* the sanitizers need a C library, and bring it */

int main(int argc, char **argv, char **environ)
{
	shim(argc, argv, environ);
}

#else

/* The stack holds argc, the arguments, NULL, the environment, NULL. */
#if defined __x86_64__
__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call entry\n");
#else
__asm__(".globl _start\n"
	"_start:\n"
	"	mov x29, #0\n"
	"	mov x30, #0\n"
	"	mov x0, sp\n"
	"	bl entry\n");
#endif

_Noreturn void entry(long *stack);
_Noreturn void entry(long *stack)
{
	char **argv = (char **)(stack + 1);
	shim((int)stack[0], argv, argv + stack[0] + 1);
}

/* The empty asm keeps the compiler from seeing memcpy in the loop and calling it: itself. */
#define KEEP_LOOP __asm__ volatile("")

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		((u8 *)to)[i] = ((const u8 *)from)[i];
		KEEP_LOOP;
	}
	return to;
}

void *memset(void *to, int byte, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		((u8 *)to)[i] = (u8)byte;
		KEEP_LOOP;
	}
	return to;
}

void *memmove(void *to, const void *from, size_t size)
{
	if ((u8 *)to <= (const u8 *)from)
		return memcpy(to, from, size);
	while (size--) {
		((u8 *)to)[size] = ((const u8 *)from)[size];
		KEEP_LOOP;
	}
	return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
	const u8 *x = a, *y = b;
	for (size_t i = 0; i < size; i++) {
		if (x[i] != y[i])
			return x[i] - y[i];
		KEEP_LOOP;
	}
	return 0;
}

#endif
