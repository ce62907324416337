"""Seeds until it is known: decides after every seed whether a paired comparison is known, with valid error rates.

``decision.decide`` is the rule. It is a pure function of the paired differences in the order of their seeds, and the
backend, ``python -m core run`` and the simulation use no other. docs/comparisons.md derives it.
"""
