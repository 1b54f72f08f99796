/* The last step of a plan: bytes of pixels into normalised floats, as planes or as rows of patches, in one pass over both.
 *
 * (byte - shift) / scale has 256 values for a channel: a table of them has the bits of any other way to come by them. */

#include <math.h>
#include <string.h>

#include "native.h"
#include "past.h"

/* What a channel's bytes become. */
typedef struct {
    float table[3][256];
    float shift[3], scale[3], inverse[3];
    int32_t mended; /* whether `mended` gives the bits of all of `table` */
} Normal;

/* x / scale by the reciprocal, corrected once by what is left (Markstein, "Computation of elementary functions on the
 * IBM RISC System/6000 processor", 1990): nearly always the quotient itself, and asked for every byte before it is used. */
static float mended(float x, float scale, float inverse) {
    const float quotient = x * inverse;
    return fmaf(fmaf(-quotient, scale, x), inverse, quotient);
}

EXPORTED int64_t mmdata_normal_size(void) { return sizeof(Normal); }

EXPORTED void mmdata_normal(Normal *normal, const float *shift, const float *scale) {
    normal->mended = 1;
    for (int channel = 0; channel < 3; channel++) {
        normal->shift[channel] = shift[channel];
        normal->scale[channel] = scale[channel];
        normal->inverse[channel] = 1.0f / scale[channel];
        for (int byte = 0; byte < 256; byte++) {
            const float x = (float)byte - shift[channel], value = x / scale[channel];
            const float near = mended(x, scale[channel], normal->inverse[channel]);
            normal->table[channel][byte] = value;
            if (memcmp(&value, &near, sizeof value))
                normal->mended = 0;
        }
    }
}

/* Where pixels lie, in bytes, and where what becomes of them, in values. */
typedef struct {
    int64_t channel, row, column;          /* of the source */
    int64_t to_channel, to_row, to_column; /* of the result */
    int64_t copies, apart;                 /* how often each value is written, and how far from each other */
} Steps;

/* A rectangle of pixels by the table. */
static void looked_up(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                      const Normal *normal) {
    for (int64_t y = 0; y < rows; y++)
        for (int channel = 0; channel < 3; channel++) {
            const float *table = normal->table[channel];
            const uint8_t *from = source + y * steps->row + channel * steps->channel;
            for (int64_t copy = 0; copy < steps->copies; copy++) {
                float *to = into + y * steps->to_row + channel * steps->to_channel + copy * steps->apart;
                for (int64_t x = 0; x < columns; x++)
                    to[x * steps->to_column] = table[from[x * steps->column]];
            }
        }
}

/* The same of bytes that stay bytes. */
static void picked(const uint8_t *source, uint8_t *into, int64_t rows, int64_t columns, const Steps *steps) {
    const int same = steps->channel == 1 && steps->column == 3 && steps->to_channel == 1 && steps->to_column == 3;
    for (int64_t y = 0; y < rows && same; y++)
        for (int64_t copy = 0; copy < steps->copies; copy++)
            memcpy(into + y * steps->to_row + copy * steps->apart, source + y * steps->row, 3 * columns);
    for (int64_t y = 0; y < rows && !same; y++)
        for (int channel = 0; channel < 3; channel++) {
            const uint8_t *from = source + y * steps->row + channel * steps->channel;
            for (int64_t copy = 0; copy < steps->copies; copy++) {
                uint8_t *to = into + y * steps->to_row + channel * steps->to_channel + copy * steps->apart;
                for (int64_t x = 0; x < columns; x++)
                    to[x * steps->to_column] = from[x * steps->column];
            }
        }
}

#if HAS_LEVELS

#include <immintrin.h>

/* Sixteen interleaved pixels lie in a register: three vectors of them, and what each of their lanes is normalised by. */
typedef struct {
    __m512i place[3], together;
    __m512 shift[3], scale[3], inverse[3];
} Lanes;

