"""What the command line tools share: types of arguments for argparse, and how a tool ends."""

import argparse
import signal
from pathlib import Path


def at_least_one(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def zero_or_more(text: str) -> int:
    """A whole number, 0 among them."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, 0 or more")
    return int(text)


def accuracy(text: str) -> float:
    """A number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number between 0 and 1, such as 0.99")
    return value


def page_file(text: str) -> str:
    """The name of a page to write."""
    if not text or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a file")
    return text


def end_when_the_reader_leaves() -> None:
    """End without a word when the program that reads the output, such as `head`, ends first."""
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
