/* FLAC frames to float32 samples, for one level: who includes this says by WAY which instructions there are. */

#ifndef MMDATA_FLAC_FRAMES_H
#define MMDATA_FLAC_FRAMES_H

#include <string.h>

#include "flac_bits.h"
#include "flac_sums.h"

/* A sum so far stays a sum of its own: compilers put what is added last, and is waited for, anywhere into it. */
#if defined(__GNUC__) || defined(__clang__)
#define FIRST(sum) __asm__("" : "+r"(sum))
#else
#define FIRST(sum) ((void)(sum))
#endif

enum { MOST_ORDER = 32, KNOWN_ORDER = 12 };

/* A frame as its header describes it; `pair` is 0, or how two channels were made (8 to 10, RFC 9639, 9.1.3). */
typedef struct {
    int64_t block;
    int pair;
} Frame;

/* The number of a frame, which is coded as UTF-8 codes characters; -1 where it is none. */
static WAY int64_t take_number(Bits *bits) {
    const unsigned first = (unsigned)take(bits, 8), ones = zeros_of(~((uint64_t)first << 56));
    if (ones == 1 || ones > 7)
        return -1;
    int64_t number = ones ? first & (0x7f >> ones) : first;
    for (unsigned more = 1; more < ones; more++) {
        const unsigned next = (unsigned)take(bits, 8);
        if (next >> 6 != 2)
            return -1;
        number = number << 6 | (next & 63);
    }
    return number;
}

static WAY int64_t take_block(Bits *bits, unsigned code) {
    if (code == 6 || code == 7)
        return (int64_t)take(bits, code == 6 ? 8 : 16) + 1;
    return code == 1 ? 192 : code < 6 ? 576 << (code - 2) : 256 << (code - 8);
}

/* The rate, where a header does not leave it to STREAMINFO. */
static WAY int64_t take_rate(Bits *bits, unsigned code) {
    static const int32_t rates[12] = {0,     88200, 176400, 192000, 8000,  16000,
                                      22050, 24000, 32000,  44100,  48000, 96000};
    if (code < 12)
        return rates[code];
    return code == 12 ? (int64_t)take(bits, 8) * 1000 : (int64_t)take(bits, 16) * (code == 14 ? 10 : 1);
}

/* Whether a header begins here that says what the stream has said: RFC 9639, 9.1. */
static WAY int take_header(Bits *bits, Stream *stream, Frame *frame) {
    static const int64_t sizes[8] = {0, 8, 12, -1, 16, 20, 24, 32};
    const int64_t begin = bits->at >> 3;
    if (take(bits, 15) != 0x7ffc)
        return 0;
    const int64_t by_samples = (int64_t)take(bits, 1);
    const unsigned of_block = (unsigned)take(bits, 4), of_rate = (unsigned)take(bits, 4);
    const unsigned of_channels = (unsigned)take(bits, 4), of_bits = (unsigned)take(bits, 3);
    if (take(bits, 1) || !of_block || of_rate == 15 || of_channels > 10)
        return 0;
    const int64_t number = take_number(bits);
    const int64_t block = take_block(bits, of_block), rate = take_rate(bits, of_rate);
    const int64_t length = (bits->at >> 3) - begin;
    const unsigned sum = (unsigned)take(bits, 8);
    if (ended(bits) || sum8(bits->data + begin, length) != sum)
        return 0;
    const int pair = of_channels < 8 ? 0 : (int)of_channels;
    const int is_last = stream->sample + block == stream->samples;
    if ((of_rate && rate != stream->rate) || (of_bits && sizes[of_bits] != stream->bits) ||
        (pair ? 2 : of_channels + 1) != stream->channels || block > stream->most ||
        stream->sample + block > stream->samples || (stream->by_samples >= 0 && by_samples != stream->by_samples))
        return 0;
    if (by_samples ? number != stream->sample || (block < stream->least && !is_last)
                   : stream->least != stream->most || number != stream->sample / stream->most ||
                         (block != stream->most && !is_last))
        return 0;
    stream->by_samples = by_samples;
    frame->block = block;
    frame->pair = pair;
    return 1;
}

/* What a prediction of each kind weighs: RFC 9639, 9.2.5 and 9.2.6. */
typedef struct {
    int order, shift, wide;
    int32_t weights[MOST_ORDER];
} Prediction;

