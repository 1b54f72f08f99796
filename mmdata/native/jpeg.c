/* Baseline and progressive JPEG to RGB, of files that have no fault and nothing unusual (ITU T.81).
 *
 * The pixels are libjpeg-turbo's (its exact inverse DCT and its smooth enlargement of chroma), bit for bit. Whatever
 * is not as a plain encoder writes it ends the work, for libjpeg-turbo knows what is to be made, or said, of it. */

#include "jpeg.h"

#include <stdlib.h>
#include <string.h>

#if HAS_LEVELS

enum { MOST_SIDE = 65500, COLOURED = 1, INDEXED = 2, SHORT = 1 << 15 };

static const uint8_t zigzag[VALUES] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};
/* Rows lie in pairs, for products of pairs are summed by one instruction, and so do columns. */
static const uint8_t in_pairs[SIDE] = {0, 5, 2, 6, 1, 7, 3, 4};

static int two(const uint8_t *bytes) { return bytes[0] << 8 | bytes[1]; }

static int place_of(int row, int column) {
    return in_pairs[row] / 2 * APART + in_pairs[column] * 2 + in_pairs[row] % 2;
}

static int read_steps(Picture *picture, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        const int which = *at++;
        if (which > 3 || end - at < VALUES) /* 16 bits, or no such table */
            return 1;
        Steps *steps = &picture->steps[which];
        for (int k = 0; k < VALUES; k++) {
            if (!at[k])
                return 1;
            const int place = place_of(zigzag[k] / SIDE, zigzag[k] % SIDE);
            steps->steps[place / APART * 16 + place % APART] = at[k];
            steps->most[place / APART * 16 + place % APART] = SANE / at[k];
        }
        steps->known = 1;
        at += VALUES;
    }
    return 0;
}

/* Tables are looked into when a scan asks for them. */
static int read_tables(Picture *picture, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        const int which = *at & 15, means = *at < 16;
        if (*at > 31 || which > 3 || end - at < 17)
            return 1;
        int all = 0;
        for (int k = 1; k <= 16; k++)
            all += at[k];
        if (all > 256 || end - at < 17 + all)
            return 1;
        *(means ? &picture->means[which] : &picture->others[which]) = (Table){at + 1, at + 17};
        at += 17 + all;
    }
    return 0;
}

Entry jpeg_entry(unsigned symbol, unsigned bits, Kind kind) {
    const unsigned size = symbol & 15, run = symbol >> 4;
    const unsigned ahead = kind == MEANS ? 0 : kind == LATER ? run : symbol ? run + 1 : ENDS;
    return ahead << 24 | size << 16 | bits << 8 | (bits + size);
}

/* Whether a kind of codes may have a symbol. */
static int is_sane(unsigned symbol, Kind kind) {
    const unsigned size = symbol & 15, run = symbol >> 4;
    return kind == MEANS ? symbol <= 11 : size <= 10 && (size || !run || run == 15 || kind == LATER);
}

/* The codes of a table, and the entries of those that `look` bits tell; 1 where a code is none or a symbol cannot be.
 */
static int read_codes(const Table *table, Kind kind, unsigned look, Codes *codes, Entry *entries) {
    uint32_t code = 0;
    int at = 0;
    codes->symbols = table->symbols;
    memset(entries, 0, sizeof(Entry) << look);
    for (unsigned bits = 1; bits <= 16; bits++, code <<= 1) {
        codes->place[bits] = at - (int)code;
        for (int k = 0; k < table->counts[bits - 1]; k++, at++, code++) {
            if (code + 1 >= 1u << bits || !is_sane(table->symbols[at], kind)) /* all ones is no code */
                return 1;
            const Entry entry = jpeg_entry(table->symbols[at], bits, kind);
            for (unsigned same = 0; bits <= look && same < 1u << (look - bits); same++)
                entries[(code << (look - bits)) + same] = entry;
        }
        codes->above[bits] = code << (16 - bits);
    }
    return 0;
}

/* The value that `size` bits tell: itself if the highest is 1, else the complement of a negative one. */
static int value_of(unsigned bits, unsigned size) {
    return size && !(bits >> (size - 1)) ? (int)bits - (int)(1u << size) + 1 : (int)bits;
}

int jpeg_means(const Table *table, Kind kind, unsigned look, Means *means) {
    means->rest = 64 - look;
    return read_codes(table, kind, look, &means->codes, means->entries);
}

