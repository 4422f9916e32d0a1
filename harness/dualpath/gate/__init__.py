"""Performance gates: does a change make KV loading slower? Written down before the run, judged after it."""
