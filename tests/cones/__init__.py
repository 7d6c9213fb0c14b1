"""Tests of the cones: projections, their derivatives, margins and the arrangement of rows."""
