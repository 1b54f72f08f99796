/* Antialiased resizing of interleaved uint8 RGB, with torch's bits: two passes, width first, each a sum of bytes times
 * int16 weights that is rounded to bytes (ATen/native/cpu/UpSampleKernel.cpp, "weights computation for uint8_t").
 *
 * torch makes four channels of three, a picture of each pass, and takes two or four bytes of a row at a time. Here
 * - what is loaded of a row is put in place by one instruction, two taps of a channel beside each other, which the next
 *   multiplies and adds;
 * - the first pass does four rows at once and leaves them as pairs of int16, which is what the second multiplies;
 * - the second pass follows the first row by row, so that only rows of one result lie between them, in the cache. */

#include "resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if HAS_LEVELS

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

/* `frames` pictures [rows, columns, 3], their rows and themselves so many bytes apart, into contiguous ones
 * [to_rows, to_columns, 3]. Every side is at least 1, `level` at least LEVEL_AVX2. Answers 0, or 1 where there was no
 * memory. */
EXPORTED int mmdata_resize(const uint8_t *source, int64_t frames, int64_t frame_stride, int64_t row_stride,
                           int64_t rows, int64_t columns, uint8_t *into, int64_t to_rows, int64_t to_columns,
                           int filter, int level) {
    /* Where pixels of the result lie further apart, one register of theirs is loaded for one or two of them only. */
    const int near = columns <= 5 * to_columns;
    const Passes *passes = level >= LEVEL_AVX512 && near ? &resize_avx512 : &resize_avx2;
    Weighed wide = {0}, tall = {0};
    void *wanted = NULL;
    int32_t *pairs = NULL, *weight = NULL, **used = NULL;
    uint8_t *ends = NULL;
    int failed = 1;
    if (!plan(&wide, columns, to_columns, filter) || !plan(&tall, rows, to_rows, filter))
        goto end;
    const int64_t most = tall.axis.most / 2 + 1, kept = most + ROWS / 2; /* pairs of rows: of one output, and at once */
    const int64_t length = 3 * to_columns + SLACK / 4, line = 3 * columns + 2 * SLACK;
    wanted = passes->columns(&wide, columns);
    pairs = malloc(kept * length * sizeof *pairs);
    weight = malloc(most * sizeof *weight);
    used = malloc(most * sizeof *used);
    ends = calloc(ROWS, line);
    if (!wanted || !pairs || !weight || !used || !ends)
        goto end;
    for (int64_t frame = 0; frame < frames; frame++) {
        const uint8_t *first = source + frame * frame_stride, *end = first + (rows - 1) * row_stride + 3 * columns;
        int64_t next = 0; /* the first pair of rows that has not been through the first pass */
        for (int64_t y = 0; y < to_rows; y++) {
            const int64_t from = tall.axis.first[y] / 2, until = (tall.axis.first[y] + tall.axis.taps[y] + 1) / 2;
            for (next = next > from ? next : from; next < until; next += ROWS / 2) {
                const uint8_t *taken[ROWS];
                int32_t *made[ROWS / 2];
                for (int k = 0; k < ROWS; k++) {
                    /* A row that is missing under the last one counts nothing: its weights are 0. */
                    const int64_t row = 2 * next + k < rows ? 2 * next + k : rows - 1;
                    taken[k] = first + row * row_stride;
                    if (end - taken[k] < line) { /* Nothing is read that is not the picture's. */
                        memcpy(ends + k * line, taken[k], 3 * columns);
                        taken[k] = ends + k * line;
                    }
                    made[k / 2] = pairs + (next + k / 2) % kept * length;
                }
                passes->across(taken, made, wanted);
            }
            memset(weight, 0, most * sizeof *weight);
            for (int64_t k = 0; k < tall.axis.taps[y]; k++) {
                const int64_t row = tall.axis.first[y] + k - 2 * from;
                ((int16_t *)weight)[row] = tall.weights[y * tall.axis.most + k];
            }
            for (int64_t pair = from; pair < until; pair++)
                used[pair - from] = pairs + pair % kept * length;
            passes->down(used, weight, until - from, into, 3 * to_columns, tall.precision);
            into += 3 * to_columns;
        }
    }
    failed = 0;
end:
    forget(&wide);
    forget(&tall);
    free(wanted);
    free(pairs);
    free(weight);
    free(used);
    free(ends);
    return failed;
}

#endif
