/* Which of some names JSON objects have: the twin is `_objects` of `engine/adopt_plain.py`, which parses them.
 *
 * What is taken here is RFC 8259's grammar, a part of what Python's parser takes; of anything else nothing is said. */

#include <string.h>

#include "calls.h"
#include "looks.h"

enum { DEEPEST = 32, MOST_DIGITS = 300 };

typedef struct {
    const unsigned char *at, *end;
} Bytes;

static void spaces(Bytes *bytes) {
    while (bytes->at < bytes->end &&
           (*bytes->at == ' ' || *bytes->at == '\n' || *bytes->at == '\r' || *bytes->at == '\t'))
        bytes->at++;
}

static int comes(Bytes *bytes, unsigned char next) {
    if (bytes->at == bytes->end || *bytes->at != next)
        return 0;
    bytes->at++;
    return 1;
}

static int hex(unsigned char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

static int escape(Bytes *bytes) {
    if (bytes->at == bytes->end)
        return 0;
    const unsigned char c = *bytes->at++;
    if (c != 'u')
        return c && strchr("\"\\/bfnrt", c) != NULL;
    for (int digit = 0; digit < 4; digit++)
        if (bytes->at == bytes->end || !hex(*bytes->at++))
            return 0;
    return 1;
}

/* A string, and whether it has escapes. Bytes of other than ASCII are looked at before. */
static int string(Bytes *bytes, int *escapes) {
    *escapes = 0;
    if (!comes(bytes, '"'))
        return 0;
    while (bytes->at < bytes->end) {
        const unsigned char c = *bytes->at++;
        if (c == '"')
            return 1;
        if (c < ' ')
            return 0;
        if (c == '\\') {
            *escapes = 1;
            if (!escape(bytes))
                return 0;
        }
    }
    return 0;
}

static int digits(Bytes *bytes) {
    const unsigned char *const begin = bytes->at;
    while (bytes->at < bytes->end && *bytes->at >= '0' && *bytes->at <= '9')
        bytes->at++;
    return bytes->at > begin && bytes->at - begin <= MOST_DIGITS;
}

static int number(Bytes *bytes) {
    comes(bytes, '-');
    if (!comes(bytes, '0') && !digits(bytes))
        return 0;
    if (comes(bytes, '.') && !digits(bytes))
        return 0;
    if (comes(bytes, 'e') || comes(bytes, 'E')) {
        if (!comes(bytes, '+'))
            comes(bytes, '-');
        return digits(bytes);
    }
    return 1;
}

static int word(Bytes *bytes, const char *said) {
    const size_t size = strlen(said);
    if ((size_t)(bytes->end - bytes->at) < size || memcmp(bytes->at, said, size) != 0)
        return 0;
    bytes->at += size;
    return 1;
}

static int value(Bytes *bytes, int depth);

static int array(Bytes *bytes, int depth) {
    bytes->at++;
    spaces(bytes);
    if (comes(bytes, ']'))
        return 1;
    do {
        spaces(bytes);
        if (!value(bytes, depth))
            return 0;
        spaces(bytes);
    } while (comes(bytes, ','));
    return comes(bytes, ']');
}

/* The names that are asked for, and which of them the outermost object has. */
typedef struct {
    PyObject *names; /* a tuple of bytes */
    uint32_t found;
} Asked;

static void look(Asked *asked, const unsigned char *name, size_t size) {
    for (Py_ssize_t each = 0; each < PyTuple_GET_SIZE(asked->names); each++) {
        PyObject *other = PyTuple_GET_ITEM(asked->names, each);
        if ((size_t)PyBytes_GET_SIZE(other) == size && memcmp(PyBytes_AS_STRING(other), name, size) == 0)
            asked->found |= (uint32_t)1 << each;
    }
}

/* An object; of the outermost one the names are looked at, where none has escapes. */
static int object(Bytes *bytes, int depth, Asked *asked) {
    bytes->at++;
    spaces(bytes);
    if (comes(bytes, '}'))
        return 1;
    do {
        int escapes;
        spaces(bytes);
        const unsigned char *const name = bytes->at;
        if (!string(bytes, &escapes) || (asked && escapes))
            return 0;
        if (asked)
            look(asked, name + 1, (size_t)(bytes->at - name) - 2);
        spaces(bytes);
        if (!comes(bytes, ':'))
            return 0;
        spaces(bytes);
        if (!value(bytes, depth))
            return 0;
        spaces(bytes);
    } while (comes(bytes, ','));
    return comes(bytes, '}');
}

static int value(Bytes *bytes, int depth) {
    int escapes;
    if (bytes->at == bytes->end || depth > DEEPEST)
        return 0;
    switch (*bytes->at) {
    case '"':
        return string(bytes, &escapes);
    case '{':
        return object(bytes, depth + 1, NULL);
    case '[':
        return array(bytes, depth + 1);
    case 't':
        return word(bytes, "true");
    case 'f':
        return word(bytes, "false");
    case 'n':
        return word(bytes, "null");
    default:
        return number(bytes);
    }
}

int is_text(const uint8_t *bytes, size_t size) {
    uint8_t all = 0;
    for (size_t at = 0; at < size; at++)
        all |= bytes[at];
    if (all < 128)
        return 1;
    PyObject *text = PyUnicode_DecodeUTF8((const char *)bytes, (Py_ssize_t)size, NULL);
    if (text) {
        Py_DECREF(text);
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return -1;
    PyErr_Clear();
    return 0;
}

int are_names(PyObject *names) {
    if (!PyTuple_Check(names) || PyTuple_GET_SIZE(names) > MOST_NAMES)
        return 0;
    for (Py_ssize_t each = 0; each < PyTuple_GET_SIZE(names); each++)
        if (!PyBytes_Check(PyTuple_GET_ITEM(names, each)))
            return 0;
    return 1;
}

int names_of(const uint8_t *member, size_t size, PyObject *names, int32_t *found) {
    Asked asked = {.names = names};
    const int good = is_text(member, size);
    if (good < 1)
        return good;
    Bytes bytes = {member, member + size};
    if (!size || *member != '{' || !object(&bytes, 0, &asked))
        return 0;
    spaces(&bytes);
    *found = (int32_t)asked.found;
    return bytes.at == bytes.end;
}

/* named(members, names): of each member what `names_of` tells; -1 where nothing is said. */
PyObject *call_named(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    (void)module;
    if (count != 2 || !PyList_CheckExact(given[0]) || !are_names(given[1])) {
        PyErr_SetString(PyExc_TypeError, "named(list, tuple of bytes)");
        return NULL;
    }
    PyObject *told = PyList_New(PyList_GET_SIZE(given[0]));
    for (Py_ssize_t each = 0; told && each < PyList_GET_SIZE(told); each++) {
        PyObject *member = PyList_GET_ITEM(given[0], each);
        int32_t found = -1;
        int good = 0;
        if (PyBytes_Check(member))
            good = names_of((const uint8_t *)PyBytes_AS_STRING(member), (size_t)PyBytes_GET_SIZE(member), given[1], &found);
        PyObject *number = good < 0 ? NULL : PyLong_FromLong(good ? (long)found : -1);
        if (number)
            PyList_SET_ITEM(told, each, number);
        else
            Py_CLEAR(told);
    }
    return told;
}