static WAY int take_prediction(Bits *bits, Prediction *found, int kind, int sample_bits, int32_t *out) {
    static const int32_t fixed[5][4] = {{0}, {1}, {2, -1}, {3, -3, 1}, {4, -6, 4, -1}};
    const int is_fixed = kind < 32;
    found->order = is_fixed ? kind - 8 : kind - 31;
    found->shift = found->wide = 0;
    for (int i = 0; i < found->order; i++)
        out[i] = take_signed(bits, (unsigned)sample_bits);
    if (is_fixed) { /* The sums of 25 bits are below 30. */
        memcpy(found->weights, fixed[found->order], sizeof fixed[0]);
        return 1;
    }
    const int precision = (int)take(bits, 4) + 1;
    found->shift = take_signed(bits, 5);
    if (precision == 16 || found->shift < 0)
        return 0;
    for (int i = 0; i < found->order; i++)
        found->weights[i] = take_signed(bits, (unsigned)precision);
    const int doublings = 64 - (int)zeros_of((uint64_t)found->order - 1);
    found->wide = sample_bits + precision + doublings > 32;
    return 1;
}

/* Add to each residual, in place, what the `order` samples before it foretell. Answers what of it is beyond an int32.
 * The last sample is what the next one waits for: it is kept at hand, and comes last into the sum. */
static WAY ALWAYS_INLINE uint64_t foretell(int32_t *at, int64_t count, const Prediction *found, const int order,
                                           const int wide) {
    const int shift = found->shift;
    int32_t last = at[-1], weights[MOST_ORDER];
    for (int tap = 0; tap < order; tap++)
        weights[tap] = found->weights[tap];
    uint64_t beyond = 0;
    for (int64_t i = 0; i < count; i++) {
        if (wide) {
            int64_t sum = 0;
            for (int tap = order - 1; tap; tap--)
                sum += (int64_t)weights[tap] * at[i - 1 - tap];
            FIRST(sum);
            const int64_t sample = at[i] + ((sum + (int64_t)weights[0] * last) >> shift);
            beyond |= (uint64_t)(sample + 0x80000000) >> 32;
            last = (int32_t)(uint32_t)sample;
        } else {
            uint32_t sum = 0;
            for (int tap = order - 1; tap; tap--)
                sum += (uint32_t)weights[tap] * (uint32_t)at[i - 1 - tap];
            FIRST(sum);
            sum += (uint32_t)weights[0] * (uint32_t)last;
            last = (int32_t)((uint32_t)at[i] + (uint32_t)((int32_t)sum >> shift));
        }
        at[i] = last;
    }
    return beyond;
}

typedef uint64_t Foretell(int32_t *at, int64_t count, const Prediction *found);

#define OF_ORDER(number)                                                                                               \
    static WAY uint64_t narrow##number(int32_t *at, int64_t count, const Prediction *found) {                          \
        return foretell(at, count, found, number, 0);                                                                  \
    }                                                                                                                  \
    static WAY uint64_t wide##number(int32_t *at, int64_t count, const Prediction *found) {                            \
        return foretell(at, count, found, number, 1);                                                                  \
    }

OF_ORDER(1)
OF_ORDER(2)
OF_ORDER(3)
OF_ORDER(4)
OF_ORDER(5)
OF_ORDER(6)
OF_ORDER(7)
OF_ORDER(8)
OF_ORDER(9)
OF_ORDER(10)
OF_ORDER(11)
OF_ORDER(12)

static WAY uint64_t narrow(int32_t *at, int64_t count, const Prediction *found) {
    return foretell(at, count, found, found->order, 0);
}

static WAY uint64_t wide(int32_t *at, int64_t count, const Prediction *found) {
    return foretell(at, count, found, found->order, 1);
}

static WAY uint64_t nothing(int32_t *at, int64_t count, const Prediction *found) {
    (void)at, (void)count, (void)found;
    return 0;
}

static Foretell *foreteller(const Prediction *found) {
    static Foretell *const ways[2][KNOWN_ORDER + 1] = {
        {nothing, narrow1, narrow2, narrow3, narrow4, narrow5, narrow6, narrow7, narrow8, narrow9, narrow10, narrow11,
         narrow12},
        {nothing, wide1, wide2, wide3, wide4, wide5, wide6, wide7, wide8, wide9, wide10, wide11, wide12},
    };
    return found->order <= KNOWN_ORDER ? ways[found->wide][found->order] : found->wide ? wide : narrow;
}

/* Samples from `count` residuals of one parameter. `together` codes are taken between two looks into memory, after
 * which it is asked whether they had more bits than were there: the place of the next one waits for a count of zeros, a
 * sum and a shift. A sample waits for the one before too: of a `chunk` of residuals samples are made while the
 * processor takes the next already. Answers what of samples and of folded residuals is beyond their bits. */
