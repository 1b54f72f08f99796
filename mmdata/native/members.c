/* Members of tars for Python: the header of one, those in a buffer, and many samples whose members are alike.
 *
 * A tar may hold anything: nothing of a header is believed before `plain_size` has seen all of it. */

#include <string.h>
#include <unistd.h>

#include "calls.h"
#include "looks.h"
#include "tar.h"

PyObject *call_header(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    (void)module;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "header(name, size)");
        return NULL;
    }
    Py_ssize_t length;
    const char *name = PyUnicode_AsUTF8AndSize(given[0], &length);
    const long long size = name ? PyLong_AsLongLong(given[1]) : -1;
    if (!name || (size == -1 && PyErr_Occurred()))
        return NULL;
    if (length < 1 || length > LONGEST_NAME || size < 0 || size > MOST_BYTES)
        Py_RETURN_NONE;
    PyObject *header = PyBytes_FromStringAndSize(NULL, BLOCK);
    if (header)
        put_header((uint8_t *)PyBytes_AS_STRING(header), name, (size_t)length, size);
    return header;
}

/* A file and what of it is at hand: `held` bytes from `base` on. */
typedef struct {
    int file;
    int64_t end, base;
    uint8_t *buffer;
    size_t room, held;
} Reading;

/* `size` bytes at `at`, of which the file has enough; NULL where they cannot be read, which others say more of. */
static const uint8_t *bytes_at(Reading *reading, int64_t at, size_t size) {
    if (at < reading->base || (uint64_t)(at - reading->base) + size > reading->held) {
        const int64_t left = reading->end - at;
        const size_t wanted = left < (int64_t)reading->room ? (size_t)left : reading->room;
        ssize_t got;
        Py_BEGIN_ALLOW_THREADS;
        got = pread(reading->file, reading->buffer, wanted, (off_t)at);
        Py_END_ALLOW_THREADS;
        reading->base = at;
        reading->held = got < 0 ? 0 : (size_t)got;
        if (reading->held < size)
            return NULL;
    }
    return reading->buffer + (at - reading->base);
}

/* Nothing can be wrong with such a key, and none of its names is one that is passed over: `_KEY` of plain_tar.py. */
static int plain_key(const uint8_t *key, size_t length) {
    for (size_t at = 0; at < length; at++) {
        const uint8_t c = key[at];
        const int begins = at == 0 || key[at - 1] == '/';
        if (begins && c == '_' && at + 1 < length && key[at + 1] == '_')
            return 0;
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c == '/' && at > 0) ||
              (c && strchr("_=,+@~-", c))))
            return 0;
    }
    return length > 0;
}

/* The size of the plain member at `*at`, whose header this then is; -1 where there is none. What comes before it may tell
 * when it was last changed, as webdataset's own writer does of each member. */
static int64_t member(Reading *reading, int64_t *at, const uint8_t **header) {
    if (*at > reading->end - BLOCK || !(*header = bytes_at(reading, *at, BLOCK)))
        return -1;
    const int64_t size = plain_size(*header, 1);
    if (size > 0 && size <= BLOCK && *at <= reading->end - 3 * BLOCK) {
        const uint8_t *records = bytes_at(reading, *at + BLOCK, BLOCK);
        if (!records || !only_times(records, (size_t)size) || !(*header = bytes_at(reading, *at += 2 * BLOCK, BLOCK)))
            return -1;
    }
    return plain_size(*header, 0);
}

enum { MOST_EACH = 64 };

/* What is found: of each sample its key, and of each of its members the offset, the size, and what a look tells of it or
 * its first bytes. */
typedef struct {
    PyObject *keys, *heads; /* a list of strings; a tuple of a list of bytes or None for each member of a sample */
    int64_t *places;        /* [most, each, 2] */
    int32_t *told;          /* [most, each, 3] */
    Py_ssize_t most, each, head;
    /* How members are looked at: 'p' a picture, 't' a text, 'm' a JSON object, of which these names are asked. */
    const char *kinds;
    PyObject *names;
    int64_t pixels;
} Found;

/* What a look tells of a member by its first bytes, the last of three numbers 0 where it tells nothing: 0 then too, and -1
 * where Python has failed. */
static int look(const Found *found, Py_ssize_t each, const uint8_t *head, size_t kept, int64_t size, int32_t told[3]) {
    const char kind = found->kinds ? found->kinds[each] : 0;
    told[0] = told[1] = told[2] = 0;
    if (kind == 'p')
        glanced(head, kept, found->pixels, told);
    else if ((kind == 't' || kind == 'm') && (int64_t)kept == size)
        told[2] = kind == 't' ? is_text(head, kept) : names_of(head, kept, found->names, told);
    return told[2];
}

