"""Calls recv and send for the data plane, and nothing else does; `sockets.py` is the interpreted body and says more."""

from libc.errno cimport EAGAIN, EINTR, errno

cdef extern from *:
    """
    #include <sys/types.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* macOS has none; CPython ignores SIGPIPE from its start, so it is only a belt */
    #endif
    """
    const int MSG_NOSIGNAL
    Py_ssize_t recv(int fd, void *buffer, size_t size, int flags)
    Py_ssize_t send(int fd, const void *buffer, size_t size, int flags)

# The interpreter's lock is kept: these calls never block, and giving it up and taking it again has its price too.


cpdef Py_ssize_t recv_into(int fd, bytearray buffer, Py_ssize_t start, Py_ssize_t end) noexcept:
    cdef char *bytes_of_buffer = buffer
    cdef Py_ssize_t count
    while True:
        count = recv(fd, bytes_of_buffer + start, end - start, 0)
        if count >= 0:
            return count
        if errno != EINTR:
            return -1 if errno == EAGAIN else -2


cpdef Py_ssize_t send_from(int fd, bytearray buffer, Py_ssize_t start, Py_ssize_t end) noexcept:
    cdef char *bytes_of_buffer = buffer
    cdef Py_ssize_t count
    while True:
        count = send(fd, bytes_of_buffer + start, end - start, MSG_NOSIGNAL)
        if count >= 0:
            return count
        if errno != EINTR:
            return -1 if errno == EAGAIN else -2
