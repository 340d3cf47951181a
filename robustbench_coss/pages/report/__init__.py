"""One document about measured models: words, tables, figures, claims and how to repeat them.

It is made of records and measures nothing. `choice` finds the measurements, `summary`, `suites`
and `provenance` say what is in them, `page` puts it into HTML and `pdf` prints that.
"""
