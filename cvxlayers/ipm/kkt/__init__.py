"""The KKT system: its analysis, where the kernels keep its numbers, its scales, and its solutions."""
