"""Calibration: fits find what is there, the profile can be read again, and what cannot be measured is said."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from dualpath import calibrate as calibration
from dualpath import measure
from dualpath.calibrate import calibrate, profile_text
from dualpath.core.batch import attention_ns
from dualpath.core.errors import ClusterError, DualpathError, PlanError, RunError
from dualpath.fits import fit, pass_counts, step_counts
from dualpath.measure import cold_ns_per_token, draw_batches
from dualpath.sim.profile import Constant, load_profile

ROOT = Path(__file__).resolve().parents[1]
PASS = (0.7e6, 19e3, 800.0, 70.0)  # ns: pass, new token, token of context, pair
STEP = (0.2e6, 115e3, 750.0)


def say_nothing(line: str) -> None:
    pass


@pytest.mark.parametrize("constants", [PASS, (0.0, 19e3, 800.0, 70.0), (0.7e6, 19e3, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)])
def test_a_fit_finds_the_constants_of_forward_passes(constants: tuple[float, ...]) -> None:
    counts = [pass_counts(chunks) for chunks in draw_batches(768, 64)]
    found = fit(counts, [_time(constants, row) for row in counts])
    assert found.constants == pytest.approx(constants, rel=1e-6, abs=1e-6)
    assert found.rms < 1e-9
    assert found.time(counts[0]) == pytest.approx(_time(constants, counts[0]))


def test_a_fit_finds_the_constants_of_decode_steps() -> None:
    counts = [step_counts(num, num * context) for num in (1, 2, 4, 8) for context in (96, 384, 756)]
    found = fit(counts, [_time(STEP, row) for row in counts])
    assert found.constants == pytest.approx(STEP, rel=1e-6)


def test_no_constant_is_below_zero_and_the_others_are_the_best_without_it() -> None:
    """Times that fall with the context: the term is left out, as if it had not been asked for."""
    rng = random.Random(1)
    counts = [pass_counts(chunks) for chunks in draw_batches(768, 64)]
    times = [max(1e5, _time((1e6, 19e3, -900.0, 70.0), row)) * rng.uniform(0.98, 1.02) for row in counts]
    found = fit(counts, times)
    assert found.constants[2] == 0
    assert min(found.constants) >= 0
    without = fit([(row[0], row[1], row[3]) for row in counts], times)
    assert [found.constants[term] for term in (0, 1, 3)] == pytest.approx(without.constants)
    assert found.rms == pytest.approx(without.rms)


def test_short_and_long_times_weigh_the_same() -> None:
    """One constant for two times that it cannot both explain: relative errors are least, not absolute ones."""
    found = fit([(1.0,), (1.0,)], [1.0, 3.0])
    assert found.constants[0] == pytest.approx((1 + 1 / 3) / (1 + 1 / 9))


def test_a_pass_is_counted_as_the_scheduler_and_the_simulator_count_it() -> None:
    chunks = [(0, 245), (512, 64), (700, 1)]
    pass_ns, per_token, per_context, per_pair = PASS
    by_hand = pass_ns + per_token * 310 + sum(attention_ns(*chunk, per_pair, per_context) for chunk in chunks)
    assert _time(PASS, pass_counts(chunks)) == pytest.approx(by_hand)


@pytest.mark.parametrize(("longest", "block_tokens"), [(64, 16), (256, 64), (768, 64), (8192, 64)])
def test_batches_are_drawn_alike_fit_and_tell_the_terms_apart(longest: int, block_tokens: int) -> None:
    batches = draw_batches(longest, block_tokens)
    assert batches == draw_batches(longest, block_tokens)
    assert all(new >= 1 and cached + new <= longest for chunks in batches for cached, new in chunks)
    assert {len(chunks) for chunks in batches} >= {1, 24}
    counts = [pass_counts(chunks) for chunks in batches]
    assert fit(counts, [_time(PASS, row) for row in counts]).constants == pytest.approx(PASS, rel=1e-5)


def test_what_first_passes_take_beyond_the_fit_is_spread_over_the_largest() -> None:
    counts = [pass_counts(chunks) for chunks in draw_batches(768, 64)]
    found = fit(counts, [_time(PASS, row) for row in counts])
    first = [[(0, 256)] * num for num in (1, 8, 24)]
    beyond = (0, 256, 8 * 256)  # new tokens of the batch before
    took = [
        (chunks, int(_time(PASS, pass_counts(chunks)) + 28e3 * (256 * len(chunks) - before)))
        for chunks, before in zip(first, beyond, strict=True)
    ]
    assert cold_ns_per_token(took, found) == pytest.approx(28e3, rel=1e-4)
    assert cold_ns_per_token([(chunks, 1) for chunks in first], found) == 0


def test_a_profile_can_be_read_again(tmp_path: Path) -> None:
    shipped = tomllib.loads((ROOT / "harness/dualpath/sim/profiles/ds-27b.toml").read_text())
    constants = {name: Constant(float(row["value"]) / 3, row["source"]) for name, row in shipped.items()}
    constants["step_engines"] = Constant(1.0, 'measured: "quoted", \\ and\na line, ± é')
    (tmp_path / "machine.toml").write_text(profile_text(constants))
    profile, found = load_profile("machine.toml", tmp_path)
    assert found == constants
    assert profile.pass_ms == constants["pass_ms"].value


@pytest.mark.parametrize(
    ("cluster", "longest", "error", "says"),
    [
        (
            "paper-ds27b-1p1d",
            768,
            ClusterError,
            'simulated only (dualpath simulate); for the real engine set kv_dtype = "bf16"',
        ),
        ("nowhere", 768, ClusterError, "no such cluster file"),
        ("cpu-1p1d", 200, PlanError, "--longest is 200; it must be at least four blocks of 64"),
        ("cpu-1p1d", 10**9, PlanError, "lower it"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_runs(
    tmp_path: Path, cluster: str, longest: int, error: type[DualpathError], says: str
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        calibrate(
            ROOT / "bench" / "clusters" / f"{cluster}.toml", tmp_path / "x" / "profile.toml", say_nothing, longest
        )
    assert not (tmp_path / "x").exists()


def test_an_output_that_cannot_be_is_said_at_once(tmp_path: Path, cluster_file: Callable[..., Path]) -> None:
    with pytest.raises(RunError, match="is a folder"):
        calibrate(cluster_file(), tmp_path, say_nothing)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        calibrate(cluster_file(), tmp_path / "file" / "profile.toml", say_nothing)
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.engine
def test_a_machine_is_measured_through_its_engines(
    tmp_path: Path, cluster_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, with designs cut down to a few batches."""
    for name, value in (
        ("_ROUNDS", 1),
        ("_BATCHES", 12),
        ("_STEP_REQUESTS", (1, 2)),
        ("_SHARED_STEPS", 40),
    ):
        monkeypatch.setattr(measure, name, value)
    lines: list[str] = []
    cluster, output = cluster_file(snic="1MB/s", cnic="8MB/s"), tmp_path / "new" / "profile.toml"
    found = calibrate(cluster, output, lines.append, 256)
    profile, constants = load_profile("profile.toml", output.parent)
    assert constants == found.constants
    assert {constant.source.partition(":")[0] for constant in constants.values()} <= {"measured", "counted", "as built"}
    assert profile.pass_ms + profile.prefill_us_per_token > 0
    assert profile.step_ms + profile.step_us_per_request > 0
    assert 0 < profile.request_ms < 1000
    assert profile.client_gb_per_s > 0
    assert profile.cores == 0 or profile.cores >= 1
    assert [line[:5] for line in lines if line.startswith("[")] == [f"[{step}/5]" for step in range(1, 6)]
    reads = [line for line in found.notes if " read: " in line]
    assert len(reads) == 2
    for line in reads:
        got, asked = re.findall(r"[\d.]+", line)
        assert float(got) == pytest.approx(float(asked), rel=0.25)
    assert sorted(path.name for path in output.parent.iterdir()) == ["profile.toml"]
    assert calibration.LONGEST == 768


def _time(constants: tuple[float, ...], counts: tuple[float, ...]) -> float:
    return sum(constant * count for constant, count in zip(constants, counts, strict=True))
