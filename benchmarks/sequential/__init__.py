"""Simulated campaigns of ``seeds: {until: decided}``: false claims, coverage, and seeds against a fixed number.

    python -m benchmarks sequential [--campaigns 100000] [--families 2000] [--write]

A campaign is an experiment that adds seeds until a method's comparison with the baseline is decided. Both runs of a
seed share the seed's effect, so that their values correlate. The true difference is nothing, half and the whole of the
rule's ``difference``; at the whole, "no difference of this size or more" is false. The decisions are those of
``common.sequential.decision.decide``, computed for many campaigns at once; on a part of them ``decide`` itself is
called too, and must agree. Races of settings are simulated in the same way.

``--write`` stores the tables in ``benchmarks/results/sequential.{md,json}``.
"""
