"""Which claims of the CO-SSL paper the records bear out, each with its effect and evidence.

Nothing is measured, and nothing is compared with numbers of the paper. Four steps: `definitions`
says what is claimed, `questions` finds the tests that the records allow, `verdicts` judges them
together, `report` writes them down.
"""
