/* Headers of tars: regular files with names of their own (POSIX.1-1988, `ustar`). */

#ifndef MMDATA_TAR_H
#define MMDATA_TAR_H

#include <stddef.h>
#include <stdint.h>

enum { BLOCK = 512, LONGEST_NAME = 100 };
#define MOST_BYTES 077777777777LL /* what eleven octal digits hold */

/* The size that a plain header gives, -1 where it is not plain: `plain_tar.py` says what is. One of an `extended` header
 * (POSIX.1-2001, `pax`) differs from that of a file by its kind alone. */
int64_t plain_size(const uint8_t header[BLOCK], int extended);

/* Do these records of an extended header tell of times, and of nothing that a reader of members asks for? */
int only_times(const uint8_t *records, size_t size);

/* How long the name in a header is. */
size_t name_length(const uint8_t header[BLOCK]);

/* The header that `shards/tar.py` gives a name of 1 to LONGEST_NAME bytes and a size of 0 to MOST_BYTES. */
void put_header(uint8_t header[BLOCK], const char *name, size_t length, int64_t size);

#endif
