/* An iterator over samples as they lie in a local shard: one read for many, nothing decoded or copied. Its twin is
 * `RawPlaces.samples` of shards/raw.py.
 *
 * An index may be damaged: no number of it is followed before it is known to point into what is there. Where something
 * is strange or cannot be read the iterator ends early, and `at` says before which row; the twin says what is wrong. */

#include <string.h>
#include <unistd.h>

#include "calls.h"
#include <structmember.h>

/* Columns of an index as they lie: `Index.lying` has this order. */
enum { KEY_ENDS, KEY_BYTES, FIRSTS, NAME_ENDS, NAME_BYTES, OFFSETS, SIZES, COLUMNS };
enum { MOST_KNOWN = 64 };

typedef struct {
    PyObject_HEAD
    PyObject *handle, *rows, *known; /* what keeps the file open; lists of the rows that are wanted, of names */
    Py_buffer columns[COLUMNS];
    int file, held, busy;    /* `held` of the columns are */
    Py_ssize_t count, parts; /* rows and parts of the shard */
    Py_ssize_t at, until;    /* in the list: what comes next, and what was not read with it */
    Py_ssize_t row;          /* what comes next, while at < until */
    PyObject *whole;         /* a memoryview of what was read, which begins at byte `base` */
    int64_t base;
    int64_t together, apart;
} Samples;

static int64_t wide(const Samples *self, int column, Py_ssize_t at) {
    int64_t value;
    memcpy(&value, (const char *)self->columns[column].buf + 8 * at, 8);
    return value;
}

static Py_ssize_t narrow(const Samples *self, int column, Py_ssize_t at) {
    int32_t value;
    memcpy(&value, (const char *)self->columns[column].buf + 4 * at, 4);
    return value;
}

static Py_ssize_t least(Py_ssize_t one, Py_ssize_t other) { return one < other ? one : other; }

/* From where to where a row, or part, goes, of `most`; 0 where that cannot be. */
static int bounds(const Samples *self, int column, Py_ssize_t at, Py_ssize_t most, Py_ssize_t *begin, Py_ssize_t *end) {
    *begin = narrow(self, column, at);
    *end = narrow(self, column, at + 1);
    return 0 <= *begin && *begin <= *end && *end <= most;
}

/* A row of the list; -1 where it is none of the shard. */
static Py_ssize_t wanted(const Samples *self, Py_ssize_t at) {
    if (at >= PyList_GET_SIZE(self->rows))
        return -1;
    const Py_ssize_t row = PyLong_AsSsize_t(PyList_GET_ITEM(self->rows, at));
    if (row == -1)
        PyErr_Clear();
    return row < self->count ? row : -1;
}

/* From the first to the last byte of a row's parts; 0 where that cannot be, or they lie apart. */
static int span(const Samples *self, Py_ssize_t row, int64_t *base, int64_t *stop) {
    Py_ssize_t first, last;
    if (!bounds(self, FIRSTS, row, self->parts, &first, &last))
        return 0;
    int64_t sum = 0, from = INT64_MAX, to = 0;
    for (Py_ssize_t each = first; each < last; each++) {
        const int64_t offset = wide(self, OFFSETS, each), size = wide(self, SIZES, each);
        if (narrow(self, NAME_ENDS, each) == narrow(self, NAME_ENDS, each + 1))
            continue; /* a medium whose own bytes were not kept */
        if (offset < 0 || size < 0 || size > INT64_MAX - offset || size > INT64_MAX - sum)
            return 0;
        sum += size;
        from = offset < from ? offset : from;
        to = offset + size > to ? offset + size : to;
    }
    *base = from < to ? from : to; /* 0 without parts */
    *stop = to;
    return to - *base - sum <= self->apart;
}

