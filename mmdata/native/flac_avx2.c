/* FLAC frames where one instruction counts zeros, shifts by any register or multiplies polynomials, as processors with
 * AVX2 can, and floats are made eight at once. */

#include "flac.h"

#if HAS_LEVELS

#include <immintrin.h>

#define WAY __attribute__((target("avx2,bmi,bmi2,lzcnt,pclmul")))
#define LZCNT(value) _lzcnt_u64(value)
#define FOLDED
#include "flac_frames.h"

WAY int flac_avx2(const Reading *reading) { return frames(reading); }

#endif
