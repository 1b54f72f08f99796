/* JPEG's blocks of values to samples: libjpeg-turbo's exact inverse DCT (jidctint: Loeffler, Ligtenberg and Moschytz
 * with 13 bits of fraction), with its sums in int16 and int32, its shifts and its saturation. */

#ifndef MMDATA_JPEG_BLOCKS_H
#define MMDATA_JPEG_BLOCKS_H

#include "jpeg.h"
#include "jpeg_vectors.h"

#include <string.h>

#define FIXED(x) ((int16_t)((x) * 8192 + ((x) < 0 ? -0.5 : 0.5)))
#define BY(even, odd) ALL(set1_epi32)((int32_t)((uint32_t)(uint16_t)(odd) << 16 | (uint16_t)(even)))

enum { FRACTION = 13, FIRST_MORE = 2 }; /* bits, and those that stay between the two passes */

/* Where the samples of a block go, and the steps of its values. */
typedef struct {
    const Steps *steps;
    uint8_t *into;
    int64_t line;
} Place;

/* One dimension of eight rows or columns of each block. Of `in`, pairs: 0 and 4, 2 and 6, 7 and 1, 3 and 5. */
WAY static ALWAYS_INLINE void one_way(const Vector *in, int shift, Vector *out) {
    const Vector turned = WHOLE(or)(ALL(slli_epi32)(in[0], 16), ALL(srli_epi32)(in[0], 16));
    const Vector half = ALL(set1_epi32)(1 << (shift - 1));
    /* Sums of int16, in the higher halves, wrap as libjpeg-turbo's do. */
    const Vector sum = ALL(slli_epi32)(ALL(add_epi16)(in[0], turned), 16);
    const Vector difference = ALL(slli_epi32)(ALL(sub_epi16)(in[0], turned), 16);
    const Vector even0 = ALL(add_epi32)(ALL(srai_epi32)(sum, 16 - FRACTION), half);
    const Vector even1 = ALL(add_epi32)(ALL(srai_epi32)(difference, 16 - FRACTION), half);
    const Vector even2 = ALL(madd_epi16)(in[1], BY(FIXED(0.541196100), FIXED(0.541196100) - FIXED(1.847759065)));
    const Vector even3 = ALL(madd_epi16)(in[1], BY(FIXED(0.541196100) + FIXED(0.765366865), FIXED(0.541196100)));
    const Vector t10 = ALL(add_epi32)(even0, even3), t13 = ALL(sub_epi32)(even0, even3);
    const Vector t11 = ALL(add_epi32)(even1, even2), t12 = ALL(sub_epi32)(even1, even2);
    const Vector sums = ALL(add_epi16)(in[2], in[3]); /* 7 and 3, 1 and 5 */
    const Vector z3 = ALL(madd_epi16)(sums, BY(FIXED(1.175875602) - FIXED(1.961570560), FIXED(1.175875602)));
    const Vector z4 = ALL(madd_epi16)(sums, BY(FIXED(1.175875602), FIXED(1.175875602) - FIXED(0.390180644)));
    const Vector odd0 =
        ALL(add_epi32)(z3, ALL(madd_epi16)(in[2], BY(FIXED(0.298631336) - FIXED(0.899976223), -FIXED(0.899976223))));
    const Vector odd3 =
        ALL(add_epi32)(z4, ALL(madd_epi16)(in[2], BY(-FIXED(0.899976223), FIXED(1.501321110) - FIXED(0.899976223))));
    const Vector odd1 =
        ALL(add_epi32)(z4, ALL(madd_epi16)(in[3], BY(-FIXED(2.562915447), FIXED(2.053119869) - FIXED(2.562915447))));
    const Vector odd2 =
        ALL(add_epi32)(z3, ALL(madd_epi16)(in[3], BY(FIXED(3.072711026) - FIXED(2.562915447), -FIXED(2.562915447))));
    out[0] = ALL(srai_epi32)(ALL(add_epi32)(t10, odd3), shift);
    out[7] = ALL(srai_epi32)(ALL(sub_epi32)(t10, odd3), shift);
    out[1] = ALL(srai_epi32)(ALL(add_epi32)(t11, odd2), shift);
    out[6] = ALL(srai_epi32)(ALL(sub_epi32)(t11, odd2), shift);
    out[2] = ALL(srai_epi32)(ALL(add_epi32)(t12, odd1), shift);
    out[5] = ALL(srai_epi32)(ALL(sub_epi32)(t12, odd1), shift);
    out[3] = ALL(srai_epi32)(ALL(add_epi32)(t13, odd0), shift);
    out[4] = ALL(srai_epi32)(ALL(sub_epi32)(t13, odd0), shift);
}

