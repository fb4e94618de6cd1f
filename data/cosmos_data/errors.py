"""What goes wrong with data.

`DataError`: the user's data or request is wrong and the run stops; the message names the thing, rule and remedy.
`ClipError`: one clip cannot be decoded; the loader replaces that sample by the plan's next candidate and goes on.
`StorageError`: what was made can not be written; the run stops, and goes on where it was once there is room.
`StallError`: a decoder does not come back; the run stops, because what hangs now may work when it is started again.

By `input_is_wrong` a command that does not know these classes tells whose fault it is.
"""


class DataError(ValueError):
    """The data cannot serve this run."""

    input_is_wrong = True


class ClipError(DataError):
    """One clip of a batch cannot be decoded. `position` says which sample of the batch it was."""

    def __init__(self, reason: str, *, position: int = 0) -> None:
        super().__init__(reason)
        self.position = position


class StallError(DataError):
    """Decoding took longer than data.stall_sec."""

    input_is_wrong = False


class StorageError(DataError):
    """Something can not be kept: the disk is full, or gone."""

    input_is_wrong = False
