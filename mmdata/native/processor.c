/* Which kernels these are, and which of them this processor can run. */

#include "native.h"

EXPORTED int mmdata_version(void) { return VERSION; }

/* The highest level whose instructions the processor, and the system, has. */
EXPORTED int mmdata_level(void) {
#if HAS_LEVELS
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return PORTABLE;
    const int most = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
    return most ? LEVEL_AVX512 : LEVEL_AVX2;
#else
    return PORTABLE;
#endif
}
