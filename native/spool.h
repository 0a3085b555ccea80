/* DEL without an agent: kept until one comes. */
#ifndef SPOOL_H
#define SPOOL_H

#include "wire.h"

/* The CALL frame is in the spool. False: `problem` says why it is not. */
bool spool(const struct parcel *parcel, struct problem *problem);

#endif
