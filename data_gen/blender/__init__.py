"""Rendering a scene's specification to arrays: the only package that imports Blender and BlenderProc."""
