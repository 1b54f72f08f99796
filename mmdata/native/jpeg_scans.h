/* The scans of a progressive JPEG: all values of all its blocks, some and some bits of them at a time (ITU T.81, annex
 * G). */

#ifndef MMDATA_JPEG_SCANS_H
#define MMDATA_JPEG_SCANS_H

#include "jpeg_codes.h"
#include "jpeg_vectors.h"

#include <string.h>

/* One scan while it is read. */
typedef struct {
    const Picture *picture;
    Codestream *stream;
    Means *tables;       /* of means by plane, or one of later values */
    int means[PLANES];   /* of the means before */
    int64_t left;        /* units before a restart */
    int restart, ending; /* blocks that have no more codes */
    uint64_t range;      /* bits of the scan's places */
} Pass;

/* Values of a block, and which places have one that is not zero. */
typedef struct {
    int16_t *values;
    uint64_t *some;
} Block;

/* Where the values of a block lie: pairs of neighbours in turn, row by row. */
static ALWAYS_INLINE int16_t *block_at(int16_t *plane, int64_t pairs, int64_t y, int64_t x) {
    return plane + (y * pairs + x / 2) * 4 * APART + x % 2 * 16;
}

static ALWAYS_INLINE Block block_of(const Values *plane, int64_t y, int64_t x) {
    return (Block){block_at(plane->values, plane->pairs, y, x), plane->some + 2 * y * plane->pairs + x};
}

/* The bits of a mean, or one more of them; 1 where codes are not as they should be. */
WAY static ALWAYS_INLINE int read_mean(Pass *pass, const Means *table, int *mean, int16_t *block) {
    const Scan *scan = &pass->picture->scan;
    Codestream *stream = pass->stream;
    uint64_t bits = stream->bits;
    unsigned count = stream->count, used = 1;
    const uint8_t *at = stream->at;
    REFILL;
    if (scan->high)
        block[0] = (int16_t)(block[0] | (int)(bits >> 63) << scan->low);
    else {
        Entry entry = table->entries[bits >> table->rest];
        if (!entry && !(entry = any_code(&table->codes, bits, MEANS)))
            return 1;
        *mean += valued(bits, entry);
        if (*mean != (int16_t)*mean)
            return 1;
        block[0] = (int16_t)(uint16_t)((unsigned)*mean << scan->low);
        used = entry & 63;
    }
    stream->bits = bits << used;
    stream->count = count - used;
    stream->at = at;
    return 0;
}

/* The first bits of some later values; 1 where codes are not as they should be. */
WAY static ALWAYS_INLINE int read_later(Pass *pass, const Means *table, Block block) {
    const Scan *scan = &pass->picture->scan;
    const uint8_t *const places = pass->picture->places;
    Codestream *stream = pass->stream;
    if (pass->ending) {
        pass->ending--;
        return 0;
    }
    uint64_t bits = stream->bits;
    unsigned count = stream->count;
    const uint8_t *at = stream->at;
    uint64_t some = *block.some;
    for (int k = scan->first; k <= scan->last; k++) {
        REFILL;
        Entry entry = table->entries[bits >> table->rest];
        if (!entry && !(entry = any_code(&table->codes, bits, LATER)))
            return 1;
        const int run = (int)(entry >> 24);
        k += run;
        if (entry >> 16 & 255) {
            if (k > scan->last)
                return 1;
            block.values[places[k]] = (int16_t)(uint16_t)((unsigned)valued(bits, entry) << scan->low);
            some |= (uint64_t)1 << k;
        } else if (run < 15) {
            bits <<= entry & 63;
            count -= entry & 63;
            pass->ending = (1 << run) - 1;
            if (run) {
                pass->ending += (int)(bits >> (64 - run));
                bits <<= run;
                count -= (unsigned)run;
            }
            break;
        }
        bits <<= entry & 63;
        count -= entry & 63;
    }
    *block.some = some;
    stream->bits = bits;
    stream->count = count;
    stream->at = at;
    return 0;
}

/* One more bit of each value at `which` places, in their order. */
#define CORRECT(which)                                                                                                 \
    do {                                                                                                               \
        uint64_t left = which;                                                                                         \
        for (unsigned all = (unsigned)_mm_popcnt_u64(left), few; all; all -= few) {                                    \
            REFILL;                                                                                                    \
            few = all < 56 ? all : 56;                                                                                 \
            const uint64_t later = _pdep_u64(~(uint64_t)0 << few, left);                                               \
            /* The first bit is that of the first place. */                                                            \
            uint64_t told = bits >> (64 - few) << (64 - few);                                                          \
            bits <<= few;                                                                                              \
            count -= few;                                                                                              \
            for (; told; told <<= 1) {                                                                                 \
                const unsigned before = (unsigned)_lzcnt_u64(told);                                                    \
                for (unsigned k = 0; k < before; k++)                                                                  \
                    left &= left - 1;                                                                                  \
                int16_t *const value = block.values + places[_tzcnt_u64(left)];                                        \
                if (!(*value & plus))                                                                                  \
                    *value = (int16_t)(*value + (*value >= 0 ? plus : -plus));                                         \
                left &= left - 1;                                                                                      \
                told <<= before;                                                                                       \
            }                                                                                                          \
            left = later;                                                                                              \
        }                                                                                                              \
    } while (0)