/* `planar`: vector v has channel v of the pixels; else it has what follows each other in 16 v and after. */
AVX512 static void prepare(Lanes *lanes, const Normal *normal, int planar) {
    uint8_t together[64] = {0};
    for (int v = 0; v < 3; v++) {
        uint8_t place[64] = {0};
        float shift[16] = {0}, scale[16] = {0}, inverse[16] = {0};
        for (int lane = 0; lane < 16; lane++) {
            const int byte = planar ? 3 * lane + v : 16 * v + lane;
            place[4 * lane] = together[16 * v + lane] = (uint8_t)byte;
            if (normal) {
                shift[lane] = normal->shift[byte % 3];
                scale[lane] = normal->scale[byte % 3];
                inverse[lane] = normal->inverse[byte % 3];
            }
        }
        lanes->place[v] = _mm512_loadu_si512(place);
        lanes->shift[v] = _mm512_loadu_ps(shift);
        lanes->scale[v] = _mm512_loadu_ps(scale);
        lanes->inverse[v] = _mm512_loadu_ps(inverse);
    }
    lanes->together = _mm512_loadu_si512(together);
}

AVX512 static inline __m512 normalised(const Lanes *lanes, int v, __m512i bytes) {
    const __m512i values = _mm512_maskz_permutexvar_epi8(0x1111111111111111ull, lanes->place[v], bytes);
    const __m512 x = _mm512_sub_ps(_mm512_cvtepi32_ps(values), lanes->shift[v]);
    const __m512 quotient = _mm512_mul_ps(x, lanes->inverse[v]);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(quotient, lanes->scale[v], x), lanes->inverse[v], quotient);
}

/* As `looked_up`, of interleaved pixels into runs: `planar` ones of a channel, or the pixels as they are. */
AVX512 static inline void computed(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                                   const Lanes *lanes, int planar) {
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x += 16) {
            const int64_t pixels = columns - x < 16 ? columns - x : 16;
            const __m512i bytes = _mm512_maskz_loadu_epi8((1ull << 3 * pixels) - 1, source + y * steps->row + 3 * x);
            float *to = into + y * steps->to_row + (planar ? x : 3 * x);
            for (int v = 0; v < 3; v++) {
                const __m512 values = normalised(lanes, v, bytes);
                const int64_t left = planar ? pixels : 3 * pixels - 16 * v;
                const __mmask16 kept = left >= 16 ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
                float *first = to + (planar ? v * steps->to_channel : 16 * v);
                for (int64_t copy = 0; copy < steps->copies; copy++)
                    _mm512_mask_storeu_ps(first + copy * steps->apart, kept, values);
            }
        }
}

AVX512 static void computed_planes(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                                   const Lanes *lanes) {
    computed(source, into, rows, columns, steps, lanes, 1);
}

AVX512 static void computed_runs(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                                 const Lanes *lanes) {
    computed(source, into, rows, columns, steps, lanes, 0);
}

/* As `picked`, of interleaved pixels into planes. */
AVX512 static void parted(const uint8_t *source, uint8_t *into, int64_t rows, int64_t columns, const Steps *steps,
                          const Lanes *lanes) {
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x += 16) {
            const int64_t pixels = columns - x < 16 ? columns - x : 16;
            const __m512i bytes = _mm512_maskz_loadu_epi8((1ull << 3 * pixels) - 1, source + y * steps->row + 3 * x);
            const __m512i values = _mm512_permutexvar_epi8(lanes->together, bytes);
            const __m128i planes[3] = {_mm512_castsi512_si128(values), _mm512_extracti32x4_epi32(values, 1),
                                       _mm512_extracti32x4_epi32(values, 2)};
            const __mmask16 kept = (__mmask16)((1u << pixels) - 1);
            for (int channel = 0; channel < 3; channel++)
                for (int64_t copy = 0; copy < steps->copies; copy++)
                    _mm_mask_storeu_epi8(into + y * steps->to_row + channel * steps->to_channel + copy * steps->apart + x,
                                         kept, planes[channel]);
        }
}

#endif

/* A rectangle of pixels, the fastest way that there is for it; `lanes` where the processor has AVX512. */
static inline void rectangle(const uint8_t *source, void *into, int64_t at, int64_t rows, int64_t columns,
                             const Steps *steps, const Normal *normal, const void *lanes) {
    float *floats = (float *)into + at;
    uint8_t *bytes = (uint8_t *)into + at;
#if HAS_LEVELS
    const int interleaved = steps->channel == 1 && steps->column == 3;
    if (lanes && interleaved && (!normal || normal->mended)) {
        if (steps->to_column == 1) {
            if (normal)
                computed_planes(source, floats, rows, columns, steps, lanes);
            else
                parted(source, bytes, rows, columns, steps, lanes);
            return;
        }
        if (normal && steps->to_column == 3 && steps->to_channel == 1) {
            computed_runs(source, floats, rows, columns, steps, lanes);
            return;
        }
    }
#else
    (void)lanes;
#endif
    if (normal)
        looked_up(source, floats, rows, columns, steps, normal);
    else
        picked(source, bytes, rows, columns, steps);
}

