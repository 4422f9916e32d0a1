"""EXECUTES: models, KV blocks, block store, links, transports, prefill and decode workers."""
