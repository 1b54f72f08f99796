/* What the levels of resizing with torch's bits share, and what each has of its own: both passes. */

#ifndef MMDATA_RESIZE_H
#define MMDATA_RESIZE_H

#include "axis.h"
#include "native.h"

/* One direction, and torch's weights: int16 of as many bits as the largest has room for. */
typedef struct {
    Axis axis;
    int precision;    /* a weight is so many bits more than it is */
    int16_t *weights; /* [outputs, most] */
} Weighed;

enum {
    SLACK = 64, /* bytes that the first pass may read behind a row, twice, and write behind the pairs, once */
    ROWS = 4,   /* that the first pass does at once */
};

typedef struct {
    /* What the first pass wants to know of the columns, and has room in, to be freed; NULL where memory lacked. */
    void *(*columns)(const Weighed *wide, int64_t inputs);
    /* The first pass: int16 of two rows beside each other, and of the next two. */
    void (*across)(const uint8_t *const *rows, int32_t *const *into, void *columns);
    /* The second pass: a row of the result from pairs of rows, and of their weights. */
    void (*down)(int32_t *const *rows, const int32_t *weights, int64_t pairs, uint8_t *into, int64_t width,
                 int precision);
} Passes;

extern const Passes resize_avx2, resize_avx512;

#endif
