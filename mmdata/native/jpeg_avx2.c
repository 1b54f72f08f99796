/* JPEG with what processors with AVX2 have: sixteen int16, a block at once. */

#include "jpeg.h"

#if HAS_LEVELS

#include "jpeg_rows.h"

WAY int jpeg_avx2(const Work *work) { return read_rows(work); }

#endif
