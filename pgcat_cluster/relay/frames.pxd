cimport cython

cdef int BIND, CLOSE, DESCRIBE, EXECUTE, FUNCTION, FLUSH, PARSE, QUERY, SYNC, TERMINATE, COPY_DONE, COPY_DATA, COPY_FAIL, PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE, COMMAND_COMPLETE, DATA_ROW, ERROR, COPY_IN, PARAMETER_STATUS, COPY_BOTH, READY, NOTIFICATION, ROW_DESCRIPTION, NO_DATA, PARAMETERS, STATUS_IDLE, STATUS_FAILED
cdef Py_ssize_t LENGTH_MAX, READY_BYTES
cdef bytes _EXTENDS, _PASSES, _PREPARES, _COPIES
cdef const unsigned char *EXTENDS
cdef const unsigned char *PASSES
cdef const unsigned char *PREPARES
cdef const unsigned char *COPIES
cdef bytes READY_HEAD, SYNC_FRAME, EXECUTE_SYNC, DESCRIBE_EXECUTE_SYNC, FLUSH_FRAME, TERMINATE_FRAME, PARSE_COMPLETE_FRAME, CLOSE_COMPLETE_FRAME

cpdef bytes cut_name(bytes name)
cpdef bytes query_frame(bytes text)
cpdef bytes close_frame(bytes name)
cpdef bytes describe_frame(bytes name)
cpdef bytes ready_frame(int status)
@cython.locals(position=Py_ssize_t, end=Py_ssize_t)
cpdef bytes error_code(bytearray buffer, Py_ssize_t start, Py_ssize_t stop)
