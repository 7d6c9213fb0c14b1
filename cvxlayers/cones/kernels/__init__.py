"""Projections onto exponential and power cones compiled by Numba, cone by cone: the formulas of ``exponential`` and
``power``, whose array operations serve where Numba cannot be imported."""
