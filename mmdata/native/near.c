/* The search of `mmdata.hamming` in the tables of one segment: for each query the nearest hash within a radius.
 *
 * Nearly all of its time is the memory that it looks at: a row of a table of some hundred MB, in any order. So the rows
 * of the next query are asked for before those of this one are looked at. */

#include <stdlib.h>

#include "native.h"

#if defined(__GNUC__) || defined(__clang__)
#define SOON(address) __builtin_prefetch(address)
#define ONES(value) __builtin_popcountll(value)
#else
#define SOON(address) ((void)(address))
static int ONES(uint64_t value) {
    int count = 0;
    for (; value; value &= value - 1)
        count++;
    return count;
}
#endif
#ifndef ALWAYS_INLINE
#define ALWAYS_INLINE inline
#endif

enum { MOST_SLOTS = 64 };

/* As `_Segment` and `Tables` of hamming.py have them: of each probe where its chunk lies in a hash, what is flipped in it,
 * where its table begins, and which bit is the first behind the chunk. */
typedef struct {
    const uint64_t *shift, *low, *mask;
    const int64_t *base;
    const uint64_t *behind;
    int64_t probes;
    const uint32_t *prints; /* [entries, slots]: 32 bits behind the chunk of the first hashes of each entry */
    int64_t slots;
    const uint32_t *starts, *order; /* where an entry's hashes begin in `order`; of each which hash it is */
    const uint32_t *all;            /* the same bits of every hash of `order` */
    const uint8_t *more;            /* a bit for each entry: whether it has more hashes than slots */
    const uint64_t *hashes;
    const int64_t *ids;
} Segment;

static ALWAYS_INLINE void places(const Segment *segment, uint64_t query, int64_t *found) {
    for (int64_t probe = 0; probe < segment->probes; probe++) {
        const int64_t place = segment->base[probe] +
                              (int64_t)(((query >> segment->shift[probe]) & segment->low[probe]) ^ segment->mask[probe]);
        found[probe] = place;
        SOON(segment->prints + place * segment->slots);
        SOON(segment->more + (place >> 3));
    }
}

static ALWAYS_INLINE void measure(const Segment *segment, int64_t position, uint64_t query, int64_t radius,
                                  int64_t *distance, int64_t *id) {
    const uint32_t which = segment->order[position];
    const int64_t apart = ONES(segment->hashes[which] ^ query);
    if (apart <= radius && (apart < *distance || (apart == *distance && segment->ids[which] < *id))) {
        *distance = apart;
        *id = segment->ids[which];
    }
}

/* Which of the slots of a row have at most `radius` bits other than `own`: a bit for each. */
typedef uint64_t Rowed(const uint32_t *row, int64_t slots, uint32_t own, int64_t radius);

static ALWAYS_INLINE uint64_t one_by_one(const uint32_t *row, int64_t slots, uint32_t own, int64_t radius) {
    uint64_t found = 0;
    for (int64_t slot = 0; slot < slots; slot++)
        found |= (uint64_t)(ONES(row[slot] ^ own) <= radius) << slot;
    return found;
}

static ALWAYS_INLINE void look(const Segment *segment, const int64_t *found, uint64_t query, int64_t radius,
                               int64_t *distance, int64_t *id, Rowed *rowed) {
    for (int64_t probe = 0; probe < segment->probes; probe++) {
        const int64_t place = found[probe];
        const uint64_t bit = segment->behind[probe] & 63;
        const uint32_t own = (uint32_t)(bit ? query >> bit | query << (64 - bit) : query);
        uint64_t near = rowed(segment->prints + place * segment->slots, segment->slots, own, radius);
        for (int64_t slot = 0; near; near >>= 1, slot++)
            /* An empty slot has the print 0: it is told by where the entry ends. */
            if (near & 1 && segment->starts[place] + slot < segment->starts[place + 1])
                measure(segment, segment->starts[place] + slot, query, radius, distance, id);
        if (segment->more[place >> 3] >> (place & 7) & 1) {
            const int64_t end = segment->starts[place + 1];
            for (int64_t at = segment->starts[place] + segment->slots; at < end; at += MOST_SLOTS) {
                near = rowed(segment->all + at, end - at < MOST_SLOTS ? end - at : MOST_SLOTS, own, radius);
                for (int64_t slot = 0; near; near >>= 1, slot++)
                    if (near & 1)
                        measure(segment, at + slot, query, radius, distance, id);
            }
        }
    }
}

