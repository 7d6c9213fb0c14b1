"""The derivative that diffcp computes: that of the homogeneous self-dual embedding."""
