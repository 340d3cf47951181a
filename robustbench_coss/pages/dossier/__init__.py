"""All that records say of measured models, as plain values: what `site` and `report` both show.

`models` tells how a configuration came about and how to repeat it, `suites` what one suite found
about some models, `words` spells settings and lists. Nothing here knows HTML.
"""
