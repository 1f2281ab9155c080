"""The tensors in a checkpoint of a network: groups in safetensors' format, one of which is an optimizer's."""

from collections import defaultdict
from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

Group = Mapping[str, Tensor]


def to_bytes(groups: Mapping[str, Group]) -> bytes:
    """The tensors of all groups, each under `group/name`."""
    return save({f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()})


def from_bytes(data: bytes) -> dict[str, dict[str, Tensor]]:
    """Inverse of `to_bytes`. A tensor without a name of its own is there under ""."""
    groups = defaultdict[str, dict[str, Tensor]](dict)
    for key, tensor in load(data).items():
        group, _, name = key.partition("/")
        groups[group][name] = tensor
    return groups


def moments(optimizer: Optimizer) -> Group:
    """What the optimizer remembers of each parameter, under `place/name`."""
    state = optimizer.state_dict()["state"]
    return {f"{place}/{name}": tensor for place, tensors in state.items() for name, tensor in tensors.items()}


def restore_moments(optimizer: Optimizer, remembered: Group) -> None:
    """Inverse of `moments`. The optimizer's options stay, and gradients are dropped."""
    state = defaultdict[int, dict[str, Tensor]](dict)
    for key, tensor in remembered.items():
        place, _, name = key.partition("/")
        state[int(place)][name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    optimizer.zero_grad(set_to_none=True)
