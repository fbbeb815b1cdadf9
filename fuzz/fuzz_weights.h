/* fuzz_weights.h - how fuzz input becomes a weights file. Bytes that begin with '{' are a header up to the
 * first zero byte, whose true length is put in front: random changes would else end at the length nearly
 * always. */
#ifndef FUZZ_WEIGHTS_H
#define FUZZ_WEIGHTS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The file in memory of its very size, so that a read behind its end is seen; free() it. */
static inline uint8_t *weights_of(const uint8_t *data, size_t size, size_t *n)
{
    const uint8_t *zero = size && data[0] == '{' ? memchr(data, 0, size) : NULL;
    size_t header = zero ? (size_t)(zero - data) : 0, rest = zero ? size - header - 1 : size;
    size_t front = zero ? 8 + header : 0;
    *n = front + rest;
    uint8_t *file = malloc(*n ? *n : 1);
    if (!file)
        abort();
    for (size_t i = 0; i < 8 && zero; i++)
        file[i] = (uint8_t)(header >> 8 * i);
    if (zero)
        memcpy(file + 8, data, header);
    if (rest)
        memcpy(file + front, zero ? zero + 1 : data, rest);
    return file;
}

#endif
