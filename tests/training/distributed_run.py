"""One process of the distributed tests: the command line, with FSDP2 allowed on a CPU."""

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from wrpo_lib import cli

ordinary = AcceleratorState.__init__


def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """Accelerate turns FSDP on for GPUs and their like only; FSDP2 itself runs on gloo too."""
    ordinary(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def main() -> None:
    AcceleratorState.__init__ = init
    cli.main()
