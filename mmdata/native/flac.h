/* What the levels of reading FLAC share. */

#ifndef MMDATA_FLAC_H
#define MMDATA_FLAC_H

#include "native.h"

/* What STREAMINFO says, and where the next frame begins: its byte, its first sample, and whether frames of this file
 * are numbered by samples (-1 before the first). As native/flac.py has it. */
typedef struct {
    int64_t rate, channels, bits, least, most, samples;
    int64_t byte, sample, by_samples;
} Stream;

/* Remainders of a byte and what follows it (none to 7 bytes) by x^16 + x^15 + x^2 + 1. */
typedef uint16_t Sums[8][256];

/* As mmdata_flac has it, with room for the samples of a frame. */
typedef struct {
    const uint8_t *data;
    int64_t size;
    Stream *stream;
    int64_t first, count;
    float *out;
    int mono;
    const uint16_t (*sums)[256];
    int32_t *room;
} Reading;

int flac_avx2(const Reading *reading);

#endif
