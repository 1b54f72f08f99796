/* Values of JPEG's blocks out of their codes, a window of the file's bytes at a time. */

#ifndef MMDATA_JPEG_CODES_H
#define MMDATA_JPEG_CODES_H

#include "jpeg.h"
#include "jpeg_vectors.h"

#include <string.h>

/* The codes of a scan, or of what lies between two restarts: bytes of the file without the zeros that follow 255. */
typedef struct {
    const uint8_t *data, *end; /* of the file, from what is not in the window yet */
    uint8_t *window;           /* WINDOW + UNIT_BYTES + 64 bytes */
    const uint8_t *at;         /* the byte that is read next */
    const uint8_t *filled;
    const uint8_t *enough; /* up to here a whole unit lies in the window */
    uint64_t bits;         /* the next ones from the highest on, `count` of them and perhaps more */
    unsigned count;
    int last; /* the window ends with the codes */
} Codestream;

/* Moves what was not read to the front, and fills the window up to its end or to a marker. */
WAY static void fill(Codestream *stream) {
    const __m256i ones = _mm256_set1_epi8(-1);
    const size_t left = (size_t)(stream->filled - stream->at);
    uint8_t *into = stream->window + left;
    memmove(stream->window, stream->at, left);
    stream->at = stream->window;
    const uint8_t *from = stream->data;
    while (into - stream->window < WINDOW && !stream->last) {
        if (stream->end - from >= 32) {
            const __m256i bytes = _mm256_loadu_si256((const void *)from);
            const unsigned found = (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, ones));
            _mm256_storeu_si256((void *)into, bytes);
            if (!found) {
                from += 32;
                into += 32;
                continue;
            }
            const unsigned before = (unsigned)_tzcnt_u32(found);
            from += before;
            into += before;
        }
        if (from == stream->end)
            stream->last = 1;
        else if (*from != 255)
            *into++ = *from++;
        else if (stream->end - from >= 2 && from[1] == 0) {
            *into++ = 255;
            from += 2;
        } else
            stream->last = 1;
    }
    stream->data = from;
    stream->filled = into;
    memset(into, 0, UNIT_BYTES); /* What is read of these is found at the end. */
    stream->enough = stream->last ? into : into - UNIT_BYTES;
}

WAY static void begin(Codestream *stream) {
    stream->at = stream->filled = stream->window;
    stream->bits = stream->count = 0;
    stream->last = 0;
    fill(stream);
}

/* Whether the codes ended where their bytes do, but for the bits that fill the last one. */
WAY static int ended_well(const Codestream *stream) {
    const int64_t left = 8 * (stream->filled - stream->at) + stream->count;
    return stream->last && left >= 0 && left < 8;
}

/* The byte that follows 255 where the window ends, 0 where the file does. */
static int marker(const Codestream *stream) {
    return stream->end - stream->data < 2 || stream->data[0] != 255 ? 0 : stream->data[1];
}

/* Goes on behind a restart of this number; 0 where there is none. */
WAY static int restarted(Codestream *stream, int number) {
    if (!stream->last)
        fill(stream);
    if (!ended_well(stream) || marker(stream) != 0xd0 + number)
        return 0;
    stream->data += 2;
    begin(stream);
    return 1;
}

/* Sees to it that the codes of a unit lie in the window; 1 where they have ended before. */
WAY static ALWAYS_INLINE int refilled(Codestream *stream) {
    if (stream->at <= stream->enough)
        return 0;
    if (stream->last)
        return stream->at > stream->filled + 8;
    fill(stream);
    return 0;
}

/* The entry of the next code, which is not in a table or is not looked for there; 0 where there is none. */
WAY static Entry any_code(const Codes *codes, uint64_t bits, Kind kind) {
    const uint32_t next = (uint32_t)(bits >> 48);
    for (int length = 1; length <= 16; length++)
        if (next < codes->above[length])
            return jpeg_entry(codes->symbols[codes->place[length] + (int32_t)(next >> (16 - length))], length, kind);
    return 0;
}

/* The value behind a code: bits of which the highest is 1 are the value, others the complement of a negative one. */
WAY static ALWAYS_INLINE int valued(uint64_t bits, Entry entry) {
    const uint64_t begun = bits << (entry >> 8 & 63);
    const int64_t negative = ~((int64_t)begun >> 63);
    const int64_t size = (int64_t)((begun ^ (uint64_t)negative) >> 1 >> (63 - (entry >> 16 & 63)));
    return (int)((size ^ negative) - negative);
}

/* At least 56 bits are there behind this. */
#define REFILL                                                                                                         \
    do {                                                                                                               \
        uint64_t more;                                                                                                 \
        memcpy(&more, at, 8);                                                                                          \
        bits |= __builtin_bswap64(more) >> count;                                                                      \
        at += (63 - count) >> 3;                                                                                       \
        count |= 56;                                                                                                   \
    } while (0)

/* One or two values after the mean; the second time behind a refill is sure to have its bits too. Where a pair reaches
 * the last place with its first value, the second is the next block's. */
#define NEXT_VALUES                                                                                                    \
    do {                                                                                                               \
        const uint64_t pair = pairs[bits >> rest];                                                                     \
        const unsigned one = k + (pair >> 8 & 255), two = one + (pair >> 16 & 255);                                    \
        if (__builtin_expect((uint32_t)pair && (one != VALUES - 1 || two == one), 1)) {                                \
            block[places[two]] = (int16_t)(pair >> 48);                                                                \
            block[places[one]] = (int16_t)(pair >> 32);                                                                \
            k = two;                                                                                                   \
            bits <<= pair & 63;                                                                                        \
            count -= pair & 63;                                                                                        \
        } else {                                                                                                       \
            entry = (uint32_t)pair ? 0 : (Entry)(pair >> 32);                                                          \
            if (!entry && !(entry = any_code(&others->codes, bits, OTHERS)))                                           \
                return -1;                                                                                             \
            k += entry >> 24;                                                                                          \
            block[places[k]] = (int16_t)valued(bits, entry);                                                           \
            bits <<= entry & 63;                                                                                       \
            count -= entry & 63;                                                                                       \
        }                                                                                                              \
    } while (0)

/* Values of the next block, which were zero, at their places; `mean` is that of the block before. Answers the place of
 * the last value, 0 with a mean alone, or -1 where codes are not as they should be. */
WAY static ALWAYS_INLINE int read_block(Codestream *stream, const Means *means, const Others *others,
                                        const uint8_t *places, int *mean, int16_t *block) {
    uint64_t bits = stream->bits;
    unsigned count = stream->count;
    const uint8_t *at = stream->at;
    const uint64_t *const pairs = others->pairs;
    const unsigned rest = others->rest;
    REFILL;
    Entry entry = means->entries[bits >> means->rest];
    if (__builtin_expect(!entry, 0) && !(entry = any_code(&means->codes, bits, MEANS)))
        return -1;
    *mean += valued(bits, entry);
    if (__builtin_expect(*mean != (int16_t)*mean, 0))
        return -1;
    block[0] = (int16_t)*mean;
    bits <<= entry & 63;
    count -= entry & 63;
    unsigned k = 0;
    NEXT_VALUES;
    while (k < VALUES - 1) {
        REFILL;
        NEXT_VALUES;
        if (k >= VALUES - 1)
            break;
        NEXT_VALUES;
    }
    stream->bits = bits;
    stream->count = count;
    stream->at = at;
    k = k < ENDS ? k : k - ENDS < VALUES - 1 ? k - ENDS : VALUES;
    return k < VALUES ? (int)k : -1;
}

#endif
