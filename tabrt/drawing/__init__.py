"""Layers on a frame."""
