"""What is printed after a terminal was closed, or the reader of a pipe has left, goes nowhere and ends nothing."""

import errno
import io
import os
import sys
from typing import TextIO


def outlive_terminal() -> None:
    """From here on standard output and standard error of this process take what nobody reads any more."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # the process has none, or somebody has put something else there
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


class _Output(io.FileIO):
    """A file descriptor that becomes that of the null device when writing finds its reader gone."""

    def write(self, data, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):  # a terminal, a pipe
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return len(data)
