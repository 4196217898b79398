"""Tsilivis and Kempe 2022, "What Can the NTK Tell Us About Adversarial Robustness?".

One module an experiment:

- `errata`: the equations of the supplement's sections B.1 and B.2, checked by brute force;
- `mnist`: training-free attacks on the two-layer kernel machine, MNIST;
- `cars`: the same on cars and planes, the setting of the authors' notebook;
- `transfer`: the examples of the kernel on finite two-layer networks, section C.
"""
