/* The sums by which frames of FLAC and their headers are checked: remainders of polynomials, the highest bit first. */

#ifndef MMDATA_FLAC_SUMS_H
#define MMDATA_FLAC_SUMS_H

#include <string.h>

#include "flac.h"

static WAY unsigned sum8(const uint8_t *bytes, int64_t count) {
    unsigned sum = 0;
    for (; count; count--) {
        sum ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            sum = (sum << 1 ^ (sum & 0x80 ? 0x107 : 0)) & 0xff;
    }
    return sum;
}

static WAY unsigned summed(const Sums sums, const uint8_t *bytes, int64_t count) {
    unsigned sum = 0;
    for (; count >= 8; count -= 8, bytes += 8)
        sum = sums[7][bytes[0] ^ sum >> 8] ^ sums[6][bytes[1] ^ (sum & 255)] ^ sums[5][bytes[2]] ^ sums[4][bytes[3]] ^
              sums[3][bytes[4]] ^ sums[2][bytes[5]] ^ sums[1][bytes[6]] ^ sums[0][bytes[7]];
    for (; count; count--)
        sum = (sum << 8 & 0xffff) ^ sums[0][*bytes++ ^ sum >> 8];
    return sum;
}

#ifdef FOLDED

/* Sixteen bytes that stand before sixteen others are their halves times x^192 and x^128, or times the remainders of
 * these: so they are added to the others, and the sum of what comes out is taken from the table. */
static WAY unsigned sum16(const Sums sums, const uint8_t *bytes, int64_t count) {
    static const uint8_t one[23] = {1};
    if (count < 32)
        return summed(sums, bytes, count);
    const __m128i back = _mm_setr_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m128i powers = _mm_set_epi64x(summed(sums, one, 23), summed(sums, one, 15));
    __m128i sum = _mm_shuffle_epi8(_mm_loadu_si128((const void *)bytes), back);
    for (count -= 16, bytes += 16; count >= 16; count -= 16, bytes += 16) {
        const __m128i next = _mm_shuffle_epi8(_mm_loadu_si128((const void *)bytes), back);
        const __m128i high = _mm_clmulepi64_si128(sum, powers, 0x11), low = _mm_clmulepi64_si128(sum, powers, 0x00);
        sum = _mm_xor_si128(_mm_xor_si128(high, low), next);
    }
    uint8_t left[32];
    _mm_storeu_si128((void *)left, _mm_shuffle_epi8(sum, back));
    memcpy(left + 16, bytes, (size_t)count);
    return summed(sums, left, 16 + count);
}

#else

static WAY unsigned sum16(const Sums sums, const uint8_t *bytes, int64_t count) { return summed(sums, bytes, count); }

#endif

#endif