/* Eight by eight samples. */
WAY static ALWAYS_INLINE void store(__m256i first, __m256i second, const Place *place) {
    const __m128i lines[4] = {_mm256_castsi256_si128(first), _mm256_castsi256_si128(second),
                              _mm256_extracti128_si256(first, 1), _mm256_extracti128_si256(second, 1)};
    for (int k = 0; k < 4; k++) {
        uint8_t *const into = place->into + 2 * k * place->line;
        const int64_t two[2] = {_mm_cvtsi128_si64(lines[k]), _mm_extract_epi64(lines[k], 1)};
        memcpy(into, &two[0], SIDE);
        memcpy(into + place->line, &two[1], SIDE);
    }
}

/* Samples of BLOCKS blocks, which lie APART in turn. */
WAY static void transform(const int16_t *blocks, const Place *places) {
    Vector in[4], mid[SIDE], out[SIDE];
    for (int k = 0; k < 4; k++)
        in[k] = LOAD(blocks + APART * k);
    const Vector below = WHOLE(or)(WHOLE(or)(ALL(srli_epi32)(in[0], 16), in[1]), WHOLE(or)(in[2], in[3]));
    for (int k = 0; k < 4; k++) {
#ifdef WIDE
        const Vector steps = _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm256_loadu_si256((const void *)(places[0].steps->steps + 16 * k))),
            _mm256_loadu_si256((const void *)(places[1].steps->steps + 16 * k)), 1);
#else
        const Vector steps = LOAD(places[0].steps->steps + 16 * k);
#endif
        in[k] = ALL(mullo_epi16)(in[k], steps);
    }
    one_way(in, FRACTION - FIRST_MORE, mid);
    /* A block of one row takes a shorter way in libjpeg-turbo, on which int16 wrap where the other saturates them. */
    const Vector row = ALL(srai_epi32)(ALL(slli_epi32)(in[0], 16 + FIRST_MORE), 16);
#ifdef WIDE
    const unsigned some = _mm512_test_epi32_mask(below, below);
    const __mmask16 flat = (__mmask16)((some & 255 ? 0 : 255) | (some >> 8 ? 0 : 255 << 8));
    if (__builtin_expect(flat, 0))
        for (int k = 0; k < SIDE; k++)
            mid[k] = _mm512_mask_mov_epi32(mid[k], flat, row);
#else
    if (__builtin_expect(_mm256_testz_si256(below, below), 0))
        for (int k = 0; k < SIDE; k++)
            mid[k] = row;
#endif
    Vector rows[4];
    for (int k = 0; k < 4; k++) /* Row k of a block, and row k + 4 behind it. */
        rows[k] = IN_FOURS(ALL(packs_epi32)(mid[k], mid[k + 4]), 0xd8);
    const Vector low01 = ALL(unpacklo_epi32)(rows[0], rows[1]), high01 = ALL(unpackhi_epi32)(rows[0], rows[1]);
    const Vector low23 = ALL(unpacklo_epi32)(rows[2], rows[3]), high23 = ALL(unpackhi_epi32)(rows[2], rows[3]);
    in[0] = ALL(unpacklo_epi64)(low01, low23);
    in[1] = ALL(unpackhi_epi64)(low01, low23);
    in[2] = ALL(unpacklo_epi64)(high01, high23);
    in[3] = ALL(unpackhi_epi64)(high01, high23);
    one_way(in, FRACTION + FIRST_MORE + 3, out);
    const Vector grey = ALL(set1_epi8)((char)128);
    /* Of four columns, bytes row by row. */
    const Vector turn = SIXTEENS(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    Vector four[2];
    for (int k = 0; k < 2; k++) {
        const Vector bytes = ALL(packs_epi16)(ALL(packs_epi32)(out[4 * k], out[4 * k + 1]),
                                              ALL(packs_epi32)(out[4 * k + 2], out[4 * k + 3]));
        four[k] = ALL(shuffle_epi8)(WHOLE(xor)(bytes, grey), turn);
    }
    const Vector first = ALL(unpacklo_epi32)(four[0], four[1]), second = ALL(unpackhi_epi32)(four[0], four[1]);
#ifdef WIDE
    store(_mm512_castsi512_si256(first), _mm512_castsi512_si256(second), &places[0]);
    store(_mm512_extracti64x4_epi64(first, 1), _mm512_extracti64x4_epi64(second, 1), &places[1]);
#else
    store(first, second, &places[0]);
#endif
}

