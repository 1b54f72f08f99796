/* Resizing with Pillow's bits, 32 bytes at once. Two taps of a channel are added at once: bytes as int16, times pairs
 * of int16, of which a weight is two: so many times 65536, and what is left. */

#include "pillow.h"
#include "spread.h"

#include <stdlib.h>

#if HAS_LEVELS

/* Pairs of the two parts of a weight. */
typedef struct {
    int16_t low[2], high[2];
} Pair;

static void split(double weight, Pair *pair, int64_t tap) {
    const int32_t whole = fixed(weight);
    pair->low[tap] = (int16_t)(uint16_t)(whole & 65535);
    pair->high[tap] = (int16_t)((whole - pair->low[tap]) / 65536);
}

typedef struct {
    int64_t count, pairs, inputs; /* columns of the result; pairs of taps of each; pixels of a row */
    int64_t *first;               /* [count], pair of pixels under it */
    Pair *weights;                /* [count, pairs] */
    Spread *spread;
} Columns;

static void *listed(const Axis *axis, int64_t inputs) {
    const int64_t count = axis->outputs, pairs = pairs_under(axis), room = spread_room(inputs, pairs);
    const size_t alignment = sizeof(__m256i);
    Columns *made = calloc(1, sizeof *made + count * (sizeof(int64_t) + pairs * sizeof(Pair)) + alignment +
                                  room * sizeof(Spread));
    if (!made)
        return NULL;
    *made = (Columns){count, pairs, inputs, (int64_t *)(made + 1), NULL, NULL};
    made->weights = (Pair *)(made->first + count);
    made->spread = (void *)(((uintptr_t)(made->weights + count * pairs) + alignment - 1) / alignment * alignment);
    for (int64_t at = 0; at < count; at++) {
        made->first[at] = axis->first[at] / 2;
        for (int64_t k = 0; k < axis->taps[at]; k++) {
            const int64_t tap = axis->first[at] % 2 + k;
            split(axis->weights[at * axis->most + k], made->weights + at * pairs + tap / 2, tap % 2);
        }
    }
    return made;
}

/* A pair of weights' part, for all lanes. */
AVX2 static ALWAYS_INLINE __m256i of_all(const int16_t *part) {
    int32_t both;
    memcpy(&both, part, sizeof both);
    return _mm256_set1_epi32(both);
}

/* What both sums come to, without what lies behind the point. */
AVX2 static ALWAYS_INLINE __m256i rounded(__m256i low, __m256i high) {
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(high, 16), low), BITS);
}

AVX2 static void across(const uint8_t *const *rows, int64_t length, uint8_t *const *into, void *columns, int inside) {
    (void)inside;
    const Columns *made = columns;
    const int64_t count = made->count, pairs = made->pairs;
    const __m256i half = _mm256_set1_epi32(1 << (BITS - 1)), none = _mm256_setzero_si256();
    /* Three bytes of four, of two pixels of two rows. */
    const __m256i kept = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, -1, -1, 8, 9, 10, 12, 13, 14, -1, -1, /* */
                                          0, 1, 2, 4, 5, 6, -1, -1, 8, 9, 10, 12, 13, 14, -1, -1);
    int64_t start = 0, spread_until = 0;
    for (int64_t at = 0; at < count; at += 2) {
        const int64_t next = at + 1 < count ? at + 1 : at, end = made->first[next] + pairs;
        if (end > spread_until) {
            start = made->first[at];
            const int64_t all = (made->inputs + 1) / 2 - start, window = end - start > WINDOW ? end - start : WINDOW;
            spread(rows, length, start, all < window ? all : window, made->spread);
            spread_until = start + window;
        }
        const Spread *one = made->spread + made->first[at] - start, *two = made->spread + made->first[next] - start;
        const Pair *ones = made->weights + at * pairs, *twos = made->weights + next * pairs;
        __m256i lows[4] = {half, half, half, half}, highs[4] = {none, none, none, none};
        for (int64_t pair = 0; pair < pairs; pair++) {
            const __m256i values[4] = {one[pair][0], one[pair][1], two[pair][0], two[pair][1]};
            const __m256i low[2] = {of_all(ones[pair].low), of_all(twos[pair].low)};
            const __m256i high[2] = {of_all(ones[pair].high), of_all(twos[pair].high)};
            for (int part = 0; part < 4; part++) {
                lows[part] = _mm256_add_epi32(lows[part], _mm256_madd_epi16(values[part], low[part / 2]));
                highs[part] = _mm256_add_epi32(highs[part], _mm256_madd_epi16(values[part], high[part / 2]));
            }
        }
        for (int part = 0; part < 4; part++)
            lows[part] = rounded(lows[part], highs[part]);
        const __m256i bytes = _mm256_shuffle_epi8(
            _mm256_packus_epi16(_mm256_packs_epi32(lows[0], lows[2]), _mm256_packs_epi32(lows[1], lows[3])), kept);
        const __m128i even = _mm256_castsi256_si128(bytes), odd = _mm256_extracti128_si256(bytes, 1);
        int64_t pixels[ROWS] = {_mm_cvtsi128_si64(even), _mm_cvtsi128_si64(odd), _mm_extract_epi64(even, 1),
                                _mm_extract_epi64(odd, 1)};
        /* What is written too much, the next two write over; behind the last there may be something else. */
        const int64_t size = at + 2 < count ? 8 : 3 * (count - at);
        if (size == 8)
            for (int row = 0; row < ROWS; row++)
                memcpy(into[row] + 3 * at, pixels + row, 8);
        else
            for (int row = 0; row < ROWS; row++)
                memcpy(into[row] + 3 * at, pixels + row, size);
    }
}

