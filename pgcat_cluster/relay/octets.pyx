"""Cuts, copies and searches bytes for the lanes; `octets.py` is the interpreted body and says more."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memchr, memcpy


cpdef bytes cut(bytearray buffer, Py_ssize_t start, Py_ssize_t end):
    if end < start:
        end = start
    return PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer) + start, end - start)


cpdef append(bytearray target, bytearray buffer, Py_ssize_t start, Py_ssize_t end):
    cdef Py_ssize_t size = PyByteArray_GET_SIZE(target)
    PyByteArray_Resize(target, size + end - start)
    memcpy(PyByteArray_AS_STRING(target) + size, PyByteArray_AS_STRING(buffer) + start, end - start)


cpdef Py_ssize_t find_nul(bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -2:
    cdef char *text = PyByteArray_AS_STRING(buffer)
    cdef void *found
    if start >= end:
        return -1
    found = memchr(text + start, 0, end - start)
    return -1 if found == NULL else <char *> found - text
