"""A request between falling due and its last token, as whoever executes commands sees it."""

from __future__ import annotations

from dataclasses import dataclass

from dualpath.core.events import Request


@dataclass(slots=True)
class Flight:
    """Engines are -1 until assigned."""

    request: Request
    prefill_engine: int = -1
    decode_engine: int = -1
    prefill_blocks: int = 0  # hit blocks read on the prefill side
    decode_blocks: int = 0  # hit blocks read on the decode side

    @property
    def total_tokens(self) -> int:
        return self.request.prompt_tokens + self.request.generate_tokens
