/* count_allocations.h - how often the library has asked for memory, for tests linked with --wrap (tests/meson.build). */
#ifndef COUNT_ALLOCATIONS_H
#define COUNT_ALLOCATIONS_H

extern long allocations;

#endif
