/* What the levels of normalising and laying out pixels share. */

#ifndef MMDATA_LAYOUT_H
#define MMDATA_LAYOUT_H

#include "native.h"

/* What a channel's bytes become. */
typedef struct {
    float table[3][256];
    float shift[3], scale[3], inverse[3];
    int32_t mended; /* whether `mended` gives the bits of all of `table` */
} Normal;

/* Where pixels lie, in bytes, and where what becomes of them, in values. */
typedef struct {
    int64_t channel, row, column;          /* of the source */
    int64_t to_channel, to_row, to_column; /* of the result */
    int64_t copies, apart;                 /* how often each value is written, and how far from each other */
} Steps;

enum { LANES = 16 };

/* What the values of vectors are normalised by, and of which of 48 bytes they are. If planar, vector v is channel v of
 * the pixels; else it is what lies in 16 v and after. */
typedef struct {
    float shift[3][LANES], scale[3][LANES], inverse[3][LANES];
    uint8_t byte[3][LANES];
} Lanes;

/* A rectangle of so many rows and columns of interleaved pixels, as each level has it. */
typedef struct {
    int64_t fewest; /* columns that it takes */
    void (*planes)(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                   const Lanes *lanes);
    void (*runs)(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                 const Lanes *lanes); /* the pixels as they are */
    void (*parted)(const uint8_t *source, uint8_t *into, int64_t rows, int64_t columns, const Steps *steps,
                   const Lanes *lanes); /* planes of bytes */
} Rectangles;

extern const Rectangles layout_avx2, layout_avx512;

#endif
