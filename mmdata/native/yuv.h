/* What the levels of converting 4:2:0 share. */

#ifndef MMDATA_YUV_H
#define MMDATA_YUV_H

#include "native.h"

/* What luma and chroma are multiplied by, as 13 bits behind the point of an eighth; and eight times black. */
typedef struct {
    int16_t luma, red, blue, green_red, green_blue, black;
} Matrix;

/* [height, width], [(height + 1) / 2, (width + 1) / 2] twice, rows so many bytes apart, into contiguous rows of RGB.
 * With `room` for two rows they pass the caches. */
typedef struct {
    const uint8_t *luma, *blue, *red;
    int64_t luma_row, blue_row, red_row, height, width;
    uint8_t *result, *room;
} Frame;

/* Two rows at once: they have the same chroma. */
void yuv_avx2(const Frame *frame, const Matrix *matrix);
void yuv_avx512(const Frame *frame, const Matrix *matrix);

#endif