static WAY ALWAYS_INLINE uint64_t take_some(Bits *bits, int32_t *out, int64_t count, unsigned parameter,
                                            const Prediction *found, const int together, const int chunk) {
    Foretell *const foretold = foreteller(found);
    /* Up to here no chunk ends behind the file, wherever its bits are looked for. */
    const int64_t most = parameter > SMALL_PARAMETER ? -1 : 8 * (bits->size - 32 - 8 * (chunk / together));
    uint64_t beyond = 0;
    if (count >= chunk && bits->at <= most) {
        int64_t at = bits->at;
        uint64_t window = peek_all(bits);
        do {
            int done = 0;
            do {
                const uint64_t behind = eight(bits->data + (at >> 3) + 8) << (at & 7);
                unsigned used = 0;
                for (int each = 0; each < together; each++) {
                    const unsigned zeros = zeros_of(window), length = zeros + parameter + 1;
                    const uint64_t code = window >> (-length & 63);
                    out[done + each] = unfolded(code + (((uint64_t)zeros - 1) << parameter));
                    used += length;
                    window <<= length & 63;
                }
                if (used > SURE)
                    break;
                window |= behind >> (64 - used);
                at += used;
                done += together;
            } while (done < chunk);
            if (done < chunk) {
                bits->at = at;
                for (; done < chunk; done++) {
                    const uint64_t folded = take_folded(bits, parameter);
                    out[done] = unfolded(folded);
                    beyond |= folded >> 31;
                }
                at = bits->at;
                window = at <= most ? peek_all(bits) : 0;
            }
            beyond |= foretold(out, chunk, found);
            out += chunk;
            count -= chunk;
        } while (count >= chunk && at <= most);
        bits->at = at;
    }
    for (int64_t i = 0; i < count; i++) {
        const uint64_t folded = take_folded(bits, parameter);
        out[i] = unfolded(folded);
        beyond |= folded >> 31;
    }
    return beyond | foretold(out, count, found);
}

#define TOGETHER(number, chunk)                                                                                        \
    static WAY uint64_t take##number(Bits *bits, int32_t *out, int64_t count, unsigned parameter,                      \
                                     const Prediction *found) {                                                       \
        return take_some(bits, out, count, parameter, found, number, chunk);                                           \
    }

TOGETHER(1, 16)
TOGETHER(2, 16)
TOGETHER(3, 15)
TOGETHER(4, 12)
TOGETHER(6, 18)

/* As many together as seldom have more bits than are there. */
static WAY uint64_t take_samples(Bits *bits, int32_t *out, int64_t count, unsigned parameter,
                                 const Prediction *found) {
    if (parameter < 4)
        return take6(bits, out, count, parameter, found);
    if (parameter < 10)
        return take4(bits, out, count, parameter, found);
    if (parameter < 13)
        return take3(bits, out, count, parameter, found);
    return (parameter < 20 ? take2 : take1)(bits, out, count, parameter, found);
}

/* Samples of a subframe behind its first `order` ones: RFC 9639, 9.2.7. A first partition of none, which the RFC
 * forbids and libFLAC reads in more ways than one, is refused; so are residuals of more than 31 bits, for which no
 * encoder has a use: as long as all samples fit, no sum of one and what is foretold is beyond an int32. */
static WAY int take_partitions(Bits *bits, int32_t *out, int64_t block, const Prediction *found) {
    const unsigned method = (unsigned)take(bits, 2), wide = 4 + method, escape = (1u << wide) - 1;
    const unsigned parts = (unsigned)take(bits, 4);
    const int64_t size = block >> parts;
    if (method > 1 || size << parts != block || size <= found->order)
        return 0;
    uint64_t beyond = 0;
    for (int64_t at = found->order, end = size; end <= block; at = end, end += size) {
        const unsigned parameter = (unsigned)take(bits, wide);
        if (parameter != escape) {
            beyond |= take_samples(bits, out + at, end - at, parameter, found);
            continue;
        }
        const unsigned raw = (unsigned)take(bits, 5);
        if (raw > 30)
            return 0;
        for (int64_t i = at; i < end; i++)
            out[i] = raw ? take_signed(bits, raw) : 0;
        beyond |= foreteller(found)(out + at, end - at, found);
    }
    return !beyond && !ended(bits);
}

static WAY ALWAYS_INLINE int fits(const int32_t *samples, int64_t count, int bits) {
    int32_t all = 0;
    for (int64_t i = 0; i < count; i++)
        all |= samples[i] ^ samples[i] >> 31;
    return !(all >> (bits - 1));
}

