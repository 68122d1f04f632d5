"""Drawn radiographs, and the main job from end to end on one machine."""
