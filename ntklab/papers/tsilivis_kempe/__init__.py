"""Tsilivis and Kempe 2022, "What Can the NTK Tell Us About Adversarial Robustness?".

One module an experiment:

- `errata`: the equations of the supplement's sections B.1 and B.2, checked by brute force;
- `mnist`: training-free attacks on the two-layer kernel machine, MNIST;
- `cars`: the same on cars and planes, the setting of the authors' notebook;
- `machines`: restarts and searches without gradients on the kernel machines of both tasks;
- `linearised_training`, `linearised_masking`, `linearised_collapse`: adversarial training of the
  tangent, section E.1, and what attacks without gradients leave of it;
- `transfer`: the examples of the kernel on finite two-layer networks, section C;
- `clustering`: loss gradients of networks of several seeds beside the kernel's, section C;
- `features`, `feature_plane`, `feature_selection`, `feature_toy`, `feature_draws`: features of the
  kernel, section 4 and supplement A and D: the plane, the selection, the trials and 10,000 images;
- `networks`: the convolutional networks of section 5;
- `motion`, `kernel_paths`: where their tangent kernels go, section 5 and supplement E.
"""
