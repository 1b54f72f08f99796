/* A picture of JPEG a row of units at a time: values out of codes, samples out of values, pixels out of samples. */

#ifndef MMDATA_JPEG_ROWS_H
#define MMDATA_JPEG_ROWS_H

#include "jpeg_vectors.h"

#include "jpeg_blocks.h"
#include "jpeg_codes.h"
#include "jpeg_colours.h"
#include "jpeg_scans.h"

#include <stdlib.h>
#include <string.h>

/* Rows of samples of a plane. Two rows of units lie in it, for smooth chroma looks at the row above and the one below.
 */
typedef struct {
    uint8_t *samples;
    int64_t line, rows; /* bytes of a row, rows of a row of units */
} Strip;

/* What is done with a picture while it is read. */
typedef struct {
    const Work *work;
    Codestream stream;
    Strip strip[PLANES];
    int16_t *sums[2];
    Weave weave;
    int means[PLANES];
    int64_t left; /* units before a restart */
    int restart;
    int16_t blocks[6 * APART]
        __attribute__((aligned(64))); /* that wait until they are BLOCKS, and places for what ends them */
    Place places[BLOCKS];
    int waiting;
    uint8_t nowhere[VALUES];
    Values planes[PLANES]; /* of a progressive file */
} Reading;

/* Codes up to a restart have ended, and the next begin; 0 where that is not so. */
WAY static int goes_on(Reading *reading) {
    if (!restarted(&reading->stream, reading->restart))
        return 0;
    reading->restart = (reading->restart + 1) % 8;
    reading->left = reading->work->picture->interval;
    memset(reading->means, 0, sizeof reading->means);
    return 1;
}

/* Samples of the blocks that wait, whose values are zero again then. */
WAY static ALWAYS_INLINE void settle(Reading *reading) {
    if (reading->waiting < BLOCKS)
        reading->places[BLOCKS - 1] = (Place){reading->places[0].steps, reading->nowhere, SIDE};
    transform(reading->blocks, reading->places);
    memset(reading->blocks, 0, sizeof(int16_t[4 * APART]));
    reading->waiting = 0;
}

/* Makes the values of one of the blocks that lie in turn zero. */
WAY static ALWAYS_INLINE void clear(int16_t *block) {
    for (int k = 0; k < 4; k++)
        _mm256_store_si256((void *)(block + APART * k), _mm256_setzero_si256());
}

/* One block of a plane to `into`, if its samples are wanted; 1 where codes are not as they should be. */
WAY static ALWAYS_INLINE int read_one(Reading *reading, int plane, uint8_t *into, int wanted) {
    const Work *work = reading->work;
    const Picture *picture = work->picture;
    const Place place = {&picture->steps[picture->plane[plane].step_table], into, reading->strip[plane].line};
    int16_t *const block = reading->blocks + 16 * reading->waiting;
    const int last =
        read_block(&reading->stream, &work->means[work->mean_table[plane]], &work->others[work->other_table[plane]],
                   picture->places, &reading->means[plane], block);
    const int side = work->side[plane], mean = reading->means[plane];
    if (last > 0 && wanted && side == SIDE) {
        reading->places[reading->waiting++] = place;
        if (reading->waiting == BLOCKS)
            settle(reading);
        return 0;
    }
    int failed = last < 0;
    if (wanted) {
        if (side == 1)
            single(mean, &place);
        else if (side == SIDE)
            even(mean, &place, SIDE);
        else if (last > 0)
            failed = side == 4 ? reduce(block, &place, 4) : reduce(block, &place, 2);
        else {
            side == 4 ? even(mean, &place, 4) : even(mean, &place, 2);
            failed |= abs(mean) > place.steps->most[0];
        }
    }
    if (last > 0)
        clear(block);
    return failed;
}

/* The samples of a row of units; 1 where codes are not as they should be. */
WAY static ALWAYS_INLINE int read_units(Reading *reading, int64_t row, int wanted) {
    const Picture *picture = reading->work->picture;
    const int64_t across = jpeg_units_across(picture);
    for (int64_t unit = 0; unit < across; unit++) {
        if (picture->interval && !reading->left && !goes_on(reading))
            return 1;
        reading->left--;
        if (refilled(&reading->stream))
            return 1;
        for (int k = 0; k < picture->planes; k++) {
            const Plane *plane = &picture->plane[k];
            const Strip *strip = &reading->strip[k];
            const int side = reading->work->side[k];
            uint8_t *corner = strip->samples + row % 2 * strip->rows * strip->line + unit * side * plane->across;
            for (int y = 0; y < plane->down; y++, corner += side * strip->line)
                for (int x = 0; x < plane->across; x++)
                    if (read_one(reading, k, corner + side * x, wanted))
                        return 1;
        }
    }
    if (reading->waiting)
        settle(reading);
    return 0;
}

