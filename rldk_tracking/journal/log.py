"""What the courier has to say, in a bounded file beside the journal."""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path

_LARGEST_BYTES = 256 * 1024


def courier_log(journal: Path) -> logging.Logger:
    """The log of a journal, `run.courier.log`, readable by its owner only; one older file beside it at most."""
    path = journal.with_name(f"{journal.stem}.courier.log")
    log = logging.getLogger(f"rldk_tracking.courier.{str(path).replace('.', '_')}")
    if not log.handlers:
        log.addHandler(_Private(path, maxBytes=_LARGEST_BYTES, backupCount=1, delay=True, encoding="utf-8"))
        log.handlers[0].setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


class _Private(RotatingFileHandler):
    def _open(self):  # type: ignore[no-untyped-def]
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT, 0o600))
        return super()._open()
