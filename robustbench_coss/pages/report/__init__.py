"""One document about measured models: words, tables, figures, claims and how to repeat them.

It is made of records and measures nothing. `choice` finds the measurements, the dossier says what
is in them, `summary` and `pairs` put it into words and set models against each other, `page` makes
HTML of it and `pdf` prints that.
"""
