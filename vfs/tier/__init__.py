"""Tier: a small fast store over a large slow one, behind one URL.

What lives here: the hot/cold composite. What must not: backends, layers, the block cache; they
meet the tier through URLs only.
"""
