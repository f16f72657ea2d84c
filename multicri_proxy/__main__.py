"""``python -m multicri_proxy`` is ``multicri-proxy``."""

import sys

from multicri_proxy.cli import main

sys.exit(main())