/* Reads the next row and those behind it that lie close: 1, 0 where that cannot be done, -1 where Python has failed. */
static int read_rows(Samples *self) {
    const Py_ssize_t first = wanted(self, self->at);
    Py_ssize_t until = self->at + 1;
    int64_t base, stop, next_base, next_stop;
    if (first < 0 || !span(self, first, &base, &stop))
        return 0;
    for (int small = stop - base < self->together; small; until++) {
        const Py_ssize_t row = first + (until - self->at);
        if (wanted(self, until) != row || !span(self, row, &next_base, &next_stop) || next_base < stop ||
            next_base - stop > self->apart || next_stop - base > self->together)
            break;
        stop = next_stop;
    }
    const Py_ssize_t size = (Py_ssize_t)(stop - base);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes)
        return -1;
    ssize_t got;
    Py_BEGIN_ALLOW_THREADS;
    got = pread(self->file, PyBytes_AS_STRING(bytes), (size_t)size, (off_t)base);
    Py_END_ALLOW_THREADS;
    self->whole = got == size ? PyMemoryView_FromObject(bytes) : NULL;
    Py_DECREF(bytes);
    if (!self->whole)
        return got == size ? -1 : 0;
    self->base = base;
    self->row = first;
    self->until = until;
    return 1;
}

/* A text of a column; NULL, maybe without an error, where it is none. */
static PyObject *text_of(const Samples *self, int ends, Py_ssize_t at) {
    Py_ssize_t begin, end;
    if (!bounds(self, ends, at, self->columns[ends + 1].len, &begin, &end))
        return NULL;
    return PyUnicode_DecodeUTF8((const char *)self->columns[ends + 1].buf + begin, end - begin, NULL);
}

/* The name of a part: mostly one of a few that were seen. NULL as of `text_of`. */
static PyObject *name_of(const Samples *self, Py_ssize_t part) {
    Py_ssize_t begin, end;
    if (!bounds(self, NAME_ENDS, part, self->columns[NAME_BYTES].len, &begin, &end))
        return NULL;
    const char *const bytes = (const char *)self->columns[NAME_BYTES].buf + begin;
    for (Py_ssize_t each = 0; each < PyList_GET_SIZE(self->known); each++) {
        PyObject *name = PyList_GET_ITEM(self->known, each);
        if (PyUnicode_CheckExact(name) && PyUnicode_IS_COMPACT_ASCII(name) &&
            PyUnicode_GET_LENGTH(name) == end - begin &&
            memcmp(PyUnicode_1BYTE_DATA(name), bytes, (size_t)(end - begin)) == 0)
            return Py_NewRef(name);
    }
    PyObject *name = text_of(self, NAME_ENDS, part);
    if (name && PyList_GET_SIZE(self->known) < MOST_KNOWN && PyList_Append(self->known, name) < 0)
        Py_CLEAR(name);
    return name;
}

/* Bytes `from` to `to` of what was read. */
static PyObject *cut(PyObject *whole, int64_t from, int64_t to) {
    PyObject *begin = PyLong_FromLongLong(from), *end = PyLong_FromLongLong(to), *slice = NULL, *found = NULL;
    if (begin && end)
        slice = PySlice_New(begin, end, NULL);
    if (slice)
        found = PyObject_GetItem(whole, slice);
    Py_XDECREF(begin);
    Py_XDECREF(end);
    Py_XDECREF(slice);
    return found;
}

/* The parts of a row by their names. NULL as of `text_of`. */
static PyObject *parts_of(const Samples *self, Py_ssize_t row) {
    Py_ssize_t each, last;
    if (!bounds(self, FIRSTS, row, self->parts, &each, &last))
        return NULL;
    PyObject *parts = PyDict_New();
    for (; parts && each < last; each++) {
        if (narrow(self, NAME_ENDS, each) == narrow(self, NAME_ENDS, each + 1))
            continue;
        const int64_t from = wide(self, OFFSETS, each) - self->base;
        PyObject *name = name_of(self, each);
        PyObject *part = name ? cut(self->whole, from, from + wide(self, SIZES, each)) : NULL;
        if (!part || PyDict_SetItem(parts, name, part) < 0)
            Py_CLEAR(parts);
        Py_XDECREF(name);
        Py_XDECREF(part);
    }
    return parts;
}

