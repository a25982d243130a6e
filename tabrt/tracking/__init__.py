"""Faces that keep their ids."""