/* The same of a progressive file, whose values have all been read; 1 where some are beyond SANE. */
WAY static int make_units(Reading *reading, int64_t row) {
    const Work *work = reading->work;
    const Picture *picture = work->picture;
    for (int k = 0; k < picture->planes; k++) {
        const Plane *plane = &picture->plane[k];
        const Steps *steps = &picture->steps[plane->step_table];
        const Strip *strip = &reading->strip[k];
        const int side = work->side[k];
        const int64_t across = jpeg_units_across(picture) * plane->across;
        for (int y = 0; y < plane->down; y++) {
            uint8_t *const line = strip->samples + (row % 2 * strip->rows + y * side) * strip->line;
            for (int64_t x = 0; x < across; x += side == SIDE ? BLOCKS : 1) {
                int16_t *const block =
                    block_at(reading->planes[k].values, reading->planes[k].pairs, row * plane->down + y, x);
                Place places[2] = {{steps, line + x * side, strip->line}, {steps, line + (x + 1) * side, strip->line}};
                if (x + 1 == across)
                    places[1] = (Place){steps, reading->nowhere, SIDE};
                if (side == SIDE)
                    transform(block, places);
                else if (side == 1)
                    single(block[0], places);
                else if (side == 4 ? reduce(block, places, 4) : reduce(block, places, 2))
                    return 1;
            }
        }
    }
    return 0;
}

static const uint8_t *line_of(const Strip *strip, int64_t y) {
    return strip->samples + y % (2 * strip->rows) * strip->line;
}

/* Pixels of row `y`, whose samples and those of chroma beside it were read. */
WAY static ALWAYS_INLINE void write_row(Reading *reading, int64_t y, int wide, int tall, int channels) {
    const Work *work = reading->work;
    const int64_t width = work->width;
    uint8_t *const pixels = work->pixels + y * width * channels;
    const uint8_t *const luma = line_of(&reading->strip[0], y);
    const void *chroma[2] = {NULL, NULL};
    for (int k = 1; k < work->picture->planes; k++) {
        const Strip *strip = &reading->strip[k];
        const int64_t most = (work->height - 1) / (1 + tall), here = y / (1 + tall);
        if (!wide) {
            chroma[k - 1] = line_of(strip, y);
            continue;
        }
        int64_t other = y % 2 ? here + 1 : here - 1;
        other = other < 0 ? 0 : other > most ? most : other;
        summed(line_of(strip, here), tall ? line_of(strip, other) : NULL, (width + 1) / 2, reading->sums[k - 1]);
        chroma[k - 1] = reading->sums[k - 1];
    }
    row(&reading->weave, luma, chroma[0], chroma[1], wide, tall, width, channels, pixels);
}

WAY static void write_rows(Reading *reading, int64_t from, int64_t to) {
    const Work *work = reading->work;
    const int three = work->channels == 3;
    for (int64_t y = from; y < to; y++)
        if (!work->wide)
            three ? write_row(reading, y, 0, 0, 3) : write_row(reading, y, 0, 0, 4);
        else if (!work->tall)
            three ? write_row(reading, y, 1, 0, 3) : write_row(reading, y, 1, 0, 4);
        else
            three ? write_row(reading, y, 1, 1, 3) : write_row(reading, y, 1, 1, 4);
}

WAY static int read_rows(const Work *work) {
    const Picture *picture = work->picture;
    Reading reading = {.work = work, .left = picture->interval};
    uint8_t *room = work->room;
    Codestream *stream = &reading.stream;
    stream->data = work->data + picture->at;
    stream->end = work->data + work->size;
    stream->window = room;
    room += WINDOW + UNIT_BYTES + BESIDE;
    for (int k = 0; k < picture->planes; k++) {
        Strip *strip = &reading.strip[k];
        strip->samples = room;
        strip->line = work->side[k] * picture->plane[k].across * jpeg_units_across(picture);
        strip->rows = work->side[k] * picture->plane[k].down;
        room += 2 * strip->rows * strip->line + BESIDE;
    }
    for (int k = 0; k < 2; k++, room += jpeg_sum_bytes(picture))
        reading.sums[k] = (int16_t *)(void *)(room + BESIDE);
    prepare(&reading.weave);
    if (picture->progressive) {
        uint64_t *place = work->values;
        for (int k = 0; k < picture->planes; k++) {
            Values *const plane = &reading.planes[k];
            plane->pairs = jpeg_pairs_across(picture, k);
            const int64_t pairs = plane->pairs * jpeg_units_down(picture) * picture->plane[k].down;
            plane->some = place;
            plane->values = (int16_t *)(void *)(place + 2 * pairs);
            place = (uint64_t *)(void *)(plane->values + 2 * VALUES * pairs);
        }
        if (read_scans(work, stream, reading.planes))
            return 1;
    } else
        begin(stream);
    const int64_t side = work->side[0] * picture->down, rows = jpeg_units_down(picture);
    int64_t written = 0;
    for (int64_t row = 0; row < rows && (work->pixels || !picture->progressive); row++) {
        if (picture->progressive ? make_units(&reading, row)
            : work->pixels       ? read_units(&reading, row, 1)
                                 : read_units(&reading, row, 0))
            return 1;
        if (!work->pixels)
            continue;
        const int64_t to = row == rows - 1 ? work->height : (row + 1) * side - work->tall; /* waits for chroma below */
        write_rows(&reading, written, to);
        written = to;
    }
    if (picture->progressive)
        return 0;
    if (!stream->last)
        fill(stream);
    return !ended_well(stream) || marker(stream) != 0xd9;
}

#endif
