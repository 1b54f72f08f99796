/* Rows of luma and chroma to rows of pixels: libjpeg-turbo's smooth enlargement of chroma, and its conversion to RGB.
 */

#ifndef MMDATA_JPEG_COLOURS_H
#define MMDATA_JPEG_COLOURS_H

#include "jpeg.h"
#include "jpeg_vectors.h"

#include <string.h>

enum { PIXELS = BYTES, MOST_BYTES = 4 * PIXELS }; /* at once */

#ifdef WIDE

/* Where the bytes of a row's pixels lie: of each third of them, those of red and green in both, and those of blue. */
typedef struct {
    Vector two[PLANES], third[PLANES];
    __mmask64 of_third[PLANES];
} Weave;

/* Of a channel's bytes, which come as even pixels and odd ones of sixteen. */
static uint8_t byte_of(int pixel) { return (uint8_t)(pixel / 16 * 16 + pixel % 16 / 2 + pixel % 2 * 8); }

WAY static void prepare(Weave *weave) {
    for (int part = 0; part < PLANES; part++) {
        uint8_t two[BYTES] = {0}, third[BYTES] = {0};
        weave->of_third[part] = 0;
        for (int byte = 0; byte < BYTES; byte++) {
            const int pixel = (BYTES * part + byte) / PLANES, channel = (BYTES * part + byte) % PLANES;
            two[byte] = (uint8_t)(byte_of(pixel) + (channel == 1 ? BYTES : 0));
            third[byte] = byte_of(pixel);
            weave->of_third[part] |= (uint64_t)(channel == 2) << byte;
        }
        weave->two[part] = LOAD(two);
        weave->third[part] = LOAD(third);
    }
}

/* Pixels of which these are bytes of red, green and blue, in each sixteen even ones before odd ones. */
WAY static ALWAYS_INLINE void woven(const Weave *weave, const Vector *colours, int channels, uint8_t *into) {
    if (channels == 4) {
        const Vector full = ALL(set1_epi8)(-1);
        const Vector even[2] = {ALL(unpacklo_epi8)(colours[0], colours[1]), ALL(unpacklo_epi8)(colours[2], full)};
        const Vector odd[2] = {ALL(unpackhi_epi8)(colours[0], colours[1]), ALL(unpackhi_epi8)(colours[2], full)};
        Vector four[4]; /* pixels 4k to 4k + 3 of each sixteen */
        for (int k = 0; k < 2; k++) {
            const Vector evens = k ? ALL(unpackhi_epi16)(even[0], even[1]) : ALL(unpacklo_epi16)(even[0], even[1]);
            const Vector odds = k ? ALL(unpackhi_epi16)(odd[0], odd[1]) : ALL(unpacklo_epi16)(odd[0], odd[1]);
            four[2 * k] = ALL(unpacklo_epi32)(evens, odds);
            four[2 * k + 1] = ALL(unpackhi_epi32)(evens, odds);
        }
        const Vector low[2] = {_mm512_shuffle_i32x4(four[0], four[1], 0x44),
                               _mm512_shuffle_i32x4(four[2], four[3], 0x44)};
        const Vector high[2] = {_mm512_shuffle_i32x4(four[0], four[1], 0xee),
                                _mm512_shuffle_i32x4(four[2], four[3], 0xee)};
        STORE(into, _mm512_shuffle_i32x4(low[0], low[1], 0x88));
        STORE(into + 64, _mm512_shuffle_i32x4(low[0], low[1], 0xdd));
        STORE(into + 128, _mm512_shuffle_i32x4(high[0], high[1], 0x88));
        STORE(into + 192, _mm512_shuffle_i32x4(high[0], high[1], 0xdd));
        return;
    }
    for (int part = 0; part < PLANES; part++) {
        const Vector two = _mm512_permutex2var_epi8(colours[0], weave->two[part], colours[1]);
        STORE(into + BYTES * part,
              _mm512_mask_permutexvar_epi8(two, weave->of_third[part], weave->third[part], colours[2]));
    }
}

#else

/* Places of a channel's bytes, which come as even pixels and odd ones of sixteen, among three such sixteens of RGB. */
typedef struct {
    __m256i places[PLANES], taken[PLANES];
} Weave;

