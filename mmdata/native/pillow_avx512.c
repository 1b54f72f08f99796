/* Resizing with Pillow's bits, 64 bytes at once. Four taps of a channel are added at once: bytes times signed bytes, of
 * which a weight is three, its digits to the base of 256. The pass along the rows loads a register once for five pixels
 * of the result, whose bytes one instruction puts in place, four taps of a channel beside each other. */

#include "pillow.h"

#include <stdlib.h>
#include <string.h>

#if HAS_LEVELS

#include <immintrin.h>

enum {
    DIGITS = 3,       /* bytes of a weight */
    TAPS = 4,         /* that are added at once */
    OUTPUTS = 5,      /* pixels of three channels in the sixteen lanes of a register */
    REGISTER = SLACK, /* bytes */
    REACH = 17,       /* pixels from the first tap of the first of five to that of the last, with four taps each */
};

/* The digits of a weight, the lowest first, each in -128..127. Answers what no digit holds: 0, for no filter makes more
 * of a pixel than twice. */
static int digits(double weight, int8_t *into, int64_t apart) {
    int32_t rest = fixed(weight);
    for (int digit = 0; digit < DIGITS; digit++) {
        into[digit * apart] = (int8_t)(uint8_t)(rest & 255);
        rest = (rest - into[digit * apart]) / 256;
    }
    return rest;
}

/* Outputs of a row that are made at once. */
typedef struct {
    int64_t output, base, quads, weights; /* the first of them; its first byte; fours of taps; of weights before */
    __mmask16 kept;                       /* bytes of the result */
} Group;

/* Groups of all outputs of a row, their bytes' places in a register, and their weights by fours of taps. */
typedef struct {
    int64_t count;
    Group *groups;
    uint8_t (*places)[REGISTER];
    int8_t (*weights)[DIGITS][REGISTER];
} Groups;

/* NULL where there was no memory, or a weight has more digits. */
static void *grouped(const Axis *axis, int64_t inputs) {
    (void)inputs;
    const int64_t outputs = axis->outputs, all = outputs * ((axis->most + TAPS - 1) / TAPS);
    const size_t places_at = sizeof(Groups) + outputs * sizeof(Group), weights_at = places_at + outputs * REGISTER;
    Groups *made = calloc(1, weights_at + all * sizeof *made->weights);
    if (!made)
        return NULL;
    made->groups = (Group *)(made + 1);
    made->places = (uint8_t(*)[REGISTER])((uint8_t *)made + places_at);
    made->weights = (int8_t(*)[DIGITS][REGISTER])((uint8_t *)made + weights_at);
    int64_t quads = 0;
    int rest = 0;
    for (int64_t output = 0; output < outputs; made->count++) {
        const int64_t start = axis->first[output];
        int64_t size = 0, most = 0;
        for (; size < OUTPUTS && output + size < outputs; size++) {
            const int64_t at = output + size, away = axis->first[at] - start;
            if (away > REACH)
                break;
            most = axis->taps[at] > most ? axis->taps[at] : most;
            for (int channel = 0; channel < 3; channel++) {
                const int64_t lane = TAPS * (3 * size + channel);
                for (int64_t k = 0; k < TAPS; k++)
                    made->places[made->count][lane + k] = (uint8_t)(3 * (away + k) + channel);
                for (int64_t k = 0; k < axis->taps[at]; k++)
                    rest |= digits(axis->weights[at * axis->most + k],
                                   made->weights[quads + k / TAPS][0] + lane + k % TAPS, REGISTER);
            }
        }
        const int64_t needed = (most + TAPS - 1) / TAPS;
        made->groups[made->count] = (Group){output, 3 * start, needed, quads, (__mmask16)((1u << 3 * size) - 1)};
        quads += needed;
        output += size;
    }
    if (!rest)
        return made;
    free(made);
    return NULL;
}

/* A register from `at`, or where the picture ends before `end` of it, only what lies before. */
AVX512 static ALWAYS_INLINE __m512i fetched(const uint8_t *at, const uint8_t *end, int careful) {
    if (!careful || end - at >= REGISTER)
        return _mm512_loadu_si512(at);
    return _mm512_maskz_loadu_epi8(end > at ? ((__mmask64)1 << (end - at)) - 1 : 0, at);
}

/* What three sums of digits come to, without what lies behind the point. */
AVX512 static ALWAYS_INLINE __m512i rounded(const __m512i *sums) {
    const __m512i upper = _mm512_add_epi32(_mm512_slli_epi32(sums[2], 8), sums[1]);
    return _mm512_srai_epi32(_mm512_add_epi32(_mm512_slli_epi32(upper, 8), sums[0]), BITS);
}

