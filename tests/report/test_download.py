"""Tables as files: numbers stay numbers, names are free and stay the same."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
from dualpath.report.download import file_names, frame, save
from dualpath.report.sections import Section
from dualpath.report.table import NONE, mega, number, per_cent, shown, table, times
from dualpath.results.intervals import Interval


def test_cells_keep_the_unrounded_numbers_they_show() -> None:
    rows = [
        ("a", 1234, number(1.23456e9, 1e-9), per_cent(1 / 3), times(Interval(2, 1.5, 2.5)), mega(1e7)),
        ("b", 5, NONE, per_cent(None), times(None), mega(None)),
    ]
    found = table("T", ("arm|", "runs", "JCT, s", "gap closed", "ratio", "MB"), rows)
    assert found.rows[0] == ("a", "1,234", "1.23", "33.3%", "2.00× [1.50, 2.50]", "10.0")
    made = frame(found)
    assert made.to_dict(as_series=False) == {
        "arm": ["a", "b"],
        "runs": [1234, 5],
        "JCT, s": [1.23456, None],
        "gap closed, fraction": [1 / 3, None],
        "ratio": [2.0, None],
        "ratio, low": [1.5, None],
        "ratio, high": [2.5, None],
        "MB": [10.0, None],
    }
    assert made.schema["runs"] == pl.Int64


def test_a_column_with_words_stays_text_and_one_without_values_numeric() -> None:
    made = frame(table("T", ("rate", "empty", "|"), [(shown(25.0, "g"), NONE, "✓"), ("native", NONE, NONE)]))
    assert made.to_dict(as_series=False) == {"rate": ["25", "native"], "empty": [None, None], "column 3": ["✓", None]}
    assert made.schema["empty"] == pl.Float64


def test_headings_that_repeat_are_counted_and_infinity_survives(tmp_path: Path) -> None:
    found = table("T", ("p99", "p99", "p99"), [(number(1.0), number(math.inf), number(3.0))])
    save([Section("s", "T", "", (), (found,))], tmp_path)
    assert found.rows[0][1] == "∞"
    for read in (pl.read_parquet(tmp_path / "s.parquet"), pl.read_csv(tmp_path / "s.csv")):
        assert read.to_dict(as_series=False) == {"p99": [1.0], "p99 2": [math.inf], "p99 3": [3.0]}


def test_file_names_are_unique_and_do_not_hang_on_what_comes_later() -> None:
    def section(id: str, *titles: str) -> Section:
        return Section(id, "Speed", "", (), tuple(table(title, ("a|",), []) for title in titles))

    first = section("speed", "Speed", "A / A, per arm", "A/A per arm")
    assert file_names([first]) == {"speed": ["speed", "speed-a-a-per-arm", "speed-a-a-per-arm-2"]}
    more = file_names([first, section("noise"), section("void", "Every run")])
    assert more == {**file_names([first]), "noise": [], "void": ["void-every-run"]}
