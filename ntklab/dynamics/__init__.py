r"""How a tangent kernel moves: distances, rotations, spectra, alignment with the targets.

Kernels come in three shapes: `(n, m)`, one output or a trace over outputs; `(n, m, k)`, one kernel
an output; `(n, m, k, k)`, the full kernel. Every measure sees one matrix (`as_matrix`): a full
kernel is flattened **example-major, output-minor** to $(nk, mk)$, row $ik + c$ being output $c$ of
example $i$, and a stack is the full kernel without its terms between outputs. `class_wise(measure)`
applies a measure to each output by itself; `per_class(kernel)` cuts the stack out of a full kernel.
No measure sees a factor of the kernel (only the radius of `polar` does) or the order of the
examples.

All are functions of arrays: they run under `jax.jit` and `jax.grad`. Shapes are always checked;
values (NaN, a kernel of zeros, a matrix that is not symmetric) are checked outside `jit`, inside
it bad values give NaN.

Which one? `distance` and `velocity` for "does the kernel still move?", with `centred=True` first:
without it the mean that all images share dominates; `pairwise_distances` for a whole run against
its own past or another run. `polar` says whether it turns or grows,
`norm_concentration` and `effective_rank` whether its spectrum does, `eigenspace_distance` whether
the features do, `target_alignment` and `specialisation` whether it moves towards the targets. A
distance between two kernels means nothing without its null: the same training with another seed.
"""

from ntklab.dynamics.alignment import specialisation as specialisation
from ntklab.dynamics.alignment import target_alignment as target_alignment
from ntklab.dynamics.matrices import as_matrix as as_matrix
from ntklab.dynamics.matrices import centre as centre
from ntklab.dynamics.matrices import class_wise as class_wise
from ntklab.dynamics.matrices import per_class as per_class
from ntklab.dynamics.similarity import distance as distance
from ntklab.dynamics.similarity import relative_change as relative_change
from ntklab.dynamics.similarity import rotation as rotation
from ntklab.dynamics.similarity import similarity as similarity
from ntklab.dynamics.similarity import velocity as velocity
from ntklab.dynamics.spectrum import Polar as Polar
from ntklab.dynamics.spectrum import effective_rank as effective_rank
from ntklab.dynamics.spectrum import eigenspace_distance as eigenspace_distance
from ntklab.dynamics.spectrum import norm_concentration as norm_concentration
from ntklab.dynamics.spectrum import polar as polar
from ntklab.dynamics.spectrum import principal_angles as principal_angles
from ntklab.dynamics.spectrum import truncate as truncate
from ntklab.dynamics.trajectory import pairwise_distances as pairwise_distances