/* Samples of one channel: RFC 9639, 9.2. */
static WAY ALWAYS_INLINE int take_subframe(Bits *bits, int32_t *out, int64_t block, int sample_bits) {
    const unsigned begin = (unsigned)take(bits, 8), kind = begin >> 1;
    const int64_t wasted = begin & 1 ? take_zeros(bits) + 1 : 0;
    if (kind > 63 || wasted >= sample_bits)
        return 0;
    sample_bits -= (int)wasted;
    if (kind == 0) {
        const int32_t sample = take_signed(bits, (unsigned)sample_bits);
        for (int64_t i = 0; i < block; i++)
            out[i] = sample;
    } else if (kind == 1) {
        for (int64_t i = 0; i < block; i++)
            out[i] = take_signed(bits, (unsigned)sample_bits);
    } else {
        Prediction found;
        if (!((kind >= 8 && kind <= 12) || kind >= 32) || (int64_t)(kind < 32 ? kind - 8 : kind - 31) > block)
            return 0;
        if (!take_prediction(bits, &found, (int)kind, sample_bits, out) || !take_partitions(bits, out, block, &found))
            return 0;
    }
    if (!fits(out, block, sample_bits))
        return 0;
    if (wasted)
        for (int64_t i = 0; i < block; i++)
            out[i] = (int32_t)((uint32_t)out[i] << wasted);
    return !ended(bits);
}

/* Left and right of what two channels were made into. Answers whether they fit. */
static WAY ALWAYS_INLINE int parted(int32_t *one, int32_t *two, int64_t block, int pair, int bits) {
    for (int64_t i = 0; i < block; i++) {
        const int32_t a = one[i], b = two[i]; /* of 25 bits at most, as they fit */
        if (pair == 8) {
            two[i] = a - b;
        } else if (pair == 9) {
            one[i] = a + b;
        } else {
            const int32_t twice = (int32_t)((uint32_t)a << 1) | (b & 1);
            one[i] = (twice + b) >> 1;
            two[i] = (twice - b) >> 1;
        }
    }
    return fits(one, block, bits) && fits(two, block, bits);
}

static WAY ALWAYS_INLINE int take_channels(Bits *bits, const Stream *stream, const Frame *frame, int32_t *room) {
    for (int64_t channel = 0; channel < stream->channels; channel++) {
        const int more = frame->pair == (channel ? 8 : 9) || (frame->pair == 10 && channel);
        if (!take_subframe(bits, room + channel * stream->most, frame->block, (int)stream->bits + more))
            return 0;
    }
    return !frame->pair || parted(room, room + stream->most, frame->block, frame->pair, (int)stream->bits);
}

/* `count` samples of the frame that was read, from its sample `passed` on, as floats at `done`: each channel in its
 * row, or the mean of the channels, summed in their order. */
static WAY ALWAYS_INLINE void hand_out(const Reading *reading, int64_t passed, int64_t count, int64_t done) {
    const Stream *const stream = reading->stream;
    const float scale = 1.0f / (float)(1 << (stream->bits - 1));
    for (int64_t channel = 0; channel < stream->channels; channel++) {
        const int32_t *const from = reading->room + channel * stream->most + passed;
        float *const to = reading->out + (reading->mono ? 0 : channel * reading->count) + done;
        if (reading->mono && channel)
            for (int64_t i = 0; i < count; i++)
                to[i] += (float)from[i] * scale;
        else
            for (int64_t i = 0; i < count; i++)
                to[i] = (float)from[i] * scale;
    }
    if (reading->mono && stream->channels > 1) {
        const float mean = (float)(1.0 / (double)stream->channels);
        for (int64_t i = 0; i < count; i++)
            reading->out[done + i] *= mean;
    }
}

static WAY ALWAYS_INLINE int frames(const Reading *reading) {
    Stream *const stream = reading->stream;
    for (int64_t done = 0; done < reading->count;) {
        Bits bits = {reading->data, reading->size, 8 * stream->byte};
        Frame frame;
        if (!take_header(&bits, stream, &frame) || !take_channels(&bits, stream, &frame, reading->room))
            return 1;
        const unsigned filled = (unsigned)(-bits.at & 7);
        if (filled && take(&bits, filled))
            return 1;
        const int64_t size = (bits.at >> 3) + 2 - stream->byte;
        if (stream->byte + size > reading->size || sum16(reading->sums, reading->data + stream->byte, size))
            return 1;
        const int64_t passed = reading->first + done - stream->sample, left = reading->count - done;
        const int64_t there = frame.block - passed;
        if (there > 0) {
            hand_out(reading, passed, there < left ? there : left, done);
            if (there > left)
                break;
            done += there;
        }
        stream->byte += size;
        stream->sample += frame.block;
    }
    return 0;
}

#endif
