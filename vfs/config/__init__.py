"""What users write: sizes, options and secrets, checked before any I/O.

What lives here: parsing and validation. What must not: I/O beyond resolving a secret reference,
knowledge of any one filesystem.
"""
