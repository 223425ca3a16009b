"""Everything that a training step depends on, in a folder: what continues from it, continues bit for bit.

step-000123/
    model.safetensors        the trained parameters (frozen ones are the backbone's)
    optimizer.safetensors    `<parameter>|exp_avg`, `<parameter>|exp_avg_sq`, `<parameter>|step`
    random.safetensors       state of torch's generators, as bytes
    state.json               the number of steps done
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bitembed_core.files import atomic_path, read_json, write_json
from workbench.recipes.sharding import share_of, whole


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, for those that require gradients."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, is_main: bool = True
) -> None:
    """Write the state after `step` steps to `folder`, which appears when it is complete.

    Where weights are in shards, all processes call this, and the main one writes what they put together: a checkpoint does
    not tell on how many processes it was written, and goes on on any number.

    Raises:
        OSError: the disk is full or not writable.
    """
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(model).items():
        _collect(weights, name, parameter.detach(), is_main)
        for key, value in optimizer.state[parameter].items():
            _collect(moments, f"{name}|{key}", value, is_main)
    if not is_main:
        return
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        save_file(weights, fresh / "model.safetensors")
        save_file(moments, fresh / "optimizer.safetensors")
        save_file(_random_states(), fresh / "random.safetensors")
        write_json(fresh / "state.json", {"step": step})


def _collect(tensors: dict[str, Tensor], name: str, value: Tensor, is_main: bool) -> None:
    value = whole(value)
    if is_main:
        tensors[name] = value.contiguous().cpu()


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load `folder` into `model` and `optimizer`; returns the number of steps done.

    Raises:
        ValueError: the checkpoint has other parameters than `model` trains.
    """
    parameters = trained_parameters(model)
    saved = load_file(folder / "model.safetensors")
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if {name: tensor.shape for name, tensor in saved.items()} != shapes:
        odd = sorted(name for name in saved.keys() | shapes.keys() if not _agree(name, saved, parameters))
        raise ValueError(f"{folder} was written by another model: {', '.join(odd[:5])} differ")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(share_of(saved[name], parameter))
    optimizer.state.clear()
    for key, value in load_file(folder / "optimizer.safetensors").items():
        name, _, moment = key.rpartition("|")
        parameter = parameters[name]
        optimizer.state[parameter][moment] = share_of(value, parameter)
    _restore_random_states(load_file(folder / "random.safetensors"))
    return int(read_json(folder / "state.json")["step"])


def _agree(name: str, saved: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> bool:
    return name in saved and name in parameters and saved[name].shape == parameters[name].shape


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
