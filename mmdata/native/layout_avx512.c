/* Pixels normalised and laid out, sixteen at once, whose 48 bytes lie in a register. */

#include "layout.h"

#if HAS_LEVELS

#include <immintrin.h>

AVX512 static inline __m512 normalised(const Lanes *lanes, int v, __m512i bytes) {
    const __m512i place = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)lanes->byte[v]));
    const __m512i values = _mm512_maskz_permutexvar_epi8(0x1111111111111111ull, place, bytes);
    const __m512 inverse = _mm512_loadu_ps(lanes->inverse[v]);
    const __m512 x = _mm512_sub_ps(_mm512_cvtepi32_ps(values), _mm512_loadu_ps(lanes->shift[v]));
    const __m512 quotient = _mm512_mul_ps(x, inverse);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(quotient, _mm512_loadu_ps(lanes->scale[v]), x), inverse, quotient);
}

/* Into runs: `planar` ones of a channel, or the pixels as they are. */
AVX512 static ALWAYS_INLINE void computed(const uint8_t *source, float *into, int64_t rows, int64_t columns,
                                          const Steps *steps, const Lanes *lanes, int planar) {
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

AVX512 static void planes(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                          const Lanes *lanes) {
    computed(source, into, rows, columns, steps, lanes, 1);
}

AVX512 static void runs(const uint8_t *source, float *into, int64_t rows, int64_t columns, const Steps *steps,
                        const Lanes *lanes) {
    computed(source, into, rows, columns, steps, lanes, 0);
}

AVX512 static void parted(const uint8_t *source, uint8_t *into, int64_t rows, int64_t columns, const Steps *steps,
                          const Lanes *lanes) {
    const __m512i together = _mm512_maskz_loadu_epi8((1ull << sizeof lanes->byte) - 1, lanes->byte);
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < columns; x += 16) {
            const int64_t pixels = columns - x < 16 ? columns - x : 16;
            const __m512i bytes = _mm512_maskz_loadu_epi8((1ull << 3 * pixels) - 1, source + y * steps->row + 3 * x);
            const __m512i values = _mm512_permutexvar_epi8(together, bytes);
            const __m128i planes[3] = {_mm512_castsi512_si128(values), _mm512_extracti32x4_epi32(values, 1),
                                       _mm512_extracti32x4_epi32(values, 2)};
            const __mmask16 kept = (__mmask16)((1u << pixels) - 1);
            for (int channel = 0; channel < 3; channel++) {
                uint8_t *to = into + y * steps->to_row + channel * steps->to_channel + x;
                for (int64_t copy = 0; copy < steps->copies; copy++)
                    _mm_mask_storeu_epi8(to + copy * steps->apart, kept, planes[channel]);
            }
        }
}

const Rectangles layout_avx512 = {1, planes, runs, parted};

#endif