#define TWO(even, odd) _mm256_set1_epi32((int32_t)((uint32_t)(uint16_t)(odd) << 16 | (uint16_t)(even)))

/* The dequantised values of one of the blocks that lie in turn, as `one_way` wants them; 1 where some are beyond SANE.
 */
WAY static ALWAYS_INLINE int taken(const int16_t *block, const Steps *steps, __m256i *in) {
    __m256i beyond = _mm256_setzero_si256();
    for (int k = 0; k < 4; k++) {
        const __m256i values = _mm256_loadu_si256((const void *)(block + APART * k));
        const __m256i most = _mm256_loadu_si256((const void *)(steps->most + 16 * k));
        in[k] = _mm256_mullo_epi16(values, _mm256_loadu_si256((const void *)(steps->steps + 16 * k)));
        beyond = _mm256_or_si256(beyond, _mm256_subs_epu16(_mm256_abs_epi16(values), most));
    }
    return !_mm256_testz_si256(beyond, beyond);
}

/* One dimension to four places: libjpeg's jidctred. */
WAY static ALWAYS_INLINE void to_four(const __m256i *in, int shift, __m256i *out) {
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1));
    const __m256i mean = _mm256_srai_epi32(_mm256_slli_epi32(in[0], 16), 16 - FRACTION - 1);
    const __m256i even = _mm256_madd_epi16(in[1], TWO(FIXED(1.847759065), -FIXED(0.765366865)));
    const __m256i low = _mm256_add_epi32(_mm256_add_epi32(mean, even), half);
    const __m256i high = _mm256_add_epi32(_mm256_sub_epi32(mean, even), half);
    const __m256i odd0 = _mm256_add_epi32(_mm256_madd_epi16(in[2], TWO(-FIXED(0.211164243), FIXED(1.061594337))),
                                          _mm256_madd_epi16(in[3], TWO(-FIXED(2.172734803), FIXED(1.451774981))));
    const __m256i odd2 = _mm256_add_epi32(_mm256_madd_epi16(in[2], TWO(-FIXED(0.509795579), FIXED(2.562915447))),
                                          _mm256_madd_epi16(in[3], TWO(FIXED(0.899976223), -FIXED(0.601344887))));
    out[0] = _mm256_srai_epi32(_mm256_add_epi32(low, odd2), shift);
    out[3] = _mm256_srai_epi32(_mm256_sub_epi32(low, odd2), shift);
    out[1] = _mm256_srai_epi32(_mm256_add_epi32(high, odd0), shift);
    out[2] = _mm256_srai_epi32(_mm256_sub_epi32(high, odd0), shift);
}

/* One dimension to two. */
WAY static ALWAYS_INLINE void to_two(const __m256i *in, int shift, __m256i *out) {
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1));
    const __m256i mean = _mm256_add_epi32(_mm256_srai_epi32(_mm256_slli_epi32(in[0], 16), 16 - FRACTION - 2), half);
    const __m256i odd = _mm256_add_epi32(_mm256_madd_epi16(in[2], TWO(-FIXED(0.720959822), FIXED(3.624509785))),
                                         _mm256_madd_epi16(in[3], TWO(-FIXED(1.272758580), FIXED(0.850430095))));
    out[0] = _mm256_srai_epi32(_mm256_add_epi32(mean, odd), shift);
    out[1] = _mm256_srai_epi32(_mm256_sub_epi32(mean, odd), shift);
}

