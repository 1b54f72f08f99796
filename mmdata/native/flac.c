/* FLAC frames to float32 samples (RFC 9639), of files that have no fault and nothing unusual.
 *
 * Whatever is not as an encoder writes it ends the work: libsndfile and FFmpeg know what is to be said of such a file.
 * So there is one outcome beside samples, and each check may be stricter than theirs. */

#include <stdlib.h>

#define WAY
#include "flac_frames.h"

enum { MOST_CHANNELS = 8, LEAST_BITS = 4, MOST_BITS = 24, LEAST_BLOCK = 16, MOST_BLOCK = 65535 };

EXPORTED void mmdata_flac_sums(Sums sums) {
    for (int byte = 0; byte < 256; byte++) {
        unsigned sum = (unsigned)byte << 8;
        for (int bit = 0; bit < 8; bit++)
            sum = sum << 1 ^ (sum & 0x8000 ? 0x18005 : 0);
        sums[0][byte] = (uint16_t)sum;
    }
    for (int more = 1; more < 8; more++)
        for (int byte = 0; byte < 256; byte++)
            sums[more][byte] = (uint16_t)(sums[more - 1][byte] << 8 ^ sums[0][sums[more - 1][byte] >> 8]);
}

static int anywhere(const Reading *reading) { return frames(reading); }

#if HAS_LEVELS

static int read_by(int level, const Reading *reading) {
    const int bits = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    return level >= LEVEL_AVX2 && bits && __builtin_cpu_supports("pclmul") ? flac_avx2(reading) : anywhere(reading);
}

#else

static int read_by(int level, const Reading *reading) {
    (void)level;
    return anywhere(reading);
}

#endif

/* Samples `first` to `first + count`, which lie in the next frame of the stream or behind it, as float32
 * [channels, count], or their mean [count]. `stream` then is at the frame of what follows. Answers 0, or 1 where the
 * file is for others to read, and what `out` holds is worth nothing. */
EXPORTED int mmdata_flac(const uint8_t *data, int64_t size, Stream *stream, int64_t first, int64_t count, float *out,
                         int mono, const Sums sums, int level) {
    if (stream->channels < 1 || stream->channels > MOST_CHANNELS || stream->bits < LEAST_BITS ||
        stream->bits > MOST_BITS || stream->least < LEAST_BLOCK || stream->most < stream->least ||
        stream->most > MOST_BLOCK || stream->byte < 0 || stream->byte > size || stream->sample < 0 ||
        first < stream->sample || count < 0 || first > stream->samples - count)
        return 1;
    int32_t *const room = malloc((size_t)(stream->channels * stream->most) * sizeof *room);
    if (!room)
        return 1;
    const Reading reading = {data, size, stream, first, count, out, mono, sums, room};
    const int failed = read_by(level, &reading);
    free(room);
    return failed;
}
