/* The headers of many pictures by their first bytes: the twin is `glances` of `decode/glance.py`. */

#include <string.h>

#include "calls.h"
#include "looks.h"

typedef struct {
    const uint8_t *at, *end;
} Bytes;

/* Pass over these bytes, if they come next. */
static int comes(Bytes *bytes, const char *next, size_t size) {
    if ((size_t)(bytes->end - bytes->at) < size || memcmp(bytes->at, next, size) != 0)
        return 0;
    bytes->at += size;
    return 1;
}

static int skip(Bytes *bytes, size_t size) {
    if ((size_t)(bytes->end - bytes->at) < size)
        return 0;
    bytes->at += size;
    return 1;
}

/* A quantization table of 8 bits, behind the byte that says which. */
static int quantized(Bytes *bytes) { return bytes->at < bytes->end && *bytes->at <= 15 && skip(bytes, 65); }

static int quantization(Bytes *bytes) {
    return comes(bytes, "\0\x43", 2) ? quantized(bytes)
                                     : comes(bytes, "\0\x84", 2) && quantized(bytes) && quantized(bytes);
}

/* The Huffman tables of the standard: one of DC or of AC, all four of them, or the two of a grey picture. */
static int huffman(Bytes *bytes) {
    return (comes(bytes, "\0\x1f", 2) && skip(bytes, 29)) || (comes(bytes, "\0\xb5", 2) && skip(bytes, 179)) ||
           (comes(bytes, "\x01\xa2", 2) && skip(bytes, 416)) || (comes(bytes, "\0\xd2", 2) && skip(bytes, 208));
}

enum { MOST_TABLES = 4 };

/* One to four segments of this marker. */
static int segments(Bytes *bytes, const char *marker, int (*segment)(Bytes *)) {
    int count = 0;
    for (; count < MOST_TABLES && comes(bytes, marker, 2); count++)
        if (!segment(bytes))
            return 0;
    return count > 0;
}

/* Of a baseline JPEG as libjpeg writes it (`_BASELINE`): its components, 1 or 3, and where its height and width stand,
 * two bytes each; 0 of any other. */
static int baseline(Bytes bytes, const uint8_t **size) {
    int components = 0;
    if (!comes(&bytes, "\xff\xd8\xff\xe0\0\x10JFIF\0", 11) || !skip(&bytes, 9) ||
        !segments(&bytes, "\xff\xdb", quantization))
        return 0;
    if (!comes(&bytes, "\xff\xc0\0", 3) && !comes(&bytes, "\xff\xc1\0", 3))
        return 0;
    if (comes(&bytes, "\x11\x08", 2))
        components = 3;
    else if (comes(&bytes, "\x0b\x08", 2))
        components = 1;
    else
        return 0;
    *size = bytes.at;
    if (!skip(&bytes, 4) || !comes(&bytes, components == 3 ? "\x03" : "\x01", 1) ||
        !skip(&bytes, 3 * (size_t)components) || !segments(&bytes, "\xff\xc4", huffman))
        return 0;
    const int scanned = (comes(&bytes, "\xff\xda\0\x0c", 4) && skip(&bytes, 10)) ||
                        (comes(&bytes, "\xff\xda\0\x08", 4) && skip(&bytes, 6));
    return scanned ? components : 0;
}

void glanced(const uint8_t *head, size_t length, int64_t most, int32_t seen[3]) {
    const uint8_t *size = NULL;
    const Bytes bytes = {head, head + length};
    seen[0] = seen[1] = 0;
    seen[2] = baseline(bytes, &size);
    if (seen[2]) {
        seen[0] = size[0] << 8 | size[1];
        seen[1] = size[2] << 8 | size[3];
        const int64_t pixels = (int64_t)seen[0] * seen[1];
        if (pixels < 1 || pixels > most)
            seen[0] = seen[1] = seen[2] = 0;
    }
}

/* glances(heads, most): int32 [N, 3] of each head, as `glanced` tells them. */
PyObject *call_glances(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    (void)module;
    if (count != 2 || !PyList_CheckExact(given[0])) {
        PyErr_SetString(PyExc_TypeError, "glances(list, most)");
        return NULL;
    }
    const long long most = PyLong_AsLongLong(given[1]);
    if (most == -1 && PyErr_Occurred())
        return NULL;
    const Py_ssize_t length = PyList_GET_SIZE(given[0]);
    PyObject *told = PyBytes_FromStringAndSize(NULL, length * 3 * (Py_ssize_t)sizeof(int32_t));
    if (!told)
        return NULL;
    char *to = PyBytes_AS_STRING(told);
    for (Py_ssize_t each = 0; each < length; each++, to += 3 * sizeof(int32_t)) {
        PyObject *head = PyList_GET_ITEM(given[0], each);
        if (!PyBytes_Check(head)) {
            Py_DECREF(told);
            PyErr_SetString(PyExc_TypeError, "a head is no bytes");
            return NULL;
        }
        int32_t seen[3];
        glanced((const uint8_t *)PyBytes_AS_STRING(head), (size_t)PyBytes_GET_SIZE(head), most, seen);
        memcpy(to, seen, sizeof seen);
    }
    return told;
}
