"""What a gate found: one finding for each thing it measured, and the exit code that follows from all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dualpath.gate.spec import Spec

Status = Literal["pass", "fail", "void"]
PASS, FAIL, VOID = 0, 1, 2  # exit codes


@dataclass(frozen=True, slots=True)
class Finding:
    """`found` and `limit` are for people; `ratio` (candidate / base, with its interval) and `value` (the candidate's,
    what a history keeps) are for programs. `why` explains what did not pass, or what would be worth knowing."""

    tier: int
    name: str
    status: Status
    found: str
    limit: str
    why: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    spec: Spec
    base: str
    candidate: str
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """A difference that was found stays found; a gate of which a part is void has not passed."""
        found = {finding.status for finding in self.findings}
        return FAIL if "fail" in found else VOID if "void" in found or not found else PASS

    @property
    def status(self) -> Status:
        return ("pass", "fail", "void")[self.exit_code]

    @property
    def headline(self) -> str:
        counts = {status: sum(each.status == status for each in self.findings) for status in ("fail", "void", "pass")}
        parts = ", ".join(f"{num} {status}" for status, num in counts.items() if num) or "nothing measured"
        return f"gate {self.spec.name}: {self.status.upper()} ({parts}); base {self.base}, candidate {self.candidate}"

    def as_json(self) -> dict[str, Any]:
        return {
            "gate": self.spec.name,
            "status": self.status,
            "exit_code": self.exit_code,
            "base": self.base,
            "candidate": self.candidate,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def rows(self) -> Sequence[tuple[str, ...]]:
        """For a table: tier, what, verdict, found, limit."""
        return [(str(each.tier), each.name, each.status, each.found, each.limit) for each in self.findings]

    @property
    def reasons(self) -> list[str]:
        """Of all that did not pass, and remarks on what did; the first line of each."""
        return [f"{each.status}: {each.name}: {each.why}" for each in self.findings if each.why]

    def as_markdown(self) -> str:
        """A job summary."""
        sign = {"pass": "✅", "fail": "❌", "void": "⚪"}
        lines = [
            f"### {sign[self.status]} {self.headline}",
            "",
            "| tier | what | | found | limit |",
            "|---|---|---|---|---|",
        ]
        for tier, name, status, *rest in self.rows():
            cells = (tier, name, f"{sign[status]} {status}", *rest)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines += ["", *(f"- {reason}" for reason in self.reasons)]
        return "\n".join(lines) + "\n"
