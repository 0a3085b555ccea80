/* The program, once the kernel's entry is behind it. */
#ifndef SHIM_H
#define SHIM_H

#include "sys.h"

_Noreturn void shim(int argc, char **argv, char **environ);

#endif