WAY static void prepare(Weave *weave) {
    for (int channel = 0; channel < PLANES; channel++) {
        uint8_t places[16], taken[16];
        for (int pixel = 0; pixel < 16; pixel++) {
            places[(PLANES * pixel + channel) % 16] = (uint8_t)(pixel / 2 + pixel % 2 * 8);
            taken[pixel] = pixel % PLANES == channel ? 255 : 0;
        }
        weave->places[channel] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)places));
        weave->taken[channel] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)taken));
    }
}

/* Pixels of which these are bytes of red, green and blue, in each half even ones before odd ones. */
WAY static ALWAYS_INLINE void woven(const Weave *weave, const __m256i *colours, int channels, uint8_t *into) {
    if (channels == 4) {
        const __m256i full = _mm256_set1_epi8(-1);
        const __m256i even[2] = {_mm256_unpacklo_epi8(colours[0], colours[1]), _mm256_unpacklo_epi8(colours[2], full)};
        const __m256i odd[2] = {_mm256_unpackhi_epi8(colours[0], colours[1]), _mm256_unpackhi_epi8(colours[2], full)};
        const __m256i evens[2] = {_mm256_unpacklo_epi16(even[0], even[1]), _mm256_unpackhi_epi16(even[0], even[1])};
        const __m256i odds[2] = {_mm256_unpacklo_epi16(odd[0], odd[1]), _mm256_unpackhi_epi16(odd[0], odd[1])};
        for (int k = 0; k < 2; k++) {
            const __m256i low = _mm256_unpacklo_epi32(evens[k], odds[k]);
            const __m256i high = _mm256_unpackhi_epi32(evens[k], odds[k]);
            _mm_storeu_si128((void *)(into + 32 * k), _mm256_castsi256_si128(low));
            _mm_storeu_si128((void *)(into + 32 * k + 16), _mm256_castsi256_si128(high));
            _mm_storeu_si128((void *)(into + 32 * k + 64), _mm256_extracti128_si256(low, 1));
            _mm_storeu_si128((void *)(into + 32 * k + 80), _mm256_extracti128_si256(high, 1));
        }
        return;
    }
    __m256i placed[PLANES], made[PLANES];
    for (int k = 0; k < PLANES; k++)
        placed[k] = _mm256_shuffle_epi8(colours[k], weave->places[k]);
    for (int k = 0; k < PLANES; k++) {
        const __m256i two = _mm256_blendv_epi8(placed[k], placed[(k + 1) % PLANES], weave->taken[1]);
        made[k] = _mm256_blendv_epi8(two, placed[(k + 2) % PLANES], weave->taken[2]);
    }
    _mm256_storeu_si256((void *)into, _mm256_permute2x128_si256(made[0], made[1], 0x20));
    _mm256_storeu_si256((void *)(into + 32), _mm256_permute2x128_si256(made[2], made[0], 0x30));
    _mm256_storeu_si256((void *)(into + 64), _mm256_permute2x128_si256(made[1], made[2], 0x31));
}

#endif

/* Half of PIXELS pixels of luma and of chroma less 128, each int16. Red is luma + 1.40200 Cr, green luma - 0.34414 Cb -
 * 0.71414 Cr, blue luma + 1.77200 Cb, each part rounded from 16 bits of fraction; what is above a whole or below a half
 * of the factors is added or halved, so that they are int16. */
WAY static ALWAYS_INLINE void mixed(Vector luma, Vector blue, Vector red, Vector *colours) {
    const Vector one = ALL(set1_epi16)(1), half = ALL(set1_epi32)(1 << 15);
    const Vector redder = ALL(mulhi_epi16)(ALL(add_epi16)(red, red), ALL(set1_epi16)(26345));
    colours[0] = ALL(add_epi16)(ALL(add_epi16)(luma, red), ALL(srai_epi16)(ALL(add_epi16)(redder, one), 1));
    const Vector factors = ALL(set1_epi32)((int32_t)(18734u << 16 | (uint16_t)-22554));
    const Vector low = ALL(madd_epi16)(ALL(unpacklo_epi16)(blue, red), factors);
    const Vector high = ALL(madd_epi16)(ALL(unpackhi_epi16)(blue, red), factors);
    const Vector greener = ALL(packs_epi32)(ALL(srai_epi32)(ALL(add_epi32)(low, half), 16),
                                            ALL(srai_epi32)(ALL(add_epi32)(high, half), 16));
    colours[1] = ALL(add_epi16)(luma, ALL(sub_epi16)(greener, red));
    colours[2] = ALL(add_epi16)(ALL(add_epi16)(luma, ALL(add_epi16)(blue, blue)),
                                ALL(mulhrs_epi16)(blue, ALL(set1_epi16)(-7471)));
}