/* The next sample; NULL without an error where there is none, or what was found is strange. */
static PyObject *taken(Samples *self) {
    if (self->at == self->until) {
        Py_CLEAR(self->whole); /* first, so that the next read gets the same memory, which is still in the cache */
        if (self->at >= PyList_GET_SIZE(self->rows) || read_rows(self) <= 0)
            return NULL;
    }
    PyObject *key = text_of(self, KEY_ENDS, self->row), *parts = key ? parts_of(self, self->row) : NULL;
    PyObject *made = parts ? PyTuple_New(2) : NULL;
    if (!made) {
        Py_XDECREF(key);
        Py_XDECREF(parts);
        if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
            PyErr_Clear();
        return NULL;
    }
    PyTuple_SET_ITEM(made, 0, key);
    PyTuple_SET_ITEM(made, 1, parts);
    self->row++;
    self->at++;
    return made;
}

static PyObject *samples_next(PyObject *object) {
    Samples *self = (Samples *)object;
    if (self->busy) /* another thread is reading, or Python collects garbage whose end asks for more */
        return PyErr_Format(PyExc_ValueError, "already taking a sample");
    self->busy = 1;
    PyObject *made = taken(self);
    self->busy = 0;
    return made;
}

static void samples_dealloc(PyObject *object) {
    Samples *self = (Samples *)object;
    PyTypeObject *kind = Py_TYPE(object);
    while (self->held > 0)
        PyBuffer_Release(&self->columns[--self->held]);
    Py_XDECREF(self->whole);
    Py_XDECREF(self->rows);
    Py_XDECREF(self->known);
    Py_XDECREF(self->handle);
    kind->tp_free(object);
    Py_DECREF(kind);
}

/* Samples(handle, file, rows, columns, known, together, apart) */
static PyObject *samples_new(PyTypeObject *kind, PyObject *given, PyObject *named) {
    PyObject *handle, *rows, *columns, *known;
    int file;
    long long together, apart;
    if (named || !PyArg_ParseTuple(given, "OiO!O!O!LL:Samples", &handle, &file, &PyList_Type, &rows, &PyTuple_Type,
                                   &columns, &PyList_Type, &known, &together, &apart))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "Samples takes nothing by name");
    if (PyTuple_GET_SIZE(columns) != COLUMNS)
        return PyErr_Format(PyExc_TypeError, "Samples takes %d columns", COLUMNS);
    Samples *self = (Samples *)kind->tp_alloc(kind, 0);
    if (!self)
        return NULL;
    self->handle = Py_NewRef(handle);
    self->rows = Py_NewRef(rows);
    self->known = Py_NewRef(known);
    self->file = file;
    self->together = together;
    self->apart = apart;
    for (; self->held < COLUMNS; self->held++)
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(columns, self->held), &self->columns[self->held], PyBUF_SIMPLE) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    const Py_buffer *held = self->columns;
    self->count = least(held[KEY_ENDS].len / 4, held[FIRSTS].len / 4) - 1;
    self->parts = least(least(held[OFFSETS].len / 8, held[SIZES].len / 8), held[NAME_ENDS].len / 4 - 1);
    return (PyObject *)self;
}

static PyMemberDef MEMBERS[] = {
    {"at", T_PYSSIZET, offsetof(Samples, at), READONLY, "The rows that were given so far."}, {NULL, 0, 0, 0, NULL}};

static PyType_Slot SLOTS[] = {
    {Py_tp_new, samples_new},      {Py_tp_dealloc, samples_dealloc}, {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, samples_next}, {Py_tp_members, MEMBERS},         {0, NULL}};

PyType_Spec samples_type = {
    .name = "mmdata.native._calls.Samples", .basicsize = sizeof(Samples), .flags = Py_TPFLAGS_DEFAULT, .slots = SLOTS};
