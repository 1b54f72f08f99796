/* 4:2:0 to RGB, 32 pixels at once, each half of a register sixteen of them. */

#include "past.h"
#include "yuv.h"

#include <string.h>

#if HAS_LEVELS

#include <immintrin.h>

enum { PIXELS = 32, CHANNELS = 3 }; /* at once */

/* The matrix in registers, where the bytes of each channel lie in sixteen, and which of the sixteen are its. */
typedef struct {
    __m256i luma, black, grey, red, blue, green_red, green_blue, places[CHANNELS], taken[CHANNELS];
} Lanes;

AVX2 static void prepare(Lanes *lanes, const Matrix *matrix) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        uint8_t places[16], taken[16];
        for (int pixel = 0; pixel < 16; pixel++) {
            /* Each has a place of its own among sixteen, for these are no multiple of 3. */
            const int byte = CHANNELS * pixel + channel;
            places[byte % 16] = (uint8_t)pixel;
            taken[pixel] = pixel % CHANNELS == channel ? 255 : 0;
        }
        lanes->places[channel] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)places));
        lanes->taken[channel] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)taken));
    }
    lanes->luma = _mm256_set1_epi16(matrix->luma);
    lanes->black = _mm256_set1_epi16(matrix->black);
    lanes->grey = _mm256_set1_epi16(128 << 3);
    lanes->red = _mm256_set1_epi16(matrix->red);
    lanes->blue = _mm256_set1_epi16(matrix->blue);
    lanes->green_red = _mm256_set1_epi16(matrix->green_red);
    lanes->green_blue = _mm256_set1_epi16(matrix->green_blue);
}

/* What chroma adds to each channel: of pixels 0 to 7 and 16 to 23, and of the others. */
AVX2 static ALWAYS_INLINE void tint(const Lanes *lanes, const uint8_t *blue, const uint8_t *red,
                                    __m256i (*parts)[2]) {
    const __m256i blues = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)blue));
    const __m256i reds = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)red));
    const __m256i bluer = _mm256_sub_epi16(_mm256_slli_epi16(blues, 3), lanes->grey);
    const __m256i redder = _mm256_sub_epi16(_mm256_slli_epi16(reds, 3), lanes->grey);
    const __m256i greener = _mm256_adds_epi16(_mm256_mulhi_epi16(bluer, lanes->green_blue),
                                              _mm256_mulhi_epi16(redder, lanes->green_red));
    const __m256i halves[CHANNELS] = {_mm256_mulhi_epi16(redder, lanes->red), greener,
                                      _mm256_mulhi_epi16(bluer, lanes->blue)};
    for (int channel = 0; channel < CHANNELS; channel++) {
        parts[channel][0] = _mm256_unpacklo_epi16(halves[channel], halves[channel]);
        parts[channel][1] = _mm256_unpackhi_epi16(halves[channel], halves[channel]);
    }
}

/* PIXELS pixels of a row: 96 bytes. */
AVX2 static ALWAYS_INLINE void mixed(const Lanes *lanes, const uint8_t *luma, __m256i (*parts)[2], uint8_t *into) {
    const __m256i bytes = _mm256_loadu_si256((const void *)luma), zero = _mm256_setzero_si256();
    const __m256i words[2] = {_mm256_unpacklo_epi8(bytes, zero), _mm256_unpackhi_epi8(bytes, zero)};
    __m256i grades[2], channels[CHANNELS], made[CHANNELS];
    for (int k = 0; k < 2; k++)
        grades[k] = _mm256_mulhi_epi16(_mm256_sub_epi16(_mm256_slli_epi16(words[k], 3), lanes->black), lanes->luma);
    for (int channel = 0; channel < CHANNELS; channel++) {
        const __m256i values = _mm256_packus_epi16(_mm256_adds_epi16(grades[0], parts[channel][0]),
                                                   _mm256_adds_epi16(grades[1], parts[channel][1]));
        channels[channel] = _mm256_shuffle_epi8(values, lanes->places[channel]);
    }
    /* Every third byte of each sixteen is a channel's, and the sixteen after them begin with the one that follows. */
    for (int k = 0; k < CHANNELS; k++) {
        const __m256i two = _mm256_blendv_epi8(channels[k], channels[(k + 1) % CHANNELS], lanes->taken[1]);
        made[k] = _mm256_blendv_epi8(two, channels[(k + 2) % CHANNELS], lanes->taken[2]);
    }
    _mm256_storeu_si256((void *)into, _mm256_permute2x128_si256(made[0], made[1], 0x20));
    _mm256_storeu_si256((void *)(into + 32), _mm256_permute2x128_si256(made[2], made[0], 0x30));
    _mm256_storeu_si256((void *)(into + 64), _mm256_permute2x128_si256(made[1], made[2], 0x31));
}

AVX2 void yuv_avx2(const Frame *frame, const Matrix *matrix) {
    Lanes lanes;
    __m256i parts[CHANNELS][2];
    const int64_t width = frame->width, line = CHANNELS * width;
    prepare(&lanes, matrix);
    for (int64_t y = 0; y < frame->height; y += 2) {
        uint8_t *into = frame->room ? frame->room : frame->result + y * line;
        const int64_t rows = y + 1 < frame->height ? 2 : 1;
        const uint8_t *u = frame->blue + y / 2 * frame->blue_row, *v = frame->red + y / 2 * frame->red_row;
        const uint8_t *luma = frame->luma + y * frame->luma_row;
        int64_t x = 0;
        for (; x + PIXELS <= width; x += PIXELS) {
            tint(&lanes, u + x / 2, v + x / 2, parts);
            for (int64_t row = 0; row < rows; row++)
                mixed(&lanes, luma + row * frame->luma_row + x, parts, into + row * line + CHANNELS * x);
        }
        if (x < width) { /* By way of places that have room for PIXELS. */
            uint8_t blues[PIXELS / 2] = {0}, reds[PIXELS / 2] = {0}, grades[PIXELS] = {0}, made[CHANNELS * PIXELS];
            const int64_t left = width - x;
            memcpy(blues, u + x / 2, (left + 1) / 2);
            memcpy(reds, v + x / 2, (left + 1) / 2);
            tint(&lanes, blues, reds, parts);
            for (int64_t row = 0; row < rows; row++) {
                memcpy(grades, luma + row * frame->luma_row + x, left);
                mixed(&lanes, grades, parts, made);
                memcpy(into + row * line + CHANNELS * x, made, CHANNELS * left);
            }
        }
        if (frame->room)
            past(frame->room, frame->result + y * line, rows * line);
    }
    if (frame->room)
        past_end();
}

#endif
