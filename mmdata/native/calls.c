/* The module `mmdata.native._calls`: its functions and its type, and which version of them these are. */

#include "calls.h"
#include "native.h"

#define CALL(name, function) {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL, NULL}

static PyMethodDef METHODS[] = {
    CALL("header", call_header),
    CALL("alike", call_alike),
    CALL("members", call_members),
    CALL("glances", call_glances),
    CALL("json", call_json),
    CALL("named", call_named),
    CALL("column", call_column),
    {NULL, NULL, 0, NULL},
};

static int filled(PyObject *module) {
    PyObject *samples = PyType_FromSpec(&samples_type);
    const int bad = !samples || PyModule_AddObjectRef(module, "Samples", samples) < 0;
    Py_XDECREF(samples);
    return bad ? -1 : PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, filled}, {0, NULL}};

static struct PyModuleDef MODULE = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_calls", .m_methods = METHODS, .m_slots = SLOTS};

PyMODINIT_FUNC PyInit__calls(void) { return PyModuleDef_Init(&MODULE); }
