"""The forward model, patches and their adjoint, and the simulated world: pure functions on NumPy arrays."""
