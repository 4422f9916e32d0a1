"""Trace-driven benchmark and replay suite for KV-cache loading in disaggregated LLM inference."""