/* One sample from the header at `*at` on: 1 where it is alike, 0 where it is not, -1 where Python has failed. */
static int sample(Reading *reading, int64_t *at, PyObject *suffixes, Found *found, Py_ssize_t number) {
    uint8_t key[LONGEST_NAME];
    size_t length = 0;
    PyObject *first_bytes[MOST_EACH];
    int64_t *places = found->places + number * found->each * 2;
    int64_t next = *at;
    Py_ssize_t each = 0;
    int good = 1;
    for (; each < found->each; each++) {
        const uint8_t *header;
        const int64_t size = member(reading, &next, &header);
        if (size < 0)
            break;
        const int64_t offset = next + BLOCK, left = reading->end - offset, padded = size + (-size & (BLOCK - 1));
        PyObject *suffix = PyTuple_GET_ITEM(suffixes, each);
        const size_t name = name_length(header), behind = (size_t)PyBytes_GET_SIZE(suffix);
        if (padded > left || name <= behind || memcmp(header + name - behind, PyBytes_AS_STRING(suffix), behind) != 0)
            break;
        if (each == 0) {
            length = name - behind;
            memcpy(key, header, length);
            if (!plain_key(key, length))
                break;
        } else if (name - behind != length || memcmp(header, key, length) != 0)
            break;
        const size_t kept = size < found->head ? (size_t)size : (size_t)found->head;
        const uint8_t *head = kept ? bytes_at(reading, offset, kept) : reading->buffer;
        if (!head)
            break;
        const int said = look(found, each, head, kept, size, found->told + (number * found->each + each) * 3);
        if (said > 0)
            first_bytes[each] = Py_NewRef(Py_None);
        else if (said < 0 || !(first_bytes[each] = PyBytes_FromStringAndSize((const char *)head, (Py_ssize_t)kept))) {
            good = -1;
            break;
        }
        places[2 * each] = offset;
        places[2 * each + 1] = size;
        next = offset + padded;
    }
    if (each < found->each) {
        while (each > 0)
            Py_DECREF(first_bytes[--each]);
        return good < 0 ? -1 : 0;
    }
    for (each = 0; each < found->each; each++) {
        if (good > 0 && PyList_Append(PyTuple_GET_ITEM(found->heads, each), first_bytes[each]) < 0)
            good = -1;
        Py_DECREF(first_bytes[each]);
    }
    PyObject *text = good > 0 ? PyUnicode_DecodeASCII((const char *)key, (Py_ssize_t)length, NULL) : NULL;
    if (!text || PyList_Append(found->keys, text) < 0)
        good = -1;
    Py_XDECREF(text);
    *at = next;
    return good;
}

static int lists(Found *found) {
    found->keys = PyList_New(0);
    found->heads = PyTuple_New(found->each);
    if (!found->keys || !found->heads)
        return 0;
    for (Py_ssize_t each = 0; each < found->each; each++) {
        PyObject *list = PyList_New(0);
        if (!list)
            return 0;
        PyTuple_SET_ITEM(found->heads, each, list);
    }
    return 1;
}

static int suffixed(PyObject *suffixes) {
    if (!PyTuple_Check(suffixes) || PyTuple_GET_SIZE(suffixes) < 1 || PyTuple_GET_SIZE(suffixes) > MOST_EACH)
        return 0;
    for (Py_ssize_t each = 0; each < PyTuple_GET_SIZE(suffixes); each++)
        if (!PyBytes_Check(PyTuple_GET_ITEM(suffixes, each)))
            return 0;
    return 1;
}

/* How to look: None, or (kinds, most pixels of a picture, names), a kind for each member. */
static int looking(PyObject *looks, Found *found) {
    if (looks == Py_None)
        return 1;
    if (!PyTuple_Check(looks) || PyTuple_GET_SIZE(looks) != 3)
        return 0;
    PyObject *kinds = PyTuple_GET_ITEM(looks, 0);
    found->names = PyTuple_GET_ITEM(looks, 2);
    if (!PyBytes_Check(kinds) || PyBytes_GET_SIZE(kinds) != found->each || !are_names(found->names))
        return 0;
    found->kinds = PyBytes_AS_STRING(kinds);
    found->pixels = PyLong_AsLongLong(PyTuple_GET_ITEM(looks, 1));
    return 1;
}

