cpdef bytes cut(bytearray buffer, Py_ssize_t start, Py_ssize_t end)
cpdef append(bytearray target, bytearray buffer, Py_ssize_t start, Py_ssize_t end)
cpdef Py_ssize_t find_nul(bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -2
cpdef bint has_at(bytearray buffer, Py_ssize_t start, Py_ssize_t end, bytes part) noexcept
cpdef Py_ssize_t length_at(bytearray buffer, Py_ssize_t start) noexcept
cdef Py_ssize_t behind_frames(bytearray buffer, Py_ssize_t start, Py_ssize_t end, const unsigned char *kinds) noexcept