static ALWAYS_INLINE void search(const Segment *segment, const uint64_t *queries, const int64_t *some, int64_t count,
                                 int64_t radius, int64_t *distances, int64_t *ids, int64_t *room, Rowed *rowed) {
    int64_t *here = room, *next = room + segment->probes;
    if (count)
        places(segment, queries[some[0]], here);
    for (int64_t at = 0; at < count; at++) {
        if (at + 1 < count)
            places(segment, queries[some[at + 1]], next);
        const int64_t query = some[at];
        look(segment, here, queries[query], radius, distances + query, ids + query, rowed);
        int64_t *const last = here;
        here = next;
        next = last;
    }
}

typedef void Search(const Segment *segment, const uint64_t *queries, const int64_t *some, int64_t count, int64_t radius,
                    int64_t *distances, int64_t *ids, int64_t *room);

static void searched(const Segment *segment, const uint64_t *queries, const int64_t *some, int64_t count,
                     int64_t radius, int64_t *distances, int64_t *ids, int64_t *room) {
    search(segment, queries, some, count, radius, distances, ids, room, one_by_one);
}

#if HAS_LEVELS

#include <immintrin.h>

/* What counts bits in one instruction has AVX2 too. */
__attribute__((target("popcnt"))) static void counted(const Segment *segment, const uint64_t *queries,
                                                      const int64_t *some, int64_t count, int64_t radius,
                                                      int64_t *distances, int64_t *ids, int64_t *room) {
    search(segment, queries, some, count, radius, distances, ids, room, one_by_one);
}

#define SIXTEEN __attribute__((target("popcnt,avx512f,avx512vpopcntdq")))

SIXTEEN static ALWAYS_INLINE uint64_t sixteen(const uint32_t *row, int64_t slots, uint32_t own, int64_t radius) {
    const __m512i owns = _mm512_set1_epi32((int32_t)own), most = _mm512_set1_epi32((int32_t)radius);
    uint64_t found = 0;
    for (int64_t slot = 0; slot < slots; slot += 16) {
        const __mmask16 there = slots - slot >= 16 ? 0xffff : (__mmask16)((1u << (slots - slot)) - 1);
        const __m512i other = _mm512_xor_si512(_mm512_maskz_loadu_epi32(there, row + slot), owns);
        found |= (uint64_t)_mm512_mask_cmple_epu32_mask(there, _mm512_popcnt_epi32(other), most) << slot;
    }
    return found;
}

SIXTEEN static void at_once(const Segment *segment, const uint64_t *queries, const int64_t *some, int64_t count,
                            int64_t radius, int64_t *distances, int64_t *ids, int64_t *room) {
    search(segment, queries, some, count, radius, distances, ids, room, sixteen);
}

static Search *fastest(int level) {
    if (level >= LEVEL_AVX512 && __builtin_cpu_supports("avx512vpopcntdq"))
        return at_once;
    return level >= LEVEL_AVX2 ? counted : searched;
}

#else

static Search *fastest(int level) {
    (void)level;
    return searched;
}

#endif

/* Less of (distance, id) of the queries `some` into `distances` and `ids`. Answers 0, or 1 where there was no memory. */
EXPORTED int mmdata_near(const Segment *segment, const uint64_t *queries, const int64_t *some, int64_t count,
                         int64_t radius, int64_t *distances, int64_t *ids, int level) {
    int64_t *room = segment->slots <= MOST_SLOTS ? malloc(2 * segment->probes * sizeof *room) : NULL;
    if (!room)
        return 1;
    fastest(level)(segment, queries, some, count, radius, distances, ids, room);
    free(room);
    return 0;
}
