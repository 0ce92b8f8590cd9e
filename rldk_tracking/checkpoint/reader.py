"""Reads the tensors of a checkpoint folder block by block, without ever holding a whole one or running its code.

safetensors files are mapped into memory, and pages that were read are handed back at once, so that the memory in use
does not grow with the model. `.bin` files are pickles: they are opened with `weights_only=True` alone.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from rldk_tracking.checkpoint.entries import FLOATING, RAW, Array, Entry, Pickled, itemsize, read_header, read_pickle
from rldk_tracking.checkpoint.files import DamagedFileError, open_regular, read_json

RELEASE_BYTES = 8 << 20
"""How much of a mapped file may stay in memory."""

CANDIDATES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "adapter_model.bin",
)
"""What transformers and PEFT write, the first that is there is taken."""


@dataclass
class Checkpoint:
    """The weights in a folder, or in one file. The files stay open until `close`, so that deleting them does no harm.

    Attributes:
        path: the folder or file.
        entries: tensors by name, of all files that could be read.
        files: the files that hold the weights, those that are missing too.
        promised: name of each tensor that the index lists to the name of its file; empty without an index.
        missing: files that are named and not there.
        damaged: file name to what is wrong with it.
        config: `config.json` or `adapter_config.json`; empty where there is none.
    """

    path: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    promised: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    _streams: dict[Path, IO[bytes]] = field(default_factory=dict, repr=False)
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict, repr=False)
    _pickled: dict[str, Pickled] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Find the files and read their headers.

        Raises:
            FileNotFoundError: there is no such path, or nothing in it that names weights.
            ImportError: the weights are pickles, and torch is not installed.
        """
        checkpoint = cls(Path(path))
        checkpoint._find_files()
        for file in checkpoint.files:
            try:
                checkpoint.entries.update(checkpoint._open_file(file))
            except FileNotFoundError:
                checkpoint.missing.append(file.name)
            except (DamagedFileError, OSError) as error:
                checkpoint.damaged[file.name] = str(error)
        return checkpoint

    @property
    def is_adapter(self) -> bool:
        """Whether this holds a PEFT adapter instead of a whole model."""
        return any(file.name.startswith("adapter_model") for file in self.files)

    @property
    def nbytes(self) -> int:
        """Size of the tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def has_numbers(self, name: str) -> bool:
        """Whether the tensor is of a floating type that this module reads."""
        return self.entries[name].dtype in FLOATING

    def has_elements(self, name: str) -> bool:
        """Whether the tensor is of any type that this module reads."""
        return self.entries[name].dtype in RAW

    def blocks(self, name: str, elements: int) -> Iterator[Array]:
        """Consecutive elements of one tensor, flat and undecoded, as views valid until the next one is taken.

        Raises:
            DamagedFileError: the file has become shorter since it was opened.
        """
        entry = self.entries[name]
        if name in self._pickled:
            whole = self._pickled[name].elements()
            yield from (whole[start : start + elements] for start in range(0, len(whole), elements))
            return
        mapped, stream, size = self._map(entry.file), self._streams[entry.file], itemsize(entry.dtype)
        released = entry.start
        try:
            for start in range(entry.start, entry.stop, elements * size):
                # Reading a mapped page beyond the end of its file would end the process.
                if os.fstat(stream.fileno()).st_size < entry.stop:
                    raise DamagedFileError(f"{entry.file.name} was cut short while it was read.")
                count = min(elements, (entry.stop - start) // size)
                yield np.frombuffer(mapped, dtype=RAW[entry.dtype], count=count, offset=start)
                if start - released >= RELEASE_BYTES:
                    released = _release(mapped, released, start)
        finally:  # also where the reader stops before the end
            _release(mapped, released, entry.stop)

    def close(self) -> None:
        """Let go of the files."""
        self._maps.clear()
        self._pickled.clear()
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _find_files(self) -> None:
        if self.path.is_file():
            self.files = [self.path]
            return
        names = {file.name for file in self.path.iterdir()} if self.path.is_dir() else set()
        chosen = next((name for name in CANDIDATES if name in names), None)
        if chosen is None:
            others = sorted(name for name in names if name.endswith(".safetensors"))
            if not others:
                raise FileNotFoundError(f"{self.path} holds no weights: none of {', '.join(CANDIDATES)}.")
            self.files = [self.path / name for name in others]
        elif chosen.endswith(".index.json"):
            weights = self._json(chosen).get("weight_map")
            if isinstance(weights, dict):
                self.promised = {str(name): str(file) for name, file in weights.items()}
            if not self.promised:
                self.damaged.setdefault(chosen, f"{chosen} is no index of weights.")
            # An index is a stranger's text: only names of files beside it are followed.
            self.files = [self.path / name for name in sorted(set(self.promised.values())) if Path(name).name == name]
        else:
            self.files = [self.path / chosen]
        configured = "adapter_config.json" if self.is_adapter else "config.json"
        self.config = self._json(configured) if configured in names else {}

    def _json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; empty where it cannot be read, which `damaged` says."""
        try:
            return read_json(self.path / name)
        except (DamagedFileError, OSError) as error:
            self.damaged[name] = str(error)
            return {}

    def _open_file(self, file: Path) -> dict[str, Entry]:
        if file.suffix != ".safetensors":
            return self._open_pickle(file)
        stream = self._streams[file] = open_regular(file)
        return read_header(file, stream)

    def _open_pickle(self, file: Path) -> dict[str, Entry]:
        found = read_pickle(file)
        self._pickled.update(found)
        return {name: Entry(name, tensor.dtype, tensor.shape, file, 0, tensor.nbytes) for name, tensor in found.items()}

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            self._maps[file] = mmap.mmap(self._streams[file].fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file]


def _release(mapped: mmap.mmap, start: int, stop: int) -> int:
    """Hand the whole pages of a range that was read back to the system; returns where the next range begins."""
    first, last = (offset // mmap.PAGESIZE * mmap.PAGESIZE for offset in (start, stop))
    if last > first and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED, first, last - first)
    return last
