"""The NumPy layer: pack, evaluate, solve, verify, sharpen, recover, and the way back."""