static int read_others(const Table *table, unsigned look, Others *others) {
    Entry entries[1 << LOOK];
    others->rest = 64 - look;
    if (read_codes(table, OTHERS, look, &others->codes, entries))
        return 1;
    for (unsigned index = 0; index < 1u << look; index++) {
        const Entry first = entries[index];
        const unsigned bits = first & 255, size = first >> 16 & 255;
        if (!first || bits > look) {
            others->pairs[index] = (uint64_t)first << 32;
            continue;
        }
        const unsigned rest = look - bits, behind = index & ((1u << rest) - 1);
        const int value = value_of(index >> rest & ((1u << size) - 1), size);
        uint64_t pair = (uint64_t)(uint16_t)value << 32 | first >> 24 << 8 | bits;
        const Entry second = first >> 24 == ENDS ? 0 : entries[behind << bits];
        const unsigned more = second & 255, next = second >> 16 & 255;
        if (second && more <= rest) {
            const int other = value_of(behind >> (rest - more) & ((1u << next) - 1), next);
            pair += (uint64_t)(uint16_t)other << 48 | second >> 24 << 16 | more;
        }
        others->pairs[index] = pair;
    }
    return 0;
}

static int read_frame(Picture *picture, const uint8_t *at, const uint8_t *end, int progressive) {
    const int planes = end - at < 6 ? 0 : at[5];
    if (picture->planes || (planes != 1 && planes != PLANES) || end - at != 6 + 3 * planes || at[0] != 8)
        return 1;
    picture->height = two(at + 1);
    picture->width = two(at + 3);
    picture->planes = planes;
    picture->progressive = progressive;
    if (picture->height < 1 || picture->width < 1 || picture->height > MOST_SIDE || picture->width > MOST_SIDE)
        return 1;
    for (int k = 0; k < planes; k++) {
        const uint8_t *const told = at + 6 + 3 * k;
        Plane *plane = &picture->plane[k];
        plane->id = told[0];
        plane->across = told[1] >> 4;
        plane->down = told[1] & 15;
        if (told[2] > 3)
            return 1;
        plane->step_table = told[2];
        for (int other = 0; other < k; other++)
            if (picture->plane[other].id == plane->id)
                return 1;
    }
    if (planes == 1) { /* A scan of one plane goes block by block. */
        if (picture->plane[0].across < 1 || picture->plane[0].across > 4 || picture->plane[0].down < 1 ||
            picture->plane[0].down > 4)
            return 1;
        picture->plane[0].across = picture->plane[0].down = 1;
    }
    picture->across = picture->plane[0].across;
    picture->down = picture->plane[0].down;
    if (picture->across < 1 || picture->across > 2 || picture->down < 1 || picture->down > picture->across)
        return 1;
    for (int k = 1; k < planes; k++)
        if (picture->plane[k].across != 1 || picture->plane[k].down != 1)
            return 1;
    return 0;
}

/* What a scan's header says; 1 where its planes, which follow the picture's order, have no tables. */
static int read_scan(Picture *picture, const uint8_t *at, const uint8_t *end) {
    Scan *const scan = &picture->scan;
    scan->planes = end > at ? at[0] : 0;
    if (!picture->planes || scan->planes < 1 || scan->planes > picture->planes || end - at != 4 + 2 * scan->planes)
        return 1;
    const uint8_t *const rest = at + 1 + 2 * scan->planes;
    scan->first = rest[0];
    scan->last = rest[1];
    scan->high = rest[2] >> 4;
    scan->low = rest[2] & 15;
    for (int k = 0, plane = 0; k < scan->planes; k++, plane++) {
        while (plane < picture->planes && picture->plane[plane].id != at[1 + 2 * k])
            plane++;
        if (plane == picture->planes || !picture->steps[picture->plane[plane].step_table].known)
            return 1;
        const int means = at[2 + 2 * k] >> 4, others = at[2 + 2 * k] & 15;
        if (means > 3 || others > 3 || (!scan->first && !scan->high && !picture->means[means].counts) ||
            (scan->last && !picture->others[others].counts))
            return 1;
        scan->plane[k] = plane;
        scan->means[k] = means;
        scan->others[k] = others;
    }
    if (!picture->progressive)
        return scan->planes != picture->planes || scan->first || scan->last != VALUES - 1 || rest[2];
    return scan->last > VALUES - 1 || scan->low > 13 || (scan->high && scan->high != scan->low + 1) ||
           (scan->first ? scan->planes > 1 || scan->last < scan->first : scan->last);
}

