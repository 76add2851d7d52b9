"""Let the tests of this folder drive the agent as those of `tests/agent` do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "agent"))
