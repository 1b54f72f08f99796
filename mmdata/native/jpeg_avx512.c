/* JPEG with what processors with AVX-512 have: thirty-two int16, two blocks at once. */

#include "jpeg.h"

#if HAS_LEVELS

#define WIDE
#include "jpeg_rows.h"

WAY int jpeg_avx512(const Work *work) { return read_rows(work); }

#endif