/* The colours are luma and chroma, as libjpeg finds it out. */
static int is_plain(const Picture *picture) {
    if (picture->planes == 1 || picture->marks & COLOURED)
        return 1;
    if (picture->marks & INDEXED)
        return picture->transform == 1;
    return picture->plane[0].id == 1 && picture->plane[1].id == 2 && picture->plane[2].id == 3;
}

/* Reads headers from `at` up to the codes of a scan, and answers 0; 1 where they have anything that this does not know,
 * -1 at the end of the picture. */
int jpeg_next(const uint8_t *data, int64_t size, Picture *picture) {
    int64_t at = picture->at;
    const int begun = at > 2; /* What is read already stays as it is. */
    for (; at + 4 <= size; at = picture->at) {
        const int marker = data[at + 1], length = two(data + at + 2);
        const uint8_t *const begin = data + at + 4;
        if (data[at] == 0xff && marker == 0xd9)
            return begun ? -1 : 1;
        if (data[at] != 0xff || length < 2 || length > size - at - 2)
            return 1;
        const uint8_t *const end = data + at + 2 + length;
        int failed = 0;
        picture->at = at + 2 + length;
        if (marker == 0xdb)
            failed = begun || read_steps(picture, begin, end);
        else if (marker == 0xc4)
            failed = read_tables(picture, begin, end);
        else if (marker == 0xc0 || marker == 0xc1 || marker == 0xc2)
            failed = read_frame(picture, begin, end, marker == 0xc2);
        else if (marker == 0xdd) {
            failed = length != 4;
            picture->interval = failed ? 0 : two(begin);
        } else if (marker == 0xe0 && !begun) {
            if (length >= 16 && !memcmp(begin, "JFIF", 5)) {
                failed = begin[5] != 1; /* a version that is warned of */
                picture->marks |= COLOURED;
            }
        } else if (marker == 0xee && !begun) {
            if (length >= 14 && !memcmp(begin, "Adobe", 5)) {
                picture->transform = begin[11];
                failed = picture->transform > 1;
                picture->marks |= INDEXED;
            }
        } else if (marker == 0xda)
            return read_scan(picture, begin, end) || !is_plain(picture);
        else if (marker != 0xfe && (begun || marker < 0xe0 || marker > 0xef))
            return 1;
        if (failed)
            return 1;
    }
    return begun && at + 2 <= size && data[at] == 0xff && data[at + 1] == 0xd9 ? -1 : 1;
}

/* The first scan, and all before it. */
static int read_picture(const uint8_t *data, int64_t size, Picture *picture) {
    memset(picture->places, 4 * APART, sizeof picture->places);
    for (int k = 0; k < VALUES; k++)
        picture->places[k] = (uint8_t)place_of(zigzag[k] / SIDE, zigzag[k] % SIDE);
    picture->at = 2;
    return size < 4 || data[0] != 0xff || data[1] != 0xd8 || jpeg_next(data, size, picture);
}

int64_t jpeg_units_across(const Picture *picture) {
    const int64_t side = SIDE * picture->across;
    return (picture->width + side - 1) / side;
}

int64_t jpeg_sum_bytes(const Picture *picture) {
    return (int64_t)sizeof(int16_t) * SIDE * jpeg_units_across(picture) + 4 * BESIDE;
}

int64_t jpeg_room(const Picture *picture) {
    int64_t all = WINDOW + UNIT_BYTES + BESIDE;
    for (int k = 0; k < picture->planes; k++) {
        const Plane *plane = &picture->plane[k];
        all += 2 * SIDE * plane->down * SIDE * plane->across * jpeg_units_across(picture) + BESIDE;
    }
    return all + 2 * jpeg_sum_bytes(picture);
}

/* Pairs of blocks that lie beside one another in a plane, padded to whole units. */
int64_t jpeg_pairs_across(const Picture *picture, int plane) {
    return (jpeg_units_across(picture) * picture->plane[plane].across + 1) / 2;
}

int64_t jpeg_units_down(const Picture *picture) {
    const int64_t side = SIDE * picture->down;
    return (picture->height + side - 1) / side;
}

int64_t jpeg_values(const Picture *picture) {
    int64_t pairs = 0;
    for (int k = 0; k < picture->planes; k++)
        pairs += jpeg_pairs_across(picture, k) * jpeg_units_down(picture) * picture->plane[k].down;
    return picture->progressive ? pairs * (int64_t)(sizeof(int16_t[2 * VALUES]) + sizeof(uint64_t[2])) : 0;
}

