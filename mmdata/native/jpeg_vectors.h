/* What JPEG's kernels do sixteen or thirty-two int16 at once: the same instructions, of which each works on 16 bytes of
 * its operands beside other 16. `WIDE` asks for the longer ones. */

#ifndef MMDATA_JPEG_VECTORS_H
#define MMDATA_JPEG_VECTORS_H

#include <immintrin.h>

#ifdef WIDE
#define WAY                                                                                                            \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,bmi,bmi2,lzcnt,popcnt")))
#define ALL(operation) _mm512_##operation
#define WHOLE(operation) _mm512_##operation##_si512
typedef __m512i Vector;
#define LOAD(place) _mm512_loadu_si512((const void *)(place))
#define STORE(place, vector) _mm512_storeu_si512((void *)(place), vector)
#define SIXTEENS(sixteen) _mm512_broadcast_i32x4(sixteen)
#define WORDS(place) _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)(place)))
#define IN_FOURS(vector, order) _mm512_permutex_epi64(vector, order)
#else
#define WAY __attribute__((target("avx2,fma,bmi,bmi2,lzcnt,popcnt")))
#define ALL(operation) _mm256_##operation
#define WHOLE(operation) _mm256_##operation##_si256
typedef __m256i Vector;
#define LOAD(place) _mm256_loadu_si256((const void *)(place))
#define STORE(place, vector) _mm256_storeu_si256((void *)(place), vector)
#define SIXTEENS(sixteen) _mm256_broadcastsi128_si256(sixteen)
#define WORDS(place) _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(place)))
#define IN_FOURS(vector, order) _mm256_permute4x64_epi64(vector, order)
#endif

enum { BYTES = sizeof(Vector), BLOCKS = BYTES / 32 }; /* of a vector; blocks that are transformed at once */

#endif