/* One more bit of some later values, and those of which it is the first; 1 where codes are not as they should be. */
WAY static ALWAYS_INLINE int refine_later(Pass *pass, const Means *table, Block block) {
    const Scan *scan = &pass->picture->scan;
    const uint8_t *const places = pass->picture->places;
    Codestream *stream = pass->stream;
    uint64_t bits = stream->bits, some = *block.some & pass->range, now = some;
    unsigned count = stream->count;
    const uint8_t *at = stream->at;
    const int plus = 1 << scan->low;
    uint64_t rest = pass->range; /* places that have not been passed */
    while (!pass->ending && rest) {
        REFILL;
        Entry entry = table->entries[bits >> table->rest];
        if (!entry && !(entry = any_code(&table->codes, bits, LATER)))
            return 1;
        const unsigned size = entry >> 16 & 255, run = entry >> 24;
        int value = 0;
        bits <<= entry >> 8 & 63;
        count -= entry >> 8 & 63;
        if (size > 1)
            return 1;
        if (size) {
            value = (int64_t)bits < 0 ? plus : -plus;
            bits <<= 1;
            count--;
        } else if (run < 15) {
            pass->ending = 1 << run;
            if (run) {
                pass->ending += (int)(bits >> (64 - run));
                bits <<= run;
                count -= run;
            }
            break;
        }
        /* The place after so many zeros is passed, and whatever lies before it. */
        const uint64_t place = _pdep_u64((uint64_t)1 << run, rest & ~some);
        const uint64_t passed = rest & (place ^ (place - 1));
        CORRECT(passed & some);
        rest &= ~passed;
        if (value) {
            if (!place)
                return 1;
            block.values[places[_tzcnt_u64(place)]] = (int16_t)value;
            now |= place;
        }
    }
    if (pass->ending) {
        CORRECT(rest & some);
        pass->ending--;
    }
    *block.some |= now;
    stream->bits = bits;
    stream->count = count;
    stream->at = at;
    return 0;
}

/* Codes up to a restart have ended, and the next begin; 0 where that is not so. */
WAY static int passes_restart(Pass *pass) {
    if (!restarted(pass->stream, pass->restart) || pass->ending)
        return 0;
    pass->restart = (pass->restart + 1) % 8;
    pass->left = pass->picture->interval;
    memset(pass->means, 0, sizeof pass->means);
    return 1;
}

/* The codes of a scan for all its blocks; 1 where they are not as they should be. */
WAY static int read_pass(Pass *pass, const Values *planes) {
    const Picture *picture = pass->picture;
    const Scan *scan = &picture->scan;
    Codestream *stream = pass->stream;
    const int single = scan->planes == 1, only = scan->plane[0];
    /* Of one plane the blocks that hold pixels are coded, of several whole units. */
    const int64_t wide =
        single ? (picture->width * picture->plane[only].across + picture->across - 1) / picture->across : 0;
    const int64_t tall = single ? (picture->height * picture->plane[only].down + picture->down - 1) / picture->down : 0;
    const int64_t across = single ? (wide + SIDE - 1) / SIDE : jpeg_units_across(picture);
    const int64_t down = single ? (tall + SIDE - 1) / SIDE : jpeg_units_down(picture);
    for (int64_t y = 0; y < down; y++)
        for (int64_t x = 0; x < across; x++) {
            if (picture->interval && !pass->left && !passes_restart(pass))
                return 1;
            pass->left--;
            if (refilled(stream))
                return 1;
            if (single) {
                const Block block = block_of(&planes[only], y, x);
                if (!scan->first ? read_mean(pass, &pass->tables[0], &pass->means[0], block.values)
                    : scan->high ? refine_later(pass, &pass->tables[0], block)
                                 : read_later(pass, &pass->tables[0], block))
                    return 1;
                continue;
            }
            for (int k = 0; k < scan->planes; k++) {
                const int number = scan->plane[k];
                const Plane *plane = &picture->plane[number];
                for (int block = 0; block < plane->across * plane->down; block++)
                    if (read_mean(pass, &pass->tables[k], &pass->means[k],
                                  block_of(&planes[number], y * plane->down + block / plane->across,
                                           x * plane->across + block % plane->across)
                                      .values))
                        return 1;
            }
        }
    if (!stream->last)
        fill(stream);
    return !ended_well(stream) || pass->ending;
}

/* All scans, of which each must go on where those before it ended, and which leave no bit out: of less libjpeg-turbo
 * makes what it guesses. 1 where that is not so. */
WAY static int read_scans(const Work *work, Codestream *stream, const Values *planes) {
    Picture *picture = work->picture;
    int8_t left[PLANES][VALUES];
    memset(left, -1, sizeof left);
    for (int found = 0; found >= 0;) {
        const Scan *scan = &picture->scan;
        Pass pass = {.picture = picture, .stream = stream, .tables = work->means, .left = picture->interval};
        pass.range = ~(uint64_t)0 >> (VALUES - 1 - scan->last) & ~(uint64_t)0 << scan->first;
        for (int k = 0; k < scan->planes; k++) {
            int8_t *const plane = left[scan->plane[k]];
            for (int value = scan->first; value <= scan->last; value++) {
                if (plane[value] != (scan->high ? scan->high : -1) || (scan->first && plane[0] < 0))
                    return 1;
                plane[value] = (int8_t)scan->low;
            }
            if (!scan->first && !scan->high &&
                jpeg_means(&picture->means[scan->means[k]], MEANS, LOOK - 2, &work->means[k]))
                return 1;
        }
        if (scan->first && jpeg_means(&picture->others[scan->others[0]], LATER, LOOK - 1, &work->means[0]))
            return 1;
        stream->data = work->data + picture->at;
        begin(stream);
        if (read_pass(&pass, planes))
            return 1;
        picture->at = stream->data - work->data;
        found = jpeg_next(work->data, work->size, picture);
        if (found > 0)
            return 1;
    }
    for (int k = 0; k < picture->planes; k++)
        for (int value = 0; value < VALUES; value++)
            if (left[k][value])
                return 1;
    return 0;
}

#endif
