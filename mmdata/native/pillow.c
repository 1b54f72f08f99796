/* Antialiased resizing of interleaved uint8 RGB with Pillow's bits: its `reduce`, and its `resize`, two passes with
 * weights of 22 bits behind the point, each rounded to bytes (Pillow's src/libImaging/Reduce.c and Resample.c).
 *
 * Pillow keeps RGB in four bytes a pixel, adds one tap at a time, and makes a picture of each pass. Here
 * - four taps of a channel are added at once: bytes times signed bytes. A weight is three of those, its digits to the
 *   base of 256, and the three sums are put together at the end; sums may wrap around, for what they come to fits;
 * - the pass along the rows loads a register once for five pixels of the result, whose bytes one instruction puts in
 *   place, four taps of a channel beside each other, and does four rows at once;
 * - one pass follows the other row by row, so that only the rows of one result lie between them, in the cache. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "axis.h"
#include "native.h"

#if HAS_LEVELS

#include <immintrin.h>

enum {
    BITS = 22,     /* of a weight, behind the point */
    DIGITS = 3,    /* bytes of a weight */
    TAPS = 4,      /* that are added at once, and rows that are done at once */
    OUTPUTS = 5,   /* pixels of three channels in the sixteen lanes of a register */
    REGISTER = 64, /* bytes */
    REACH = 17,    /* pixels from the first tap of the first of five to that of the last, with four taps each */
};

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

/* The digits of a weight, the lowest first, each in -128..127. Answers what no digit holds: 0, for no filter makes more
 * of a pixel than twice. */
