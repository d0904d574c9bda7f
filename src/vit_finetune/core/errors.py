"""Errors that a user can mend, and those of the machine: one line each. Everything else is a
bug."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "VIT_TRACEBACK"


class UserError(Exception):
    """A user can mend it: the text names the key or file, what was found, what is allowed, and what
    to do."""


def user_message(error: BaseException, memory_key: str | None = None) -> str | None:
    """What to tell the user, or None for a bug.

    Args:
        memory_key: the key of params.yaml to lower when memory runs out.
    """
    text = str(error)
    if isinstance(error, UserError):
        return text
    # torch raises a RuntimeError, which only its text tells from others
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        remedy = f"try a smaller {memory_key}" if memory_key else "free some, then run it again"
        return f"out of memory; {remedy}"
    if isinstance(error, OSError) and error.errno is not None:  # of the file system or the network
        return text
    return None


@contextmanager
def readable_errors(name: str, memory_key: str | None = None) -> Iterator[None]:
    """Exit with status 1 and a line for what a user can mend; a bug keeps its traceback, after a
    line that says so.

    VIT_TRACEBACK=1 shows the traceback of the former as well.
    """
    try:
        yield
    except Exception as error:
        message = user_message(error, memory_key)
        if message is None:
            report = f"{name}: this is a bug; please report it with the lines below"
            print(report, file=sys.stderr, flush=True)
            raise
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        sys.exit("\n".join(f"{name}: {line}" for line in message.splitlines()))
