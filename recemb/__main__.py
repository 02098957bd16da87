"""``python -m recemb``."""

import sys

from recemb.command_line.main import main

sys.exit(main())
