/* Functions of Python: what is done for each sample or member, too often for what ctypes takes to call. */

#ifndef MMDATA_CALLS_H
#define MMDATA_CALLS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

PyObject *call_header(PyObject *module, PyObject *const *given, Py_ssize_t count);
PyObject *call_alike(PyObject *module, PyObject *const *given, Py_ssize_t count);
PyObject *call_members(PyObject *module, PyObject *const *given, Py_ssize_t count);
PyObject *call_glances(PyObject *module, PyObject *const *given, Py_ssize_t count);
PyObject *call_json(PyObject *module, PyObject *const *given, Py_ssize_t count);
PyObject *call_named(PyObject *module, PyObject *const *given, Py_ssize_t count);
PyObject *call_column(PyObject *module, PyObject *const *given, Py_ssize_t count);

extern PyType_Spec samples_type;

#endif
