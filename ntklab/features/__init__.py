r"""Features of a kernel: one predictor for each eigenvector of the kernel matrix.

With $\Theta = \sum_i \lambda_i v_i v_i^\top$ the interpolating machine is a sum of features,

$$f_\infty(x) = \sum_i f^{(i)}(x), \qquad
  f^{(i)}(x) = \lambda_i^{-1}\,\Theta(x, \mathcal{X})\,v_i\,v_i^\top \mathcal{Y}
             = \phi_i(x)\,c_i^\top,$$

with $\phi_i(x) = \lambda_i^{-1} \Theta(x, \mathcal{X})\,v_i$ a number and $c_i = \mathcal{Y}^\top
v_i$ one number a class. Features are numbered from 0 at the largest eigenvalue. Each is a kernel
machine, so that it is attacked by the same code as any predictor; so is a sum of some of them.

A feature is *useful* as far as it classifies on its own, and *robust* as far as it does so under
the worst perturbation of the ball. One feature names two classes at most, the largest entry of
$c_i$ where $\phi_i > 0$ and the smallest where $\phi_i < 0$: see `classes_named` and `cap`.

Which features are robust is a choice made by looking: rank on validation data, report on others.
"""

from ntklab.features.eigen import basis as basis
from ntklab.features.eigen import cap as cap
from ntklab.features.eigen import class_weights as class_weights
from ntklab.features.eigen import classes_named as classes_named
from ntklab.features.eigen import feature as feature
from ntklab.features.eigen import select as select
from ntklab.features.images import maximising_input as maximising_input
from ntklab.features.loss_gradients import Decomposition as Decomposition
from ntklab.features.loss_gradients import loss_gradient_weights as loss_gradient_weights
from ntklab.features.measure import FeatureReport as FeatureReport
from ntklab.features.measure import measure as measure
from ntklab.features.measure import most_robust as most_robust
