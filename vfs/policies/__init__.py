"""Policies: pure decisions, one a file. Facts in, decision out.

What lives here: functions and small classes without clock, lock, I/O or randomness. What must
not: imports beyond ``vfs.types`` and ``vfs.errors``.
"""
