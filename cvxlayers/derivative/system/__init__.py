"""The linear system of the derivative: its units and scales, its products, the cones' blocks in it."""
