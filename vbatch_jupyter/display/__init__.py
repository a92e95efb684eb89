"""Draw what the manager says, as text and as HTML; no widget, no IPython."""
