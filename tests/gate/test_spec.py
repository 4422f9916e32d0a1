from __future__ import annotations

from pathlib import Path

import pytest
from dualpath.core.errors import PlanError
from dualpath.gate.spec import fill, load_spec

ROOT = Path(__file__).resolve().parents[2]
WALL = '[[wall]]\nname = "w"\ncommand = "true"\n'
COUNTERS = '[[counters]]\nname = "c"\ncommand = "run {out}"\nequal = ["bytes"]\n'


def _load(folder: Path, text: str) -> object:
    path = folder / "gate.toml"
    path.write_text(text)
    return load_spec(path)


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "gates").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_specifications_can_be_read(path: Path) -> None:
    assert load_spec(path).name == path.stem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing required field `name`"),
        ('name = "x"', "measures nothing"),
        ('name = "x"\nlimits = 1\n' + WALL, "unknown field `limits`"),
        ('name = "x"\n' + WALL + "limit = 0\n", "limit"),
        ('name = "x"\n' + WALL + "pairs = 3\n", "pairs"),
        ('name = "x"\n' + WALL + 'measure = "jct_s"\n', "let it write to {out}"),
        ('name = "x"\n' + WALL + WALL, "two probes are called 'w'"),
        ('name = "x"\n' + COUNTERS.replace("{out}", "out"), "let it write to {out}"),
        ('name = "x"\n' + COUNTERS.replace("bytes", "byte"), "Invalid enum value 'byte'"),
        ('name = "x"\n' + COUNTERS.replace("{out}", "{out} {arm}"), r"has \{arm\}; known: out"),
        ('name = "x"\n' + COUNTERS.replace("{out}", "{out} {"), "command of 'c'"),
        ('name = "x"\n' + COUNTERS + '[base]\narm = "a"\n', "must define the same words"),
        ('name = "x"\n' + WALL.replace("true", "true 'x"), "command of 'w': No closing quotation"),
        ('name = "x"\n' + WALL.replace("true", " "), "command of 'w' is empty"),
        ("name = ", "gate.toml"),
    ],
)
def test_a_bad_specification_is_refused_with_its_file_key_and_remedy(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words) as found:
        _load(tmp_path, text)
    assert "gate.toml" in str(found.value)


def test_a_missing_specification_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="No such file"):
        load_spec(tmp_path / "none.toml")


def test_words_of_a_side_fill_its_commands(tmp_path: Path) -> None:
    text = COUNTERS.replace("{out}", "{out} --arm {arm}")
    _load(tmp_path, 'name = "x"\n' + text + '[base]\narm = "basic"\n[candidate]\narm = "split"\n')
    assert fill("run {out} --arm {arm}", {"out": "/o", "arm": "split"}) == "run /o --arm split"
