"""Names, files and what is printed are UTF-8 whatever the locale: a batch system or a container often has none."""

import os
import sys


def read_text_as_utf8() -> None:
    """Start this command again in Python's UTF-8 mode, where its text is in another encoding; it does not return then.

    The mode can not be changed from inside, and arguments have been decoded by the time that anything here runs.
    Processes that the command starts inherit it.
    """
    if sys.getfilesystemencoding() == "utf-8" or sys.flags.utf8_mode:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
