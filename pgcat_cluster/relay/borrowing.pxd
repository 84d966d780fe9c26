cimport cython

from pgcat_cluster.relay cimport frames
from pgcat_cluster.relay.coupling cimport ServerEnd
from pgcat_cluster.relay.desk cimport Desk
from pgcat_cluster.relay.links cimport Link
from pgcat_cluster.relay.placing cimport Placer
from pgcat_cluster.relay.stock cimport Pool, Target

cdef int PRIMARY, REPLICA, ANY, STANDBY, ROLES, FINISHES

cdef class Borrower(Placer):
    @cython.locals(target=Target, narrowed=Target, server=ServerEnd, is_over=bint)
    cdef ServerEnd _checkout(self, Desk desk, int role)
    cdef ServerEnd _fall_behind(self, Desk desk)
    cpdef bint accepts(self, Pool pool) except? -1
    cpdef turned_away(self)
    cdef _couple(self, Desk desk, ServerEnd server)
    @cython.locals(desk=Desk, role=int, server=ServerEnd)
    cpdef greet(self)
    @cython.locals(desk=Desk, waited_s=double, free=ServerEnd)
    cpdef granted(self, Link server)
    cpdef fail(self, bytes error)
    @cython.locals(desk=Desk)
    cpdef repeat(self)
