"""Rendering of synthetic data sets with BlenderProc: configurations, scenes, shards, worker processes.

Of ``lightning_tl`` only ``errors`` and ``_io`` are imported, and only :mod:`data_gen.blender`, which runs in worker
processes, imports Blender.
"""
