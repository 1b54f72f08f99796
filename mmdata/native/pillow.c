/* Antialiased resizing of interleaved uint8 RGB with Pillow's bits: its `reduce`, and its `resize`, two passes with
 * weights of 22 bits behind the point, each rounded to bytes (Pillow's src/libImaging/Reduce.c and Resample.c).
 *
 * Pillow keeps RGB in four bytes a pixel, adds one tap at a time, and makes a picture of each pass. Here
 * - several taps of a channel are added at once. A weight is more than one factor may be: it is two or three, and
 *   their sums are put together at the end; they may wrap around, for what they come to fits;
 * - the pass along the rows does four rows at once;
 * - one pass follows the other row by row, so that only the rows of one result lie between them, in the cache. */

#include "pillow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if HAS_LEVELS

static const double pi = 3.14159265358979323846;

static double hamming(double x) {
    x = fabs(x);
    if (x == 0.0)
        return 1.0;
    if (x >= 1.0)
        return 0.0;
    x *= pi;
    return sin(x) / x * ((double)0.54f + (double)0.46f * cos(x)); /* Pillow's constants are floats. */
}

static double sinc(double x) {
    return x == 0.0 ? 1.0 : sin(x * pi) / (x * pi);
}

static double lanczos(double x) {
    return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

/* Filters as pillow.py numbers them. Pillow keeps the extent as a float. */
static int plan(Axis *axis, int64_t inputs, double extent, int64_t outputs, int filter) {
    static double (*const filters[])(double) = {hamming, bicubic, lanczos};
    static const double reaches[] = {1.0, 2.0, 3.0};
    return plan_axis(axis, inputs, (double)(float)extent, outputs, reaches[filter], filters[filter]);
}

/* What the two passes need, and what lies between them. */
typedef struct {
    const Passes *level;
    Axis wide, tall;
    void *columns;
    const uint8_t **used; /* the rows under an output, up to a whole four */
    int32_t *weights;     /* theirs */
    uint8_t *between;     /* rows */
} Resize;

static void forget(Resize *passes) {
    forget_axis(&passes->wide);
    forget_axis(&passes->tall);
    free(passes->columns);
    free(passes->used);
    free(passes->weights);
    free(passes->between);
}

/* The rows under output `y`; those that fill up its last four count nothing. */
static int64_t row_under(const Axis *tall, int64_t y, int64_t k) {
    return tall->first[y] + (k < tall->taps[y] ? k : 0);
}

/* Up to a whole four. */
static int64_t fours(int64_t taps) {
    return (taps + 3) / 4 * 4;
}

/* Between the passes lies a ring of so many rows: those of an output, and three that came with the last of them. */
static int64_t ring(const Axis *tall) {
    return tall->most + ROWS;
}

static void width_first(const Picture *picture, const Resize *passes, uint8_t *into) {
    const Axis *tall = &passes->tall;
    const int64_t kept = ring(tall), length = 3 * passes->wide.outputs;
    int64_t next = 0; /* the first row that has not been through the first pass */
    for (int64_t y = 0; y < tall->outputs; y++, into += length) {
        const int64_t end = tall->first[y] + tall->taps[y];
        for (next = next > tall->first[y] ? next : tall->first[y]; next < end; next += ROWS) {
            const uint8_t *from[ROWS];
            uint8_t *made[ROWS];
            for (int k = 0; k < ROWS; k++) {
                from[k] = row_of(picture, next + k);
                made[k] = passes->between + (next + k) % kept * length;
            }
            passes->level->across(from, 3 * picture->columns, made, passes->columns,
                                  inside(picture, next + ROWS - 1));
        }
        passes->level->weigh(tall->weights + y * tall->most, tall->taps[y], passes->weights);
        for (int64_t k = 0; k < fours(tall->taps[y]); k++)
            passes->used[k] = passes->between + row_under(tall, y, k) % kept * length;
        passes->level->down(passes->used, passes->weights, tall->taps[y], into, length);
    }
}

static void height_first(const Picture *picture, const Resize *passes, uint8_t *into) {
    const Axis *tall = &passes->tall;
    const int64_t length = 3 * passes->wide.outputs, line = 3 * picture->columns + SLACK;
    for (int64_t y = 0; y < tall->outputs; y += ROWS) {
        const uint8_t *from[ROWS];
        uint8_t *made[ROWS];
        for (int row = 0; row < ROWS; row++) {
            const int again = y + row >= tall->outputs; /* Fewer than four are left: the last one once more. */
            from[row] = again ? from[row - 1] : passes->between + row * line;
            made[row] = again ? made[row - 1] : into + (y + row) * length;
            if (again)
                continue;
            const int64_t taps = tall->taps[y + row];
            passes->level->weigh(tall->weights + (y + row) * tall->most, taps, passes->weights);
            for (int64_t k = 0; k < fours(taps); k++)
                passes->used[k] = row_of(picture, row_under(tall, y + row, k));
            passes->level->down(passes->used, passes->weights, taps, passes->between + row * line,
                                3 * picture->columns);
        }
        passes->level->across(from, 3 * picture->columns, made, passes->columns, 1);
    }
}

/* The first `width` by `height` of a picture [rows, columns, 3], whose rows are `stride` bytes apart, into a contiguous
 * one [to_rows, to_columns, 3]. Every side is at least 1, `level` at least LEVEL_AVX2. Answers 0, or 1 where there was
 * no memory. */
EXPORTED int mmdata_pillow_resize(const uint8_t *source, int64_t stride, int64_t rows, int64_t columns, double height,
                                  double width, uint8_t *into, int64_t to_rows, int64_t to_columns, int filter,
                                  int vertical_first, int level) {
    const Picture picture = {source, stride, rows, columns};
    Resize passes = {.level = level >= LEVEL_AVX512 ? &pillow_avx512 : &pillow_avx2};
    int failed = 1;
    if (plan(&passes.wide, columns, width, to_columns, filter) && plan(&passes.tall, rows, height, to_rows, filter)) {
        const int64_t most = fours(passes.tall.most);
        passes.columns = passes.level->columns(&passes.wide, columns);
        passes.used = malloc(most * sizeof *passes.used);
        passes.weights = malloc(most / 4 * FOUR * sizeof *passes.weights);
        passes.between = malloc(vertical_first ? ROWS * (3 * columns + SLACK) : ring(&passes.tall) * 3 * to_columns);
        failed = !passes.columns || !passes.used || !passes.weights || !passes.between;
    }
    if (!failed)
        (vertical_first ? height_first : width_first)(&picture, &passes, into);
    forget(&passes);
    return failed;
}

/* A picture [rows, columns, 3], whose rows are `stride` bytes apart, into a contiguous one of the means of its blocks
 * of `tall` by `wide` pixels, or as many as there are at the bottom and on the right: fewer than 2^23. */
EXPORTED void mmdata_pillow_reduce(const uint8_t *source, int64_t stride, int64_t rows, int64_t columns, int64_t tall,
                                   int64_t wide, uint8_t *into, int level) {
    const Passes *passes = level >= LEVEL_AVX512 ? &pillow_avx512 : &pillow_avx2;
    const Picture picture = {source, stride, rows, columns};
    const int64_t blocks = columns / wide, over = columns % wide;
    const Picture right = {source + 3 * wide * blocks, stride, rows, over};
    for (int64_t row = 0; row < rows; row += tall) {
        const int64_t high = rows - row < tall ? rows - row : tall;
        passes->means(&picture, row, high, wide, blocks, into, inside(&picture, row + high - 1));
        into += 3 * blocks;
        if (over) {
            passes->means(&right, row, high, over, 1, into, 0);
            into += 3;
        }
    }
}

#endif
