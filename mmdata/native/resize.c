/* Antialiased resizing of interleaved uint8 RGB, with torch's bits: two passes, width first, each a sum of bytes times
 * int16 weights that is rounded to bytes (ATen/native/cpu/UpSampleKernel.cpp, "weights computation for uint8_t").
 *
 * torch makes four channels of three, a picture of each pass, and takes two or four bytes of a row at a time. Here
 * - a register is loaded once for five pixels of the result, whose bytes one instruction puts in place, two taps of a
 *   channel beside each other, which the next multiplies and adds;
 * - the first pass does two rows at once and leaves them as pairs of int16, which is what the second multiplies;
 * - the second pass follows the first row by row, so that only the rows of one result lie between them, in the cache. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "axis.h"
#include "native.h"

#if HAS_AVX512

#include <immintrin.h>

enum {
    OUTPUTS = 5,   /* pixels of three channels in the sixteen lanes of a register */
    REACH = 19,    /* pixels from the first tap of the first of them to that of the last: what a register holds */
    REGISTER = 64, /* bytes */
};

/* One direction, and torch's weights: int16 of as many bits as the largest has room for. */
typedef struct {
    Axis axis;
    int precision;    /* a weight is so many bits more than it is */
    int16_t *weights; /* [outputs, most] */
} Weighed;

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double lanczos(double x) {
    x = fabs(x);
    if (x == 0.0)
        return 1.0;
    x *= 3.14159265358979323846;
    return x < 3.0 * 3.14159265358979323846 ? 3.0 * sin(x) * sin(x / 3.0) / (x * x) : 0.0;
}

static void forget(Weighed *weighed) {
    forget_axis(&weighed->axis);
    free(weighed->weights);
}

/* Whether there was memory for it; `forget` in either case. Filters are as resizing.py numbers them. */
static int plan(Weighed *weighed, int64_t inputs, int64_t outputs, int filter) {
    static double (*const filters[])(double) = {bilinear, bicubic, lanczos};
    static const double reaches[] = {1.0, 2.0, 3.0};
    Axis *axis = &weighed->axis;
    if (!plan_axis(axis, inputs, (double)inputs, outputs, reaches[filter], filters[filter]))
        return 0;
    weighed->weights = malloc(outputs * axis->most * sizeof *weighed->weights);
    if (!weighed->weights)
        return 0;
    double largest = 0.0;
    for (int64_t at = 0; at < outputs; at++)
        for (int64_t k = 0; k < axis->taps[at]; k++)
            largest = fmax(largest, axis->weights[at * axis->most + k]);
    weighed->precision = 0;
    while (weighed->precision < 22 && (int)(0.5 + largest * (1 << (weighed->precision + 1))) < (1 << 15))
        weighed->precision++;
    for (int64_t at = 0; at < outputs; at++)
        for (int64_t k = 0; k < axis->taps[at]; k++) {
            const double weight = axis->weights[at * axis->most + k] * (1 << weighed->precision);
            weighed->weights[at * axis->most + k] = (int16_t)(weight < 0.0 ? weight - 0.5 : weight + 0.5);
        }
    return 1;
}

/* Outputs of the first pass that are made at once. */
typedef struct {
    int64_t output, base, pairs, weights; /* the first of them; its first byte in a row; pairs of taps; of weights before */
} Group;

