/* 4:2:0 to RGB, 32 pixels at once, whose bytes two instructions put in place. */

#include "past.h"
#include "yuv.h"

#if HAS_LEVELS

#include <immintrin.h>

enum { PIXELS = 32 }; /* at once */

/* The matrix in registers, and where the bytes of the channels go. */
typedef struct {
    __m512i luma, black, doubled, first, second;
    __m256i grey, red, blue, green_red, green_blue;
} Lanes;

AVX512 static void prepare(Lanes *lanes, const Matrix *matrix) {
    uint8_t first[64] = {0}, second[64] = {0};
    uint16_t doubled[PIXELS];
    for (int byte = 0; byte < 3 * PIXELS; byte++) { /* red from 0 on, green from 32, blue from 64 */
        uint8_t *place = byte < 64 ? first + byte : second + byte - 64;
        *place = (uint8_t)(byte / 3 + PIXELS * (byte % 3));
    }
    for (int lane = 0; lane < PIXELS; lane++)
        doubled[lane] = (uint16_t)(lane / 2);
    lanes->first = _mm512_loadu_si512(first);
    lanes->second = _mm512_loadu_si512(second);
    lanes->doubled = _mm512_loadu_si512(doubled);
    lanes->luma = _mm512_set1_epi16(matrix->luma);
    lanes->black = _mm512_set1_epi16(matrix->black);
    lanes->grey = _mm256_set1_epi16(128 << 3);
    lanes->red = _mm256_set1_epi16(matrix->red);
    lanes->blue = _mm256_set1_epi16(matrix->blue);
    lanes->green_red = _mm256_set1_epi16(matrix->green_red);
    lanes->green_blue = _mm256_set1_epi16(matrix->green_blue);
}

/* What chroma adds to each channel of PIXELS pixels. */
AVX512 static inline void tint(const Lanes *lanes, __m128i blue, __m128i red, __m512i *parts) {
    const __m256i bluer = _mm256_sub_epi16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(blue), 3), lanes->grey);
    const __m256i redder = _mm256_sub_epi16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(red), 3), lanes->grey);
    const __m256i greener = _mm256_adds_epi16(_mm256_mulhi_epi16(bluer, lanes->green_blue),
                                              _mm256_mulhi_epi16(redder, lanes->green_red));
    const __m256i halves[3] = {_mm256_mulhi_epi16(redder, lanes->red), greener, _mm256_mulhi_epi16(bluer, lanes->blue)};
    for (int channel = 0; channel < 3; channel++)
        parts[channel] = _mm512_permutexvar_epi16(lanes->doubled, _mm512_castsi256_si512(halves[channel]));
}

/* PIXELS pixels of a row: their 96 bytes in two registers. */
AVX512 static inline void mixed(const Lanes *lanes, __m256i luma, const __m512i *parts, __m512i *bytes) {
    const __m512i eighths = _mm512_slli_epi16(_mm512_cvtepu8_epi16(luma), 3);
    const __m512i grade = _mm512_mulhi_epi16(_mm512_sub_epi16(eighths, lanes->black), lanes->luma);
    __m256i channels[3];
    for (int channel = 0; channel < 3; channel++) {
        const __m512i sum = _mm512_adds_epi16(grade, parts[channel]);
        channels[channel] = _mm512_cvtusepi16_epi8(_mm512_max_epi16(sum, _mm512_setzero_si512()));
    }
    const __m512i warm = _mm512_inserti64x4(_mm512_castsi256_si512(channels[0]), channels[1], 1);
    const __m512i cold = _mm512_castsi256_si512(channels[2]);
    bytes[0] = _mm512_permutex2var_epi8(warm, lanes->first, cold);
    bytes[1] = _mm512_permutex2var_epi8(warm, lanes->second, cold);
}

AVX512 void yuv_avx512(const Frame *frame, const Matrix *matrix) {
    Lanes lanes;
    __m512i parts[3], bytes[2];
    const int64_t width = frame->width;
    const uint8_t *luma = frame->luma;
    prepare(&lanes, matrix);
    for (int64_t y = 0; y < frame->height; y += 2) {
        uint8_t *into = frame->room ? frame->room : frame->result + y * 3 * width;
        const int64_t rows = y + 1 < frame->height ? 2 : 1;
        const uint8_t *u = frame->blue + y / 2 * frame->blue_row, *v = frame->red + y / 2 * frame->red_row;
        int64_t x = 0;
        for (; x + PIXELS <= width; x += PIXELS) {
            tint(&lanes, _mm_loadu_si128((const void *)(u + x / 2)), _mm_loadu_si128((const void *)(v + x / 2)), parts);
            for (int64_t row = y; row < y + rows; row++) {
                uint8_t *to = into + 3 * ((row - y) * width + x);
                mixed(&lanes, _mm256_loadu_si256((const void *)(luma + row * frame->luma_row + x)), parts, bytes);
                _mm512_storeu_si512(to, bytes[0]);
                _mm256_storeu_si256((void *)(to + 64), _mm512_castsi512_si256(bytes[1]));
            }
        }
        if (x < width) {
            const int64_t left = width - x, size = 3 * left;
            const __mmask16 half = (__mmask16)((1u << (left + 1) / 2) - 1);
            tint(&lanes, _mm_maskz_loadu_epi8(half, u + x / 2), _mm_maskz_loadu_epi8(half, v + x / 2), parts);
            for (int64_t row = y; row < y + rows; row++) {
                uint8_t *to = into + 3 * ((row - y) * width + x);
                mixed(&lanes, _mm256_maskz_loadu_epi8((1u << left) - 1, luma + row * frame->luma_row + x), parts,
                      bytes);
                _mm512_mask_storeu_epi8(to, size >= 64 ? ~0ull : (1ull << size) - 1, bytes[0]);
                _mm512_mask_storeu_epi8(to + 64, size > 64 ? (1ull << (size - 64)) - 1 : 0, bytes[1]);
            }
        }
        if (frame->room)
            past(frame->room, frame->result + y * 3 * width, rows * 3 * width);
    }
    if (frame->room)
        past_end();
}

#endif
