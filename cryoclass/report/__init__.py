"""Figures, 2D maps and self-contained HTML pages, made from plain arrays."""
