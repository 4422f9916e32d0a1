"""Trace-driven benchmark and replay suite for KV-cache loading in disaggregated LLM inference."""

from dualpath.compile_cache import choose_folder

choose_folder()
