"""Chen, Huang, Nguyen and Weng 2021, "On the Equivalence between Neural Network and SVM".

One module an experiment:

- `certificates`: tables 2 and 3, kernel machines on zeros and ones of MNIST with the robustness
  certificate;
- `networks`: the rows of table 2 with finite networks and interval bounds.

`network` and `measures` are what they use.
"""