/* Four rows of eight columns as pairs of columns, row by row: what the other dimension takes, in the lower half. */
WAY static ALWAYS_INLINE void turned(const __m256i *mid, __m256i *in) {
    const __m256i two[2] = {_mm256_permute4x64_epi64(_mm256_packs_epi32(mid[0], mid[1]), 0xd8),
                            _mm256_permute4x64_epi64(_mm256_packs_epi32(mid[2], mid[3]), 0xd8)};
    const __m128i rows[4] = {_mm256_castsi256_si128(two[0]), _mm256_extracti128_si256(two[0], 1),
                             _mm256_castsi256_si128(two[1]), _mm256_extracti128_si256(two[1], 1)};
    const __m128i low01 = _mm_unpacklo_epi32(rows[0], rows[1]), high01 = _mm_unpackhi_epi32(rows[0], rows[1]);
    const __m128i low23 = _mm_unpacklo_epi32(rows[2], rows[3]), high23 = _mm_unpackhi_epi32(rows[2], rows[3]);
    in[0] = _mm256_castsi128_si256(_mm_unpacklo_epi64(low01, low23));
    in[1] = _mm256_castsi128_si256(_mm_unpackhi_epi64(low01, low23));
    in[2] = _mm256_castsi128_si256(_mm_unpacklo_epi64(high01, high23));
    in[3] = _mm256_castsi128_si256(_mm_unpackhi_epi64(high01, high23));
}

/* Four by four samples of a block, or two by two; 1 where its values are beyond SANE, for libjpeg-turbo then saturates
 * what this does not. */
WAY static ALWAYS_INLINE int reduce(const int16_t *block, const Place *place, int side) {
    __m256i in[4], mid[4], out[4];
    if (taken(block, place->steps, in))
        return 1;
    if (side == 4) {
        to_four(in, FRACTION - FIRST_MORE + 1, mid);
        turned(mid, in);
        to_four(in, FRACTION + FIRST_MORE + 3 + 1, out);
    } else {
        to_two(in, FRACTION - FIRST_MORE + 2, mid);
        mid[2] = mid[3] = mid[1];
        turned(mid, in);
        to_two(in, FRACTION + FIRST_MORE + 3 + 2, out);
        out[2] = out[3] = out[1];
    }
    const __m128i bytes =
        _mm_xor_si128(_mm_packs_epi16(_mm_packs_epi32(_mm256_castsi256_si128(out[0]), _mm256_castsi256_si128(out[1])),
                                      _mm_packs_epi32(_mm256_castsi256_si128(out[2]), _mm256_castsi256_si128(out[3]))),
                      _mm_set1_epi8((char)128));
    uint8_t rows[16];
    _mm_storeu_si128((void *)rows,
                     _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
    for (int k = 0; k < side; k++)
        memcpy(place->into + k * place->line, rows + 4 * k, (size_t)side);
    return 0;
}

/* The sample of a block of which only the mean is taken: a shift, and a table that libjpeg looks into with ten bits. */
static ALWAYS_INLINE void single(int mean, const Place *place) {
    const int found = (mean * place->steps->steps[0] + 4) >> 3 & 1023;
    place->into[0] = (uint8_t)(found < 128 ? found + 128 : found < 512 ? 255 : found < 896 ? 0 : found - 896);
}

/* The samples, `side` by `side`, of a block with nothing beside its mean. */
WAY static ALWAYS_INLINE void even(int mean, const Place *place, int side) {
    const int16_t value = (int16_t)((uint16_t)(mean * place->steps->steps[0]) << FIRST_MORE);
    const int grade = (value + 16) >> 5;
    const uint64_t byte = (uint64_t)((grade < -128 ? -128 : grade > 127 ? 127 : grade) + 128);
    const uint64_t row = byte * 0x0101010101010101u;
    for (int k = 0; k < side; k++)
        memcpy(place->into + k * place->line, &row, (size_t)side);
}

#endif
