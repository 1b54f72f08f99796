/* Bits of a FLAC frame, the highest of each byte first: single values, and residuals in Rice codes.
 *
 * Behind the end of the file come zeros; who reads there is told by `ended`, once a frame. */

#ifndef MMDATA_FLAC_BITS_H
#define MMDATA_FLAC_BITS_H

#include "flac.h"

#ifndef ALWAYS_INLINE
#define ALWAYS_INLINE inline
#endif

typedef struct {
    const uint8_t *data;
    int64_t size; /* in bytes */
    int64_t at;   /* in bits */
} Bits;

/* Bits that are there of 64 which were read at a byte and shifted to begin within it. */
enum { SURE = 57 };

/* Zeros above the highest one, 64 of zero. */
static WAY ALWAYS_INLINE unsigned zeros_of(uint64_t value) {
#if defined(LZCNT)
    return (unsigned)LZCNT(value);
#elif defined(__GNUC__) || defined(__clang__)
    return value ? (unsigned)__builtin_clzll(value) : 64;
#else
    unsigned zeros = 0;
    for (; zeros < 64 && !(value >> 63); value <<= 1)
        zeros++;
    return zeros;
#endif
}

static WAY ALWAYS_INLINE uint64_t eight(const uint8_t *bytes) {
    return (uint64_t)bytes[0] << 56 | (uint64_t)bytes[1] << 48 | (uint64_t)bytes[2] << 40 | (uint64_t)bytes[3] << 32 |
           (uint64_t)bytes[4] << 24 | (uint64_t)bytes[5] << 16 | (uint64_t)bytes[6] << 8 | bytes[7];
}

/* The next bits, of which `SURE` are there. */
static WAY ALWAYS_INLINE uint64_t peek(const Bits *bits) {
    const int64_t byte = bits->at >> 3;
    uint64_t found = 0;
    if (byte + 8 <= bits->size)
        found = eight(bits->data + byte);
    else
        for (int64_t at = byte; at < bits->size; at++)
            found |= (uint64_t)bits->data[at] << (56 - 8 * (at - byte));
    return found << (bits->at & 7);
}

/* The next 64 bits, where 9 bytes are there. */
static WAY ALWAYS_INLINE uint64_t peek_all(const Bits *bits) {
    const uint8_t *const byte = bits->data + (bits->at >> 3);
    return eight(byte) << (bits->at & 7) | byte[8] >> (8 - (bits->at & 7));
}

static WAY ALWAYS_INLINE int ended(const Bits *bits) { return bits->at > 8 * bits->size; }

/* The next 1 to `SURE` bits. */
static WAY ALWAYS_INLINE uint64_t take(Bits *bits, unsigned count) {
    const uint64_t found = peek(bits) >> (64 - count);
    bits->at += count;
    return found;
}

/* The same of two's complement; `count` is at most 32. */
static WAY ALWAYS_INLINE int32_t take_signed(Bits *bits, unsigned count) {
    const int64_t found = (int64_t)take(bits, count);
    return (int32_t)(found - ((found >> (count - 1)) << count));
}

/* Zeros before the next one, which is passed too. */
static WAY int64_t take_zeros(Bits *bits) {
    int64_t zeros = 0;
    while (!ended(bits)) {
        const uint64_t next = peek(bits) >> (64 - SURE) << (64 - SURE);
        if (next) {
            const unsigned more = zeros_of(next);
            bits->at += more + 1;
            return zeros + more;
        }
        zeros += SURE;
        bits->at += SURE;
    }
    return zeros;
}

static WAY ALWAYS_INLINE int32_t unfolded(uint64_t value) {
    return (int32_t)((uint32_t)(value >> 1) ^ -(uint32_t)(value & 1));
}

/* Parameters up to here have no code of `SURE` bits whose value is beyond 31 bits. */
enum { SMALL_PARAMETER = 25 };

/* One residual, folded (0, -1, 1, -2, ...); all ones where it has more than 63 bits. `parameter` is at most 30. */
static WAY ALWAYS_INLINE uint64_t take_folded(Bits *bits, unsigned parameter) {
    const uint64_t next = peek(bits);
    const unsigned zeros = zeros_of(next), length = zeros + parameter + 1;
    if (length <= SURE) {
        bits->at += length;
        return (next >> (64 - length)) + (((uint64_t)zeros - 1) << parameter);
    }
    const uint64_t high = (uint64_t)take_zeros(bits);
    const uint64_t low = parameter ? take(bits, parameter) : 0;
    return high >> 32 ? ~(uint64_t)0 : high << parameter | low;
}

#endif
