"""What is installed, what of it works, what conflicts, and the command that mends each finding.

facts.py reads, trials.py tries each library in a process of its own, findings.py holds THE table of
what is known to go wrong.
"""
