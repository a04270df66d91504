"""Measuring runs of other frameworks than Lightning, by the same recorder."""