static int digits(double weight, int8_t *into, int64_t apart) {
    const double scaled = weight * (1 << BITS);
    int32_t rest = (int32_t)(weight < 0.0 ? scaled - 0.5 : scaled + 0.5);
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

static void forget_groups(Groups *made) {
    free(made->groups);
    free(made->places);
    free(made->weights);
}

/* Whether there was memory for it, and every weight had digits; `forget_groups` in either case. */
static int group(Groups *made, const Axis *axis) {
    int64_t quads = 0;
    int rest = 0;
    made->groups = malloc(axis->outputs * sizeof *made->groups);
    made->places = calloc(axis->outputs, sizeof *made->places);
    made->weights = calloc(axis->outputs * ((axis->most + TAPS - 1) / TAPS), sizeof *made->weights);
    if (!made->groups || !made->places || !made->weights)
        return 0;
    for (int64_t output = 0; output < axis->outputs; made->count++) {
        const int64_t start = axis->first[output];
        int64_t size = 0, most = 0;
        for (; size < OUTPUTS && output + size < axis->outputs; size++) {
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
    return !rest;
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

/* The pass along four rows of `length` bytes. */
AVX512 static ALWAYS_INLINE void across(const uint8_t *const *rows, int64_t length, uint8_t *const *into,
                                        const Groups *made, int careful) {
    const __m512i half = _mm512_set1_epi32(1 << (BITS - 1));
    for (int64_t at = 0; at < made->count; at++) {
        const Group group = made->groups[at];
        const __m512i place = _mm512_loadu_si512(made->places[at]);
        __m512i sums[TAPS][DIGITS];
        for (int row = 0; row < TAPS; row++) {
            sums[row][0] = half;
            sums[row][1] = sums[row][2] = _mm512_setzero_si512();
        }
        for (int64_t quad = 0; quad < group.quads; quad++) {
            const int8_t(*weights)[REGISTER] = (const int8_t(*)[REGISTER])made->weights[group.weights + quad];
            for (int row = 0; row < TAPS; row++) {
                const uint8_t *from = rows[row] + group.base + 3 * TAPS * quad;
                const __m512i bytes =
                    _mm512_permutexvar_epi8(place, fetched(from, rows[row] + length, careful));
                for (int digit = 0; digit < DIGITS; digit++)
                    sums[row][digit] =
                        _mm512_dpbusd_epi32(sums[row][digit], bytes, _mm512_loadu_si512(weights[digit]));
            }
        }
        for (int row = 0; row < TAPS; row++) {
            const __m512i made_of = _mm512_max_epi32(rounded(sums[row]), _mm512_setzero_si512());
            _mm_mask_storeu_epi8(into[row] + 3 * group.output, group.kept, _mm512_cvtusepi32_epi8(made_of));
        }
    }
}

AVX512 static void across_inside(const uint8_t *const *rows, int64_t length, uint8_t *const *into, const Groups *made) {
    across(rows, length, into, made, 0);
}

AVX512 static void across_end(const uint8_t *const *rows, int64_t length, uint8_t *const *into, const Groups *made) {
    across(rows, length, into, made, 1);
}

/* The pass down the columns: a row of the result from fours of rows and the digits of their weights. */
AVX512 static void down(const uint8_t *const *rows, const int32_t (*weights)[DIGITS], int64_t quads, uint8_t *into,
                        int64_t length) {
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
                for (int digit = 0; digit < DIGITS; digit++)
                    sums[part][digit] =
                        _mm512_dpbusd_epi32(sums[part][digit], bytes, _mm512_set1_epi32(weights[quad][digit]));
            }
        }
        /* Packing undoes the order of unpacking. */
        const __m512i left = _mm512_packs_epi32(rounded(sums[0]), rounded(sums[1]));
        const __m512i right = _mm512_packs_epi32(rounded(sums[2]), rounded(sums[3]));
        _mm512_mask_storeu_epi8(into + x, kept, _mm512_packus_epi16(left, right));
    }
}

/* A picture of interleaved pixels. */
typedef struct {
    const uint8_t *pixels;
    int64_t stride, rows, columns;
} Picture;

static const uint8_t *row_of(const Picture *picture, int64_t row) {
    return picture->pixels + (row < picture->rows ? row : picture->rows - 1) * picture->stride;
}

/* Whether a register may be loaded from any pixel of that row without what is not the picture's. */
static int inside(const Picture *picture, int64_t row) {
    const uint8_t *end = row_of(picture, picture->rows) + 3 * picture->columns;
    return end - row_of(picture, row) >= 3 * picture->columns + REGISTER;
}

/* What the two passes need, and what lies between them. */
typedef struct {
    Axis wide, tall;
    Groups groups;
    const uint8_t **used;       /* the rows under an output, up to a whole four */
    int32_t (*weights)[DIGITS]; /* theirs, by fours */
    uint8_t *between;           /* rows */
} Passes;

static void forget(Passes *passes) {
    forget_axis(&passes->wide);
    forget_axis(&passes->tall);
    forget_groups(&passes->groups);
    free(passes->used);
    free(passes->weights);
    free(passes->between);
}

/* The weights of output `y` of the pass down. Answers how many fours. */
static int64_t weigh_rows(const Passes *passes, int64_t y) {
    const Axis *tall = &passes->tall;
    const int64_t quads = (tall->taps[y] + TAPS - 1) / TAPS;
    memset(passes->weights, 0, quads * sizeof *passes->weights);
    for (int64_t k = 0; k < tall->taps[y]; k++)
        digits(tall->weights[y * tall->most + k], (int8_t *)passes->weights[k / TAPS] + k % TAPS, sizeof(int32_t));
    return quads;
}

/* The rows under output `y`; those that fill up its last four count nothing. */
static int64_t row_under(const Axis *tall, int64_t y, int64_t k) {
    return tall->first[y] + (k < tall->taps[y] ? k : 0);
}

/* Between the passes lies a ring of so many rows: those of an output, and three that came with the last of them. */
static int64_t ring(const Axis *tall) {
    return tall->most + TAPS;
}

static void width_first(const Picture *picture, const Passes *passes, uint8_t *into) {
    const Axis *tall = &passes->tall;
    const int64_t kept = ring(tall), length = 3 * passes->wide.outputs;
    int64_t next = 0; /* the first row that has not been through the first pass */
    for (int64_t y = 0; y < tall->outputs; y++, into += length) {
        const int64_t end = tall->first[y] + tall->taps[y];
        for (next = next > tall->first[y] ? next : tall->first[y]; next < end; next += TAPS) {
            const uint8_t *from[TAPS];
            uint8_t *made[TAPS];
            for (int k = 0; k < TAPS; k++) {
                from[k] = row_of(picture, next + k);
                made[k] = passes->between + (next + k) % kept * length;
            }
            if (inside(picture, next + TAPS - 1))
                across_inside(from, 3 * picture->columns, made, &passes->groups);
            else
                across_end(from, 3 * picture->columns, made, &passes->groups);
        }
        const int64_t quads = weigh_rows(passes, y);
        for (int64_t k = 0; k < TAPS * quads; k++)
            passes->used[k] = passes->between + row_under(tall, y, k) % kept * length;
        down(passes->used, (const int32_t(*)[DIGITS])passes->weights, quads, into, length);
    }
}

static void height_first(const Picture *picture, const Passes *passes, uint8_t *into) {
    const Axis *tall = &passes->tall;
    const int64_t length = 3 * passes->wide.outputs, line = 3 * picture->columns + REGISTER;
    for (int64_t y = 0; y < tall->outputs; y += TAPS) {
        const uint8_t *from[TAPS];
        uint8_t *made[TAPS];
        for (int row = 0; row < TAPS; row++) {
            const int again = y + row >= tall->outputs; /* Fewer than four are left: the last one once more. */
            from[row] = again ? from[row - 1] : passes->between + row * line;
            made[row] = again ? made[row - 1] : into + (y + row) * length;
            if (again)
                continue;
            const int64_t quads = weigh_rows(passes, y + row);
            for (int64_t k = 0; k < TAPS * quads; k++)
                passes->used[k] = row_of(picture, row_under(tall, y + row, k));
            down(passes->used, (const int32_t(*)[DIGITS])passes->weights, quads, passes->between + row * line,
                 3 * picture->columns);
        }
        across_inside(from, 3 * picture->columns, made, &passes->groups);
    }
}

/* The first `width` by `height` of a picture [rows, columns, 3], whose rows are `stride` bytes apart, into a contiguous
 * one [to_rows, to_columns, 3]. Every side is at least 1. Answers 0, or 1 where there was no memory. */
EXPORTED int mmdata_pillow_resize(const uint8_t *source, int64_t stride, int64_t rows, int64_t columns, double height,
                                  double width, uint8_t *into, int64_t to_rows, int64_t to_columns, int filter,
                                  int vertical_first) {
    const Picture picture = {source, stride, rows, columns};
    Passes passes = {0};
    int failed = 1;
    if (plan(&passes.wide, columns, width, to_columns, filter) && plan(&passes.tall, rows, height, to_rows, filter) &&
        group(&passes.groups, &passes.wide)) {
        const int64_t quads = (passes.tall.most + TAPS - 1) / TAPS;
        passes.used = malloc(TAPS * quads * sizeof *passes.used);
        passes.weights = malloc(quads * sizeof *passes.weights);
        passes.between = malloc(vertical_first ? TAPS * (3 * columns + REGISTER) : ring(&passes.tall) * 3 * to_columns);
        failed = !passes.used || !passes.weights || !passes.between;
    }
    if (!failed)
        (vertical_first ? height_first : width_first)(&picture, &passes, into);
    forget(&passes);
    return failed;
}

/* A row of means of blocks, `wide` by `tall` pixels each, from the rows from `row` on. */
AVX512 static ALWAYS_INLINE void means(const Picture *picture, int64_t row, int64_t tall, int64_t wide, int64_t blocks,
                                       uint8_t *into, int careful) {
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

AVX512 static void means_inside(const Picture *picture, int64_t row, int64_t tall, int64_t wide, int64_t blocks,
                                uint8_t *into) {
    if (tall == 2 && wide == 2)
        means_of_four(picture, row, blocks, into, 0);
    else
        means(picture, row, tall, wide, blocks, into, 0);
}

AVX512 static void means_end(const Picture *picture, int64_t row, int64_t tall, int64_t wide, int64_t blocks,
                             uint8_t *into) {
    if (tall == 2 && wide == 2)
        means_of_four(picture, row, blocks, into, 1);
    else
        means(picture, row, tall, wide, blocks, into, 1);
}

/* A picture [rows, columns, 3], whose rows are `stride` bytes apart, into a contiguous one of the means of its blocks
 * of `tall` by `wide` pixels, or as many as there are at the bottom and on the right: fewer than 2^23. */
EXPORTED void mmdata_pillow_reduce(const uint8_t *source, int64_t stride, int64_t rows, int64_t columns, int64_t tall,
                                   int64_t wide, uint8_t *into) {
    const Picture picture = {source, stride, rows, columns};
    const int64_t blocks = columns / wide, over = columns % wide;
    const Picture right = {source + 3 * wide * blocks, stride, rows, over};
    for (int64_t row = 0; row < rows; row += tall) {
        const int64_t high = rows - row < tall ? rows - row : tall;
        if (inside(&picture, row + high - 1))
            means_inside(&picture, row, high, wide, blocks, into);
        else
            means_end(&picture, row, high, wide, blocks, into);
        into += 3 * blocks;
        if (over) {
            means_end(&right, row, high, over, 1, into);
            into += 3;
        }
    }
}

#endif
