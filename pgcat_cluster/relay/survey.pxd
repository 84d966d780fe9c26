cimport cython

from pgcat_cluster.relay cimport frames, octets
from pgcat_cluster.relay.coupling cimport ClientEnd
from pgcat_cluster.relay.desk cimport Desk
from pgcat_cluster.relay.flows cimport Flow, Statement

cdef int COMMAND, BEGINS, BY_PATH
cdef Py_ssize_t COMMAND_BYTES_MAX
cdef Py_ssize_t BATCH_BYTES_MAX, NAMES_BYTES_MAX
cdef int PRIMARY, REPLICA, READS, OWN
cdef int SURVEY_MORE, SURVEY_SERVER, SURVEY_LOCAL, SURVEY_OWN, SURVEY_REFUSED

cdef class Surveyor(ClientEnd):
    cdef Py_ssize_t _any_shard(self, Desk desk, int role) except? -1
    cdef Flow _unknown(self, Desk desk)
    @cython.locals(p="unsigned char *", first=int, third=int, known=Flow, shape=bytes)
    cdef Flow _decide_unread(self, Desk desk, bytearray buffer, Py_ssize_t start, Py_ssize_t stop)
    @cython.locals(known=Flow, shape=bytes)
    cdef Flow _decide(self, Desk desk, bytearray buffer, Py_ssize_t start, Py_ssize_t stop)
    @cython.locals(p="unsigned char *", position=Py_ssize_t, role=int, local=bint, reads=bint, found=bint, decisive=Flow, kind=int, length=Py_ssize_t, stop=Py_ssize_t, flow=Flow, is_placed=bint, is_open=bint, limit=Py_ssize_t, statement=Statement)
    cdef int _survey(self, Desk desk, bytearray buffer, Py_ssize_t start, Py_ssize_t end) except? -1
    @cython.locals(limit=Py_ssize_t, name_start=Py_ssize_t, name_end=Py_ssize_t, text_end=Py_ssize_t, text=bytes, types=bytes, name=bytes, statement=Statement, named=Statement, flow=Flow)
    cdef Flow _flow_of(self, Desk desk, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end)
    cdef Statement _statement(self, bytes name)
    cdef bint _is_own(self, Desk desk, Flow flow, Statement statement) except? -1
    cdef bint _place_bind(self, Desk desk, Statement statement, bytearray buffer, Py_ssize_t start, Py_ssize_t stop) except? -1
    cdef bint _locate_constants(self, Desk desk, Statement statement, bytearray buffer, Py_ssize_t start, Py_ssize_t stop) except? -1
    cdef Statement _read_anew(self, Desk desk, Statement statement)
    @cython.locals(statement=Statement)
    cdef bint _is_proven(self, Desk desk) except? -1
    cdef bint _closes_well(self, bytearray buffer, Py_ssize_t position, Py_ssize_t stop) except? -1
    @cython.locals(name=bytes, text=bytes, statement=Statement, name_end=Py_ssize_t, text_end=Py_ssize_t)
    cdef Py_ssize_t _answer_here(self, Desk desk, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop) except? -1
