cpdef Py_ssize_t recv_into(int fd, bytearray buffer, Py_ssize_t start, Py_ssize_t end) noexcept
cpdef Py_ssize_t send_from(int fd, bytearray buffer, Py_ssize_t start, Py_ssize_t end) noexcept
