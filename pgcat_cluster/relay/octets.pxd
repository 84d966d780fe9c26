cpdef bytes cut(bytearray buffer, Py_ssize_t start, Py_ssize_t end)
cpdef append(bytearray target, bytearray buffer, Py_ssize_t start, Py_ssize_t end)
cpdef Py_ssize_t find_nul(bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -2
