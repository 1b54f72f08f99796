/* What both AVX2 passes along rows begin with: four rows, spread out so that each channel of two neighbours is a pair
 * of int16, and the fourth lane of each half of a register is idle. */

#ifndef MMDATA_SPREAD_H
#define MMDATA_SPREAD_H

#include "axis.h"
#include "native.h"

#if HAS_LEVELS

#include <immintrin.h>
#include <string.h>

enum { WINDOW = 256 }; /* pairs of pixels that are spread out at once: a cache holds them */

typedef __m256i Spread[2]; /* Two pixels of rows 0 and 1, and of rows 2 and 3: a row in each half. */

/* Pairs of pixels under an output, at most. Every output has as many, for a loop whose length changes costs more than
 * products with 0. */
static inline int64_t pairs_under(const Axis *axis) {
    int64_t pairs = 1;
    for (int64_t at = 0; at < axis->outputs; at++) {
        const int64_t end = axis->first[at] + axis->taps[at], needed = (end + 1) / 2 - axis->first[at] / 2;
        pairs = needed > pairs ? needed : pairs;
    }
    return pairs;
}

/* So there is room behind the last pixel: whatever lies there, it counts nothing. */
static inline int64_t spread_room(int64_t inputs, int64_t pairs) {
    return (inputs + 3) / 4 * 2 + pairs;
}

AVX2 static ALWAYS_INLINE void spread_four(const uint8_t *const *pixels, Spread *into) {
    /* Four pixels of three channels lie in sixteen bytes: two of them, and the two after them. */
    const __m256i early = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, /* */
                                           0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
    const __m256i late = _mm256_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1, /* */
                                          6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    for (int k = 0; k < 2; k++) {
        const __m256i bytes = _mm256_loadu2_m128i((const void *)pixels[2 * k + 1], (const void *)pixels[2 * k]);
        into[0][k] = _mm256_shuffle_epi8(bytes, early);
        into[1][k] = _mm256_shuffle_epi8(bytes, late);
    }
}

/* So many pairs of pixels from pair `start` on, and one more if they are odd, of rows of `length` bytes: nothing behind
 * them is read. */
AVX2 static inline void spread(const uint8_t *const *rows, int64_t length, int64_t start, int64_t pairs, Spread *into) {
    int64_t pair = 0;
    for (; pair < pairs && 6 * (start + pair) + 16 <= length; pair += 2) {
        const int64_t at = 6 * (start + pair);
        const uint8_t *const pixels[4] = {rows[0] + at, rows[1] + at, rows[2] + at, rows[3] + at};
        spread_four(pixels, into + pair);
    }
    for (; pair < pairs; pair += 2) {
        const int64_t at = 6 * (start + pair);
        uint8_t ends[4][16] = {{0}};
        const uint8_t *const pixels[4] = {ends[0], ends[1], ends[2], ends[3]};
        for (int row = 0; row < 4 && at < length; row++)
            memcpy(ends[row], rows[row] + at, length - at < 16 ? length - at : 16);
        spread_four(pixels, into + pair);
    }
}

#endif

#endif
