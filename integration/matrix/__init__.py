"""The matrix of real tools: what each does with an image in a given state, compared with diagnose.

A cell is one run of one tool. `cells` lists them all; `images`, `arrivals` and `site` lay out the state;
`tools` runs the real programs; `predictions` turns a diagnosis into the expected results; `runner` does one
cell; `report` writes docs/mismatch.md. `python -m integration.matrix [FILE]` runs all and writes the page.
"""
