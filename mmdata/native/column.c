/* The buffers of an Arrow column of Python's values: the twin is `arrays.column`, which also takes what is not known
 * here. */

#include <string.h>

#include "calls.h"

enum { STRING, BINARY, INT32, INT64, UINT32, FLOAT64, BOOL };

typedef struct {
    PyObject **values;
    Py_ssize_t count;
    int kind;
} Column;

static int width_of(int kind) { return kind == INT64 || kind == FLOAT64 ? 8 : 4; }

/* A number of the column's kind into its place; 0 where it is none, which leaves no error. */
static int number(const Column *column, PyObject *value, char *to) {
    if (column->kind == FLOAT64) {
        if (!PyFloat_CheckExact(value))
            return 0;
        const double real = PyFloat_AS_DOUBLE(value);
        memcpy(to, &real, sizeof real);
        return 1;
    }
    int overflow;
    if (!PyLong_CheckExact(value))
        return 0;
    const long long whole = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow || (column->kind == INT32 && (whole < INT32_MIN || whole > INT32_MAX)) ||
        (column->kind == UINT32 && (whole < 0 || whole > UINT32_MAX)))
        return 0;
    const int64_t wide = whole;
    const uint32_t narrow = (uint32_t)(uint64_t)whole; /* of an int32 the same bits */
    if (column->kind == INT64)
        memcpy(to, &wide, sizeof wide);
    else
        memcpy(to, &narrow, sizeof narrow);
    return 1;
}

static PyObject *numbers(const Column *column) {
    const int width = width_of(column->kind);
    PyObject *data = PyBytes_FromStringAndSize(NULL, column->count * width);
    if (!data)
        return NULL;
    char *to = PyBytes_AS_STRING(data);
    memset(to, 0, (size_t)column->count * (size_t)width);
    for (Py_ssize_t at = 0; at < column->count; at++, to += width)
        if (column->values[at] != Py_None && !number(column, column->values[at], to)) {
            Py_DECREF(data);
            return NULL;
        }
    return data;
}

static PyObject *bits(const Column *column, int valid) {
    PyObject *data = PyBytes_FromStringAndSize(NULL, (column->count + 7) / 8);
    if (!data)
        return NULL;
    char *to = PyBytes_AS_STRING(data);
    memset(to, 0, (size_t)PyBytes_GET_SIZE(data));
    for (Py_ssize_t at = 0; at < column->count; at++) {
        PyObject *value = column->values[at];
        if (!valid && value != Py_True && value != Py_False && value != Py_None) {
            Py_DECREF(data);
            return NULL;
        }
        if (valid ? value != Py_None : value == Py_True)
            to[at >> 3] = (char)(to[at >> 3] | 1 << (at & 7));
    }
    return data;
}

/* The bytes of a string, its UTF-8, or of bytes; NULL where it is neither, or has no UTF-8. */
static const char *bytes_of(const Column *column, PyObject *value, Py_ssize_t *size) {
    if (column->kind == STRING)
        return PyUnicode_CheckExact(value) ? PyUnicode_AsUTF8AndSize(value, size) : NULL;
    if (!PyBytes_CheckExact(value))
        return NULL;
    *size = PyBytes_GET_SIZE(value);
    return PyBytes_AS_STRING(value);
}

/* Where each of the values ends, and all of them joined. */
static PyObject *joined(const Column *column, PyObject **ends) {
    PyObject *data = NULL, *places = PyBytes_FromStringAndSize(NULL, (column->count + 1) * 4);
    if (!places)
        return NULL;
    char *place = PyBytes_AS_STRING(places), *to = NULL;
    int64_t total = 0;
    Py_ssize_t size;
    int32_t end = 0;
    memcpy(place, &end, sizeof end);
    for (Py_ssize_t at = 0; at < column->count; at++) {
        if (column->values[at] != Py_None) {
            if (!bytes_of(column, column->values[at], &size))
                goto failed;
            total += size;
        }
        if (total > INT32_MAX)
            goto failed;
        end = (int32_t)total;
        memcpy(place + 4 * (at + 1), &end, sizeof end);
    }
    if (!(data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total)))
        goto failed;
    to = PyBytes_AS_STRING(data);
    for (Py_ssize_t at = 0; at < column->count; at++)
        if (column->values[at] != Py_None) {
            const char *bytes = bytes_of(column, column->values[at], &size); /* as before: kept with the string */
            memcpy(to, bytes, (size_t)size);
            to += size;
        }
    *ends = places;
    return data;
failed:
    Py_DECREF(places);
    return NULL;
}

/* column(values, kind): how many are missing, and the buffers: which are there (None where all are), where each ends (of
 * strings and bytes), the values; None where others do it. Where all are missing, there are no buffers. */
PyObject *call_column(PyObject *module, PyObject *const *given, Py_ssize_t count) {
    (void)module;
    if (count != 2 || !(PyList_CheckExact(given[0]) || PyTuple_CheckExact(given[0]))) {
        PyErr_SetString(PyExc_TypeError, "column(list or tuple, kind)");
        return NULL;
    }
    const long kind = PyLong_AsLong(given[1]);
    if (kind < STRING || kind > BOOL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "no such kind");
        return NULL;
    }
    const Column column = {PySequence_Fast_ITEMS(given[0]), PySequence_Fast_GET_SIZE(given[0]), (int)kind};
    Py_ssize_t missing = 0;
    for (Py_ssize_t at = 0; at < column.count; at++)
        missing += column.values[at] == Py_None;
    if (missing == column.count && missing)
        return Py_BuildValue("nOOO", missing, Py_None, Py_None, Py_None);
    PyObject *ends = NULL, *valid = NULL, *data;
    if (kind == STRING || kind == BINARY)
        data = joined(&column, &ends);
    else
        data = kind == BOOL ? bits(&column, 0) : numbers(&column);
    if (data && missing && !(valid = bits(&column, 1)))
        Py_CLEAR(data);
    PyObject *told = NULL;
    if (data)
        told = Py_BuildValue("nOOO", missing, valid ? valid : Py_None, ends ? ends : Py_None, data);
    else if (!PyErr_Occurred() || !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        told = Py_NewRef(Py_None);
    }
    Py_XDECREF(ends);
    Py_XDECREF(valid);
    Py_XDECREF(data);
    return told;
}
