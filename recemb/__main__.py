"""``python -m recemb``."""

from recemb.command_line.main import run

run()
