/* What the kernels share: what is exported, and which processors have a way of their own.
 *
 * Everything here has a twin in torch, numpy or another's library that gives the same bits, and is used where this was not
 * compiled. */

#ifndef MMDATA_NATIVE_H
#define MMDATA_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* What library.py asks for: one more with every change of what is exported or of the bits, so that a library that was
 * compiled before is not taken for this one. */
#define VERSION 14

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

/* Levels, as mmdata_level counts them: each kernel is told which it may use. */
enum { PORTABLE, LEVEL_AVX2, LEVEL_AVX512 };

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAS_LEVELS 1
/* Haswell and Zen, and what came after: 32 bytes, which are put in place within their halves. */
#define AVX2 __attribute__((target("avx2,fma")))
/* Ice Lake and Zen 4, and what came after: 64 bytes in any order, products of pairs of int16 summed. */
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define HAS_LEVELS 0
#endif

#endif
