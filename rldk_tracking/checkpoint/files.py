"""Opens the files of a folder that a stranger may have filled: regular ones alone, and JSON up to a size.

Opening a FIFO waits for a writer, and reading a device has no end.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import IO, Any

LARGEST_JSON_BYTES = 64 << 20
"""The index of the largest open models has some 10 MB."""


class DamagedFileError(ValueError):
    """A file that is not what its name or format says. The message names the file and what is wrong with it."""


def open_regular(file: Path) -> IO[bytes]:
    """A regular file, opened for reading without waiting.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is a FIFO, a device, a socket or a folder, or a link to one.
        OSError: it cannot be opened.
    """
    _check_regular(file, os.stat(file))  # a device may do something when it is opened
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    stream = os.fdopen(os.open(file, flags), "rb")
    try:
        _check_regular(file, os.fstat(stream.fileno()))  # it may have been replaced in between
    except DamagedFileError:
        stream.close()
        raise
    return stream


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is no regular file, is too large, or holds something else.
        OSError: it cannot be read.
    """
    with open_regular(file) as stream:
        data = stream.read(LARGEST_JSON_BYTES + 1)
    if len(data) > LARGEST_JSON_BYTES:
        raise DamagedFileError(f"{file.name} is larger than {LARGEST_JSON_BYTES >> 20} MiB and is not read.")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{file.name} is no JSON.") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{file.name} holds no JSON object.")
    return content


def _check_regular(file: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise DamagedFileError(f"{file.name} is no regular file and is not read.")
