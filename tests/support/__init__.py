"""What the tests share: one tolerance helper, reference solutions, finite differences, the layers under test."""
