"""The command line: one file a verb.

What lives here: parsing, rendering, exit codes. What must not: anything a program would want to
call, which belongs to the rooms below.
"""