/* Values that are written past the caches lie here first: within the first of them. */
enum { ROOM = 4096 };

/* Pixels [3, rows, columns], whose channels, rows and columns are so many bytes apart, into a contiguous
 * [3, rows, columns] of float32, or of uint8 without `normal`; `late`: past the caches. */
EXPORTED void mmdata_planes(const uint8_t *source, int64_t channel, int64_t row, int64_t column, int64_t rows,
                            int64_t columns, const Normal *normal, void *into, int avx512, int late) {
    const void *ready = NULL;
#if HAS_LEVELS
    Lanes lanes;
    if (avx512) {
        prepare(&lanes, normal, 1);
        ready = &lanes;
    }
#else
    (void)avx512;
#endif
    if (!late) {
        const Steps steps = {channel, row, column, rows * columns, columns, 1, 1, 0};
        rectangle(source, into, 0, rows, columns, &steps, normal, ready);
        return;
    }
    float room[3 * ROOM];
    const Steps steps = {channel, row, column, ROOM, ROOM, 1, 1, 0};
    const int64_t item = normal ? sizeof(float) : 1;
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x += ROOM) {
            const int64_t some = columns - x < ROOM ? columns - x : ROOM;
            rectangle(source + y * row + x * column, room, 0, 1, some, &steps, normal, ready);
            for (int64_t plane = 0; plane < 3; plane++)
                past((uint8_t *)room + plane * ROOM * item,
                     (uint8_t *)into + ((plane * rows + y) * columns + x) * item, some * item);
        }
    past_end();
}

/* Frames [frames, 3, rows, columns], so many bytes apart in each, into rows of patches of `size` by `size` pixels of
 * `temporal` frames, each `length` values behind the one before: `merge` by `merge` patches follow each other, blocks of
 * them in the order of rows. A patch is [3, temporal, size, size], or [temporal, size, size, 3] with `last`. One frame
 * stands for `temporal`; else `temporal` divides them, and `size` times `merge` rows and columns. `late`: past the
 * caches, if patches are small. */
EXPORTED void mmdata_patches(const uint8_t *source, int64_t frame, int64_t channel, int64_t row, int64_t column,
                             int64_t frames, int64_t rows, int64_t columns, int64_t size, int64_t merge,
                             int64_t temporal, int last, const Normal *normal, void *into, int64_t length, int avx512,
                             int late) {
    const int64_t area = size * size, block = size * merge, values = 3 * temporal * area;
    const int64_t copies = frames == 1 ? temporal : 1, each = frames == 1 ? 1 : temporal;
    const int64_t time_apart = last ? 3 * area : area, item = normal ? sizeof(float) : 1;
    const Steps steps = {channel, row, column, last ? 1 : temporal * area, last ? 3 * size : size, last ? 3 : 1,
                         copies, time_apart};
    float room[3 * ROOM];
    const void *ready = NULL;
#if HAS_LEVELS
    Lanes lanes;
    if (avx512) {
        prepare(&lanes, normal, !last);
        ready = &lanes;
    }
#else
    (void)avx512;
#endif
    late = late && values <= 3 * ROOM;
    uint8_t *to = into;
    for (int64_t time = 0; time < frames; time += each)
        for (int64_t top = 0; top < rows; top += block)
            for (int64_t left = 0; left < columns; left += block)
                for (int64_t y = top; y < top + block; y += size)
                    for (int64_t x = left; x < left + block; x += size, to += length * item) {
                        for (int64_t k = 0; k < each; k++)
                            rectangle(source + (time + k) * frame + y * row + x * column, late ? (void *)room : to,
                                      k * time_apart, size, size, &steps, normal, ready);
                        if (late)
                            past(room, to, values * item);
                    }
    if (late)
        past_end();
}
