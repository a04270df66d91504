"""Blender's room: the only package that imports Blender and BlenderProc. A scene's specification → arrays."""
