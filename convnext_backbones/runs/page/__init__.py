"""A run on one page of HTML: a file that is whole in itself, and opens from disk with no network.

making.py reads a run, or several, and writes the page; looking.py and facts.py keep, at the end of a training,
what only a run that has just ended knows.
"""
