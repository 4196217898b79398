"""`python -m ntklab.gpu_check`."""

import sys

from ntklab.gpu_check import main

if __name__ == "__main__":
    sys.exit(main())
