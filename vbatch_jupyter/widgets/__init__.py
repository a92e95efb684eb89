"""Faces of a snapshot in the notebook; a line of text for now."""
