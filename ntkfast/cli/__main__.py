"""``python -m ntkfast.cli`` is the command ``ntkfast``."""

import sys

from . import main

sys.exit(main())
