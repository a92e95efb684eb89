"""Widgets in the notebook: a live batch, the builder, buttons; the only room with ipywidgets."""
