"""Rendered data sets looked at before they are trained on: checks, statistics, other formats, complexity."""
