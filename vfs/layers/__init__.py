"""Layers: one concern each, over any filesystem.

What lives here: modules of one :class:`~vfs.core.chained.WrapperFileSystem` each. What must not:
imports between layers, backends, tiers.
"""
