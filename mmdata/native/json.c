/* JSON of a few values without spaces, byte for byte as `json.dumps` writes it: twins are the encoders of
 * `shards/index.py`, which also take what is not written here. */

#include <string.h>

#include "calls.h"

enum { FIRST = 4096, DEEPEST = 32 };

typedef struct {
    char *bytes; /* `first`, or what was allocated */
    size_t used, room;
    int readable; /* UTF-8, objects with sorted keys; else ASCII, and bytes in hex */
    char first[FIRST];
} Text;

/* What a function answers: written; not a value that is written here; Python has failed. */
enum { WRITTEN, OTHER, FAILED };

/* Room for so many more bytes, or NULL. */
static char *more(Text *text, size_t size) {
    if (size > text->room - text->used) {
        if (size > ((size_t)1 << 30) - text->used) {
            PyErr_NoMemory();
            return NULL;
        }
        const size_t room = 2 * (text->used + size);
        char *bytes = PyMem_Realloc(text->bytes == text->first ? NULL : text->bytes, room);
        if (!bytes) {
            PyErr_NoMemory();
            return NULL;
        }
        if (text->bytes == text->first)
            memcpy(bytes, text->first, text->used);
        text->bytes = bytes;
        text->room = room;
    }
    return text->bytes + text->used;
}

static int put(Text *text, const char *bytes, size_t size) {
    char *to = more(text, size);
    if (!to)
        return FAILED;
    memcpy(to, bytes, size);
    text->used += size;
    return WRITTEN;
}

static const char HEX[] = "0123456789abcdef";

static char *unit(char *to, unsigned value) {
    *to++ = '\\';
    *to++ = 'u';
    for (int shift = 12; shift >= 0; shift -= 4)
        *to++ = HEX[value >> shift & 15];
    return to;
}

static char *utf8(char *to, Py_UCS4 c) {
    if (c < 0x80)
        *to++ = (char)c;
    else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 63));
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    }
    return to;
}

static char *escaped(char *to, Py_UCS4 c, int readable) {
    static const char SHORT[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    if (c < 128)
        for (const char *each = SHORT; *each; each += 2)
            if ((Py_UCS4)*each == c) {
                *to++ = '\\';
                *to++ = each[1];
                return to;
            }
    if (c >= ' ' && (c < 0x7f || readable))
        return utf8(to, c);
    if (c < 0x10000)
        return unit(to, c);
    return unit(unit(to, 0xd800 | ((c - 0x10000) >> 10 & 0x3ff)), 0xdc00 | (c & 0x3ff));
}

static int string(Text *text, PyObject *value) {
    const Py_ssize_t length = PyUnicode_GET_LENGTH(value);
    const int kind = PyUnicode_KIND(value);
    const void *data = PyUnicode_DATA(value);
    if (length > 1 << 26)
        return OTHER;
    char *const begin = more(text, 12 * (size_t)length + 2);
    if (!begin)
        return FAILED;
    char *to = begin;
    *to++ = '"';
    for (Py_ssize_t at = 0; at < length; at++) {
        const Py_UCS4 c = PyUnicode_READ(kind, data, at);
        if (c >= ' ' && c < 0x7f && c != '"' && c != '\\')
            *to++ = (char)c;
        else if (text->readable && c >= 0xd800 && c < 0xe000)
            return OTHER; /* which no UTF-8 is of */
        else
            to = escaped(to, c, text->readable);
    }
    *to++ = '"';
    text->used += (size_t)(to - begin);
    return WRITTEN;
}

static int hexed(Text *text, PyObject *value) {
    const Py_ssize_t length = PyBytes_GET_SIZE(value);
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(value);
    if (length > 1 << 26)
        return OTHER;
    char *to = more(text, 2 * (size_t)length + 2);
    if (!to)
        return FAILED;
    *to++ = '"';
    for (Py_ssize_t at = 0; at < length; at++) {
        *to++ = HEX[bytes[at] >> 4];
        *to++ = HEX[bytes[at] & 15];
    }
    *to = '"';
    text->used += 2 * (size_t)length + 2;
    return WRITTEN;
}

static int integer(Text *text, PyObject *value) {
    int overflow;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow)
        return OTHER;
    if (number == -1 && PyErr_Occurred())
        return FAILED;
    char digits[24], *at = digits + sizeof digits;
    unsigned long long left = number < 0 ? 0 - (unsigned long long)number : (unsigned long long)number;
    do
        *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (number < 0)
        *--at = '-';
    return put(text, at, (size_t)(digits + sizeof digits - at));
}

