/* What reading JPEG shares: a picture's headers, its codes, and the work that makes pixels of them. */

#ifndef MMDATA_JPEG_H
#define MMDATA_JPEG_H

#include "native.h"

enum {
    SIDE = 8,          /* of a block */
    VALUES = 64,       /* of a block */
    PLANES = 3,        /* at most */
    LOOK = 11,         /* bits of codes and values that one look into a table tells, at most */
    ENDS = 128,        /* how far the end of a block goes on: behind every place, and told from a run too long */
    SANE = 4095,       /* twice as much as any value of a picture */
    UNIT_BYTES = 2048, /* more than the codes of a unit (six blocks at most, 26 bits a value) take */
    WINDOW = 1 << 13,  /* bytes of codes at once */
    BESIDE = 64,       /* bytes behind a strip of samples or before a row of sums, for what is read beyond */
    APART = 32,        /* values: of two blocks, sixteen of one and sixteen of the other lie in turn */
};

/* What a code is: from the lowest byte, bits of code and value, of the code, of the value, and by how many places it
 * goes on (in a scan of LATER values, how many zeros come before it); 0 for none. */
typedef uint32_t Entry;
/* What codes are of: means of blocks; all their other values; or some of them, in one of the scans of a progressive
 * file, where a code may end several blocks. */
typedef enum { MEANS, OTHERS, LATER } Kind;

/* A Huffman table as the file has it: how many codes of each length from 1 on, and their symbols. */
typedef struct {
    const uint8_t *counts, *symbols; /* NULL before there is one */
} Table;

/* The same to be searched by length. */
typedef struct {
    uint32_t above[17]; /* the first 16 bits that no code of so many bits has, or any shorter one */
    int32_t place[17];  /* of a symbol, less the first code of this length */
    const uint8_t *symbols;
} Codes;

/* Codes of means, or of later values, by the next bits: what is left of 64 that are shifted by `rest`. */
typedef struct {
    Codes codes;
    unsigned rest;
    Entry entries[1 << LOOK];
} Means;

/* Codes of other values, likewise. If one or two values lie in them, from the lowest byte: bits of both, by how many
 * places the first and the second go on, 0; int16 of both. Otherwise the lower half is 0, and the upper one the Entry
 * of the code alone. */
typedef struct {
    Codes codes;
    unsigned rest;
    uint64_t pairs[1 << LOOK];
} Others;

/* Steps of the values of a block, in the order in which blocks lie in memory, and how many of them at most make SANE.
 */
typedef struct {
    int16_t steps[VALUES], most[VALUES];
    int known;
} Steps;

typedef struct {
    int id, across, down; /* blocks of a unit */
    int step_table;
} Plane;

/* What codes that follow one another tell: values `first` to `last` of blocks of some planes, shifted by `low` bits; if
 * `high` is not 0, one more bit of values of which `high` were left. */
typedef struct {
    int planes, plane[PLANES], means[PLANES], others[PLANES]; /* numbers */
    int first, last, high, low;
} Scan;

/* A picture as its headers have it up to a scan, whose codes begin at `at`. */
typedef struct {
    int64_t height, width, at, interval; /* units between restarts, 0 without */
    int planes, across, down;            /* blocks of luma in a unit */
    int progressive;
    int marks, transform; /* of colours */
    Plane plane[PLANES];
    Scan scan;
    Steps steps[4];
    Table means[4], others[4];
    uint8_t places[VALUES + ENDS + 32]; /* of what is coded k-th in a block; behind the last one a place for its end */
} Picture;

/* Values of all blocks of a plane, two neighbours in turn, and for each block which are not zero. */
typedef struct {
    int16_t *values;
    uint64_t *some;
    int64_t pairs; /* in a row */
} Values;

typedef struct {
    const uint8_t *data;
    int64_t size;
    Picture *picture;
    Means *means;   /* PLANES of them, of which each plane has one, which several may share */
    Others *others; /* the same, unless the file is progressive */
    int mean_table[PLANES], other_table[PLANES];
    void *values;          /* of all blocks of a progressive file, `jpeg_values` bytes of zeros */
    int side[PLANES];      /* samples of a block, in each dimension */
    int wide, tall;        /* whether chroma has half the columns and half the rows */
    int64_t height, width; /* of what is made */
    uint8_t *pixels;       /* [height, width, channels], or NULL to see whether the codes are whole */
    int channels;          /* 3, or 4 with 255 as the last one */
    uint8_t *room;         /* `jpeg_room` bytes */
} Work;

Entry jpeg_entry(unsigned symbol, unsigned bits, Kind kind);
int jpeg_next(const uint8_t *data, int64_t size, Picture *picture);
int jpeg_means(const Table *table, Kind kind, unsigned look, Means *means);
int64_t jpeg_pairs_across(const Picture *picture, int plane);
int64_t jpeg_values(const Picture *picture);
int64_t jpeg_units_across(const Picture *picture);
int64_t jpeg_units_down(const Picture *picture);
int64_t jpeg_sum_bytes(const Picture *picture); /* of a row of chroma */
int64_t jpeg_room(const Picture *picture);
int jpeg_avx2(const Work *work);
int jpeg_avx512(const Work *work);

#endif
