/* The last step of a plan: bytes of pixels into normalised floats, as planes or as rows of patches, in one pass over
 * both.
 *
 * (byte - shift) / scale has 256 values for a channel: a table of them has the bits of any other way to have them. */

#include "layout.h"
#include "past.h"

#include <math.h>
#include <string.h>

/* x / scale by the reciprocal, corrected once by what is left (Markstein, "Computation of elementary functions on the
 * IBM RISC System/6000 processor", 1990): nearly always the quotient itself, and asked for every byte before it is
 * used. */
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

static void prepare(Lanes *lanes, const Normal *normal, int planar) {
    for (int v = 0; v < 3; v++)
        for (int lane = 0; lane < LANES; lane++) {
            const int byte = planar ? 3 * lane + v : LANES * v + lane;
            lanes->byte[v][lane] = (uint8_t)byte;
            lanes->shift[v][lane] = normal ? normal->shift[byte % 3] : 0.0f;
            lanes->scale[v][lane] = normal ? normal->scale[byte % 3] : 0.0f;
            lanes->inverse[v][lane] = normal ? normal->inverse[byte % 3] : 0.0f;
        }
}

/* What there is for pixels that lie like this, and for this level; or NULL. */
static const Rectangles *rectangles(const Steps *steps, int64_t columns, const Normal *normal, int level) {
#if HAS_LEVELS
    const Rectangles *made = level >= LEVEL_AVX512 ? &layout_avx512 : level >= LEVEL_AVX2 ? &layout_avx2 : NULL;
    const int interleaved = steps->channel == 1 && steps->column == 3;
    return made && columns >= made->fewest && interleaved && (!normal || normal->mended) ? made : NULL;
#else
    (void)steps, (void)columns, (void)normal, (void)level;
    return NULL;
#endif
}

/* A rectangle of pixels, the fastest way that there is for it. */
static inline void rectangle(const uint8_t *source, void *into, int64_t at, int64_t rows, int64_t columns,
                             const Steps *steps, const Normal *normal, const Lanes *lanes, int level) {
    float *floats = (float *)into + at;
    uint8_t *bytes = (uint8_t *)into + at;
    const Rectangles *made = rectangles(steps, columns, normal, level);
    if (made && normal && steps->to_column == 1)
        made->planes(source, floats, rows, columns, steps, lanes);
    else if (made && steps->to_column == 1)
        made->parted(source, bytes, rows, columns, steps, lanes);
    else if (made && normal && steps->to_column == 3 && steps->to_channel == 1)
        made->runs(source, floats, rows, columns, steps, lanes);
    else if (normal)
        looked_up(source, floats, rows, columns, steps, normal);
    else
        picked(source, bytes, rows, columns, steps);
}

/* Values that are written past the caches lie here first: within the first of them. */
enum { ROOM = 4096 };

/* Pixels [3, rows, columns], whose channels, rows and columns are so many bytes apart, into a contiguous
 * [3, rows, columns] of float32, or of uint8 without `normal`; `late`: past the caches. */
EXPORTED void mmdata_planes(const uint8_t *source, int64_t channel, int64_t row, int64_t column, int64_t rows,
                            int64_t columns, const Normal *normal, void *into, int level, int late) {
    Lanes lanes;
    prepare(&lanes, normal, 1);
    if (!late) {
        const Steps steps = {channel, row, column, rows * columns, columns, 1, 1, 0};
        rectangle(source, into, 0, rows, columns, &steps, normal, &lanes, level);
        return;
    }
    float room[3 * ROOM];
    const Steps steps = {channel, row, column, ROOM, ROOM, 1, 1, 0};
    const int64_t item = normal ? sizeof(float) : 1;
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x += ROOM) {
            const int64_t some = columns - x < ROOM ? columns - x : ROOM;
            rectangle(source + y * row + x * column, room, 0, 1, some, &steps, normal, &lanes, level);
            for (int64_t plane = 0; plane < 3; plane++)
                past((uint8_t *)room + plane * ROOM * item,
                     (uint8_t *)into + ((plane * rows + y) * columns + x) * item, some * item);
        }
    past_end();
}

/* Frames [frames, 3, rows, columns], so many bytes apart in each, into rows of patches of `size` by `size` pixels of
 * `temporal` frames, each `length` values behind the one before: `merge` by `merge` patches follow each other, blocks
 * of them in the order of rows. A patch is [3, temporal, size, size], or [temporal, size, size, 3] with `last`. One
 * frame stands for `temporal`; else `temporal` divides them, and `size` times `merge` rows and columns. `late`: past
 * the caches, if patches are small. */
EXPORTED void mmdata_patches(const uint8_t *source, int64_t frame, int64_t channel, int64_t row, int64_t column,
                             int64_t frames, int64_t rows, int64_t columns, int64_t size, int64_t merge,
                             int64_t temporal, int last, const Normal *normal, void *into, int64_t length, int level,
                             int late) {
    const int64_t area = size * size, block = size * merge, values = 3 * temporal * area;
    const int64_t copies = frames == 1 ? temporal : 1, each = frames == 1 ? 1 : temporal;
    const int64_t time_apart = last ? 3 * area : area, item = normal ? sizeof(float) : 1;
    const Steps steps = {channel, row, column, last ? 1 : temporal * area, last ? 3 * size : size, last ? 3 : 1,
                         copies, time_apart};
    float room[3 * ROOM];
    Lanes lanes;
    prepare(&lanes, normal, !last);
    late = late && values <= 3 * ROOM;
    uint8_t *to = into;
    for (int64_t time = 0; time < frames; time += each)
        for (int64_t top = 0; top < rows; top += block)
            for (int64_t left = 0; left < columns; left += block)
                for (int64_t y = top; y < top + block; y += size)
                    for (int64_t x = left; x < left + block; x += size, to += length * item) {
                        for (int64_t k = 0; k < each; k++)
                            rectangle(source + (time + k) * frame + y * row + x * column, late ? (void *)room : to,
                                      k * time_apart, size, size, &steps, normal, &lanes, level);
                        if (late)
                            past(room, to, values * item);
                    }
    if (late)
        past_end();
}
