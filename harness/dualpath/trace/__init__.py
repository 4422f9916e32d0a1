"""READS: trace schema, importers, exporters, synthesizer, statistics, validation."""