static void weigh(const double *weights, int64_t taps, int32_t *into) {
    Pair *pairs = (Pair *)into;
    memset(pairs, 0, (taps + 1) / 2 * sizeof *pairs);
    for (int64_t k = 0; k < taps; k++)
        split(weights[k], pairs + k / 2, k % 2);
}

/* 32 bytes of a result, of each row those from `x` on. */
AVX2 static ALWAYS_INLINE __m256i down_at(const uint8_t *const *rows, const Pair *weights, int64_t pairs, int64_t x,
                                          int64_t size) {
    const __m256i half = _mm256_set1_epi32(1 << (BITS - 1)), none = _mm256_setzero_si256();
    __m256i lows[4] = {half, half, half, half}, highs[4] = {none, none, none, none};
    for (int64_t pair = 0; pair < pairs; pair++) {
        const uint8_t *above = rows[2 * pair] + x, *below = rows[2 * pair + 1] + x;
        uint8_t ends[2][32] = {{0}};
        if (size < 32) {
            memcpy(ends[0], above, size);
            memcpy(ends[1], below, size);
            above = ends[0];
            below = ends[1];
        }
        const __m256i one = _mm256_loadu_si256((const void *)above), two = _mm256_loadu_si256((const void *)below);
        const __m256i low = of_all(weights[pair].low), high = of_all(weights[pair].high);
        const __m256i first = _mm256_unpacklo_epi8(one, two), second = _mm256_unpackhi_epi8(one, two);
        const __m256i values[4] = {_mm256_unpacklo_epi8(first, none), _mm256_unpackhi_epi8(first, none),
                                   _mm256_unpacklo_epi8(second, none), _mm256_unpackhi_epi8(second, none)};
        for (int part = 0; part < 4; part++) {
            lows[part] = _mm256_add_epi32(lows[part], _mm256_madd_epi16(values[part], low));
            highs[part] = _mm256_add_epi32(highs[part], _mm256_madd_epi16(values[part], high));
        }
    }
    for (int part = 0; part < 4; part++)
        lows[part] = rounded(lows[part], highs[part]);
    /* Packing undoes the order of unpacking. */
    return _mm256_packus_epi16(_mm256_packs_epi32(lows[0], lows[1]), _mm256_packs_epi32(lows[2], lows[3]));
}

AVX2 static void down(const uint8_t *const *rows, const int32_t *weights, int64_t taps, uint8_t *into, int64_t length) {
    const Pair *pairs = (const Pair *)weights;
    const int64_t count = (taps + 1) / 2;
    for (int64_t x = 0; x + 32 <= length; x += 32)
        _mm256_storeu_si256((void *)(into + x), down_at(rows, pairs, count, x, 32));
    if (length % 32 && length > 32) /* Some once more. */
        _mm256_storeu_si256((void *)(into + length - 32), down_at(rows, pairs, count, length - 32, 32));
    if (length < 32) {
        const __m256i made = down_at(rows, pairs, count, 0, length);
        memcpy(into, &made, length);
    }
}

/* Sixteen bytes from `at`, or where the row ends before `end` of them, what lies before. */
AVX2 static ALWAYS_INLINE __m128i fetched(const uint8_t *at, const uint8_t *end, int careful) {
    if (!careful || end - at >= 16)
        return _mm_loadu_si128((const void *)at);
    uint8_t bytes[16] = {0};
    memcpy(bytes, at, end > at ? end - at : 0);
    return _mm_loadu_si128((const void *)bytes);
}

/* Two of them, so many bytes apart. */
AVX2 static ALWAYS_INLINE __m256i fetched_two(const uint8_t *at, int64_t apart, const uint8_t *end, int careful) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(fetched(at, end, careful)),
                                   fetched(at + apart, end, careful), 1);
}

