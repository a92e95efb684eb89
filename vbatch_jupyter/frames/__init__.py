"""DataFrame → lines of an input file, lines of an output file → DataFrame; the only room with pandas and jinja2.

`requests` renders, `results` reads back and holds what a batch keeps of its frame in between.
"""
