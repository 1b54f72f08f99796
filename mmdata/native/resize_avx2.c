/* Resizing with torch's bits, 32 bytes at once. A shuffle stays within its half of a register: so the halves are two
 * rows. Each is three channels of two pixels, as pairs of int16, and an idle lane. As a pixel is under several of the
 * result, rows are spread out like this once, before they are multiplied. */

#include "resize.h"
#include "spread.h"

#include <stdlib.h>

#if HAS_LEVELS

typedef struct {
    int64_t count, pairs, inputs; /* columns of the result; pairs of taps of each; pixels of a row */
    int precision;
    int64_t *first;   /* [count], pair of pixels under it */
    int32_t *weights; /* [count, pairs], pairs of int16 */
    Spread *spread;   /* pairs of pixels */
} Columns;

static void *listed(const Weighed *weighed, int64_t inputs) {
    const Axis *axis = &weighed->axis;
    const int64_t count = axis->outputs, pairs = pairs_under(axis), room = spread_room(inputs, pairs);
    const size_t alignment = sizeof(__m256i);
    Columns *made = calloc(1, sizeof *made + count * (sizeof(int64_t) + pairs * sizeof(int32_t)) + alignment +
                                  room * sizeof(Spread));
    if (!made)
        return NULL;
    *made = (Columns){count, pairs, inputs, weighed->precision, (int64_t *)(made + 1), NULL, NULL};
    made->weights = (int32_t *)(made->first + count);
    made->spread = (void *)(((uintptr_t)(made->weights + count * pairs) + alignment - 1) / alignment * alignment);
    for (int64_t at = 0; at < count; at++) {
        made->first[at] = axis->first[at] / 2;
        memcpy((int16_t *)(made->weights + at * pairs) + axis->first[at] % 2, weighed->weights + at * axis->most,
               axis->taps[at] * sizeof(int16_t));
    }
    return made;
}

AVX2 static void across(const uint8_t *const *rows, int32_t *const *into, void *columns) {
    const Columns *made = columns;
    const int64_t count = made->count, pairs = made->pairs;
    const __m256i half = _mm256_set1_epi32(1 << made->precision >> 1);
    const __m128i shift = _mm_cvtsi32_si128(made->precision);
    int32_t *upper = into[0], *lower = into[1];
    int64_t start = 0, spread_until = 0;
    for (int64_t at = 0; at < count; at += 2, upper += 6, lower += 6) {
        const int64_t next = at + 1 < count ? at + 1 : at, end = made->first[next] + pairs;
        if (end > spread_until) {
            start = made->first[at];
            const int64_t all = (made->inputs + 1) / 2 - start, window = end - start > WINDOW ? end - start : WINDOW;
            spread(rows, 3 * made->inputs, start, all < window ? all : window, made->spread);
            spread_until = start + window;
        }
        const Spread *one = made->spread + made->first[at] - start, *two = made->spread + made->first[next] - start;
        const int32_t *ones = made->weights + at * pairs, *twos = made->weights + next * pairs;
        __m256i sums[4] = {half, half, half, half};
#pragma GCC unroll 4
        for (int64_t pair = 0; pair < pairs; pair++) {
            const __m256i first = _mm256_set1_epi32(ones[pair]), second = _mm256_set1_epi32(twos[pair]);
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(one[pair][0], first));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(one[pair][1], first));
            sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(two[pair][0], second));
            sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(two[pair][1], second));
        }
        for (int part = 0; part < 4; part++)
            sums[part] = _mm256_sra_epi32(sums[part], shift);
        const __m256i bytes =
            _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[2]), _mm256_packs_epi32(sums[1], sums[3]));
        const __m128i above = _mm256_castsi256_si128(bytes), below = _mm256_extracti128_si256(bytes, 1);
        const __m256i first = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(above, below));
        const __m256i second = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(above, below));
        _mm_storeu_si128((void *)upper, _mm256_castsi256_si128(first));
        _mm_storeu_si128((void *)lower, _mm256_castsi256_si128(second));
        /* Over the idle lane. */
        _mm_storeu_si128((void *)(upper + 3), _mm256_extracti128_si256(first, 1));
        _mm_storeu_si128((void *)(lower + 3), _mm256_extracti128_si256(second, 1));
    }
}

AVX2 static void down(int32_t *const *rows, const int32_t *weights, int64_t pairs, uint8_t *into, int64_t width,
                      int precision) {
    const __m256i half = _mm256_set1_epi32(1 << precision >> 1);
    const __m128i shift = _mm_cvtsi32_si128(precision);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* Packing stays within halves. */
    int64_t x = 0;
    for (; x + 32 <= width; x += 32) {
        __m256i sums[4] = {half, half, half, half};
#pragma GCC unroll 4
        for (int64_t pair = 0; pair < pairs; pair++) {
            const __m256i weight = _mm256_set1_epi32(weights[pair]);
            for (int part = 0; part < 4; part++) {
                const __m256i values = _mm256_loadu_si256((const void *)(rows[pair] + x + 8 * part));
                sums[part] = _mm256_add_epi32(sums[part], _mm256_madd_epi16(values, weight));
            }
        }
        for (int part = 0; part < 4; part++)
            sums[part] = _mm256_sra_epi32(sums[part], shift);
        const __m256i bytes =
            _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
        _mm256_storeu_si256((void *)(into + x), _mm256_permutevar8x32_epi32(bytes, order));
    }
    for (; x < width; x += 8) {
        __m256i sum = half;
        for (int64_t pair = 0; pair < pairs; pair++)
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_loadu_si256((const void *)(rows[pair] + x)),
                                                          _mm256_set1_epi32(weights[pair])));
        sum = _mm256_sra_epi32(sum, shift);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
        memcpy(into + x, &bytes, width - x < 8 ? width - x : 8);
    }
}

const Passes resize_avx2 = {listed, across, down};

#endif
