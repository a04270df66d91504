"""Rendering of synthetic data sets with BlenderProc: specs, scenes, shards, worker processes.

Nothing here imports ``lightning_tl``, and only :mod:`data_gen.blender` (run in worker processes) imports Blender.
"""
