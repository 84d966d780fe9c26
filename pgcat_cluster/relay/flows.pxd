cimport cython

from pgcat_cluster.relay.selectors cimport Selector

cdef class Flow:
    cdef public int role
    cdef public int flags
    cdef public str reason
    cdef public tuple parameters
    cdef public object detail
    cdef public int reach
    cdef public Selector selector
    cdef public str refusal
    cdef public object path

cdef class Statement:
    cdef public bytes text
    cdef public bytes types
    cdef public bytes context
    cdef public Flow flow
    cdef public bytes server_name
    cdef public bint is_kept
    cdef public Py_ssize_t proven
    cdef public Py_ssize_t shard
    cdef public Py_ssize_t shard_utf8
    cdef public bint is_open
    cdef public Statement typed
    cdef public Py_ssize_t told
    cdef public Py_ssize_t hint
    cdef public int role_hint

    cpdef bytes parse_frame(self, bytes name)

cdef class FlowTable:
    cdef public Py_ssize_t entries_max
    cdef public Py_ssize_t bytes_max
    cdef public dict flows
    cdef public dict seen
    cdef public Py_ssize_t bytes
    cdef public Py_ssize_t evicted

    @cython.locals(flow=Flow)
    cpdef Flow get(self, bytes shape, bytes path)
    cpdef bint offer(self, bytes shape, Flow flow) except? -1

cdef class Statements:
    cdef public Py_ssize_t entries_max
    cdef public dict by_content
    cdef public Py_ssize_t made
    cdef public Py_ssize_t epoch

    @cython.locals(statement=Statement)
    cpdef Statement get(self, bytes content, bytes context=*)
    @cython.locals(flow=Flow, typed=Statement, types=bytes)
    cpdef tell(self, Statement statement, bytes told)
    cdef Statement _named(self, bytes text, bytes types, Flow flow, bytes context)
    cdef _keep(self, bytes content, Statement statement)
    @cython.locals(statement=Statement)
    cpdef Statement make(self, bytes text, bytes types, Flow flow, bytes context=*)
    @cython.locals(known=Statement, made=Statement)
    cpdef Statement read_as(self, Statement statement, bytes context)
    cpdef forget(self, Statement statement)
