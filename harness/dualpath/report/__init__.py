"""DRAWS: metrics into figures, one self-contained HTML page and Markdown."""
