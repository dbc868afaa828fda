"""Quantisation of bundles and the proof of what it cost. Empty until the first recipe lands."""