AVX512 static ALWAYS_INLINE void passed(const uint8_t *const *rows, int64_t length, uint8_t *const *into,
                                        const Groups *made, int careful) {
    const __m512i half = _mm512_set1_epi32(1 << (BITS - 1));
    for (int64_t at = 0; at < made->count; at++) {
        const Group group = made->groups[at];
        const __m512i place = _mm512_loadu_si512(made->places[at]);
        __m512i sums[ROWS][DIGITS];
        for (int row = 0; row < ROWS; row++) {
            sums[row][0] = half;
            sums[row][1] = sums[row][2] = _mm512_setzero_si512();
        }
        for (int64_t quad = 0; quad < group.quads; quad++) {
            const int8_t(*weights)[REGISTER] = (const int8_t(*)[REGISTER])made->weights[group.weights + quad];
            for (int row = 0; row < ROWS; row++) {
                const uint8_t *from = rows[row] + group.base + 3 * TAPS * quad;
                const __m512i bytes =
                    _mm512_permutexvar_epi8(place, fetched(from, rows[row] + length, careful));
                for (int digit = 0; digit < DIGITS; digit++)
                    sums[row][digit] =
                        _mm512_dpbusd_epi32(sums[row][digit], bytes, _mm512_loadu_si512(weights[digit]));
            }
        }
        for (int row = 0; row < ROWS; row++) {
            const __m512i made_of = _mm512_max_epi32(rounded(sums[row]), _mm512_setzero_si512());
            _mm_mask_storeu_epi8(into[row] + 3 * group.output, group.kept, _mm512_cvtusepi32_epi8(made_of));
        }
    }
}

AVX512 static void across(const uint8_t *const *rows, int64_t length, uint8_t *const *into, void *columns,
                          int inside) {
    if (inside)
        passed(rows, length, into, columns, 0);
    else
        passed(rows, length, into, columns, 1);
}

static void weigh(const double *weights, int64_t taps, int32_t *into) {
    memset(into, 0, (taps + TAPS - 1) / TAPS * DIGITS * sizeof *into);
    for (int64_t k = 0; k < taps; k++)
        digits(weights[k], (int8_t *)(into + k / TAPS * DIGITS) + k % TAPS, sizeof *into);
}

AVX512 static void down(const uint8_t *const *rows, const int32_t *weights, int64_t taps, uint8_t *into,
                        int64_t length) {
    const int64_t quads = (taps + TAPS - 1) / TAPS;
    const __m512i half = _mm512_set1_epi32(1 << (BITS - 1));
    for (int64_t x = 0; x < length; x += REGISTER) {
        const __mmask64 kept = length - x >= REGISTER ? ~(__mmask64)0 : ((__mmask64)1 << (length - x)) - 1;
        __m512i sums[4][DIGITS];
        for (int part = 0; part < 4; part++) {
            sums[part][0] = half;
            sums[part][1] = sums[part][2] = _mm512_setzero_si512();
        }
        for (int64_t quad = 0; quad < quads; quad++) {
            const uint8_t *const *from = rows + TAPS * quad;
            const __m512i a = _mm512_maskz_loadu_epi8(kept, from[0] + x);
            const __m512i b = _mm512_maskz_loadu_epi8(kept, from[1] + x);
            const __m512i c = _mm512_maskz_loadu_epi8(kept, from[2] + x);
            const __m512i d = _mm512_maskz_loadu_epi8(kept, from[3] + x);
            const __m512i above[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
            const __m512i below[2] = {_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)};
            for (int part = 0; part < 4; part++) {
                const __m512i one = above[part / 2], two = below[part / 2];
                const __m512i bytes = part % 2 ? _mm512_unpackhi_epi16(one, two) : _mm512_unpacklo_epi16(one, two);
                for (int digit = 0; digit < DIGITS; digit++) {
                    const __m512i weight = _mm512_set1_epi32(weights[quad * DIGITS + digit]);
                    sums[part][digit] = _mm512_dpbusd_epi32(sums[part][digit], bytes, weight);
                }
            }
        }
        /* Packing undoes the order of unpacking. */
        const __m512i left = _mm512_packs_epi32(rounded(sums[0]), rounded(sums[1]));
        const __m512i right = _mm512_packs_epi32(rounded(sums[2]), rounded(sums[3]));
        _mm512_mask_storeu_epi8(into + x, kept, _mm512_packus_epi16(left, right));
    }
}

