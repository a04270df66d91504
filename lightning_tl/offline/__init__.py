"""Measuring saved checkpoints, one or a series, into measurements.csv and a plot."""
