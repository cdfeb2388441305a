"""What people see of a compilation: live on the terminal, as a table, and as one page of HTML.

Reads manifests and progress; knows nothing of how a model is compiled, and imports no torch. `facts.py` draws the
conclusions, `figures.py` writes numbers, `live.py` and `tables.py` are the terminal, `page.py` is the page.
"""
