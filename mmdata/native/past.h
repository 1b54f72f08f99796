/* Writing past the processor's caches what is too large for them: what is in them stays, and no line is read before it
 * is overwritten. */

#ifndef MMDATA_PAST_H
#define MMDATA_PAST_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)

#include <emmintrin.h>

/* To be ended by `past_end`. Whole lines of the cache pass it, what is before and behind them does not. */
static inline void past(const void *bytes, void *into, int64_t size) {
    const uint8_t *from = bytes;
    uint8_t *to = into;
    const int64_t away = -(intptr_t)to & 63, head = away < size ? away : size;
    memcpy(to, from, head);
    int64_t at = head;
    for (; at + 64 <= size; at += 64)
        for (int part = 0; part < 64; part += 16)
            _mm_stream_si128((__m128i *)(to + at + part), _mm_loadu_si128((const __m128i *)(from + at + part)));
    memcpy(to + at, from + at, size - at);
}

static inline void past_end(void) { _mm_sfence(); }

#else

static inline void past(const void *bytes, void *into, int64_t size) { memcpy(into, bytes, size); }

static inline void past_end(void) {}

#endif

#endif