/* Two neighbouring blocks' means: four int32 of each, of which the last counts nothing. */
AVX2 static ALWAYS_INLINE __m256i means_of_two(const Picture *picture, int64_t row, int64_t tall, int64_t wide,
                                               int64_t block, int careful) {
    const __m256i place = _mm256_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1, /* */
                                           0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1);
    const uint32_t area = (uint32_t)(wide * tall);
    /* Pillow divides by what a float makes of the reciprocal. */
    const __m256i multiplier = _mm256_set1_epi32((int)(uint32_t)(4294967296.0f / (float)(256u * area)));
    const __m256i ones = _mm256_set1_epi8(1), pairs = _mm256_set1_epi16(1);
    const __m256i few = _mm256_set1_epi32((int)((1u << 8 * (wide % 4)) / 255u)); /* as many ones as are left */
    __m256i sum = _mm256_set1_epi32((int)(area / 2));
    for (int64_t k = 0; k < tall; k++) {
        const uint8_t *start = row_of(picture, row + k), *from = start + 3 * wide * block;
        const uint8_t *end = start + 3 * picture->columns;
        for (int64_t left = wide; left > 0; left -= 4, from += 12) {
            const __m256i bytes = _mm256_shuffle_epi8(fetched_two(from, 3 * wide, end, careful), place);
            const __m256i words = _mm256_maddubs_epi16(bytes, left >= 4 ? ones : few);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, pairs));
        }
    }
    return _mm256_srli_epi32(_mm256_mullo_epi32(sum, multiplier), 24);
}

AVX2 static void means_of_any(const Picture *picture, int64_t row, int64_t tall, int64_t wide, int64_t blocks,
                              uint8_t *into) {
    const __m128i kept = _mm_setr_epi8(0, 1, 2, 4, 5, 6, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    for (int64_t block = 0; block < blocks; block += 2) {
        const int careful = 3 * wide * (block + 2) + 16 > 3 * picture->columns;
        const __m256i made = careful ? means_of_two(picture, row, tall, wide, block, 1)
                                     : means_of_two(picture, row, tall, wide, block, 0);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(made), _mm256_extracti128_si256(made, 1));
        const int64_t bytes = _mm_cvtsi128_si64(_mm_shuffle_epi8(_mm_packus_epi16(words, words), kept));
        memcpy(into + 3 * block, &bytes, block + 1 < blocks ? 6 : 3);
    }
}

/* Means of two by two pixels, the commonest: int16 hold the sums, eight blocks at once. */
AVX2 static ALWAYS_INLINE void means_of_eight(const uint8_t *above, const uint8_t *below, int64_t left,
                                              int64_t *into, int careful) {
    const __m256i place = _mm256_setr_epi8(0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1, /* */
                                           0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1);
    const __m256i ones = _mm256_set1_epi8(1), half = _mm256_set1_epi16(2);
    __m256i sums[2];
    for (int part = 0; part < 2; part++) { /* Blocks 0, 1 and 4, 5; blocks 2, 3 and 6, 7. */
        const __m256i one = fetched_two(above + 12 * part, 24, above + left, careful);
        const __m256i two = fetched_two(below + 12 * part, 24, below + left, careful);
        const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_shuffle_epi8(one, place), ones),
                                             _mm256_maddubs_epi16(_mm256_shuffle_epi8(two, place), ones));
        sums[part] = _mm256_srli_epi16(_mm256_add_epi16(sum, half), 2);
    }
    _mm256_storeu_si256((void *)into, _mm256_packus_epi16(sums[0], sums[1]));
}

AVX2 static void means_of_four(const Picture *picture, int64_t row, int64_t blocks, uint8_t *into) {
    enum { TOGETHER = 8 };
    const uint8_t *above = row_of(picture, row), *below = row_of(picture, row + 1);
    const int64_t length = 3 * picture->columns;
    int64_t made[4];
    for (int64_t block = 0; block < blocks; block += TOGETHER, into += 3 * TOGETHER) {
        const int64_t left = length - 6 * block;
        if (left >= 6 * TOGETHER + 16 && block + TOGETHER < blocks) {
            means_of_eight(above + 6 * block, below + 6 * block, left, made, 0);
            for (int k = 0; k < 4; k++)
                memcpy(into + 6 * k, made + k, 8);
            continue;
        }
        means_of_eight(above + 6 * block, below + 6 * block, left, made, 1);
        for (int k = 0; k < 4; k++) {
            const int64_t size = 3 * (blocks - block - 2 * k);
            memcpy(into + 6 * k, made + k, size > 6 ? 6 : size > 0 ? size : 0);
        }
    }
}

static void means(const Picture *picture, int64_t row, int64_t tall, int64_t wide, int64_t blocks, uint8_t *into,
                  int inside) {
    (void)inside;
    if (tall == 2 && wide == 2)
        means_of_four(picture, row, blocks, into);
    else
        means_of_any(picture, row, tall, wide, blocks, into);
}

const Passes pillow_avx2 = {listed, across, weigh, down, means};

#endif