static int real(Text *text, double value) {
    if (value != value || value - value != 0)
        return OTHER;
    char *digits = PyOS_double_to_string(value, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    if (!digits)
        return FAILED;
    const int answer = put(text, digits, strlen(digits));
    PyMem_Free(digits);
    return answer;
}

static int any(Text *text, PyObject *value, int depth);

static int array(Text *text, PyObject *values, int depth) {
    int answer = put(text, "[", 1);
    for (Py_ssize_t at = 0; answer == WRITTEN && at < PySequence_Fast_GET_SIZE(values); at++) {
        if (at > 0)
            answer = put(text, ",", 1);
        if (answer == WRITTEN)
            answer = any(text, PySequence_Fast_GET_ITEM(values, at), depth);
    }
    return answer == WRITTEN ? put(text, "]", 1) : answer;
}

/* The names are strings and nothing else: to compare them runs no code of anybody's. */
static int object(Text *text, PyObject *value, int depth) {
    PyObject *names = PyDict_Keys(value);
    if (!names)
        return FAILED;
    int answer = WRITTEN;
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(names); at++)
        if (!PyUnicode_CheckExact(PyList_GET_ITEM(names, at)))
            answer = OTHER;
    if (answer == WRITTEN && PyList_Sort(names) < 0)
        answer = FAILED;
    if (answer == WRITTEN)
        answer = put(text, "{", 1);
    for (Py_ssize_t at = 0; answer == WRITTEN && at < PyList_GET_SIZE(names); at++) {
        PyObject *name = PyList_GET_ITEM(names, at), *held = PyDict_GetItemWithError(value, name);
        answer = at ? put(text, ",", 1) : WRITTEN;
        if (answer == WRITTEN)
            answer = string(text, name);
        if (answer == WRITTEN)
            answer = put(text, ":", 1);
        if (answer == WRITTEN)
            answer = held ? any(text, held, depth) : FAILED;
    }
    Py_DECREF(names);
    return answer == WRITTEN ? put(text, "}", 1) : answer;
}

static int any(Text *text, PyObject *value, int depth) {
    if (value == Py_None)
        return put(text, "null", 4);
    if (PyUnicode_Check(value))
        return string(text, value);
    if (value == Py_True)
        return put(text, "true", 4);
    if (value == Py_False)
        return put(text, "false", 5);
    if (PyLong_Check(value))
        return integer(text, value);
    if (PyFloat_Check(value))
        return real(text, PyFloat_AS_DOUBLE(value));
    if (PyBytes_CheckExact(value) && !text->readable)
        return hexed(text, value);
    if (depth < DEEPEST && (PyList_Check(value) || PyTuple_Check(value)))
        return array(text, value, depth + 1);
    if (depth < DEEPEST && PyDict_CheckExact(value) && text->readable)
        return object(text, value, depth + 1);
    return OTHER;
}

/* json(value, readable): the bytes, or None where it holds what others write. */
PyObject *call_json(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "json(value, readable)");
        return NULL;
    }
    Text text;
    text.bytes = text.first;
    text.used = 0;
    text.room = FIRST;
    text.readable = given[1] == Py_True;
    const int answer = any(&text, given[0], 0);
    PyObject *told = NULL;
    if (answer == WRITTEN)
        told = PyBytes_FromStringAndSize(text.bytes, (Py_ssize_t)text.used);
    else if (answer == OTHER)
        told = Py_NewRef(Py_None);
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_KeyError, "a name that has gone");
    if (text.bytes != text.first)
        PyMem_Free(text.bytes);
    return told;
}
