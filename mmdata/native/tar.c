/* Headers of tars, looked at and made: twins are `shards/plain_tar.py` and `shards/tar.py`. */

#include <string.h>

#include "tar.h"

enum { MODE = 100, SIZE = 124, DIGITS = 11, SUM = 148, SUM_DIGITS = 6, SUM_BYTES = 8, KIND = 156, PREFIX = 345 };

static int octal(const uint8_t *field, int digits, int64_t *value) {
    int64_t found = 0;
    for (int at = 0; at < digits; at++) {
        const uint8_t digit = (uint8_t)(field[at] - '0');
        if (digit > 7)
            return 0;
        found = found * 8 + digit;
    }
    *value = found;
    return 1;
}

/* The sum of a header whose own checksum counts as spaces; what its bytes have in common with bytes that are not ASCII
 * is left in `high`. Eight bytes at a time, in four sums of 16 bits that cannot overflow, which compilers make wider. */
static int64_t summed(const uint8_t header[BLOCK], uint64_t *high) {
    const uint64_t even = 0x00ff00ff00ff00ffu;
    uint64_t sums = 0, all = 0, word;
    for (int at = 0; at < BLOCK; at += 8) {
        memcpy(&word, header + at, sizeof word);
        all |= word;
        sums += (word & even) + (word >> 8 & even);
    }
    *high = all & 0x8080808080808080u;
    int64_t sum = SUM_BYTES * ' ';
    for (int lane = 0; lane < 64; lane += 16)
        sum += (int64_t)(sums >> lane & 0xffff);
    for (int at = SUM; at < SUM + SUM_BYTES; at++)
        sum -= header[at];
    return sum;
}

size_t name_length(const uint8_t header[BLOCK]) {
    const uint8_t *end = memchr(header, 0, LONGEST_NAME);
    return end ? (size_t)(end - header) : LONGEST_NAME;
}

int64_t plain_size(const uint8_t header[BLOCK], int extended) {
    int64_t size, said;
    if (extended ? header[KIND] != 'x' : header[KIND] != '0' && header[KIND] != 0)
        return -1;
    if (header[0] == 0 || header[PREFIX] != 0)
        return -1;
    if (header[SUM + SUM_DIGITS] != 0 || header[SUM + SUM_DIGITS + 1] != ' ')
        return -1;
    if (header[SIZE + DIGITS] != 0 && header[SIZE + DIGITS] != ' ')
        return -1;
    if (!octal(header + SIZE, DIGITS, &size) || !octal(header + SUM, SUM_DIGITS, &said))
        return -1;
    uint64_t high;
    if (said != summed(header, &high) || high)
        return -1;
    static const uint8_t zeros[LONGEST_NAME];
    const size_t name = name_length(header);
    return memcmp(header + name, zeros, LONGEST_NAME - name) == 0 ? size : -1;
}

/* `length key=value\n`: the length is that of all this. */
int only_times(const uint8_t *records, size_t size) {
    size_t begin = 0;
    while (begin < size) {
        size_t at = begin, length = 0;
        for (; at < size && at < begin + 3 && records[at] >= '0' && records[at] <= '9'; at++)
            length = length * 10 + (size_t)(records[at] - '0');
        const size_t key = sizeof " mtime=" - 1;
        if (at == begin || length > size - begin || length < at - begin + key + 1)
            return 0;
        if (records[at] != ' ' || !strchr("mac", records[at + 1]) || !records[at + 1] ||
            memcmp(records + at + 2, "time=", 5) != 0 || records[begin + length - 1] != '\n')
            return 0;
        begin += length;
    }
    return 1;
}

static void put_octal(uint8_t *field, int digits, int64_t value) {
    for (int at = digits - 1; at >= 0; at--, value >>= 3)
        field[at] = (uint8_t)('0' + (value & 7));
}

void put_header(uint8_t header[BLOCK], const char *name, size_t length, int64_t size) {
    memset(header, 0, BLOCK);
    memcpy(header, name, length);
    memcpy(header + MODE, "0000644\0" "0000000\0" "0000000", 3 * 8);
    put_octal(header + SIZE, DIGITS, size);
    memcpy(header + SIZE + DIGITS + 1, "00000000000", DIGITS);
    header[KIND] = '0';
    memcpy(header + 257, "ustar\0" "00", 8);
    uint64_t high;
    put_octal(header + SUM, SUM_DIGITS, summed(header, &high));
    header[SUM + SUM_DIGITS + 1] = ' ';
}
