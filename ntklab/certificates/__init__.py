"""Certificates: radii within which no perturbation can change the sign of a score.

An attack shows that a perturbation exists, a certificate that none does; the truth lies between.
`kernel_certificate` is for binary machines of a two-layer ReLU kernel (regression, SVM),
`network_certificate` for networks in the NTK parameterisation.
"""

from ntklab.certificates.kernel_machine import kernel_certificate as kernel_certificate
from ntklab.certificates.network import interval_bounds as interval_bounds
from ntklab.certificates.network import network_certificate as network_certificate
from ntklab.certificates.result import Certificate as Certificate
