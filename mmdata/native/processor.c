/* Which kernels these are, and which of them this processor can run. */

#include "native.h"

EXPORTED int mmdata_version(void) { return VERSION; }

/* Whether the processor, and the system, has what AVX512 names. */
EXPORTED int mmdata_avx512(void) {
#if HAS_AVX512
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}
