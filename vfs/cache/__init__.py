"""The block cache: disposable, verified, bounded copies of objects, shared by one machine.

What lives here: everything behind ``cache::``. What must not: copies that exist nowhere else.
"""
