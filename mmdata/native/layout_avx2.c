/* Pixels normalised and laid out, eight at once. Where the last are fewer, some before them are done once more. */

#include "layout.h"

#if HAS_LEVELS

#include <immintrin.h>

enum { PIXELS = 8 };

/* What the bytes of eight values become: of a channel, or of vector v. */
AVX2 static ALWAYS_INLINE __m256 normalised(const Lanes *lanes, int v, __m128i bytes) {
    const __m256 inverse = _mm256_loadu_ps(lanes->inverse[v]);
    const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    const __m256 x = _mm256_sub_ps(values, _mm256_loadu_ps(lanes->shift[v]));
    const __m256 quotient = _mm256_mul_ps(x, inverse);
    return _mm256_fmadd_ps(_mm256_fnmadd_ps(quotient, _mm256_loadu_ps(lanes->scale[v]), x), inverse, quotient);
}

/* The channels of eight pixels, each in the lower half of a register. */
AVX2 static ALWAYS_INLINE void apart(const uint8_t *pixels, __m128i *channels) {
    const __m128i first = _mm_loadu_si128((const void *)pixels);
    const __m128i last = _mm_loadl_epi64((const void *)(pixels + 16));
    const __m128i firsts[3] = {
        _mm_setr_epi8(0, 3, 6, 9, 12, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
        _mm_setr_epi8(1, 4, 7, 10, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
        _mm_setr_epi8(2, 5, 8, 11, 14, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
    };
    const __m128i lasts[3] = {
        _mm_setr_epi8(-1, -1, -1, -1, -1, -1, 2, 5, -1, -1, -1, -1, -1, -1, -1, -1),
        _mm_setr_epi8(-1, -1, -1, -1, -1, 0, 3, 6, -1, -1, -1, -1, -1, -1, -1, -1),
        _mm_setr_epi8(-1, -1, -1, -1, -1, 1, 4, 7, -1, -1, -1, -1, -1, -1, -1, -1),
    };
    for (int channel = 0; channel < 3; channel++)
        channels[channel] =
            _mm_or_si128(_mm_shuffle_epi8(first, firsts[channel]), _mm_shuffle_epi8(last, lasts[channel]));
}

/* Where the eight after `x` begin. */
static inline int64_t after(int64_t x, int64_t columns) {
    return x + 2 * PIXELS <= columns || x + PIXELS == columns ? x + PIXELS : columns - PIXELS;
}

AVX2 static void planes(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                        const Lanes *lanes) {
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x = after(x, columns)) {
            __m128i channels[3];
            apart(source + y * steps->row + 3 * x, channels);
            for (int channel = 0; channel < 3; channel++) {
                const __m256 values = normalised(lanes, channel, channels[channel]);
                float *to = into + y * steps->to_row + channel * steps->to_channel + x;
                for (int64_t copy = 0; copy < steps->copies; copy++)
                    _mm256_storeu_ps(to + copy * steps->apart, values);
            }
        }
}

AVX2 static void runs(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                      const Lanes *lanes) {
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x = after(x, columns)) {
            const uint8_t *pixels = source + y * steps->row + 3 * x;
            float *to = into + y * steps->to_row + 3 * x;
            for (int v = 0; v < 3; v++) { /* 8 v and 16 times 2 v are of the same channel. */
                const __m256 values = normalised(lanes, 2 * v % 3, _mm_loadl_epi64((const void *)(pixels + 8 * v)));
                for (int64_t copy = 0; copy < steps->copies; copy++)
                    _mm256_storeu_ps(to + 8 * v + copy * steps->apart, values);
            }
        }
}

AVX2 static void parted(const uint8_t *source, uint8_t *into, int64_t rows, int64_t columns, const Steps *steps,
                        const Lanes *lanes) {
    (void)lanes;
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x = after(x, columns)) {
            __m128i channels[3];
            apart(source + y * steps->row + 3 * x, channels);
            for (int channel = 0; channel < 3; channel++) {
                uint8_t *to = into + y * steps->to_row + channel * steps->to_channel + x;
                for (int64_t copy = 0; copy < steps->copies; copy++)
                    _mm_storel_epi64((void *)(to + copy * steps->apart), channels[channel]);
            }
        }
}

const Rectangles layout_avx2 = {PIXELS, planes, runs, parted};

#endif
