"""Let the tests of this folder share `command_line.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
