"""Image data sets, as their authors published them: MNIST, Fashion-MNIST, CIFAR-10, digits.

`load` is all that most users need. The official archives are read from the folder that the
environment variable `NTKLAB_DATA` names, else from a cache that fills itself from mirrors
(`NTKLAB_CACHE` moves it). Every file that comes from a mirror is checked against its SHA-256.
"""

from ntklab.data.dataset import NAMES as NAMES
from ntklab.data.dataset import Dataset as Dataset
from ntklab.data.dataset import load as load
from ntklab.data.sources import found as found
