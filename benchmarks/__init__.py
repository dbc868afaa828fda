"""Measurements, each a command that prints what it compares side by side, as ratios."""
