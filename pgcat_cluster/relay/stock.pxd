cimport cython

from pgcat_cluster.relay.links cimport Link
from pgcat_cluster.relay.positions cimport Position

cdef int _LEAST

cdef class Waiter(Link):
    cdef public bint waiting
    cdef public unsigned long long ticket

    cpdef granted(self, Link server)
    cpdef bint accepts(self, Pool pool) except? -1
    cpdef turned_away(self)

cdef class Pool:
    cdef public Gate gate
    cdef public str key
    cdef public Py_ssize_t limit
    cdef public Py_ssize_t weight
    cdef public object detail
    cdef public list idle
    cdef public list targets
    cdef public Py_ssize_t opened
    cdef public Py_ssize_t opening
    cdef public Py_ssize_t generation
    cdef public unsigned long long assigned
    cdef public dict errors
    cdef public bint may_open
    cdef public bint leads
    cdef public bint asks
    cdef public long long timeline
    cdef public long long replayed
    cdef public Target alone

    cpdef bint has_replayed(self, Position position) except? -1
    cpdef Py_ssize_t busy(self) except? -1
    cpdef bint may_grow(self) except? -1
    @cython.locals(idle=list, server=Link)
    cpdef Link take(self)
    @cython.locals(target=Target, waiter=Waiter)
    cpdef checkin(self, Link server)
    @cython.locals(best=Target, target=Target, head=Waiter, waiter=Waiter, oldest="unsigned long long")
    cpdef Waiter next_waiter(self)

cdef class Target:
    cdef public Gate gate
    cdef public int role
    cdef public Py_ssize_t shard
    cdef public list pools
    cdef public object waiters
    cdef public Py_ssize_t waiting
    cdef public Py_ssize_t weight

    @cython.locals(pool=Pool)
    cpdef serve_by(self, list pools)
    @cython.locals(pool=Pool, waiter=Waiter, server=Link)
    cpdef serve_waiters(self)
    cpdef rejoin(self, Waiter waiter)
    @cython.locals(waiter=Waiter, ticket="unsigned long long")
    cpdef Waiter head(self)
    cpdef enqueue(self, Waiter waiter)
    cpdef leave(self, Waiter waiter)
    @cython.locals(pools=list, pool=Pool, other=Pool, count=Py_ssize_t, server=Link)
    cpdef Link take(self)
    @cython.locals(best=Pool, pool=Pool, is_any=bint)
    cpdef Target narrow(self, Position position)
    @cython.locals(left=Py_ssize_t, pool=Pool)
    cpdef Pool drawn(self)
    @cython.locals(best=Pool, pool=Pool)
    cpdef Pool least_busy(self)
    @cython.locals(pool=Pool)
    cpdef bint may_grow(self) except? -1

cdef class Gate:
    cdef public int balancing
    cdef public unsigned long long random
    cdef public object grow
    cdef public object detail
    cdef public bint paused
    cdef public unsigned long long tickets
    cdef public Py_ssize_t shards
    cdef public Py_ssize_t waiting
    cdef public list targets
    cdef public bint keeps_positions
    cdef public Target behind

    cpdef ask(self, Pool pool, Link server)
    cpdef unsigned long long next_ticket(self) except? 0
    @cython.locals(x="unsigned long long")
    cpdef unsigned long long draw(self) except? 0
    @cython.locals(shard=Py_ssize_t, target=Target)
    cpdef Py_ssize_t shard_from(self, Py_ssize_t shard, int role) except? -1
    cpdef serve_waiters(self)
