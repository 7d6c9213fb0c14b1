"""Benchmarks: every contender's answer is verified first, and timed only then. See docs/benchmarks.md."""

from __future__ import annotations

__all__: list[str] = []
