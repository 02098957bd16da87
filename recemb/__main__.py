"""``python -m recemb``."""

from recemb.command_line.import_path import leave_out_current_folder
from recemb.command_line.main import run

leave_out_current_folder()
run()
