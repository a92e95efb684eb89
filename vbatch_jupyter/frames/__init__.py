"""DataFrame → lines of an input file, lines of an output file → DataFrame; the only room with pandas and jinja2.

`ask` says what is asked, `render` makes the requests, `frame` describes what a batch keeps, and `results` reads back.
"""
