"""RECORDS: raw tables, and each metric defined once."""