/* alike(file, at, end, most, suffixes, chunk, head, looks): see `plain_tar.alike`. */
PyObject *call_alike(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    (void)module;
    Found found = {0};
    if (count == 8 && suffixed(given[4]))
        found.each = PyTuple_GET_SIZE(given[4]);
    if (!found.each || !looking(given[7], &found)) {
        PyErr_SetString(PyExc_TypeError, "alike(file, at, end, most, suffixes, chunk, head, looks)");
        return NULL;
    }
    const long long file = PyLong_AsLongLong(given[0]), at = PyLong_AsLongLong(given[1]),
                    end = PyLong_AsLongLong(given[2]), most = PyLong_AsLongLong(given[3]),
                    chunk = PyLong_AsLongLong(given[5]), head = PyLong_AsLongLong(given[6]);
    if (PyErr_Occurred())
        return NULL;
    if (at < 0 || end < 0 || most < 1 || most > 1 << 20 || head < 0 || chunk < BLOCK || chunk < head || chunk > 1 << 24) {
        PyErr_SetString(PyExc_ValueError, "no such run");
        return NULL;
    }
    found.most = most;
    found.head = head;
    Reading reading = {.file = (int)file, .end = end, .room = (size_t)chunk};
    const size_t members = (size_t)most * (size_t)found.each;
    PyObject *told = NULL;
    reading.buffer = PyMem_Malloc((size_t)chunk);
    found.places = PyMem_Malloc(members * 2 * sizeof *found.places);
    found.told = PyMem_Malloc(members * 3 * sizeof *found.told);
    if (!reading.buffer || !found.places || !found.told)
        PyErr_NoMemory();
    else if (lists(&found)) {
        int64_t next = at;
        Py_ssize_t number = 0;
        int good = 1;
        while (number < found.most && (good = sample(&reading, &next, given[4], &found, number)) > 0)
            number++;
        if (good >= 0)
            told = Py_BuildValue("OOy#y#", found.keys, found.heads, (const char *)found.places,
                                 (Py_ssize_t)sizeof *found.places * number * found.each * 2, (const char *)found.told,
                                 (Py_ssize_t)sizeof *found.told * number * found.each * 3);
    }
    PyMem_Free(reading.buffer);
    PyMem_Free(found.places);
    PyMem_Free(found.told);
    Py_XDECREF(found.keys);
    Py_XDECREF(found.heads);
    return told;
}

/* Where a plain member lies in a buffer: -1 where there is none that is all there. */
static int64_t held(const uint8_t *bytes, Py_ssize_t length, Py_ssize_t *place, int64_t left) {
    if (length - *place < BLOCK)
        return -1;
    int64_t size = plain_size(bytes + *place, 1);
    if (size > 0 && size <= BLOCK && length - *place >= 3 * BLOCK &&
        only_times(bytes + *place + BLOCK, (size_t)size)) {
        *place += 2 * BLOCK;
        left -= 2 * BLOCK;
    }
    size = plain_size(bytes + *place, 0);
    const size_t name = name_length(bytes + *place);
    if (size < 0 || bytes[*place + (Py_ssize_t)name - 1] == '/')
        return -1;
    const int64_t padded = size + (-size & (BLOCK - 1));
    return padded <= left - BLOCK && padded <= length - *place - BLOCK ? size : -1;
}

/* A named tuple of a member's name, offset, size and bytes. */
static PyObject *told(PyTypeObject *kind, const uint8_t *header, int64_t offset, int64_t size) {
    PyObject *made = kind->tp_alloc(kind, 4);
    if (!made)
        return NULL;
    PyTuple_SET_ITEM(made, 0, PyUnicode_DecodeASCII((const char *)header, (Py_ssize_t)name_length(header), NULL));
    PyTuple_SET_ITEM(made, 1, PyLong_FromLongLong(offset));
    PyTuple_SET_ITEM(made, 2, PyLong_FromLongLong(size));
    PyTuple_SET_ITEM(made, 3, PyBytes_FromStringAndSize((const char *)header + BLOCK, (Py_ssize_t)size));
    for (Py_ssize_t each = 0; each < 4; each++)
        if (!PyTuple_GET_ITEM(made, each)) {
            Py_DECREF(made);
            return NULL;
        }
    return made;
}

/* members(buffer, place, at, end, most, kind): the plain members from `place` of the buffer on, which is byte `at` of a
 * file of `end` bytes, until they have `most` bytes, and the place behind them. */
PyObject *call_members(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    (void)module;
    if (count != 6 || !PyBytes_CheckExact(given[0]) || !PyType_Check(given[5]) ||
        !PyType_IsSubtype((PyTypeObject *)given[5], &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "members(buffer, place, at, end, most, kind)");
        return NULL;
    }
    const Py_ssize_t first = PyLong_AsSsize_t(given[1]), length = PyBytes_GET_SIZE(given[0]);
    const long long at = PyLong_AsLongLong(given[2]), end = PyLong_AsLongLong(given[3]),
                    most = PyLong_AsLongLong(given[4]);
    if (PyErr_Occurred())
        return NULL;
    if (first < 0 || first > length || at < 0 || end < at) {
        PyErr_SetString(PyExc_ValueError, "no such place");
        return NULL;
    }
    const uint8_t *bytes = (const uint8_t *)PyBytes_AS_STRING(given[0]);
    Py_ssize_t place = first;
    PyObject *found = PyList_New(0);
    while (found && place - first < most) {
        Py_ssize_t next = place;
        const int64_t size = held(bytes, length, &next, end - at - (place - first));
        if (size < 0)
            break;
        PyObject *made = told((PyTypeObject *)given[5], bytes + next, at + (next - first) + BLOCK, size);
        if (!made || PyList_Append(found, made) < 0)
            Py_CLEAR(found);
        Py_XDECREF(made);
        place = next + BLOCK + (Py_ssize_t)(size + (-size & (BLOCK - 1)));
    }
    return found ? Py_BuildValue("Nn", found, place) : NULL;
}
