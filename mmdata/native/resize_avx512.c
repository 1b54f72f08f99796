/* Resizing with torch's bits, 64 bytes at once: a register is loaded once for five pixels of the result. */

#include "resize.h"

#include <stdlib.h>

#if HAS_LEVELS

#include <immintrin.h>

enum {
    OUTPUTS = 5,      /* pixels of three channels in the sixteen lanes of a register */
    REACH = 19,       /* pixels from the first tap of the first of them to that of the last: what a register holds */
    REGISTER = SLACK, /* bytes */
};

/* Outputs of the first pass that are made at once. */
typedef struct {
    int64_t output, base, pairs, weights; /* the first; its first byte in a row; pairs of taps; of weights before */
} Group;

/* Groups of all outputs of a row, their bytes' places in a register, and their weights by pairs of taps. */
typedef struct {
    int64_t count;
    int precision;
    Group *groups;
    uint8_t (*places)[REGISTER];
    int16_t (*weights)[REGISTER / 2];
} Groups;

static void *grouped(const Weighed *weighed, int64_t inputs) {
    (void)inputs;
    const Axis *axis = &weighed->axis;
    const int64_t outputs = axis->outputs, all = outputs * ((axis->most + 1) / 2);
    const size_t places_at = sizeof(Groups) + outputs * sizeof(Group), weights_at = places_at + outputs * REGISTER;
    Groups *made = calloc(1, weights_at + all * REGISTER);
    if (!made)
        return NULL;
    made->precision = weighed->precision;
    made->groups = (Group *)(made + 1);
    made->places = (uint8_t(*)[REGISTER])((uint8_t *)made + places_at);
    made->weights = (int16_t(*)[REGISTER / 2])((uint8_t *)made + weights_at);
    int64_t pairs = 0;
    for (int64_t output = 0; output < outputs; made->count++) {
        const int64_t start = axis->first[output];
        int64_t size = 0, most = 0;
        for (; size < OUTPUTS && output + size < outputs; size++) {
            const int64_t at = output + size, away = axis->first[at] - start;
            if (away > REACH)
                break;
            most = axis->taps[at] > most ? axis->taps[at] : most;
            for (int channel = 0; channel < 3; channel++) {
                const int64_t lane = 3 * size + channel;
                made->places[made->count][4 * lane] = (uint8_t)(3 * away + channel);
                made->places[made->count][4 * lane + 2] = (uint8_t)(3 * away + channel + 3);
                for (int64_t k = 0; k < axis->taps[at]; k++)
                    made->weights[pairs + k / 2][2 * lane + k % 2] = weighed->weights[at * axis->most + k];
            }
        }
        made->groups[made->count] = (Group){output, 3 * start, (most + 1) / 2, pairs};
        pairs += (most + 1) / 2;
        output += size;
    }
    return made;
}

AVX512 static void two_across(const uint8_t *above, const uint8_t *below, int32_t *into, const Groups *made) {
    const __mmask64 low = 0x5555555555555555ull;
    const __m512i half = _mm512_set1_epi32(1 << made->precision >> 1);
    const __m512i black = _mm512_setzero_si512(), white = _mm512_set1_epi32(255);
    const __m128i shift = _mm_cvtsi32_si128(made->precision);
    for (int64_t at = 0; at < made->count; at++) {
        const Group group = made->groups[at];
        const __m512i place = _mm512_loadu_si512(made->places[at]);
        const uint8_t *one = above + group.base, *two = below + group.base;
        /* The next two rows: a picture leaves the cache while it is decoded. */
        _mm_prefetch((const char *)(one + 2 * (below - above)), _MM_HINT_T0);
        _mm_prefetch((const char *)(two + 2 * (below - above)), _MM_HINT_T0);
        __m512i upper = half, lower = half;
        for (int64_t pair = 0; pair < group.pairs; pair++, one += 6, two += 6) {
            const __m512i weight = _mm512_loadu_si512(made->weights[group.weights + pair]);
            const __m512i ones = _mm512_maskz_permutexvar_epi8(low, place, _mm512_loadu_si512(one));
            const __m512i twos = _mm512_maskz_permutexvar_epi8(low, place, _mm512_loadu_si512(two));
            upper = _mm512_dpwssd_epi32(upper, ones, weight);
            lower = _mm512_dpwssd_epi32(lower, twos, weight);
        }
        upper = _mm512_min_epi32(_mm512_max_epi32(_mm512_sra_epi32(upper, shift), black), white);
        lower = _mm512_min_epi32(_mm512_max_epi32(_mm512_sra_epi32(lower, shift), black), white);
        _mm512_storeu_si512(into + 3 * group.output, _mm512_or_si512(upper, _mm512_slli_epi32(lower, 16)));
    }
}

AVX512 static void across(const uint8_t *const *rows, int32_t *const *into, void *columns) {
    for (int k = 0; k < ROWS / 2; k++)
        two_across(rows[2 * k], rows[2 * k + 1], into[k], columns);
}

AVX512 static inline __m128i rounded(__m512i sum, __m128i shift) {
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_sra_epi32(sum, shift), _mm512_setzero_si512()));
}

AVX512 static void down(int32_t *const *rows, const int32_t *weights, int64_t pairs, uint8_t *into, int64_t width,
                        int precision) {
    const __m512i half = _mm512_set1_epi32(1 << precision >> 1);
    const __m128i shift = _mm_cvtsi32_si128(precision);
    int64_t x = 0;
    for (; x + 64 <= width; x += 64) {
        __m512i sums[4] = {half, half, half, half};
        for (int64_t pair = 0; pair < pairs; pair++) {
            const __m512i weight = _mm512_set1_epi32(weights[pair]);
            for (int part = 0; part < 4; part++)
                sums[part] = _mm512_dpwssd_epi32(sums[part], _mm512_loadu_si512(rows[pair] + x + 16 * part), weight);
        }
        for (int part = 0; part < 4; part++)
            _mm_storeu_si128((__m128i *)(into + x + 16 * part), rounded(sums[part], shift));
    }
    for (; x < width; x += 16) {
        __m512i sum = half;
        for (int64_t pair = 0; pair < pairs; pair++)
            sum = _mm512_dpwssd_epi32(sum, _mm512_loadu_si512(rows[pair] + x), _mm512_set1_epi32(weights[pair]));
        const __mmask16 kept = width - x >= 16 ? 0xffff : (__mmask16)((1u << (width - x)) - 1);
        _mm_mask_storeu_epi8(into + x, kept, rounded(sum, shift));
    }
}

const Passes resize_avx512 = {grouped, across, down};

#endif
