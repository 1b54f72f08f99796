/* What the levels of resizing with Pillow's bits share, and what each has of its own. */

#ifndef MMDATA_PILLOW_H
#define MMDATA_PILLOW_H

#include "axis.h"
#include "native.h"

enum {
    BITS = 22,  /* of a weight, behind the point */
    ROWS = 4,   /* that the pass along them does at once */
    FOUR = 4,   /* int32 that the weights of four rows take, at most */
    SLACK = 64, /* bytes */
};

/* A weight as Pillow rounds it. */
static inline int32_t fixed(double weight) {
    const double scaled = weight * (1 << BITS);
    return (int32_t)(weight < 0.0 ? scaled - 0.5 : scaled + 0.5);
}

/* A picture of interleaved pixels. */
typedef struct {
    const uint8_t *pixels;
    int64_t stride, rows, columns;
} Picture;

static inline const uint8_t *row_of(const Picture *picture, int64_t row) {
    return picture->pixels + (row < picture->rows ? row : picture->rows - 1) * picture->stride;
}

/* Whether SLACK bytes may be read behind that row without what is not the picture's. */
static inline int inside(const Picture *picture, int64_t row) {
    const uint8_t *end = row_of(picture, picture->rows) + 3 * picture->columns;
    return end - row_of(picture, row) >= 3 * picture->columns + SLACK;
}

/* Of each level. */
typedef struct {
    /* What the pass along the rows wants to know of the columns, and has room in, to be freed; NULL where memory
     * lacked, or for weights that it does not hold. */
    void *(*columns)(const Axis *wide, int64_t inputs);
    /* The pass along rows of `length` bytes; `inside` if SLACK bytes more may be read of each. */
    void (*across)(const uint8_t *const *rows, int64_t length, uint8_t *const *into, void *columns, int inside);
    /* The weights of an output of the pass down the columns. */
    void (*weigh)(const double *weights, int64_t taps, int32_t *into);
    /* That pass: a row of `length` bytes from so many rows, and as many more as make a four, which count nothing. */
    void (*down)(const uint8_t *const *rows, const int32_t *weights, int64_t taps, uint8_t *into, int64_t length);
    /* A row of means of blocks, `wide` by `tall` pixels each, from the rows from `row` on. */
    void (*means)(const Picture *picture, int64_t row, int64_t tall, int64_t wide, int64_t blocks, uint8_t *into,
                  int inside);
} Passes;

extern const Passes pillow_avx2, pillow_avx512;

#endif
