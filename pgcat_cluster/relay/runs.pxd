cdef bytes plain_shape(bytearray text, Py_ssize_t start, Py_ssize_t end)
cdef Py_ssize_t copy_plain(
    const unsigned char *text, Py_ssize_t start, Py_ssize_t end, unsigned char *out, Py_ssize_t size
) noexcept
cdef Py_ssize_t end_of_digits(const unsigned char *text, Py_ssize_t start, Py_ssize_t end) noexcept
cdef Py_ssize_t end_of_inside(const unsigned char *text, Py_ssize_t start, Py_ssize_t end) noexcept
cdef bint is_same(const unsigned char *memory, Py_ssize_t first, Py_ssize_t second, Py_ssize_t length) noexcept
cdef bytes to_bytes(const unsigned char *memory, Py_ssize_t size)
