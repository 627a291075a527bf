"""``python -m vfs``: the command line without the script on the ``PATH``.

What lives here: that one call. What must not: anything else.
"""

from vfs.cli.main import main

if __name__ == "__main__":
    main()
