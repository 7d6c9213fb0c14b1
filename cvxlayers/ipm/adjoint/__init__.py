"""The derivative's linear systems by the kernels of the interior-point method."""
