"""Cuts, copies and searches bytes for the lanes; `octets.py` is the interpreted body and says more."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy


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


cpdef bint has_at(bytearray buffer, Py_ssize_t start, Py_ssize_t end, bytes part) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(part)
    if end - start < size:
        return False
    return memcmp(PyByteArray_AS_STRING(buffer) + start, PyBytes_AS_STRING(part), size) == 0


cpdef Py_ssize_t length_at(bytearray buffer, Py_ssize_t start) noexcept:
    cdef unsigned char *four = <unsigned char *> PyByteArray_AS_STRING(buffer) + start
    return (<Py_ssize_t> four[0] << 24) | (four[1] << 16) | (four[2] << 8) | four[3]


cdef Py_ssize_t behind_frames(bytearray buffer, Py_ssize_t start, Py_ssize_t end, const unsigned char *kinds) noexcept:
    cdef const unsigned char *text = <const unsigned char *> PyByteArray_AS_STRING(buffer)
    cdef Py_ssize_t length, stop
    while end - start >= 5:
        length = length_at(buffer, start + 1)
        stop = start + 1 + length
        if not kinds[text[start]] or stop > end or length < 4:
            break
        start = stop
    return start
