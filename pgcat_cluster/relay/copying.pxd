cimport cython

from pgcat_cluster.relay cimport frames
from pgcat_cluster.relay cimport ledger as ledgers
from pgcat_cluster.relay.coupling cimport ServerEnd
from pgcat_cluster.relay.desk cimport Desk
from pgcat_cluster.relay.flows cimport Statement
from pgcat_cluster.relay.survey cimport Surveyor

cdef class Copier(Surveyor):
    cdef _drop(self, Py_ssize_t stop, Py_ssize_t end)
    @cython.locals(server=ServerEnd, desk=Desk)
    cdef Py_ssize_t _copy_frame(self, int kind, bytearray buffer, Py_ssize_t position, Py_ssize_t stop, Py_ssize_t end) except? -1
    cdef _interrupt(self, ServerEnd server, int kind)
    cdef _copy_for_mirror(self, mirror, Statement statement, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t end)
    cdef _forward(self, ServerEnd server, bytearray buffer, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t end)