/* PIXELS pixels of luma, and of chroma less 128 as even and odd ones. */
WAY static ALWAYS_INLINE void coloured(const Weave *weave, const uint8_t *luma, const Vector *blue, const Vector *red,
                                       int channels, uint8_t *into) {
    const Vector bytes = LOAD(luma);
    Vector even[PLANES], odd[PLANES], colours[PLANES];
    mixed(WHOLE (and)(bytes, ALL(set1_epi16)(255)), blue[0], red[0], even);
    mixed(ALL(srli_epi16)(bytes, 8), blue[1], red[1], odd);
    for (int k = 0; k < PLANES; k++)
        colours[k] = ALL(packus_epi16)(even[k], odd[k]);
    woven(weave, colours, channels, into);
}

/* Chroma of PIXELS pixels, less 128, from as many bytes. */
WAY static ALWAYS_INLINE void as_it_is(const uint8_t *chroma, Vector *halves) {
    const Vector bytes = LOAD(chroma), grey = ALL(set1_epi16)(128);
    halves[0] = ALL(sub_epi16)(WHOLE (and)(bytes, ALL(set1_epi16)(255)), grey);
    halves[1] = ALL(sub_epi16)(ALL(srli_epi16)(bytes, 8), grey);
}

/* The same from half as many, of which each is three quarters of the two pixels that it lies in and a quarter of the
 * next: `tall` where they are sums of rows, of four parts. */
WAY static ALWAYS_INLINE void widened(const int16_t *chroma, int tall, Vector *halves) {
    const Vector here = LOAD(chroma);
    const Vector before = LOAD(chroma - 1);
    const Vector after = LOAD(chroma + 1);
    const Vector most = ALL(add_epi16)(here, ALL(add_epi16)(here, here));
    const int shift = tall ? 4 : 2, grey = 128 << shift;
    const Vector first = ALL(set1_epi16)((int16_t)((tall ? 8 : 1) - grey));
    const Vector second = ALL(set1_epi16)((int16_t)((tall ? 7 : 2) - grey));
    halves[0] = ALL(srai_epi16)(ALL(add_epi16)(ALL(add_epi16)(most, before), first), shift);
    halves[1] = ALL(srai_epi16)(ALL(add_epi16)(ALL(add_epi16)(most, after), second), shift);
}

/* int16 of a row of chroma with its ends once more beside it; where there is another row, three times the near one and
 * that one. `into` has places before it and behind it. */
WAY static ALWAYS_INLINE void summed(const uint8_t *near, const uint8_t *other, int64_t width, int16_t *into) {
    for (int64_t x = 0; x < width; x += PIXELS / 2) {
        Vector words = WORDS(near + x);
        if (other)
            words = ALL(add_epi16)(ALL(add_epi16)(words, ALL(add_epi16)(words, words)), WORDS(other + x));
        STORE(into + x, words);
    }
    into[-1] = into[0];
    into[width] = into[width - 1];
}

/* A row of pixels. `blue` and `red` are bytes of as many, or int16 of half as many as `summed` makes them; without them
 * the picture is grey. All may be read PIXELS beyond the row. */
WAY static ALWAYS_INLINE void row(const Weave *weave, const uint8_t *luma, const void *blue, const void *red, int wide,
                                  int tall, int64_t width, int channels, uint8_t *pixels) {
    uint8_t last[MOST_BYTES];
    for (int64_t x = 0; x < width; x += PIXELS) {
        const int whole = x + PIXELS <= width;
        uint8_t *const into = whole ? pixels + x * channels : last;
        if (!blue) {
            const Vector bytes = LOAD(luma + x), low = ALL(set1_epi16)(255);
            const Vector grey = ALL(packus_epi16)(WHOLE (and)(bytes, low), ALL(srli_epi16)(bytes, 8));
            const Vector colours[PLANES] = {grey, grey, grey};
            woven(weave, colours, channels, into);
        } else {
            Vector blues[2], reds[2];
            if (wide) {
                widened((const int16_t *)blue + x / 2, tall, blues);
                widened((const int16_t *)red + x / 2, tall, reds);
            } else {
                as_it_is((const uint8_t *)blue + x, blues);
                as_it_is((const uint8_t *)red + x, reds);
            }
            coloured(weave, luma + x, blues, reds, channels, into);
        }
        if (!whole)
            memcpy(pixels + x * channels, last, (size_t)((width - x) * channels));
    }
}

#endif
