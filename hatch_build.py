"""What building the wheel does besides collecting files: compile the CNI launcher (cni/launcher), for this machine."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LauncherHook(BuildHookInterface[Any]):
    """Puts the launcher beside its source, in a wheel and in an editable checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Called by hatchling before it collects the files. `version` is `standard` or `editable`."""
        compiling = runpy.run_path(str(Path(self.root, "cni", "launcher", "build.py")))
        try:
            compiling["build"]()
        except compiling["CannotCompile"] as error:
            raise SystemExit(f"netplane: {error}") from None
        build_data["artifacts"].append("/cni/launcher/netplane")  # git ignores it, the wheel must not
        build_data["pure_python"] = False
        # Any Python 3, any libc: the only thing that is compiled uses neither.
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