/* Groups of all outputs of a row, their bytes' places in a register, and their weights by pairs of taps. */
static int64_t group(const Weighed *weighed, Group *groups, uint8_t (*places)[REGISTER],
                     int16_t (*weights)[REGISTER / 2]) {
    const Axis *axis = &weighed->axis;
    int64_t count = 0, pairs = 0;
    for (int64_t output = 0; output < axis->outputs; count++) {
        const int64_t start = axis->first[output];
        int64_t size = 0, most = 0;
        for (; size < OUTPUTS && output + size < axis->outputs; size++) {
            const int64_t at = output + size, away = axis->first[at] - start;
            if (away > REACH)
                break;
            most = axis->taps[at] > most ? axis->taps[at] : most;
            for (int channel = 0; channel < 3; channel++) {
                const int64_t lane = 3 * size + channel;
                places[count][4 * lane] = (uint8_t)(3 * away + channel);
                places[count][4 * lane + 2] = (uint8_t)(3 * away + channel + 3);
                for (int64_t k = 0; k < axis->taps[at]; k++)
                    weights[pairs + k / 2][2 * lane + k % 2] = weighed->weights[at * axis->most + k];
            }
        }
        groups[count] = (Group){output, 3 * start, (most + 1) / 2, pairs};
        pairs += (most + 1) / 2;
        output += size;
    }
    return count;
}

/* The first pass over two rows: int16 of both beside each other. Reads up to REGISTER bytes behind the rows, and writes
 * as much behind the pairs. */
AVX512 static void across(const uint8_t *above, const uint8_t *below, int32_t *into, const Group *groups, int64_t count,
                          const uint8_t (*places)[REGISTER], const int16_t (*weights)[REGISTER / 2], int precision) {
    const __mmask64 low = 0x5555555555555555ull;
    const __m512i half = _mm512_set1_epi32(1 << precision >> 1);
    const __m512i black = _mm512_setzero_si512(), white = _mm512_set1_epi32(255);
    const __m128i shift = _mm_cvtsi32_si128(precision);
    for (int64_t at = 0; at < count; at++) {
        const Group group = groups[at];
        const __m512i place = _mm512_loadu_si512(places[at]);
        const uint8_t *one = above + group.base, *two = below + group.base;
        __m512i upper = half, lower = half;
        for (int64_t pair = 0; pair < group.pairs; pair++, one += 6, two += 6) {
            const __m512i weight = _mm512_loadu_si512(weights[group.weights + pair]);
            const __m512i ones = _mm512_maskz_permutexvar_epi8(low, place, _mm512_loadu_si512(one));
            const __m512i twos = _mm512_maskz_permutexvar_epi8(low, place, _mm512_loadu_si512(two));
            upper = _mm512_dpwssd_epi32(upper, ones, weight);
            lower = _mm512_dpwssd_epi32(lower, twos, weight);
        }
        upper = _mm512_min_epi32(_mm512_max_epi32(_mm512_sra_epi32(upper, shift), black), white);
        lower = _mm512_min_epi32(_mm512_max_epi32(_mm512_sra_epi32(lower, shift), black), white);
        _mm512_storeu_si512(into + 3 * group.output, _mm512_or_si512(upper, _mm512_slli_epi32(lower, 16)));
    }
}

AVX512 static inline __m128i rounded(__m512i sum, __m128i shift) {
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_sra_epi32(sum, shift), _mm512_setzero_si512()));
}

/* The second pass: a row of the result from pairs of rows. */
AVX512 static void down(int32_t *const *rows, const int32_t *weights, int64_t pairs, uint8_t *into, int64_t width,
                        int precision) {
    const __m512i half = _mm512_set1_epi32(1 << precision >> 1);
    const __m128i shift = _mm_cvtsi32_si128(precision);
    int64_t x = 0;
    for (; x + 64 <= width; x += 64) {
        __m512i sums[4] = {half, half, half, half};
        for (int64_t pair = 0; pair < pairs; pair++) {
            const __m512i weight = _mm512_set1_epi32(weights[pair]);
            for (int part = 0; part < 4; part++)
                sums[part] = _mm512_dpwssd_epi32(sums[part], _mm512_loadu_si512(rows[pair] + x + 16 * part), weight);
        }
        for (int part = 0; part < 4; part++)
            _mm_storeu_si128((__m128i *)(into + x + 16 * part), rounded(sums[part], shift));
    }
    for (; x < width; x += 16) {
        __m512i sum = half;
        for (int64_t pair = 0; pair < pairs; pair++)
            sum = _mm512_dpwssd_epi32(sum, _mm512_loadu_si512(rows[pair] + x), _mm512_set1_epi32(weights[pair]));
        const __mmask16 kept = width - x >= 16 ? 0xffff : (__mmask16)((1u << (width - x)) - 1);
        _mm_mask_storeu_epi8(into + x, kept, rounded(sum, shift));
    }
}

