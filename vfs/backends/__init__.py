"""Backends: one protocol a file, each a filesystem of its own.

What lives here: storage that fsspec lacks or does too weakly. What must not: imports between
backends, layers, tiers.
"""
