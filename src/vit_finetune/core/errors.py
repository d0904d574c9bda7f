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


def user_message(error: BaseException, smaller: str | None = None) -> str | None:
    """What to tell the user, or None for a bug.

    Args:
        smaller: the key of params.yaml that bounds the memory, to name it when memory runs out.
    """
    text = str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return f"out of memory; {f'try a smaller {smaller}' if smaller else 'free some, then run it again'}"
    known = isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None)
    return text if known else None


@contextmanager
def readable_errors(name: str, smaller: str | None = None) -> Iterator[None]:
    """Exit with status 1 and a line for what a user can mend; a bug keeps its traceback, after a
    line that says so.

    VIT_TRACEBACK=1 shows the traceback of the former as well.
    """
    try:
        yield
    except Exception as error:
        message = user_message(error, smaller)
        if message is None:
            print(
                f"{name}: this is a bug; please report it with the lines below",
                file=sys.stderr,
                flush=True,
            )
            raise
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        sys.exit("\n".join(f"{name}: {line}" for line in message.splitlines()))
