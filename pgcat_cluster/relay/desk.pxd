cimport cython

from pgcat_cluster.relay.flows cimport Flow, FlowTable, Statements
from pgcat_cluster.relay.links cimport Link
from pgcat_cluster.relay.shapes cimport Scanner
from pgcat_cluster.relay.stock cimport Gate, Pool

cdef class Desk(Gate):
    cdef public object control
    cdef public object clock
    cdef public Scanner scanner
    cdef public FlowTable flows
    cdef public Statements statements
    cdef public Flow session_flow
    cdef public bint is_session_mode
    cdef public object mirror
    cdef public Py_ssize_t default_shard
    cdef public int hears
    cdef public Py_ssize_t statement_bytes_max
    cdef public Py_ssize_t prepared_max
    cdef public unsigned long long upcalls
    cdef public unsigned long long unknown_statements
    cdef public unsigned long long queries
    cdef public unsigned long long transactions
    cdef public unsigned long long binds
    cdef public unsigned long long client_parses
    cdef public unsigned long long server_parses
    cdef public double query_s
    cdef public double transaction_s
    cdef public double wait_s
    cdef public unsigned long long repeats
    cdef public unsigned long long client_bytes_received
    cdef public unsigned long long client_bytes_sent
    cdef public unsigned long long server_bytes_received
    cdef public unsigned long long server_bytes_sent
    cdef public dict errors

    cpdef ask(self, Pool pool, Link server)
    cpdef let_go(self, server)
    cpdef forget(self)
