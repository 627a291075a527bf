"""What a filesystem here *is*: base classes, files, paths, ranges, loops, durable writes.

What lives here: everything a backend, a layer, the cache and the tier share. What must not: any
one backend, layer or policy.
"""