/* `frames` pictures [rows, columns, 3], their rows and themselves so many bytes apart, into contiguous ones
 * [to_rows, to_columns, 3]. Every side is at least 1. Answers 0, or 1 where there was no memory. */
EXPORTED int mmdata_resize(const uint8_t *source, int64_t frames, int64_t frame_stride, int64_t row_stride, int64_t rows,
                           int64_t columns, uint8_t *into, int64_t to_rows, int64_t to_columns, int filter) {
    Weighed wide = {0}, tall = {0};
    Group *groups = NULL;
    uint8_t(*places)[REGISTER] = NULL;
    int16_t(*weights)[REGISTER / 2] = NULL;
    int32_t *pairs = NULL, *weight = NULL, **used = NULL;
    uint8_t *ends = NULL;
    int failed = 1;
    if (!plan(&wide, columns, to_columns, filter) || !plan(&tall, rows, to_rows, filter))
        goto end;
    const int64_t most = tall.axis.most / 2 + 1, kept = most + 1; /* pairs of rows: of one output, and at once */
    const int64_t length = 3 * to_columns + REGISTER / 4, line = 3 * columns + 2 * REGISTER;
    groups = malloc(to_columns * sizeof *groups);
    places = calloc(to_columns, sizeof *places);
    weights = calloc(to_columns * ((wide.axis.most + 1) / 2), sizeof *weights);
    pairs = malloc(kept * length * sizeof *pairs);
    weight = malloc(most * sizeof *weight);
    used = malloc(most * sizeof *used);
    ends = calloc(2, line);
    if (!groups || !places || !weights || !pairs || !weight || !used || !ends)
        goto end;
    const int64_t count = group(&wide, groups, places, weights);
    for (int64_t frame = 0; frame < frames; frame++) {
        const uint8_t *first = source + frame * frame_stride, *end = first + (rows - 1) * row_stride + 3 * columns;
        int64_t next = 0; /* the first pair of rows that has not been through the first pass */
        for (int64_t y = 0; y < to_rows; y++) {
            const int64_t from = tall.axis.first[y] / 2, until = (tall.axis.first[y] + tall.axis.taps[y] + 1) / 2;
            for (next = next > from ? next : from; next < until; next++) {
                const uint8_t *both[2];
                for (int below = 0; below < 2; below++) {
                    /* A row that is missing under the last one counts nothing: its weights are 0. */
                    const int64_t row = 2 * next + below < rows ? 2 * next + below : rows - 1;
                    both[below] = first + row * row_stride;
                    if (end - both[below] < line) { /* Nothing is read that is not the picture's. */
                        memcpy(ends + below * line, both[below], 3 * columns);
                        both[below] = ends + below * line;
                    }
                }
                across(both[0], both[1], pairs + next % kept * length, groups, count, (const uint8_t(*)[REGISTER])places,
                       (const int16_t(*)[REGISTER / 2]) weights, wide.precision);
            }
            memset(weight, 0, most * sizeof *weight);
            for (int64_t k = 0; k < tall.axis.taps[y]; k++) {
                const int64_t row = tall.axis.first[y] + k - 2 * from;
                ((int16_t *)weight)[row] = tall.weights[y * tall.axis.most + k];
            }
            for (int64_t pair = from; pair < until; pair++)
                used[pair - from] = pairs + pair % kept * length;
            down(used, weight, until - from, into, 3 * to_columns, tall.precision);
            into += 3 * to_columns;
        }
    }
    failed = 0;
end:
    forget(&wide);
    forget(&tall);
    free(groups);
    free(places);
    free(weights);
    free(pairs);
    free(weight);
    free(used);
    free(ends);
    return failed;
}

#endif
