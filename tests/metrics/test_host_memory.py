from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from rldk_tracking.metrics import host_memory
from rldk_tracking.metrics.host_memory import Group, HostMemory, groups

GIB = 1 << 30


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(str(text))


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text(text)
    return path


def test_the_limit_of_a_container(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    write(mount / "a" / "b", memory_dot_max="max")
    write(
        mount / "a",
        memory_dot_max=8 * GIB,
        memory_dot_current=7 * GIB,
        memory_dot_stat=f"anon 1\ninactive_file {GIB}\nactive_file {GIB}",
    )
    (found,) = groups(mount, own(tmp_path, "0::/a/b\n"), total=64 * GIB)
    assert found.limit == 8 * GIB
    assert found.fraction() == pytest.approx(6 / 8)


def test_the_older_version(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    write(
        mount / "memory",
        memory_dot_limit_in_bytes=4 * GIB,
        memory_dot_usage_in_bytes=3 * GIB,
        memory_dot_stat=f"inactive_file 5\ntotal_inactive_file {GIB}\n",
    )
    # The path is that outside the container, and does not exist within it.
    lines = "9:name=systemd:/docker/x\n3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n"
    (found,) = groups(mount, own(tmp_path, lines), total=64 * GIB)
    assert found.fraction() == pytest.approx(2 / 4)


def test_a_limit_above_the_machine_is_none(tmp_path: Path) -> None:
    write(tmp_path / "mount", memory_dot_max=2**63 - 4096)
    assert groups(tmp_path / "mount", own(tmp_path, "0::/\n"), total=64 * GIB) == []
    assert groups(tmp_path / "mount", tmp_path / "missing", total=64 * GIB) == []


def test_the_tightest_limit_counts(tmp_path: Path) -> None:
    write(tmp_path, memory_dot_current=98, memory_dot_stat="")
    assert HostMemory([Group(tmp_path, 100, "memory.current", "inactive_file")]).fraction() == pytest.approx(0.98)
    memory = psutil.virtual_memory()
    gone = Group(tmp_path / "gone", 100, "memory.current", "inactive_file")
    assert HostMemory([gone]).fraction() == pytest.approx(1 - memory.available / memory.total, abs=0.2)


def test_it_is_read_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(host_memory.time, "monotonic", lambda: now[0])
    write(tmp_path, memory_dot_current=97, memory_dot_stat="")
    memory = HostMemory([Group(tmp_path, 100, "memory.current", "inactive_file")])
    assert memory.fraction() == pytest.approx(0.97)
    write(tmp_path, memory_dot_current=99)
    now[0] += 0.9
    assert memory.fraction() == pytest.approx(0.97)
    now[0] += 0.2
    assert memory.fraction() == pytest.approx(0.99)
