"""How a program of ours is run on a compute node: by whatever Python is there, if it is not too old."""

_FIND = r"""for python in /usr/bin/python3 /usr/libexec/platform-python python3; do
  "$python" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2> /dev/null &&
    exec "$python" -I -S @WORDS@
done
"""


def by_python(words: str) -> str:
    """For sh: becomes Python with these words, quoted as they are to be; goes on if there is none."""
    return _FIND.replace("@WORDS@", words)