AVX512 static ALWAYS_INLINE void means_of_any(const Picture *picture, int64_t row, int64_t tall, int64_t wide,
                                              int64_t blocks, uint8_t *into, int careful) {
    const uint32_t area = (uint32_t)(wide * tall);
    /* Pillow divides by what a float makes of the reciprocal. */
    const __m512i multiplier = _mm512_set1_epi32((int)(uint32_t)(4294967296.0f / (float)(256u * area)));
    const int64_t fit = REACH / wide + 1, together = fit < OUTPUTS ? fit : OUTPUTS, quads = wide / TAPS;
    const __m512i ones = _mm512_set1_epi8(1);
    const __m512i few = _mm512_set1_epi32((int)((1u << 8 * (wide % TAPS)) / 255u)); /* as many ones as are left */
    const int64_t length = 3 * picture->columns;
    uint8_t places[REGISTER] = {0};
    for (int64_t lane = 0; lane < 3 * together; lane++)
        for (int64_t k = 0; k < TAPS; k++)
            places[TAPS * lane + k] = (uint8_t)(3 * (lane / 3 * wide + k) + lane % 3);
    const __m512i place = _mm512_loadu_si512(places);
    for (int64_t block = 0; block < blocks; block += together) {
        __m512i sum = _mm512_set1_epi32((int)(area / 2));
        for (int64_t k = 0; k < tall; k++) {
            const uint8_t *start = row_of(picture, row + k), *from = start + 3 * wide * block;
            for (int64_t quad = 0; quad < quads; quad++, from += 3 * TAPS)
                sum = _mm512_dpbusd_epi32(
                    sum, _mm512_permutexvar_epi8(place, fetched(from, start + length, careful)), ones);
            if (wide % TAPS)
                sum = _mm512_dpbusd_epi32(
                    sum, _mm512_permutexvar_epi8(place, fetched(from, start + length, careful)), few);
        }
        const int64_t left = blocks - block < together ? blocks - block : together;
        sum = _mm512_srli_epi32(_mm512_mullo_epi32(sum, multiplier), 24);
        _mm_mask_storeu_epi8(into + 3 * block, (__mmask16)((1u << 3 * left) - 1), _mm512_cvtepi32_epi8(sum));
    }
}

/* A row of means of two by two pixels, the commonest: int16 hold the sums, so that twice as many are made at once. */
AVX512 static ALWAYS_INLINE void means_of_four(const Picture *picture, int64_t row, int64_t blocks, uint8_t *into,
                                               int careful) {
    enum { TOGETHER = 2 * OUTPUTS };
    const uint8_t *above = row_of(picture, row), *below = row_of(picture, row + 1);
    const int64_t length = 3 * picture->columns;
    const __m512i ones = _mm512_set1_epi8(1), half = _mm512_set1_epi16(2);
    uint8_t places[REGISTER] = {0};
    for (int lane = 0; lane < 3 * TOGETHER; lane++)
        for (int k = 0; k < 2; k++)
            places[2 * lane + k] = (uint8_t)(3 * (lane / 3 * 2 + k) + lane % 3);
    const __m512i place = _mm512_loadu_si512(places);
    for (int64_t block = 0; block < blocks; block += TOGETHER) {
        const __m512i one = fetched(above + 6 * block, above + length, careful);
        const __m512i two = fetched(below + 6 * block, below + length, careful);
        const __m512i sum = _mm512_add_epi16(_mm512_maddubs_epi16(_mm512_permutexvar_epi8(place, one), ones),
                                             _mm512_maddubs_epi16(_mm512_permutexvar_epi8(place, two), ones));
        const __m256i made = _mm512_cvtepi16_epi8(_mm512_srli_epi16(_mm512_add_epi16(sum, half), 2));
        const int64_t left = blocks - block < TOGETHER ? blocks - block : TOGETHER;
        _mm256_mask_storeu_epi8(into + 3 * block, (__mmask32)((1u << 3 * left) - 1), made);
    }
}

AVX512 static void means(const Picture *picture, int64_t row, int64_t tall, int64_t wide, int64_t blocks, uint8_t *into,
                         int inside) {
    if (tall == 2 && wide == 2 && inside)
        means_of_four(picture, row, blocks, into, 0);
    else if (tall == 2 && wide == 2)
        means_of_four(picture, row, blocks, into, 1);
    else if (inside)
        means_of_any(picture, row, tall, wide, blocks, into, 0);
    else
        means_of_any(picture, row, tall, wide, blocks, into, 1);
}

const Passes pillow_avx512 = {grouped, across, weigh, down, means};

#endif
