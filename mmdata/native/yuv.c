/* Planes of luma and of halved chroma (4:2:0) to interleaved RGB, with the bits of FFmpeg's libswscale on x86
 * (libswscale/x86/yuv_2_rgb.asm): sums of products' high halves in int16, a sample of chroma for two by two pixels.
 *
 * libswscale writes into a picture of its own, from which a batch is a copy. Here the rows of the batch are written. */

#include "native.h"

#if HAS_AVX512

#include <immintrin.h>

/* What luma and chroma are multiplied by, as 13 bits behind the point of an eighth; and eight times black. */
typedef struct {
    int16_t luma, red, blue, green_red, green_blue, black;
} Matrix;

enum { PIXELS = 32 }; /* at once */

/* [height, width], [(height + 1) / 2, (width + 1) / 2] twice, rows so many bytes apart, into rows of RGB. */
AVX512 EXPORTED void mmdata_yuv(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int64_t luma_row,
                                int64_t blue_row, int64_t red_row, int64_t height, int64_t width, const Matrix *matrix,
                                uint8_t *into, int64_t into_row) {
    uint8_t first[64], second[64];
    uint16_t twice[32];
    for (int byte = 0; byte < 96; byte++) { /* red from 0 on, green from 32, blue from 64 */
        uint8_t *place = byte < 64 ? first + byte : second + byte - 64;
        *place = (uint8_t)(byte / 3 + 32 * (byte % 3));
    }
    for (int byte = 32; byte < 64; byte++)
        second[byte] = 0;
    for (int lane = 0; lane < PIXELS; lane++)
        twice[lane] = (uint16_t)(lane / 2);
    const __m512i places = _mm512_loadu_si512(first), rest = _mm512_loadu_si512(second);
    const __m512i doubled = _mm512_loadu_si512(twice);
    const __m512i black = _mm512_set1_epi16(matrix->black), bright = _mm512_set1_epi16(matrix->luma);
    const __m256i grey = _mm256_set1_epi16(128 << 3);
    const __m256i to_red = _mm256_set1_epi16(matrix->red), to_blue = _mm256_set1_epi16(matrix->blue);
    const __m256i green_red = _mm256_set1_epi16(matrix->green_red), green_blue = _mm256_set1_epi16(matrix->green_blue);
    for (int64_t y = 0; y < height; y++, luma += luma_row, into += into_row) {
        const uint8_t *u = blue + y / 2 * blue_row, *v = red + y / 2 * red_row;
        for (int64_t x = 0; x < width; x += PIXELS) {
            const int64_t left = width - x < PIXELS ? width - x : PIXELS;
            const __mmask32 kept = left == PIXELS ? 0xffffffff : (1u << left) - 1;
            const __mmask16 half = (__mmask16)((1u << (left + 1) / 2) - 1);
            const __m512i light = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(kept, luma + x));
            const __m256i b = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(half, u + x / 2));
            const __m256i r = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(half, v + x / 2));
            const __m512i grade = _mm512_mulhi_epi16(_mm512_sub_epi16(_mm512_slli_epi16(light, 3), black), bright);
            const __m256i bluer = _mm256_sub_epi16(_mm256_slli_epi16(b, 3), grey);
            const __m256i redder = _mm256_sub_epi16(_mm256_slli_epi16(r, 3), grey);
            const __m256i greener =
                _mm256_adds_epi16(_mm256_mulhi_epi16(bluer, green_blue), _mm256_mulhi_epi16(redder, green_red));
            const __m256i parts[3] = {_mm256_mulhi_epi16(redder, to_red), greener, _mm256_mulhi_epi16(bluer, to_blue)};
            __m256i channels[3];
            for (int channel = 0; channel < 3; channel++) {
                const __m512i part = _mm512_permutexvar_epi16(doubled, _mm512_castsi256_si512(parts[channel]));
                const __m512i sum = _mm512_max_epi16(_mm512_adds_epi16(grade, part), _mm512_setzero_si512());
                channels[channel] = _mm512_cvtusepi16_epi8(sum);
            }
            const __m512i warm = _mm512_inserti64x4(_mm512_castsi256_si512(channels[0]), channels[1], 1);
            const __m512i cold = _mm512_castsi256_si512(channels[2]);
            const int64_t bytes = 3 * left;
            const __mmask64 begin = bytes >= 64 ? ~0ull : (1ull << bytes) - 1;
            const __mmask64 end = bytes > 64 ? (1ull << (bytes - 64)) - 1 : 0;
            _mm512_mask_storeu_epi8(into + 3 * x, begin, _mm512_permutex2var_epi8(warm, places, cold));
            _mm512_mask_storeu_epi8(into + 3 * x + 64, end, _mm512_permutex2var_epi8(warm, rest, cold));
        }
    }
}

#endif
