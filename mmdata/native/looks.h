/* What is seen of members at a look: pictures, texts and JSON objects. */

#ifndef MMDATA_LOOKS_H
#define MMDATA_LOOKS_H

#include "calls.h"

enum { MOST_NAMES = 30 };

/* Height, width and components of a baseline JPEG by its first bytes; zeros where nothing is said, or where there are more
 * than `most` pixels. */
void glanced(const uint8_t *head, size_t length, int64_t most, int32_t seen[3]);

/* Is it UTF-8? 1 or 0; -1 where Python has failed. */
int is_text(const uint8_t *bytes, size_t size);

/* Is this a tuple of at most MOST_NAMES bytes? */
int are_names(PyObject *names);

/* Of a JSON object the sum of 1 << n of the names n that it has: 1 where that is said, 0 where nothing is, -1 where Python
 * has failed. */
int names_of(const uint8_t *member, size_t size, PyObject *names, int32_t *found);

#endif
