"""CSV files that the user writes."""

import csv
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from vit_finetune.core.errors import UserError


def read_table(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a CSV file, with its place in words for messages.

    Raises:
        UserError: the file is missing, is not CSV in UTF-8, or lacks a column; or a row has more or
            fewer values than the header.
    """
    wanted = ",".join(columns)
    try:
        # spreadsheets put a byte order mark before the header
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if not set(columns) <= set(header):
                raise UserError(
                    f"the first line of {path} is {','.join(header)!r}; it must name the columns "
                    f"{wanted}"
                )
            for values in reader:
                if not values:
                    continue
                place = f"{path}, line {reader.line_num}"
                if len(values) != len(header):
                    raise UserError(
                        f"{place} has {len(values)} values, the first line has {len(header)}; "
                        'write a value with a comma in ""'
                    )
                yield place, dict(zip(header, values, strict=True))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; write a CSV file with the line {wanted}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); save it as that") from None


def normal(name: str) -> str:
    """The same text for names that Unicode calls the same, such as é as one character or two."""
    return unicodedata.normalize("NFC", name)
