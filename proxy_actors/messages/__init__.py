"""The vocabulary: one module a mailbox, frozen structs that hold data only.

A message never holds a socket, a greenlet, a callable or a reference to an actor: ids name those,
so that every message could be written down and replayed.
"""
