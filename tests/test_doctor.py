"""The doctor describes any machine without failing on it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from dualpath import doctor
from dualpath.engine.direct_io import filesystem_of

EXPECTED = {
    "python",
    "torch",
    "cores",
    "memory",
    "memlock",
    "/dev/shm",
    "file system",
    "O_DIRECT",
    "storage rate",
    "io_uring",
    "rdma",
    "timer",
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RATE_MAX_BYTES", 8 << 20)


def by_name(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in findings}


def test_every_finding_has_a_value_and_a_meaning(tmp_path: Path, quick: None) -> None:
    findings = doctor.probe(tmp_path)
    assert {finding.name for finding in findings} >= EXPECTED
    for finding in findings:
        assert finding.value
        assert finding.hint
        assert not finding.value.startswith("could not tell")
    assert filesystem_of(tmp_path) in by_name(findings)["file system"].value
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_directory_that_is_not_there_yet_is_judged_by_its_parent(tmp_path: Path, quick: None) -> None:
    findings = by_name(doctor.probe(tmp_path / "a" / "b"))
    assert str(tmp_path) in findings["file system"].value
    assert not (tmp_path / "a").exists()


def test_memory_is_not_taken_for_a_disk(quick: None) -> None:
    if filesystem_of("/dev/shm") != "tmpfs" or not os.access("/dev/shm", os.W_OK):
        pytest.skip("/dev/shm is not a tmpfs one may write")
    findings = by_name(doctor.probe("/dev/shm"))
    assert not findings["file system"].ok
    assert findings["O_DIRECT"].value == "no"
    assert "tmpfs" in findings["O_DIRECT"].hint


def test_a_probe_that_fails_becomes_a_finding(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise RuntimeError(f"no mounts for {path}")

    monkeypatch.setattr(doctor, "filesystem_of", broken)
    findings = by_name(doctor.probe(tmp_path))
    assert not findings["file system"].ok
    assert "no mounts for" in findings["file system"].value
    assert {"python", "timer"} <= set(findings)  # the others go on


def test_a_directory_that_cannot_be_written_is_a_finding() -> None:
    if os.access("/proc/self", os.F_OK) is False:
        pytest.skip("no /proc: no directory that even root cannot write")
    findings = by_name(doctor.probe("/proc/self"))
    assert not findings["storage rate"].ok
    assert "choose another directory" in findings["storage rate"].hint
    assert "proc" in findings["file system"].value


def test_a_missing_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # makes the import fail
    (finding,) = doctor._torch()
    assert not finding.ok
    assert "simulate does not" in finding.hint


def machine(root: Path, state: str, node: bool) -> tuple[Path, Path]:
    """A made-up machine with one RDMA device."""
    port = root / "infiniband" / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    (port / "state").write_text(state)
    (port / "link_layer").write_text("Ethernet\n")
    (port / "rate").write_text("400 Gb/sec\n")
    (port / "gids").mkdir()
    (port / "gids" / "0").write_text("0000:0000:0000:0000:0000:0000:0000:0000\n")
    (port / "gids" / "1").write_text("::ffff:10.0.0.1\n")
    nodes = root / "dev"
    nodes.mkdir()
    if node:
        (nodes / "uverbs0").touch()
    return root / "infiniband", nodes


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor.ctypes.util, "find_library", lambda name: f"lib{name}.so.1")


def test_rdma_with_everything_is_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    devices, nodes = machine(tmp_path, "4: ACTIVE\n", node=True)
    (finding,) = doctor.rdma(devices, nodes, memlock_bytes=1 << 40)
    hint = "KV can go over it: dualpath replay --transport verbs"
    assert finding == doctor.Finding(
        "rdma", "mlx5_0 (active, Ethernet, 400 Gb/sec, GIDs 1 ::ffff:10.0.0.1)", True, hint
    )


@pytest.mark.parametrize(
    ("state", "node", "words"),
    [
        ("1: DOWN\n", True, ["an active port"]),
        ("4: ACTIVE\n", False, ["modprobe ib_uverbs"]),
    ],
)
def test_what_rdma_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, node: bool, words: list[str]
) -> None:
    install(monkeypatch)
    devices, nodes = machine(tmp_path, state, node)
    (finding,) = doctor.rdma(devices, nodes, memlock_bytes=1 << 40)
    assert not finding.ok
    assert all(word in finding.hint for word in words)


def test_a_machine_without_rdma_names_packages_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (finding,) = doctor.rdma(tmp_path / "none", tmp_path / "none", memlock_bytes=8 << 20)
    assert finding.value == "no device"
    for words in ("rdma_rxe", "python3-pyverbs", "ibverbs-providers", "memlock above 8.0 MiB"):
        assert words in finding.hint


def test_the_probe_does_not_import_pyverbs(tmp_path: Path, quick: None) -> None:
    doctor.probe(tmp_path)
    assert "pyverbs" not in sys.modules
