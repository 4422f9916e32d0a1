"""DECIDES: events with their time in, commands out. Not aware of clocks, threads, torch, files or processes."""
