from typing import Any

InitialWeights = Any


def read_initial_weights(*a):
    raise NotImplementedError


def load_initial_weights(*a):
    raise NotImplementedError
