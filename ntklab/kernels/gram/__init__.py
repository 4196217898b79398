"""Kernel matrices of any size, in tiles: in memory or on disk, on one device or on many.

`plan` cuts the matrix and says in advance what it takes, `tiles` computes on all devices, `store`
keeps a matrix on disk so that a killed run goes on, and `build` is the loop.
"""

from ntklab.kernels.gram.build import gram as gram
from ntklab.kernels.gram.plan import GramPlan as GramPlan
from ntklab.kernels.gram.plan import plan_gram as plan_gram
