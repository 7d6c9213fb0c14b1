"""Tests of the derivatives on problems whose solutions are known by construction."""
