"""`netplane <noun> <verb>`: parses, calls one function, prints. Never decides.

One module per noun. `--output json` is the contract, text is for people; results go to standard output, everything
else to standard error. Exit codes: 0 done, 1 differs, 2 usage, 3 input, 4 requirement, 5 kernel.
"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from netplane import __version__
from netplane.errors import NetplaneError, one_line

_NOUNS = {
    "agent": "The root daemon of a node.",
    "backend": "What a backend needs, renders and applies.",
    "cni": "The CNI plugin: what it did, by hand, and what would make Pods fail.",
    "cluster": "The manifests: check, show, compare.",
    "host": "What this machine can do.",
    "lab": "Namespaces posing as a cluster, and real packets.",
    "load-balancer": "Addresses of Services of type LoadBalancer.",
    "network": "The Pod network across nodes.",
    "node": "How this node reaches the others.",
    "packet": "What happens to one packet.",
    "plan": "What must happen to packets on a node.",
    "service": "The rows of a Service, and why.",
}


class _Nouns(click.Group):
    """Loads a noun's module when it is used: `netplane plan` should not pay for scapy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _NOUNS:
            return None
        command: click.Command = importlib.import_module(f"netplane.cli.{cmd_name.replace('-', '_')}").group
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_NOUNS.items()))


@click.group(cls=_Nouns, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="netplane")
def cli() -> None:
    """Kubernetes Services, the Pod network and the packets that prove them."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line. Every expected error is one line on standard error and its documented exit code."""
    try:
        code = cli.main(args=arguments, prog_name="netplane", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)  # without standalone mode click returns the code of an Exit
    except NetplaneError as error:
        click.echo(f"netplane: {one_line(str(error))}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # `netplane ... | head`: nobody is listening any more
        sys.exit(0)