/* Whether the processor has what comes with AVX2 everywhere but where a virtual one hides it. */
static int has_bits(void) {
    return __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

/* Height and width of a picture that mmdata_jpeg may read, as far as its headers say, and the bytes that its values
 * take; 1 where it does not. */
EXPORTED int mmdata_jpeg_size(const uint8_t *data, int64_t size, int64_t *sides) {
    Picture picture = {0};
    if (!has_bits() || read_picture(data, size, &picture))
        return 1;
    sides[0] = picture.height;
    sides[1] = picture.width;
    sides[2] = jpeg_values(&picture);
    return 0;
}

/* Looks into the tables of each plane of a baseline file; planes that share one have it once. */
static int read_all_tables(Work *work, unsigned look) {
    const Picture *picture = work->picture;
    const Scan *scan = &picture->scan;
    for (int k = 0; k < picture->planes; k++) {
        work->mean_table[k] = work->other_table[k] = k;
        for (int before = k - 1; before >= 0; before--) {
            if (scan->means[before] == scan->means[k])
                work->mean_table[k] = work->mean_table[before];
            if (scan->others[before] == scan->others[k])
                work->other_table[k] = work->other_table[before];
        }
        if (work->mean_table[k] == k && jpeg_means(&picture->means[scan->means[k]], MEANS, look, &work->means[k]))
            return 1;
        if (work->other_table[k] == k && read_others(&picture->others[scan->others[k]], look, &work->others[k]))
            return 1;
    }
    return 0;
}

/* What libjpeg-turbo makes of a scale of 1/`factor`: smaller blocks of luma, and chroma of as many samples if its
 * blocks can have them. 1 where it does what this does not. */
static int read_scale(Work *work, int factor) {
    const Picture *picture = work->picture;
    const int side = SIDE / factor, halved = picture->across == 2 && picture->down == 2 && factor > 1;
    work->height = (picture->height + factor - 1) / factor;
    work->width = (picture->width + factor - 1) / factor;
    for (int k = 0; k < picture->planes; k++)
        work->side[k] = k && halved ? 2 * side : side;
    work->wide = picture->across == 2 && !halved;
    work->tall = picture->down == 2 && !halved;
    /* Of so few pixels simplejpeg finds a smaller scale that has as many. */
    if (factor > 1 && picture->height < 32 && picture->width < 32)
        return 1;
    /* Chroma of one or two columns, or of single samples, is not smoothed. */
    return work->wide && (side == 1 || work->width <= 4);
}

/* Pixels of a picture of these sides as uint8 [ceil(height / factor), ceil(width / factor), channels]; `factor` is 1,
 * 2, 4 or 8, and `values` the room for a progressive file's. Answers 0, or 1 where the file is for others to read, and
 * what `pixels` holds is worth nothing. Where `pixels` is NULL the codes are read and nothing is written. */
EXPORTED int mmdata_jpeg(const uint8_t *data, int64_t size, int64_t height, int64_t width, int factor, int channels,
                         uint8_t *pixels, void *values, int level) {
    Picture picture = {0};
    if (level < LEVEL_AVX2 || !has_bits() || (channels != 3 && channels != 4) || read_picture(data, size, &picture) ||
        picture.height != height || picture.width != width)
        return 1;
    const size_t tables = PLANES * sizeof(Means) + (picture.progressive ? 0 : (size_t)picture.planes * sizeof(Others));
    uint8_t *const room = malloc(tables + (size_t)jpeg_room(&picture));
    if (!room)
        return 1;
    Work work = {.data = data, .size = size, .picture = &picture, .pixels = pixels, .channels = channels};
    work.means = (Means *)(void *)room;
    work.others = (Others *)(void *)(work.means + PLANES);
    work.values = values;
    work.room = room + tables;
    if (picture.progressive)
        memset(values, 0, (size_t)jpeg_values(&picture));
    /* A large table takes its time to be made. */
    const int failed = read_scale(&work, factor) ||
                       (!picture.progressive && read_all_tables(&work, size - picture.at > SHORT ? LOOK : LOOK - 2)) ||
                       (level >= LEVEL_AVX512 ? jpeg_avx512 : jpeg_avx2)(&work);
    free(room);
    return failed;
}

#endif
