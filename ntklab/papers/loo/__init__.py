"""Loo, Hasani, Amini & Rus 2022, "Evolution of neural tangent kernels"."""
