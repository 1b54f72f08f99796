/* Planes of luma and of halved chroma (4:2:0) to interleaved RGB, with the bits of FFmpeg's libswscale on x86
 * (libswscale/x86/yuv_2_rgb.asm): sums of products' high halves in int16, a sample of chroma for two by two pixels.
 *
 * libswscale writes into a picture of its own, from which a batch is a copy. Here the rows of the batch are written. */

#include "yuv.h"

#if HAS_LEVELS

/* As Frame has it; `level` is at least LEVEL_AVX2. */
EXPORTED void mmdata_yuv(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int64_t luma_row,
                         int64_t blue_row, int64_t red_row, int64_t height, int64_t width, const Matrix *matrix,
                         uint8_t *result, uint8_t *room, int level) {
    const Frame frame = {luma, blue, red, luma_row, blue_row, red_row, height, width, result, room};
    (level >= LEVEL_AVX512 ? yuv_avx512 : yuv_avx2)(&frame, matrix);
}

#endif
