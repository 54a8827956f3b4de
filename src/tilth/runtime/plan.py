"""The plan of an executable: frozen steps over numbered slots, as data.

Slots hold arrays during one call. The first slots are the model's inputs, in order; every step
fills new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilth.ir.types import DTYPES, TensorType
from tilth.runtime.devices import parse_device
from tilth.runtime.feeds import Port
from tilth.runtime.target import Device


@dataclass(frozen=True, slots=True)
class RunRegion:
    """Run compiled region number `region` on `device`."""

    device: Device
    region: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """Bring a value from one device's memory to another's."""

    source: Device
    destination: Device
    input: int
    output: int


Step = RunRegion | Copy


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call does: named, static inputs and outputs, steps, and where each output lies."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    output_slots: tuple[int, ...]
    steps: tuple[Step, ...]
    slots: int

    @property
    def single_region(self) -> RunRegion | None:
        """The only step, if it is a region whose results are the outputs, in order."""
        match self.steps:
            case (RunRegion() as step,) if step.outputs == self.output_slots:
                return step
        return None

    def state(self) -> dict[str, Any]:
        """JSON-able values and arrays; `plan_from_state` is the inverse."""
        return {
            "inputs": [_port_state(p) for p in self.inputs],
            "outputs": [_port_state(p) for p in self.outputs],
            "output_slots": self.output_slots,
            "steps": [_step_state(s) for s in self.steps],
            "slots": self.slots,
        }


def plan_from_state(state: Mapping[str, Any]) -> Plan:
    return Plan(
        tuple(_port(p) for p in state["inputs"]),
        tuple(_port(p) for p in state["outputs"]),
        tuple(state["output_slots"]),
        tuple(_step(s) for s in state["steps"]),
        state["slots"],
    )


def _port_state(port: Port) -> list[Any]:
    return [port.name, port.dtype.name, port.shape]


def _port(state: Sequence[Any]) -> Port:
    name, dtype, shape = state
    return Port(name, TensorType(DTYPES[dtype], tuple(shape)))


def _step_state(step: Step) -> list[Any]:
    match step:
        case RunRegion(device, region, inputs, outputs):
            return ["run", str(device), region, inputs, outputs]
        case Copy(source, destination, input, output):
            return ["copy", str(source), str(destination), input, output]


def _step(state: Sequence[Any]) -> Step:
    match state:
        case ["run", device, region, inputs, outputs]:
            return RunRegion(parse_device(device), region, tuple(inputs), tuple(outputs))
        case ["copy", source, destination, input, output]:
            return Copy(parse_device(source), parse_device(destination), input, output)
    raise ValueError(f"unknown step {state[0]!r}")
